/* SPDX-License-Identifier: MIT */
/*
 * The exposition, family by family: HELP and TYPE once, then a sample per pool (or thread).
 * Series exist from the start, also those that are zero, so that rates do not miss the first
 * event. Base units: seconds and bytes.
 */
#include "admin/metrics.h"

void metrics_escape(struct text *out, const char *value)
{
    for (const char *c = value; *c; c++) {
        if (*c == '\\')
            text_str(out, "\\\\");
        else if (*c == '"')
            text_str(out, "\\\"");
        else if (*c == '\n')
            text_str(out, "\\n");
        else
            text_put(out, span_of(c, 1));
    }
}

static void family(struct text *out, const char *name, const char *type, const char *help)
{
    text_fmt(out, "# HELP carpool_%s %s\n# TYPE carpool_%s %s\n", name, help, name, type);
}

static void label(struct text *out, const char *name, const char *value)
{
    text_fmt(out, "%s=\"", name);
    metrics_escape(out, value);
    text_str(out, "\"");
}

/* Name and labels of one sample, up to where more labels or the value follow. */
static void begin_pool(struct text *out, const char *name, const char *suffix,
                       const struct pool_figures *p)
{
    text_fmt(out, "carpool_%s%s{", name, suffix);
    label(out, "pool", p->name);
    text_str(out, ",");
    label(out, "kind", p->kind);
}

static void more(struct text *out, const char *name, const char *value)
{
    text_str(out, ",");
    label(out, name, value);
}

static void end(struct text *out, uint64_t value)
{
    text_fmt(out, "} %llu\n", (unsigned long long)value);
}

/* ---- one number per pool ---- */

static const struct {
    const char *name, *type, *help;
    size_t at; /* of a uint64_t in struct pool_figures */
} numbers[] = {
#define NUMBER(name, type, field, help) {name, type, help, offsetof(struct pool_figures, field)}
    NUMBER("pool_max", "gauge", max, "Upper bound of servers: dialing, live and closing."),
    NUMBER("pool_min", "gauge", min, "Servers kept open."),
    NUMBER("pool_open", "gauge", open, "Servers that count against the bound now."),
    NUMBER("pool_waiting", "gauge", waiting, "Clients that wait for a server."),
    NUMBER("pool_leases", "gauge", leases, "Exchanges under way."),
    NUMBER("clients", "gauge", clients, "Connected clients."),
    NUMBER("clients_accepted_total", "counter", accepted, "Clients that connected."),
    NUMBER("clients_refused_total", "counter", refused, "Clients refused when they connected."),
    NUMBER("leases_total", "counter", leases_total, "Exchanges that got a server."),
    NUMBER("waits_total", "counter", waits, "Exchanges that had to wait for a server."),
    NUMBER("retries_total", "counter", retries, "Exchanges tried again on another server."),
    NUMBER("dials_total", "counter", dials, "Connections to servers that were begun."),
    NUMBER("abandoned_total", "counter", abandoned,
           "Closing servers whose end was not heard in time."),
#undef NUMBER
};

static void write_numbers(struct text *out, const struct figures *f)
{
    for (size_t n = 0; n < ARRAY_LEN(numbers); n++) {
        family(out, numbers[n].name, numbers[n].type, numbers[n].help);
        for (size_t i = 0; i < f->n_pools; i++) {
            uint64_t value;
            memcpy(&value, (const char *)&f->pools[i] + numbers[n].at, sizeof value);
            begin_pool(out, numbers[n].name, "", &f->pools[i]);
            end(out, value);
        }
    }
}

/* ---- several numbers per pool ---- */

static void write_servers(struct text *out, const struct figures *f)
{
    family(out, "pool_servers", "gauge", "Servers by what they do now.");
    for (size_t i = 0; i < f->n_pools; i++) {
        for (unsigned s = 0; s < FIGURE_SERVER_COUNT; s++) {
            begin_pool(out, "pool_servers", "", &f->pools[i]);
            more(out, "state", figure_server_word(s));
            end(out, f->pools[i].servers[s]);
        }
    }
}

/* Once for each bound, by the pool whose key it is. */
static void write_total(struct text *out, const struct figures *f, const char *name,
                        const char *help, bool open)
{
    family(out, name, "gauge", help);
    for (size_t i = 0; i < f->n_pools; i++) {
        const struct pool_figures *p = &f->pools[i];
        if (!p->total || p->shares_total)
            continue;
        begin_pool(out, name, "", p);
        end(out, open ? p->total_open : p->total);
    }
}

static void write_paused(struct text *out, const struct figures *f)
{
    family(out, "pool_paused", "gauge", "1 while an operator has paused the pool.");
    for (size_t i = 0; i < f->n_pools; i++) {
        begin_pool(out, "pool_paused", "", &f->pools[i]);
        end(out, f->pools[i].paused);
    }
}

static void write_drained(struct text *out, const struct figures *f)
{
    family(out, "pool_drained", "gauge", "1 while an operator drains the pool.");
    for (size_t i = 0; i < f->n_pools; i++) {
        begin_pool(out, "pool_drained", "", &f->pools[i]);
        end(out, f->pools[i].drained);
    }
}

static void write_breaker(struct text *out, const struct pool_figures *p, enum breaker_role role,
                          enum breaker_state now)
{
    for (unsigned s = 0; s < BREAKER_STATE_COUNT; s++) {
        begin_pool(out, "breaker_state", "", p);
        more(out, "breaker", breaker_role_word(role));
        more(out, "state", breaker_state_word(s));
        end(out, s == (unsigned)now);
    }
}

static void write_breakers(struct text *out, const struct figures *f)
{
    family(out, "breaker_state", "gauge",
           "1 for the state the breaker is in, of dials (door) and of requests (service).");
    for (size_t i = 0; i < f->n_pools; i++) {
        write_breaker(out, &f->pools[i], BREAKER_DOOR, f->pools[i].door);
        write_breaker(out, &f->pools[i], BREAKER_SERVICE, f->pools[i].service);
    }
}

static void write_errors(struct text *out, const struct figures *f)
{
    family(out, "errors_total", "counter",
           "Errors that clients were told of or closed for, by cause.");
    for (size_t i = 0; i < f->n_pools; i++) {
        for (unsigned c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++) {
            begin_pool(out, "errors_total", "", &f->pools[i]);
            more(out, "cause", cause_word(c));
            end(out, f->pools[i].errors[c]);
        }
    }
}

/* What a dial can come to; others are shown once they happened. */
static bool is_dial_cause(unsigned cause)
{
    return cause == CAUSE_DIAL_FAILED || cause == CAUSE_UPSTREAM_AUTH ||
           cause == CAUSE_UPSTREAM_BUSY || cause == CAUSE_UPSTREAM_CLOSED ||
           cause == CAUSE_UPSTREAM_PROTOCOL || cause == CAUSE_TLS_FAILED;
}

static void write_dials(struct text *out, const struct figures *f)
{
    family(out, "dial_failures_total", "counter", "Dials that came to nothing, by cause.");
    for (size_t i = 0; i < f->n_pools; i++) {
        for (unsigned c = CAUSE_NONE + 1; c < CAUSE_COUNT; c++) {
            if (!is_dial_cause(c) && f->pools[i].dial_causes[c] == 0)
                continue;
            begin_pool(out, "dial_failures_total", "", &f->pools[i]);
            more(out, "cause", cause_word(c));
            end(out, f->pools[i].dial_causes[c]);
        }
    }
}

static void write_verdicts(struct text *out, const struct figures *f)
{
    family(out, "recycle_verdicts_total", "counter",
           "What checks of servers came to: on return, while idle, at checkout.");
    for (size_t i = 0; i < f->n_pools; i++) {
        for (unsigned v = 0; v < (unsigned)PHASE_COUNT * OUTCOME_COUNT; v++) {
            begin_pool(out, "recycle_verdicts_total", "", &f->pools[i]);
            more(out, "phase", phase_word(v / OUTCOME_COUNT));
            more(out, "outcome", outcome_word(v % OUTCOME_COUNT));
            end(out, f->pools[i].verdicts[v / OUTCOME_COUNT][v % OUTCOME_COUNT]);
        }
    }
}

static void write_bytes(struct text *out, const struct figures *f)
{
    family(out, "bytes_total", "counter", "Bytes read from and sent to servers.");
    for (size_t i = 0; i < f->n_pools; i++) {
        begin_pool(out, "bytes_total", "", &f->pools[i]);
        more(out, "direction", "from_servers");
        end(out, f->pools[i].from_servers);
        begin_pool(out, "bytes_total", "", &f->pools[i]);
        more(out, "direction", "to_servers");
        end(out, f->pools[i].to_servers);
    }
}

/* ---- histograms ---- */

static void seconds(struct text *out, uint64_t us)
{
    text_fmt(out, "%llu.%06llu", (unsigned long long)(us / 1000000),
             (unsigned long long)(us % 1000000));
}

/* `labels` is the inside of the braces, without `le`. */
static void write_hist(struct text *out, const char *name, struct span labels,
                       const struct hist_snapshot *s)
{
    uint64_t counts[HIST_BOUNDS];
    hist_cumulative(s, counts);
    for (unsigned i = 0; i <= HIST_BOUNDS; i++) {
        text_fmt(out, "carpool_%s_bucket{", name);
        text_put(out, labels);
        more(out, "le", i < HIST_BOUNDS ? hist_bounds[i].le : "+Inf");
        end(out, i < HIST_BOUNDS ? counts[i] : s->count);
    }
    text_fmt(out, "carpool_%s_sum{", name);
    text_put(out, labels);
    text_str(out, "} ");
    seconds(out, s->sum);
    text_fmt(out, "\ncarpool_%s_count{", name);
    text_put(out, labels);
    end(out, s->count);
}

static void write_pool_hists(struct text *out, const struct figures *f, const char *name,
                             const char *help, size_t at)
{
    family(out, name, "histogram", help);
    for (size_t i = 0; i < f->n_pools; i++) {
        const struct pool_figures *p = &f->pools[i];
        const struct hist_snapshot *s = (const void *)((const char *)p + at);
        struct text labels = {0};
        label(&labels, "pool", p->name);
        more(&labels, "kind", p->kind);
        write_hist(out, name, span_of(labels.p, labels.n), s);
        out->failed = out->failed || labels.failed;
        text_fini(&labels);
    }
}

/* ---- threads and the whole ---- */

static void write_threads(struct text *out, const struct figures *f)
{
    family(out, "loop_lag_seconds", "histogram",
           "How long each turn of a thread's loop kept later events waiting.");
    for (size_t i = 0; i < f->n_threads; i++) {
        struct text labels = {0};
        label(&labels, "thread", f->threads[i].name);
        write_hist(out, "loop_lag_seconds", span_of(labels.p, labels.n), &f->threads[i].lag);
        out->failed = out->failed || labels.failed;
        text_fini(&labels);
    }
    family(out, "log_lines_dropped_total", "counter",
           "Log lines dropped because nobody read them in time.");
    for (size_t i = 0; i < f->n_threads; i++) {
        text_str(out, "carpool_log_lines_dropped_total{");
        label(out, "thread", f->threads[i].name);
        end(out, f->threads[i].log_dropped);
    }
}

static void write_whole(struct text *out, const struct figures *f)
{
    family(out, "build_info", "gauge", "1; the version is the label.");
    text_str(out, "carpool_build_info{");
    label(out, "version", f->version);
    end(out, 1);
    family(out, "ready", "gauge", "1 while /ready says so.");
    text_fmt(out, "carpool_ready %d\n", f->ready);
    family(out, "draining", "gauge", "1 while carpool is stopping.");
    text_fmt(out, "carpool_draining %d\n", f->draining);
    family(out, "workers", "gauge", "Worker threads.");
    text_fmt(out, "carpool_workers %u\n", f->n_workers);
    family(out, "start_time_seconds", "gauge", "When carpool started, in seconds since 1970.");
    text_fmt(out, "carpool_start_time_seconds %llu.%03llu\n",
             (unsigned long long)(f->started_unix_ms / 1000),
             (unsigned long long)(f->started_unix_ms % 1000));
}

void metrics_write(struct text *out, const struct figures *f)
{
    write_whole(out, f);
    write_servers(out, f);
    write_numbers(out, f);
    write_total(out, f, "group_open", "Servers of all pools behind a listener.", true);
    write_total(out, f, "group_max", "Upper bound of these (size.total).", false);
    write_paused(out, f);
    write_drained(out, f);
    write_breakers(out, f);
    write_errors(out, f);
    write_dials(out, f);
    write_verdicts(out, f);
    write_bytes(out, f);
    write_pool_hists(out, f, "acquire_seconds", "How long exchanges waited for a server.",
                     offsetof(struct pool_figures, acquire));
    write_pool_hists(out, f, "exchange_seconds", "How long exchanges kept a server.",
                     offsetof(struct pool_figures, exchange));
    write_threads(out, f);
}
