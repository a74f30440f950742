/* SPDX-License-Identifier: MIT */
#include "tests/echo/codec.h"

#include <stdio.h>

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t n)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(n >> (24 - 8 * i));
}

bool echo_at_boundary(const struct echo_framer *f)
{
    return f->head_n == 0;
}

enum echo_step echo_walk(struct echo_framer *f, struct span bytes, size_t *used, struct err *err)
{
    *used = 0;
    while (f->head_n < ECHO_HEAD) {
        if (*used == bytes.n)
            return ECHO_MORE;
        f->head[f->head_n++] = bytes.p[(*used)++];
        if (f->head_n < ECHO_HEAD)
            continue;
        f->left = get32(f->head) & ~ECHO_ERROR;
        if (f->left > ECHO_FRAME_MAX) {
            err_set(err, CAUSE_TOO_LARGE, STAGE_EXCHANGE, 0, "a frame of %u bytes (at most %u)",
                    f->left, ECHO_FRAME_MAX);
            return ECHO_BAD;
        }
    }
    size_t part = bytes.n - *used < f->left ? bytes.n - *used : f->left;
    *used += part;
    f->left -= (uint32_t)part;
    if (f->left)
        return ECHO_MORE;
    f->head_n = 0;
    return ECHO_OVER;
}

size_t echo_put_error(uint8_t *to, size_t cap, const struct err *err)
{
    char *text = (char *)to + ECHO_HEAD;
    int n = snprintf(text, cap - ECHO_HEAD, "carpool: %s: %s", cause_word(err->cause), err->note);
    size_t len = n < 0 ? 0 : (size_t)n;
    if (len > cap - ECHO_HEAD - 1)
        len = cap - ECHO_HEAD - 1;
    put32(to, (uint32_t)len | ECHO_ERROR);
    return ECHO_HEAD + len;
}
