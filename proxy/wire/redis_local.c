/* SPDX-License-Identifier: MIT */
/*
 * What carpool answers in the server's place, because it concerns the client's connection and that
 * is ours: login, HELLO, SELECT, PING, names. Wordings are those of Redis 7, on which client
 * libraries rely.
 */
#include "proxy/wire/redis_session_private.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

void redis_refuse(struct redis_act *act, struct redis_out *answer, enum cause cause,
                  const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(act->note, sizeof act->note, fmt, ap);
    va_end(ap);
    act->cause = cause;
    redis_put_refusal(answer, cause, act->note);
}

void redis_refuse_line(struct redis_act *act, struct redis_out *answer, const char *why,
                       const char *line)
{
    act->cause = CAUSE_DENIED;
    snprintf(act->note, sizeof act->note, "%s", why);
    redis_put_line(answer, line);
}

void redis_put_wrong_arity(struct redis_out *answer, const char *name)
{
    redis_put_errorf(answer, "ERR wrong number of arguments for '%s' command", name);
}

/* At most 128 bytes of what the client said, as Redis quotes it. */
static int quote_n(struct span s)
{
    return s.n < 128 ? (int)s.n : 128;
}

static const char *quote(struct span s)
{
    return (const char *)s.p;
}

/* A decimal integer as the server's string2ll() takes it: no blanks, no plus, no leading zeros. */
static bool read_int(struct span s, int64_t *out)
{
    bool negative = s.n > 1 && s.p[0] == '-';
    size_t first = negative ? 1 : 0;
    int64_t v = 0;
    if (s.n == first || s.n - first > 10 || (s.n - first > 1 && s.p[first] == '0'))
        return false;
    for (size_t i = first; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        v = v * 10 + (s.p[i] - '0');
    }
    *out = negative ? -v : v;
    return true;
}

/* ---- names --------------------------------------------------------------------------------- */

/* As Redis: printable, no blanks, so that CLIENT LIST stays parsable. */
static bool is_plain(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < '!' || s.p[i] > '~')
            return false;
    return true;
}

static bool check_name(struct redis_act *act, struct redis_out *answer, struct span name)
{
    if (!is_plain(name)) {
        redis_put_line(answer, "-ERR Client names cannot contain spaces, newlines or special "
                               "characters.\r\n");
        return false;
    }
    if (name.n > REDIS_NAME_MAX) {
        redis_refuse(act, answer, CAUSE_TOO_LARGE, "client names have at most %d bytes here",
                     REDIS_NAME_MAX);
        return false;
    }
    return true;
}

static void keep_name(struct redis_session *s, struct span name)
{
    if (name.n > 0)
        memcpy(s->name, name.p, name.n);
    s->name_n = (uint8_t)name.n;
}

/* ---- HELLO and AUTH ------------------------------------------------------------------------ */

static void put_text(struct redis_out *o, const char *text)
{
    redis_put_bulk(o, span_str(text));
}

static void put_about(struct redis_out *o, const char *name, const char *known, const char *usual)
{
    put_text(o, name);
    put_text(o, known && known[0] ? known : usual);
}

/* What the server said of itself; as long as nobody has asked one, what is least to be relied upon:
 * the first version that knew HELLO. */
static void put_hello(const struct redis_session *s, struct redis_out *o)
{
    const struct redis_about *a = s->about;
    redis_put_map(o, 7, s->resp);
    put_about(o, "server", a ? a->server : NULL, "redis");
    put_about(o, "version", a ? a->version : NULL, "6.0.0");
    put_text(o, "proto");
    redis_put_int(o, s->resp);
    put_text(o, "id");
    redis_put_int(o, (int64_t)s->id);
    put_about(o, "mode", a ? a->mode : NULL, "standalone");
    put_about(o, "role", a ? a->role : NULL, "master");
    put_text(o, "modules");
    redis_put_array(o, 0);
}

struct hello {
    bool auth, named;
    struct span user, password, name;
};

/* The options behind the version. False: an error was answered. */
static bool read_hello(const struct redis_cmd *cmd, struct hello *h, struct redis_act *act,
                       struct redis_out *answer)
{
    for (uint32_t i = 2; i < cmd->nargs; i++) {
        struct span option = cmd->args[i];
        uint32_t left = cmd->nargs - i - 1;
        if (span_ieq(option, SPAN_LIT("auth")) && left >= 2) {
            h->auth = true;
            h->user = cmd->args[++i];
            h->password = cmd->args[++i];
        } else if (span_ieq(option, SPAN_LIT("setname")) && left >= 1) {
            h->named = true;
            h->name = cmd->args[++i];
            if (!check_name(act, answer, h->name))
                return false;
        } else {
            redis_put_errorf(answer, "ERR Syntax error in HELLO option '%.*s'", quote_n(option),
                             quote(option));
            return false;
        }
    }
    return true;
}

/* False: an error was answered. */
static bool read_version(struct redis_session *s, const struct redis_cmd *cmd, int64_t *version,
                         struct redis_act *act, struct redis_out *answer)
{
    if (!read_int(cmd->args[1], version)) {
        redis_put_line(answer, "-ERR Protocol version is not an integer or out of range\r\n");
        return false;
    }
    if (*version < 2 || *version > (s->conf->allow_resp3 ? 3 : 2)) {
        redis_put_line(answer, REDIS_NOPROTO);
        return false;
    }
    if (*version != s->resp && s->pinned) {
        redis_refuse(act, answer, CAUSE_UNSUPPORTED,
                     "HELLO cannot change the protocol while a server is reserved for this client");
        return false;
    }
    return true;
}

static void welcome(struct redis_session *s, uint8_t version, struct span name,
                    struct redis_out *answer)
{
    s->resp = version;
    if (name.p)
        keep_name(s, name);
    put_hello(s, answer);
}

static void hello(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                  struct redis_act *act)
{
    struct hello h = {0};
    int64_t version = s->resp;
    if (cmd->argc > cmd->nargs) {
        redis_put_line(answer, REDIS_SYNTAX);
        return;
    }
    if (cmd->argc > 1 &&
        (!read_version(s, cmd, &version, act, answer) || !read_hello(cmd, &h, act, answer)))
        return;
    if (h.auth) {
        act->route = REDIS_TO_AUTH;
        act->user = h.user;
        act->password = h.password;
        act->hello = (uint8_t)version;
        if (h.named)
            act->name = h.name;
        return;
    }
    if (!s->authenticated) {
        redis_refuse_line(act, answer, "HELLO before the client has logged in", REDIS_NOAUTH_HELLO);
        return;
    }
    welcome(s, (uint8_t)version, h.named ? h.name : (struct span){0}, answer);
}

static void auth(const struct redis_cmd *cmd, struct redis_out *answer, struct redis_act *act)
{
    if (cmd->argc == 1) {
        redis_put_wrong_arity(answer, "auth");
    } else if (cmd->argc > 3) {
        redis_put_line(answer, REDIS_SYNTAX);
    } else {
        act->route = REDIS_TO_AUTH;
        act->password = cmd->args[cmd->argc - 1];
        if (cmd->argc == 3)
            act->user = cmd->args[1];
    }
}

void redis_session_auth(struct redis_session *s, const struct redis_act *act,
                        enum redis_auth verdict, struct redis_out *answer)
{
    size_t from = answer->n;
    switch (verdict) {
    case REDIS_AUTH_WRONG:
        redis_put_line(answer, REDIS_WRONGPASS);
        break;
    case REDIS_AUTH_NOT_CONFIGURED:
        redis_put_line(answer, REDIS_NO_PASSWORD);
        break;
    case REDIS_AUTH_OK:
        s->authenticated = true;
        if (act->hello == 0)
            redis_put_ok(answer);
        else
            welcome(s, act->hello, act->name, answer);
        break;
    }
    if (act->mute)
        answer->n = from;
}

/* ---- the rest ------------------------------------------------------------------------------ */

static void select_db(struct redis_session *s, const struct redis_cmd *cmd,
                      struct redis_out *answer, struct redis_act *act)
{
    int64_t db;
    if (!read_int(cmd->args[1], &db))
        redis_put_line(answer, REDIS_NOT_INTEGER);
    else if (db == (int64_t)s->conf->db)
        redis_put_ok(answer);
    else
        redis_refuse(act, answer, CAUSE_UNSUPPORTED, "this pool serves database %" PRIu32 " only",
                     s->conf->db);
}

static void client_setinfo(const struct redis_cmd *cmd, struct redis_out *answer)
{
    struct span key = cmd->args[2];
    const char *name = span_ieq(key, SPAN_LIT("lib-name")) ? "lib-name" : "lib-ver";
    if (!span_ieq(key, span_str(name)))
        redis_put_errorf(answer, "ERR Unrecognized option '%.*s'", quote_n(key), quote(key));
    else if (!is_plain(cmd->args[3]))
        redis_put_errorf(answer, "ERR %s cannot contain spaces, newlines or special characters.",
                         name);
    else
        redis_put_ok(answer);
}

static void client_reply(struct redis_session *s, const struct redis_cmd *cmd,
                         struct redis_out *answer)
{
    /* OFF and SKIP are answered by silence. */
    if (span_ieq(cmd->args[2], SPAN_LIT("on"))) {
        s->mute = REDIS_MUTE_NO;
        redis_put_ok(answer);
    } else if (span_ieq(cmd->args[2], SPAN_LIT("off"))) {
        s->mute = REDIS_MUTE_ALL;
    } else if (span_ieq(cmd->args[2], SPAN_LIT("skip"))) {
        if (s->mute == REDIS_MUTE_NO)
            s->mute = REDIS_MUTE_NEXT;
    } else {
        redis_put_line(answer, REDIS_SYNTAX);
    }
}

static void client_info(const struct redis_session *s, struct redis_out *answer)
{
    char line[320];
    int n = snprintf(line, sizeof line,
                     "id=%" PRIu64 " addr=? laddr=? fd=-1 name=%.*s db=%" PRIu32 " sub=%" PRIu64
                     " psub=%" PRIu64 " ssub=%" PRIu64 " multi=-1 resp=%u\n",
                     s->id, (int)s->name_n, s->name, s->conf->db, s->channels, s->patterns,
                     s->shards, (unsigned)s->resp);
    redis_put_bulk(answer, span_of(line, (size_t)n));
}

static void client_trackinginfo(const struct redis_session *s, struct redis_out *answer)
{
    redis_put_map(answer, 3, s->resp);
    put_text(answer, "flags");
    redis_put_line(answer, s->resp >= 3 ? "~1\r\n" : "*1\r\n");
    put_text(answer, "off");
    put_text(answer, "redirect");
    redis_put_int(answer, -1);
    put_text(answer, "prefixes");
    redis_put_array(answer, 0);
}

/* Exact numbers of arguments, name included; 0: the handler looks itself. */
static uint32_t arity(enum redis_id id)
{
    switch ((unsigned)id) {
    case REDIS_ID_SELECT:
    case REDIS_ID_ECHO:
    case REDIS_ID_CLIENT_ID:
    case REDIS_ID_CLIENT_GETNAME:
    case REDIS_ID_CLIENT_INFO:
    case REDIS_ID_CLIENT_GETREDIR:
    case REDIS_ID_CLIENT_TRACKINGINFO:
        return 2;
    case REDIS_ID_CLIENT_SETNAME:
    case REDIS_ID_CLIENT_REPLY:
        return 3;
    case REDIS_ID_CLIENT_SETINFO:
        return 4;
    default:
        return 0;
    }
}

static void client(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                   struct redis_act *act)
{
    switch ((unsigned)act->verdict.id) {
    case REDIS_ID_CLIENT_ID:
        redis_put_int(answer, (int64_t)s->id);
        break;
    case REDIS_ID_CLIENT_GETNAME:
        if (s->name_n == 0)
            redis_put_null(answer, s->resp);
        else
            redis_put_bulk(answer, span_of(s->name, s->name_n));
        break;
    case REDIS_ID_CLIENT_SETNAME:
        if (!check_name(act, answer, cmd->args[2]))
            break;
        keep_name(s, cmd->args[2]);
        redis_put_ok(answer);
        break;
    case REDIS_ID_CLIENT_SETINFO:
        client_setinfo(cmd, answer);
        break;
    case REDIS_ID_CLIENT_INFO:
        client_info(s, answer);
        break;
    case REDIS_ID_CLIENT_GETREDIR:
        redis_put_int(answer, -1);
        break;
    case REDIS_ID_CLIENT_TRACKINGINFO:
        client_trackinginfo(s, answer);
        break;
    case REDIS_ID_CLIENT_CAPA:
        redis_put_ok(answer);
        break;
    case REDIS_ID_CLIENT_REPLY:
        client_reply(s, cmd, answer);
        break;
    default:
        CHECK(act->verdict.class != REDIS_LOCAL); /* a row without an answer */
    }
}

void redis_local(struct redis_session *s, const struct redis_cmd *cmd, struct redis_out *answer,
                 struct redis_act *act)
{
    enum redis_id id = act->verdict.id;
    act->route = REDIS_TO_CLIENT;
    if (!cmd->complete) {
        redis_refuse(act, answer, CAUSE_TOO_LARGE, "%s is too large", act->verdict.name);
        return;
    }
    if (arity(id) != 0 && cmd->argc != arity(id)) {
        redis_put_wrong_arity(answer, act->verdict.name);
        return;
    }
    switch ((unsigned)id) {
    case REDIS_ID_AUTH:
        auth(cmd, answer, act);
        break;
    case REDIS_ID_HELLO:
        hello(s, cmd, answer, act);
        break;
    case REDIS_ID_SELECT:
        select_db(s, cmd, answer, act);
        break;
    case REDIS_ID_PING:
        if (cmd->argc == 1)
            redis_put_simple(answer, "PONG");
        else if (cmd->argc == 2)
            redis_put_bulk(answer, cmd->args[1]);
        else
            redis_put_wrong_arity(answer, "ping");
        break;
    case REDIS_ID_ECHO:
        redis_put_bulk(answer, cmd->args[1]);
        break;
    case REDIS_ID_QUIT:
        act->closes = true;
        redis_put_ok(answer);
        break;
    default:
        client(s, cmd, answer, act);
        break;
    }
}
