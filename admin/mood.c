/* SPDX-License-Identifier: MIT */
/*
 * One word for the state of a pool, and one sentence for the person who is woken up by it: what is
 * wrong, and what to do. Said in one place, so that page, table and dashboard agree.
 */
#include <stdio.h>
#include <string.h>

#include "admin/figures.h"

static uint64_t live(const struct pool_figures *p)
{
    return p->servers[FIGURE_IDLE] + p->servers[FIGURE_BUSY] + p->servers[FIGURE_CHECKING];
}

static bool is_open(enum breaker_state s)
{
    return s == BREAKER_OPEN || s == BREAKER_HALF_OPEN;
}

static enum pool_mood mood_of(const struct pool_figures *p, bool draining)
{
    if (draining || p->stopping || p->drained)
        return MOOD_DRAINING;
    if (p->paused)
        return MOOD_PAUSED;
    if (p->door == BREAKER_FORCED_OPEN || p->service == BREAKER_FORCED_OPEN)
        return MOOD_FORCED_OPEN;
    bool failing = p->last_dial.cause != CAUSE_NONE;
    if (failing && live(p) == 0)
        return MOOD_DOWN;
    if (is_open(p->service) && p->shut)
        return MOOD_TRIPPED;
    if (failing || is_open(p->door) || is_open(p->service))
        return MOOD_DEGRADED;
    if (p->waiting)
        return MOOD_BUSY;
    return p->warmed ? MOOD_OK : MOOD_STARTING;
}

/* What the server itself said, by the word that stands in its message. */
static const struct {
    const char *word, *remedy;
} answers[] = {
    {"(3D000)", "the database in `upstream` does not exist: create it, or write the name of one "
                "that does"},
    {"(28P01)", "the server refuses the password: check user and password of `upstream`"},
    {"(28000)", "the server does not let this user in: check the user of `upstream`, its LOGIN "
                "right and the server's pg_hba.conf"},
    {"(42501)", "the user of `upstream` may not connect to this database: GRANT CONNECT"},
    {"(57P03)", "the server is starting or stopping; carpool keeps trying"},
    {"(53300)", "the server has no connection to spare: lower size.max, or raise the server's "
                "max_connections or the role's CONNECTION LIMIT"},
    {"WRONGPASS", "the server refuses the password: check user and password of `upstream`"},
    {"NOAUTH", "the server asks for a password: write it into `upstream`"},
    {"NOPERM", "the user of `upstream` lacks a right: check the server's ACL"},
};

/* By what was said, else by cause of the last dial: where to look. */
static const char *remedy(const struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        if (strstr(err->note, answers[i].word))
            return answers[i].remedy;
    if (err->cause == CAUSE_UPSTREAM_AUTH)
        return "check user and password of `upstream`";
    if (err->cause == CAUSE_UPSTREAM_BUSY)
        return "the server has no connection to spare: lower size.max, or raise the server's limit";
    if (err->cause == CAUSE_TLS_FAILED)
        return "check the TLS settings of `upstream` and the server's certificate";
    if (err->cause == CAUSE_UPSTREAM_PROTOCOL)
        return "check that `upstream` is a server of this pool's kind";
    if (err->stage == STAGE_RESOLVE)
        return "check the host name in `upstream` and the name service";
    return "check that the server runs and that `upstream` is its address; carpool keeps trying";
}

static void hint_dial(struct pool_figures *p, const char *begin)
{
    char why[224];
    err_text(&p->last_dial, why, sizeof why);
    snprintf(p->hint, sizeof p->hint, "%s (%.160s): %s", begin, why, remedy(&p->last_dial));
}

static void hint_busy(struct pool_figures *p)
{
    const char *advice = "more servers are being opened";
    if (p->open >= p->max)
        advice = "all servers are in use: raise size.max, or look for slow exchanges";
    else if (p->total && p->total_open >= p->total)
        advice = "all servers of the pools behind this listener are in use: raise size.total, or "
                 "look for slow exchanges";
    snprintf(p->hint, sizeof p->hint, "%llu waiting for %llu of at most %llu servers: %s",
             (unsigned long long)p->waiting, (unsigned long long)p->open,
             (unsigned long long)p->max, advice);
}

void pool_figures_judge(struct pool_figures *p, bool draining)
{
    p->mood = mood_of(p, draining);
    p->hint[0] = '\0';
    switch (p->mood) {
    case MOOD_PAUSED:
        snprintf(p->hint, sizeof p->hint,
                 "an operator paused it, clients wait: `carpool resume %s` lets them on", p->name);
        break;
    case MOOD_FORCED_OPEN:
        snprintf(p->hint, sizeof p->hint,
                 "an operator opened its breaker: `carpool breaker %s auto` ends that", p->name);
        break;
    case MOOD_DOWN:
        hint_dial(p, "no server can be opened");
        break;
    case MOOD_TRIPPED:
        snprintf(p->hint, sizeof p->hint,
                 "the upstream fails too many requests: they are refused until a trial goes well");
        break;
    case MOOD_DEGRADED:
        if (p->last_dial.cause != CAUSE_NONE)
            hint_dial(p, "open servers serve on, but no new one can be opened");
        else if (is_open(p->service))
            snprintf(p->hint, sizeof p->hint,
                     "one of its upstreams fails too many requests and gets none until a trial "
                     "goes well; others serve on");
        else
            snprintf(p->hint, sizeof p->hint, "dialing begins again after failures");
        break;
    case MOOD_BUSY:
        hint_busy(p);
        break;
    case MOOD_STARTING:
        snprintf(p->hint, sizeof p->hint, "%llu of %llu servers (size.min) are open",
                 (unsigned long long)live(p), (unsigned long long)p->min);
        break;
    case MOOD_DRAINING:
        if (p->drained && !draining && !p->stopping)
            snprintf(p->hint, sizeof p->hint,
                     "an operator drains it, clients are refused (%llu are left): `carpool resume "
                     "%s` ends that",
                     (unsigned long long)p->clients, p->name);
        break;
    case MOOD_OK:
    case MOOD_COUNT:
        break;
    }
}
