/* SPDX-License-Identifier: MIT */
#pragma once
/* What control.c, control_load.c and control_stop.c share. For this folder only. */
#include "admin/admin.h"
#include "pools/dialer.h"
#include "pools/group.h"
#include "proxy/control.h"
#include "proxy/front/wish.h"
#include "proxy/worker.h"
#include "proxy/writer.h"

/* A configuration in force somewhere; counted. */
struct loaded {
    struct snapshot snap;
    struct config *config;
};

/* One pool, from configuration to threads. */
struct entry {
    const struct kind *kind;
    struct ledger *ledger;
    struct gate *gate;
    struct door_socket *doors;
    size_t n_doors;
    struct worker_pool *workers; /* one per worker */
    struct pool **pools;         /* the same by kind, for admin */
    struct route **routes;
    unsigned pending;    /* workers that have not answered the last order */
    struct entry *head;  /* one of several pools behind that one's listener; NULL: it has its own */
    struct group *group; /* without a head: the bound over it and those behind it */
    struct conf_member *member; /* with a head: its settings, a reference */
    unsigned unused;            /* looks in a row at which nobody was there */
    bool failed;                /* some worker had no memory for it: it goes again */
    bool stale;                 /* a load came while an order to its workers was under way */
    bool waits;                 /* of a head that was removed: for the pools behind it to be gone */
    bool started;
    bool released;                 /* its workers let go of its memory: nobody may look any more */
    bool removed;                  /* by a reload; goes when its last session and server are gone */
    struct door_socket *old_doors; /* closed once every worker has let go of them */
    size_t n_old_doors;
};

enum control_phase {
    CONTROL_SERVING,
    CONTROL_DELAYING,
    CONTROL_DRAINING,
    CONTROL_STOPPING,
    CONTROL_GONE
};

struct control {
    const struct control_args *args;
    struct writer *writer;
    struct loop loop;
    uv_signal_t hup, term, interrupt;
    struct loaded *loaded;
    enum control_phase phase;
    bool reload_due; /* SIGHUP came while a reload was under way */
    struct timer drain_timer;
    unsigned signals; /* requests to stop so far */
    bool killed;

    struct loop dialer_loop;
    struct dialer dialer;
    pthread_t dialer_thread;
    struct post_msg dialer_stop, dialer_leave;

    unsigned n_workers;
    struct worker *workers;
    struct front **fronts;
    unsigned fronts_quiet, pools_quiet;

    struct entry **entries;
    size_t n_entries;
    struct list wishes;  /* for pools that are being made, or that go and have to come again */
    struct timer behind; /* looks for pools that nobody wants any more */

    struct admin *admin;
    bool admin_closed;
    struct admin_view view;
    struct admin_pool *view_pools;
    struct admin_thread *view_threads;
    uint64_t started_unix_ms, started_ms;
};

/* Lines for whoever asked for a load; what does not fit whole is left out. */
struct report {
    char *text; /* NUL-terminated, empty at first */
    size_t cap;
};
#define REPORT_MAX ((size_t)4096)
/* Returns false, so that a failing function ends in `return report_add(...)`. */
bool report_add(struct report *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
void report_join(struct report *r, const struct report *more);

/* listen: the sockets of one pool */
struct doors_ask {
    struct control *control;
    const struct config *config;
    size_t at;                  /* which of its pools */
    struct gate *gate;          /* clients come in by it; each door takes a reference */
    const struct entry *before; /* its sockets are kept; NULL: the pool is new */
};
/* NULL after a report of every address that cannot be had. */
struct door_socket *doors_open(const struct doors_ask *ask, size_t *n, struct report *report);
void doors_close(struct door_socket *doors, size_t n, bool remove_files);

/* load */
struct loaded *loaded_new(const struct control_args *args, struct conf_report *report);
bool control_apply(struct control *c, struct loaded *fresh, struct report *report);
/* text says what changes, or what is wrong. BUSY: nothing was looked at; with c->reload_due it is
 * done as soon as it can be. */
enum admin_reload control_reload(struct control *c, char *text, size_t cap);
void entry_free(struct control *c, struct entry *e);
/* No more clients, once the workers' own descriptors are closed too. Not while an order is pending:
 * workers read the doors. */
void entry_unlisten(struct entry *e);

/* What an entry is asked of its workers, each; answered by control_on_attached(). */
void entry_order(struct control *c, struct entry *e, enum worker_order what);
void entry_detach(struct control *c, struct entry *e);
/* Appended; the caller fills in what is left, then orders it attached. */
struct entry *entry_new(struct control *c, const struct kind *kind, const struct pool_conf *conf,
                        struct snapshot *snap, struct group *group);

/* behind: several pools behind the listener of one entry */
void behind_init(struct control *c);
void behind_fini(struct control *c);
/* What a configuration says of them is in force; `head` is already as it says, or removed. */
void behind_load(struct control *c, struct entry *head);
/* An order of one of them is done, or one of them is gone. */
void behind_done(struct control *c, struct entry *e);
/* One of those behind `head` is gone. */
void behind_gone(struct control *c, struct entry *head, bool failed);
bool behind_is_any(const struct control *c, const struct entry *head);
/* Answers those wishes that can be answered now; all of them once carpool stops. */
void behind_answer(struct control *c);

/* stop */
void control_shutdown(struct control *c);
void on_drain_timer(struct timer *t);
