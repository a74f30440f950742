/* SPDX-License-Identifier: MIT */
/* Who may come in, and as what: AUTH and HELLO AUTH against the users of the door. */
#include <errno.h>
#include <stdlib.h>

#include "proxy/core/crypto.h"
#include "proxy/front/redis.h"

void *redis_guard_new(const struct front_conf *front, const struct pool_conf *pool, struct err *err)
{
    struct redis_guard *g = calloc(1, sizeof *g);
    if (!g) {
        err_set(err, CAUSE_INTERNAL, STAGE_CONFIG, ENOMEM, "out of memory");
        return NULL;
    }
    const char *db = pool->endpoints[0].database;
    g->open = (struct redis_session_conf){
        .db = db ? (uint32_t)strtoul(db, NULL, 10) : 0,
        .session_mode = front->mode == FRONT_SESSION,
    };
    g->locked = g->open;
    g->locked.auth_required = true;
    /* Several users: what one runs must not be able to answer another's requests. */
    g->locked.pin_scripts = front->auth.n_users > 1;
    return g;
}

void redis_guard_free(void *guard)
{
    free(guard);
}

/* Every user is compared with, so that the time says nothing about names. */
enum redis_auth redis_guard_check(const struct redis_client *c, const struct redis_act *act)
{
    const struct auth_conf *auth = &c->base.gate->conf->auth;
    if (c->base.door->auth == AUTH_TRUST)
        return REDIS_AUTH_OK; /* whoever is here may; clients come with the password they had */
    struct span user = act->user.p ? act->user : SPAN_LIT("default");
    bool ok = false;
    for (size_t i = 0; i < auth->n_users; i++) {
        const struct user_conf *u = &auth->users[i];
        bool named = crypto_equal(span_str(u->name), user);
        /* AUTH with a password alone: the door's only user is meant, whatever its name. */
        if (!act->user.p && auth->n_users == 1)
            named = true;
        bool right = crypto_equal(span_str(u->secret), act->password);
        ok = ok || (named && right);
    }
    return ok ? REDIS_AUTH_OK : REDIS_AUTH_WRONG;
}
