/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * From a request's target to what is answered: pages are rendered, actions are done. Control's
 * thread.
 */
#include "admin/admin.h"
#include "admin/target.h"
#include "proxy/front/census.h"

struct answer {
    unsigned status;
    const char *type;   /* Content-Type */
    const char *fields; /* further complete lines of the head, or NULL; constant */
    char *body;         /* malloc()ed */
    size_t n;
};

struct asker {
    struct loop *loop;
    const struct admin_hooks *hooks;
    const char *from; /* "unix" or an address, for the log */
};

/* For a target with status 0. False: out of memory, nothing to free. */
MUST_USE bool answer_make(struct answer *out, const struct target *target,
                          const struct asker *asker);

/* Pages that workers are asked for: answer_ask() instead of answer_make(). */
bool answer_comes_later(const struct target *target);
/*
 * True: *census is under way, on_done brings what answer_census() writes; or it is NULL and
 * `refusal` is the answer. False: out of memory.
 */
MUST_USE bool answer_ask(struct answer *refusal, const struct target *target,
                         const struct asker *asker, struct census **census,
                         void (*on_done)(struct census *c, void *arg), void *arg);
MUST_USE bool answer_census(struct answer *out, const struct census *census);

/* A refusal: {"error": sentence}. */
MUST_USE bool answer_refuse(struct answer *out, unsigned status, const char *sentence);

void answer_fini(struct answer *answer);
