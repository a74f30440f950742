/* SPDX-License-Identifier: MIT */
#include "proxy/control.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "proxy/control_private.h"

struct loop *control_loop(struct control *c)
{
    return &c->loop;
}

/* ---- the process ---- */

/* libpq reads PG* variables behind everybody's back; what pools need is in the configuration. */
static void clear_pg_environment(void)
{
    extern char **environ;
    for (char **e = environ; *e;) {
        char name[64];
        size_t n = strcspn(*e, "=");
        if (strncmp(*e, "PG", 2) == 0 && n < sizeof name) {
            memcpy(name, *e, n);
            name[n] = 0;
            unsetenv(name);
            e = environ;
            continue;
        }
        e++;
    }
}

static void raise_file_limit(struct control *c)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) != 0)
        return;
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    uint64_t need = 64;
    for (size_t i = 0; i < c->loaded->config->n_pools; i++) {
        const struct conf_pool *cp = &c->loaded->config->pools[i];
        need += cp->front.limits.clients + cp->pool.size.max * 2 +
                cp->front.n_listens * (c->n_workers + 1);
    }
    if (rl.rlim_cur != RLIM_INFINITY && rl.rlim_cur < need)
        log_write(
            c->loop.log, LOG_WARN, "few_descriptors",
            "limit=%llu wanted=%llu reason=\"limits.clients cannot be reached: raise ulimit -n\"",
            (unsigned long long)rl.rlim_cur, (unsigned long long)need);
}

static unsigned count_workers(const struct config *config)
{
    unsigned n = config->workers;
    if (n == 0) {
        cpu_set_t set;
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
        /* The cgroup may allow less than the machine has. */
        FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
        unsigned long quota, period;
        if (f && fscanf(f, "%lu %lu", &quota, &period) == 2 && period) {
            unsigned allowed = (unsigned)((quota + period - 1) / period);
            if (allowed >= 1 && allowed < n)
                n = allowed;
        }
        if (f)
            fclose(f);
    }
    return n < 1 ? 1 : (n > LEDGER_WORKERS_MAX ? LEDGER_WORKERS_MAX : n);
}

/* ---- the dialer's thread ---- */

static void on_dialer_stop(struct post_msg *msg)
{
    dialer_stop(&OWNER(msg, struct control, dialer_stop)->dialer);
}

static void on_dialer_leave(struct post_msg *msg)
{
    loop_stop(&OWNER(msg, struct control, dialer_leave)->dialer_loop);
}

static void *run_dialer(void *arg)
{
    struct control *c = arg;
    loop_run(&c->dialer_loop);
    return NULL;
}

static void start_dialer(struct control *c)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    CHECK(pthread_create(&c->dialer_thread, NULL, run_dialer, c) == 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_setname_np(c->dialer_thread, "dialer");
}

/* ---- what admin sees ---- */

static const struct admin_view *admin_see(void *arg)
{
    struct control *c = arg;
    c->view_pools = realloc(c->view_pools, (c->n_entries + 1) * sizeof *c->view_pools);
    CHECK(c->view_pools != NULL);
    bool bound = true;
    size_t n = 0;
    for (size_t i = 0; i < c->n_entries; i++) {
        struct entry *e = c->entries[i];
        bound = bound && (e->started || e->head);
        if (e->released || c->phase == CONTROL_GONE)
            continue; /* its routes are gone, or about to go */
        c->view_pools[n++] = (struct admin_pool){
            .ledger = e->ledger,
            .kind = e->kind->name,
            .n_workers = c->n_workers,
            .pools = e->pools,
            .routes = e->routes,
            .front = e->gate->conf,
        };
    }
    c->view = (struct admin_view){
        .version = CARPOOL_VERSION,
        .source = c->loaded->config->source,
        .started_unix_ms = c->started_unix_ms,
        .n_workers = c->n_workers,
        .fronts = c->phase == CONTROL_GONE ? NULL : c->fronts,
        .pools = c->view_pools,
        .n_pools = n,
        .threads = c->view_threads,
        .n_threads = c->n_workers + 2,
        .bound = bound,
        .draining = c->phase != CONTROL_SERVING,
        .up_ms = loop_now(&c->loop) - c->started_ms,
    };
    return &c->view;
}

static enum admin_reload admin_reload(void *arg, char *report, size_t cap)
{
    return control_reload(arg, report, cap);
}

static void admin_shutdown(void *arg)
{
    control_shutdown(arg);
}

static char *admin_config(void *arg)
{
    struct control *c = arg;
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    if (!f)
        return NULL;
    conf_print(c->loaded->config, f);
    fclose(f);
    return text;
}

/* ---- signals ---- */

static void on_signal(uv_signal_t *handle, int number)
{
    struct control *c = handle->data;
    loop_called(&c->loop);
    if (number == SIGHUP) {
        char report[REPORT_MAX];
        if (c->phase == CONTROL_SERVING)
            c->reload_due = control_reload(c, report, sizeof report) == ADMIN_RELOAD_BUSY;
        return;
    }
    control_shutdown(c);
}

static void catch_signal(struct control *c, uv_signal_t *handle, int number)
{
    CHECK(uv_signal_init(&c->loop.uv, handle) == 0);
    handle->data = c;
    uv_signal_start(handle, on_signal, number);
}

/* ---- life ---- */

static void init_threads(struct control *c, enum log_level level)
{
    post_init(&c->dialer_stop, on_dialer_stop, NULL);
    post_init(&c->dialer_leave, on_dialer_leave, NULL);
    loop_init(&c->dialer_loop, "dialer", writer_ring(c->writer, "dialer", level));
    dialer_init(&c->dialer, &c->dialer_loop);
    c->workers = calloc(c->n_workers, sizeof *c->workers);
    c->fronts = calloc(c->n_workers, sizeof(struct front *));
    c->view_threads = calloc(c->n_workers + 2, sizeof *c->view_threads);
    CHECK(c->workers && c->fronts && c->view_threads);
    c->view_threads[0] = (struct admin_thread){"control", &c->loop};
    c->view_threads[1] = (struct admin_thread){"dialer", &c->dialer_loop};
    for (unsigned i = 0; i < c->n_workers; i++) {
        char *name = NULL;
        CHECK(asprintf(&name, "worker %u", i) > 0);
        worker_init(&c->workers[i], i, c->n_workers, c->fronts, writer_ring(c->writer, name, level),
                    c);
        c->workers[i].loop.log->thread = c->workers[i].name;
        c->view_threads[i + 2] = (struct admin_thread){c->workers[i].name, &c->workers[i].loop};
        free(name);
    }
}

static void fini(struct control *c)
{
    loop_fini(&c->loop);
    while (c->n_entries) /* those behind others came later */
        entry_free(c, c->entries[--c->n_entries]);
    free(c->entries);
    free(c->workers);
    free(c->fronts);
    free(c->view_pools);
    free(c->view_threads);
    struct snapshot *snap = &c->loaded->snap;
    snapshot_drop(&snap);
    writer_free(c->writer);
}

/* Nothing runs yet: says why and leaves the process to exit. */
static _Noreturn void cannot_start(const char *why)
{
    fprintf(stderr, "%scarpool: cannot start\n", why);
    fflush(stderr);
    _exit(1); /* half a daemon is not taken apart piece by piece */
}

/*
 * A default socket that cannot be made (an ordinary user, no /run/carpool) is no reason not to
 * pool; one that somebody asked for is.
 */
static bool open_admin(struct control *c, const struct admin_conf *conf,
                       const struct admin_hooks *hooks, struct err *err)
{
    c->admin = admin_open(&c->loop, conf, hooks, err);
    if (c->admin)
        return true;
    if (!conf->socket || strcmp(conf->socket, ADMIN_SOCKET_DEFAULT) != 0 || err->sys == EADDRINUSE)
        return false;
    struct admin_conf without = *conf;
    without.socket = NULL;
    log_write(c->loop.log, LOG_WARN, "admin_socket_missing",
              "reason=\"%.200s\" hint=\"set admin.socket or CARPOOL_ADMIN_SOCKET\"", err->note);
    if (!conf->http)
        return true; /* without any admin: signals still work */
    c->admin = admin_open(&c->loop, &without, hooks, err);
    return c->admin != NULL;
}

int control_run(const struct control_args *args)
{
    struct conf_report *issues = conf_report_new();
    struct loaded *loaded = loaded_new(args, issues);
    conf_report_print(issues, stderr);
    conf_report_free(&issues);
    if (!loaded)
        return 1;
    signal(SIGPIPE, SIG_IGN);
    clear_pg_environment();

    struct control *c = calloc(1, sizeof *c);
    CHECK(c != NULL);
    c->args = args;
    c->n_workers = count_workers(loaded->config);
    c->writer = writer_new(&c->loop, STDOUT_FILENO);
    enum log_level level = loaded->config->log.level;
    loop_init(&c->loop, "control", writer_ring(c->writer, "control", level));
    writer_start(c->writer);
    c->started_ms = loop_now(&c->loop);
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    c->started_unix_ms = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
    timer_init(&c->drain_timer, on_drain_timer);
    init_threads(c, level);
    behind_init(c);
    writer_conf(c->writer, &loaded->config->log);
    log_write(c->loop.log, LOG_INFO, "starting", "version=%s workers=%u config=\"%s\"",
              CARPOOL_VERSION, c->n_workers, loaded->config->source);

    struct err err;
    const struct admin_hooks hooks = {
        .arg = c,
        .view = admin_see,
        .reload = admin_reload,
        .shutdown = admin_shutdown,
        .config = admin_config,
    };
    char text[REPORT_MAX] = "";
    struct report report = {text, sizeof text};
    if (!control_apply(c, loaded, &report))
        cannot_start(text);
    if (!open_admin(c, &loaded->config->admin, &hooks, &err)) {
        report_add(&report, "%s: error: %s", loaded->config->source, err.note);
        cannot_start(text);
    }
    raise_file_limit(c);
    catch_signal(c, &c->hup, SIGHUP);
    catch_signal(c, &c->term, SIGTERM);
    catch_signal(c, &c->interrupt, SIGINT);
    start_dialer(c);
    for (unsigned i = 0; i < c->n_workers; i++)
        worker_start(&c->workers[i]);
    loop_run(&c->loop);
    fini(c);
    free(c);
    return 0;
}
