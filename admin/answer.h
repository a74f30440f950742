/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * From a request's target to what is answered: pages are rendered, actions are done. Control's
 * thread.
 */
#include "admin/admin.h"
#include "admin/target.h"

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

/* A refusal: {"error": sentence}. */
MUST_USE bool answer_refuse(struct answer *out, unsigned status, const char *sentence);

void answer_fini(struct answer *answer);
