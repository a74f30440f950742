/* SPDX-License-Identifier: MIT */
#include "proxy/core/err.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const cause_words[CAUSE_COUNT] = {[CAUSE_NONE] = "none",
#define X(name, word) [CAUSE_##name] = word,
                                                     CAUSES(X)
#undef X
};

static const char *const stage_words[STAGE_COUNT] = {
#define X(name, word) [STAGE_##name] = word,
    STAGES(X)
#undef X
};

const char *cause_word(enum cause cause)
{
    CHECK((unsigned)cause < CAUSE_COUNT);
    return cause_words[cause];
}

const char *stage_word(enum err_stage stage)
{
    CHECK((unsigned)stage < STAGE_COUNT);
    return stage_words[stage];
}

bool err_set(struct err *err, enum cause cause, enum err_stage stage, int sys, const char *fmt, ...)
{
    err->cause = cause;
    err->stage = stage;
    err->sys = sys;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->note, sizeof err->note, fmt, ap);
    va_end(ap);
    /* Notes may quote what a server said: they end up in logs and in protocols made of lines. */
    for (char *c = err->note; *c; c++)
        if (*c == '"')
            *c = '\''; /* logs quote them */
        else if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = ' ';
    return false;
}

const char *err_text(const struct err *err, char *buf, size_t cap)
{
    if (err->stage == STAGE_NONE)
        snprintf(buf, cap, "%s: %s", cause_word(err->cause), err->note);
    else
        snprintf(buf, cap, "%s at %s: %s", cause_word(err->cause), stage_word(err->stage),
                 err->note);
    return buf;
}
