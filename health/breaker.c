/* SPDX-License-Identifier: MIT */
/*
 * The breaker's rules; diagram, owner and contract in breaker.h. move() is the only writer of the
 * state and leaves each state's own fields as they have to be at its beginning.
 */
#include "health/breaker.h"

#include "health/backoff.h"
#include "proxy/core/sm.h"

#define OPEN_JITTER_PERCENT 20

/* An operator may force from anywhere. */
#define FORCED (SM_TO(BREAKER_FORCED_OPEN) | SM_TO(BREAKER_FORCED_CLOSED))

static const struct sm_row rows[BREAKER_STATE_COUNT] = {
    [BREAKER_CLOSED] = {"closed", SM_TO(BREAKER_OPEN) | FORCED},
    [BREAKER_OPEN] = {"open", SM_TO(BREAKER_HALF_OPEN) | FORCED},
    [BREAKER_HALF_OPEN] = {"half_open", SM_TO(BREAKER_CLOSED) | SM_TO(BREAKER_OPEN) | FORCED},
    [BREAKER_FORCED_OPEN] = {"forced_open", SM_TO(BREAKER_CLOSED) | SM_TO(BREAKER_FORCED_CLOSED)},
    [BREAKER_FORCED_CLOSED] = {"forced_closed", SM_TO(BREAKER_CLOSED) | SM_TO(BREAKER_FORCED_OPEN)},
};

static const char *const reason_words[BREAKER_REASON_COUNT] = {
    [BREAKER_NEW] = "new",
    [BREAKER_CONSECUTIVE] = "consecutive_failures",
    [BREAKER_RATIO] = "failure_ratio",
    [BREAKER_TIME_OVER] = "time_over",
    [BREAKER_TRIAL_FAILED] = "trial_failed",
    [BREAKER_TRIALS_PASSED] = "trials_passed",
    [BREAKER_OPERATOR] = "operator",
};

static const struct {
    const char *name;
    uint32_t trials; /* successful ones in a row that close it */
} roles[BREAKER_ROLE_COUNT] = {
    [BREAKER_DOOR] = {"door", 1},
    [BREAKER_SERVICE] = {"service", 3},
};

static uint32_t next_random(struct breaker *b)
{
    /* xorshift: the state must not be 0, see breaker_init(). */
    b->random ^= b->random << 13;
    b->random ^= b->random >> 17;
    b->random ^= b->random << 5;
    return b->random;
}

/* open_min, doubled at each relapse up to open_max, and jitter so that many carpools spread out;
 * never outside of the two. */
static uint64_t open_time(struct breaker *b)
{
    uint64_t ms = b->conf.open_min_ms;
    for (uint32_t i = 0; i < b->relapses && ms < b->conf.open_max_ms; i++)
        ms = ms > b->conf.open_max_ms / 2 ? b->conf.open_max_ms : ms * 2;
    ms = jitter_within(ms, OPEN_JITTER_PERCENT, b->conf.open_min_ms, b->conf.open_max_ms,
                       next_random(b));
    return ms ? ms : 1;
}

static bool breaker_ok(const struct breaker *b)
{
    return (b->state == BREAKER_HALF_OPEN || (b->permit == 0 && b->trials_passed == 0)) &&
           (b->state == BREAKER_CLOSED || b->run == 0) &&
           (b->state != BREAKER_CLOSED || b->relapses == 0) &&
           (b->state != BREAKER_OPEN || b->open_until > b->since);
}

static bool move(struct breaker *b, uint64_t now, enum breaker_state to, enum breaker_reason why)
{
    CHECK(sm_allows(rows, b->state, to));
    b->state = to;
    b->reason = why;
    b->since = now;
    b->permit = 0;
    b->trials_passed = 0;
    b->run = 0;
    if (to == BREAKER_OPEN) {
        b->open_until = now + open_time(b);
        if (b->relapses < UINT32_MAX)
            b->relapses++;
    } else if (to != BREAKER_HALF_OPEN) {
        b->window = (struct window){0};
        b->relapses = 0;
    }
    CHECK(breaker_ok(b));
    return true;
}

void breaker_init(struct breaker *b, enum breaker_role role, const struct breaker_conf *conf,
                  uint64_t now, uint32_t seed)
{
    CHECK((unsigned)role < BREAKER_ROLE_COUNT);
    *b = (struct breaker){.role = role, .conf = *conf, .since = now, .random = seed ? seed : 1};
}

void breaker_reconf(struct breaker *b, const struct breaker_conf *conf)
{
    b->conf = *conf;
}

void breaker_success(struct breaker *b, uint64_t now, uint64_t n)
{
    if (b->state != BREAKER_CLOSED || n == 0)
        return;
    b->run = 0;
    window_add(&b->window, now, n, 0);
}

static bool ratio_reached(const struct breaker *b, uint64_t now)
{
    struct window_sum sum = window_sum(&b->window, now);
    uint64_t all = sum.good + sum.bad;
    return b->conf.failure_ratio != 0 && all >= b->conf.min_requests &&
           sum.bad * 100 >= all * b->conf.failure_ratio;
}

bool breaker_failure(struct breaker *b, uint64_t now, enum breaker_failure kind)
{
    if (b->state != BREAKER_CLOSED)
        return false;
    window_add(&b->window, now, 0, 1);
    if (kind == BREAKER_HARD && b->run < UINT32_MAX)
        b->run++;
    if (b->conf.consecutive != 0 && b->run >= b->conf.consecutive)
        return move(b, now, BREAKER_OPEN, BREAKER_CONSECUTIVE);
    if (ratio_reached(b, now))
        return move(b, now, BREAKER_OPEN, BREAKER_RATIO);
    return false;
}

bool breaker_tick(struct breaker *b, uint64_t now)
{
    if (b->state != BREAKER_OPEN || now < b->open_until)
        return false;
    return move(b, now, BREAKER_HALF_OPEN, BREAKER_TIME_OVER);
}

static enum breaker_answer ask_for_trial(struct breaker *b, uint64_t now, uint64_t hold_ms,
                                         uint32_t *permit)
{
    if (b->permit != 0 && now < b->permit_until)
        return BREAKER_REFUSE;
    b->last_permit++;
    if (b->last_permit == 0) /* 0 says "no permit", also after four billion */
        b->last_permit = 1;
    *permit = b->permit = b->last_permit;
    b->permit_until = now + hold_ms < now ? UINT64_MAX : now + hold_ms;
    return BREAKER_TRIAL;
}

enum breaker_answer breaker_ask(struct breaker *b, uint64_t now, uint64_t hold_ms, uint32_t *permit)
{
    *permit = 0;
    switch (b->state) {
    case BREAKER_CLOSED:
    case BREAKER_FORCED_CLOSED:
        return BREAKER_PASS;
    case BREAKER_HALF_OPEN:
        return ask_for_trial(b, now, hold_ms, permit);
    case BREAKER_OPEN:
    case BREAKER_FORCED_OPEN:
    case BREAKER_STATE_COUNT:
        break;
    }
    return BREAKER_REFUSE;
}

bool breaker_trial(struct breaker *b, uint64_t now, uint32_t permit, enum breaker_outcome outcome)
{
    if (permit == 0 || permit != b->permit)
        return false;
    b->permit = 0;
    switch (outcome) {
    case BREAKER_PASSED:
        if (++b->trials_passed < roles[b->role].trials)
            return false;
        return move(b, now, BREAKER_CLOSED, BREAKER_TRIALS_PASSED);
    case BREAKER_FAILED:
        return move(b, now, BREAKER_OPEN, BREAKER_TRIAL_FAILED);
    case BREAKER_NEUTRAL:
        break;
    }
    return false;
}

bool breaker_force(struct breaker *b, uint64_t now, enum breaker_force force)
{
    bool forced = b->state == BREAKER_FORCED_OPEN || b->state == BREAKER_FORCED_CLOSED;
    enum breaker_state to = BREAKER_CLOSED;
    switch (force) {
    case BREAKER_FORCE_OPEN:
        to = BREAKER_FORCED_OPEN;
        break;
    case BREAKER_FORCE_CLOSED:
        to = BREAKER_FORCED_CLOSED;
        break;
    case BREAKER_FORCE_AUTO:
        if (!forced)
            return false;
        break;
    }
    return to == b->state ? false : move(b, now, to, BREAKER_OPERATOR);
}

enum breaker_force breaker_forced(const struct breaker *b)
{
    return b->state == BREAKER_FORCED_OPEN     ? BREAKER_FORCE_OPEN
           : b->state == BREAKER_FORCED_CLOSED ? BREAKER_FORCE_CLOSED
                                               : BREAKER_FORCE_AUTO;
}

uint64_t breaker_next(const struct breaker *b)
{
    switch (b->state) {
    case BREAKER_OPEN:
        return b->open_until;
    case BREAKER_HALF_OPEN:
        return b->permit ? b->permit_until : 0;
    case BREAKER_FORCED_OPEN:
        return UINT64_MAX;
    case BREAKER_CLOSED:
    case BREAKER_FORCED_CLOSED:
    case BREAKER_STATE_COUNT:
        break;
    }
    return 0;
}

const char *breaker_state_word(enum breaker_state state)
{
    CHECK((unsigned)state < BREAKER_STATE_COUNT);
    return rows[state].name;
}

const char *breaker_reason_word(enum breaker_reason reason)
{
    CHECK((unsigned)reason < BREAKER_REASON_COUNT);
    return reason_words[reason];
}

const char *breaker_role_word(enum breaker_role role)
{
    CHECK((unsigned)role < BREAKER_ROLE_COUNT);
    return roles[role].name;
}
