/* SPDX-License-Identifier: MIT */
#include "pools/password_dial.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "pools/dialer.h"
#include "proxy/core/crypto.h"
#include "proxy/core/err.h"

/* One run of a command: over when its process has ended and both of its pipes are closed. */
struct run {
    struct password *of; /* NULL: nobody wants to know */
    struct loop *loop;
    uv_process_t process;
    uv_pipe_t out, err;
    unsigned open; /* of these handles */
    struct timer timer;
    bool late, too_long;
    int failed; /* to start: a UV_ number */
    int64_t status;
    int signal;
    size_t out_n, err_n;
    char out_text[PASSWORD_MAX + 1];
    char err_text[512]; /* the last of it */
    char sink[1024];
};

struct password {
    struct list node;
    struct snapshot *snap; /* one reference: of the configuration the command stands in */
    const char *command;
    uint64_t ttl_ms, until_ms;
    char *value; /* NULL: none that is good */
    struct list waits;
    struct run *run; /* NULL: it does not run */
};

static void forget(struct password *p)
{
    if (p->value)
        crypto_wipe(p->value, strlen(p->value));
    free(p->value);
    p->value = NULL;
}

static void drop(struct password *p)
{
    forget(p);
    list_remove(&p->node);
    snapshot_drop(&p->snap);
    free(p);
}

/* ---- what a run came to ---- */

/* The last line that says anything, for people. */
static const char *last_words(struct run *r)
{
    char *text = r->err_text;
    size_t n = r->err_n;
    while (n > 0 && strchr(" \r\n\t", text[n - 1]))
        n--;
    text[n] = 0;
    const char *line = memrchr(text, '\n', n);
    for (size_t i = 0; i < n; i++)
        if (text[i] != '\n' && (text[i] < 0x20 || text[i] >= 0x7f))
            text[i] = '?';
    return line ? line + 1 : text;
}

static bool judge(struct run *r, struct err *err)
{
    enum cause cause = CAUSE_UPSTREAM_AUTH;
    while (r->out_n > 0 && (r->out_text[r->out_n - 1] == '\n' || r->out_text[r->out_n - 1] == '\r'))
        r->out_n--;
    r->out_text[r->out_n] = 0;
    if (r->failed)
        return err_set(err, cause, STAGE_LOGIN, -r->failed, "password_command cannot start: %s",
                       uv_strerror(r->failed));
    if (r->late)
        return err_set(err, cause, STAGE_LOGIN, ETIMEDOUT,
                       "password_command took more than %d s and was killed",
                       PASSWORD_COMMAND_MS / 1000);
    if (r->status != 0 || r->signal != 0)
        return err_set(err, cause, STAGE_LOGIN, 0, "password_command failed (%s %d): %.90s",
                       r->signal ? "signal" : "exit", r->signal ? r->signal : (int)r->status,
                       last_words(r));
    if (r->too_long || r->out_n == 0 || strlen(r->out_text) != r->out_n ||
        memchr(r->out_text, '\n', r->out_n))
        return err_set(err, cause, STAGE_LOGIN, 0,
                       "password_command printed %s, not one line of at most %d bytes",
                       r->out_n ? "something else" : "nothing", PASSWORD_MAX);
    return true;
}

static void tell(struct password *p, const struct err *err)
{
    struct list waits;
    struct list *n;
    list_init(&waits);
    while ((n = list_first(&p->waits))) {
        list_remove(n);
        list_push_back(&waits, n);
    }
    while ((n = list_first(&waits))) {
        struct password_wait *w = OWNER(n, struct password_wait, node);
        list_remove(n);
        w->done(w, p->value, err);
    }
}

static void run_over(struct run *r)
{
    struct password *p = r->of;
    struct err err;
    loop_timer_stop(r->loop, &r->timer);
    if (p) {
        bool well = judge(r, &err);
        p->run = NULL;
        p->value = well ? strdup(r->out_text) : NULL;
        if (well && !p->value)
            well = err_set(&err, CAUSE_INTERNAL, STAGE_LOGIN, ENOMEM, "out of memory");
        p->until_ms = loop_now(r->loop) + p->ttl_ms;
        tell(p, well ? NULL : &err);
    }
    crypto_wipe(r->out_text, sizeof r->out_text);
    crypto_wipe(r->sink, sizeof r->sink);
    free(r);
}

/* ---- running ---- */

static void on_closed(uv_handle_t *h)
{
    struct run *r = h->data;
    loop_called(r->loop);
    if (--r->open == 0)
        run_over(r);
}

static void close_one(uv_handle_t *h)
{
    if (!uv_is_closing(h))
        uv_close(h, on_closed);
}

static void on_exit_of(uv_process_t *process, int64_t status, int signal)
{
    struct run *r = process->data;
    loop_called(r->loop);
    r->status = status;
    r->signal = signal;
    close_one((uv_handle_t *)process);
}

static void on_room(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct run *r = h->data;
    (void)hint;
    *buf = uv_buf_init(r->sink, sizeof r->sink);
}

static void keep_out(struct run *r, const char *text, size_t n)
{
    size_t room = PASSWORD_MAX - r->out_n;
    r->too_long = r->too_long || n > room;
    n = n > room ? room : n;
    memcpy(r->out_text + r->out_n, text, n);
    r->out_n += n;
}

static void keep_err(struct run *r, const char *text, size_t n)
{
    size_t cap = sizeof r->err_text - 1;
    if (n > cap) {
        text += n - cap;
        n = cap;
    }
    size_t over = r->err_n + n > cap ? r->err_n + n - cap : 0;
    memmove(r->err_text, r->err_text + over, r->err_n - over);
    memcpy(r->err_text + r->err_n - over, text, n);
    r->err_n += n - over;
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct run *r = s->data;
    loop_called(r->loop);
    if (n < 0)
        close_one((uv_handle_t *)s);
    else if (s == (uv_stream_t *)&r->out)
        keep_out(r, buf->base, (size_t)n);
    else
        keep_err(r, buf->base, (size_t)n);
}

/* It leads a group of its own: what it has started goes with it. */
static void kill_run(struct run *r)
{
    if (!uv_is_closing((uv_handle_t *)&r->process) && r->process.pid > 0)
        kill(-r->process.pid, SIGKILL);
    close_one((uv_handle_t *)&r->out);
    close_one((uv_handle_t *)&r->err);
}

static void on_late(struct timer *t)
{
    struct run *r = OWNER(t, struct run, timer);
    r->late = true;
    kill_run(r);
}

static bool run_start(struct loop *loop, struct password *p)
{
    struct run *r = calloc(1, sizeof *r);
    if (!r)
        return false;
    char *args[] = {(char[]){"sh"}, (char[]){"-c"}, strdup(p->command), NULL};
    uv_stdio_container_t stdio[] = {
        {.flags = UV_IGNORE},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&r->out},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&r->err},
    };
    uv_process_options_t options = {
        .file = "/bin/sh",
        .args = args,
        .exit_cb = on_exit_of,
        .stdio = stdio,
        .stdio_count = ARRAY_LEN(stdio),
        .flags = UV_PROCESS_DETACHED,
    };
    if (!args[2]) {
        free(r);
        return false;
    }
    r->of = p;
    r->loop = loop;
    p->run = r;
    timer_init(&r->timer, on_late);
    uv_pipe_init(&loop->uv, &r->out, 0);
    uv_pipe_init(&loop->uv, &r->err, 0);
    r->out.data = r->err.data = r->process.data = r;
    r->open = 3;
    r->failed = uv_spawn(&loop->uv, &r->process, &options);
    free(args[2]);
    if (r->failed == 0) {
        uv_read_start((uv_stream_t *)&r->out, on_room, on_read);
        uv_read_start((uv_stream_t *)&r->err, on_room, on_read);
        loop_timer_set(loop, &r->timer, PASSWORD_COMMAND_MS);
    } else {
        close_one((uv_handle_t *)&r->out);
        close_one((uv_handle_t *)&r->err);
        close_one((uv_handle_t *)&r->process);
    }
    return true;
}

/* ---- who wants one ---- */

/* Passwords whose time is over, and those of the same command from before a reload, are dropped. */
static struct password *find(struct dialer *d, const struct snapshot *snap, const char *command)
{
    struct password *found = NULL;
    uint64_t now = loop_now(d->loop);
    for (struct list *n = d->passwords.next, *next; n != &d->passwords; n = next) {
        struct password *p = OWNER(n, struct password, node);
        next = n->next;
        bool same = strcmp(p->command, command) == 0;
        if (same && p->snap == snap)
            found = p;
        else if (!p->run && (same || now >= p->until_ms))
            drop(p);
    }
    return found;
}

static struct password *add(struct dialer *d, struct snapshot *snap, const struct endpoint_conf *e)
{
    struct password *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->snap = snapshot_take(snap);
    p->command = e->password_command;
    p->ttl_ms = e->password_command_ttl_ms;
    list_init(&p->node);
    list_init(&p->waits);
    list_push_back(&d->passwords, &p->node);
    return p;
}

const char *password_get(struct dialer *d, struct snapshot *part, const struct endpoint_conf *e,
                         struct password_wait *w)
{
    struct snapshot *snap = snapshot_whole(part); /* pools behind one listener have parts of it */
    struct password *p = find(d, snap, e->password_command);
    list_init(&w->node);
    if (p && p->value && loop_now(d->loop) < p->until_ms)
        return p->value;
    if (!p)
        p = add(d, snap, e);
    if (p && !p->run)
        forget(p);
    if (!p || (!p->run && !run_start(d->loop, p))) {
        struct err err;
        err_set(&err, CAUSE_INTERNAL, STAGE_LOGIN, ENOMEM, "out of memory");
        w->done(w, NULL, &err);
        return NULL;
    }
    list_push_back(&p->waits, &w->node);
    return NULL;
}

void password_cancel(struct password_wait *w)
{
    list_remove(&w->node);
}

void password_refused(struct dialer *d, const struct endpoint_conf *e)
{
    LIST_EACH(n, &d->passwords) {
        struct password *p = OWNER(n, struct password, node);
        if (strcmp(p->command, e->password_command) == 0)
            p->until_ms = 0;
    }
}

void password_stop(struct dialer *d)
{
    struct list *n;
    while ((n = list_first(&d->passwords))) {
        struct password *p = OWNER(n, struct password, node);
        struct run *r = p->run;
        drop(p);
        if (!r)
            continue;
        r->of = NULL;
        loop_timer_stop(r->loop, &r->timer);
        kill_run(r);
        close_one((uv_handle_t *)&r->process);
    }
}
