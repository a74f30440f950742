/* SPDX-License-Identifier: MIT */
/* The words of phases and outcomes; constant, see verdict.h. */
#include "health/verdict.h"

static const char *const phase_words[PHASE_COUNT] = {
#define X(name, word) [PHASE_##name] = word,
    PHASES(X)
#undef X
};

static const char *const outcome_words[OUTCOME_COUNT] = {
#define X(name, word) [OUTCOME_##name] = word,
    OUTCOMES(X)
#undef X
};

const char *phase_word(enum phase phase)
{
    CHECK((unsigned)phase < PHASE_COUNT);
    return phase_words[phase];
}

const char *outcome_word(enum outcome outcome)
{
    CHECK((unsigned)outcome < OUTCOME_COUNT);
    return outcome_words[outcome];
}

bool outcome_drops(enum outcome outcome)
{
    CHECK((unsigned)outcome < OUTCOME_COUNT);
    return outcome != OUTCOME_KEEP && outcome != OUTCOME_RESET && outcome != OUTCOME_VERIFY;
}
