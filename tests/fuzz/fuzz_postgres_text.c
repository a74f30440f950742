/* SPDX-License-Identifier: MIT */
/*
 * What clients write as SQL, whole and cut off: nothing is read past its end, what is said of it
 * holds together, and the beginning of a text says the same verb as all of it once it is one.
 */
#include <stdlib.h>

#include "proxy/wire/postgres_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_look(struct span text)
{
    struct pg_text t = pg_text_look(text);
    bool ends = t.verb == PG_VERB_COMMIT || t.verb == PG_VERB_ROLLBACK;
    CHECK(t.verb <= PG_VERB_OTHER);
    CHECK(!t.single || ends || t.verb == PG_VERB_EMPTY);
    CHECK(!t.chain || ends);
    const uint8_t *nul = text.n ? memchr(text.p, 0, text.n) : NULL;
    if (nul) { /* what stands behind the end counts for nothing */
        struct pg_text same = pg_text_look(span_of(text.p, (size_t)(nul - text.p)));
        CHECK(same.verb == t.verb && same.single == t.single && same.chain == t.chain);
    }
}

static void check_drops(struct span text)
{
    uint8_t name[64], small[8];
    struct span at;
    if (pg_text_drops(text, &at) != PG_DROPS_ONE)
        return;
    CHECK(at.n > 0 && at.p >= text.p && at.p + at.n <= text.p + text.n);
    CHECK(pg_text_trace(text).drops);
    size_t n = pg_text_name(at, name, sizeof name);
    CHECK(n > 0 && n < sizeof name);
    for (size_t i = 0; i < n; i++)
        CHECK(name[i] != 0);
    size_t m = pg_text_name(at, small, sizeof small);
    CHECK(m <= sizeof small && (m == 0 || (m == n && memcmp(name, small, n) == 0)));
}

static void check_trace(struct span text)
{
    struct pg_trace t = pg_text_trace(text);
    CHECK(t.name.n == 0 || t.leaves == PG_LEAVES_SETTING || t.leaves == PG_LEAVES_RESET ||
          t.leaves == PG_LEAVES_NOTHING);
    uint8_t sum = 0;
    for (size_t i = 0; i < t.name.n; i++) /* all of it can be read */
        sum ^= t.name.p[i];
    (void)sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Memory of its own for each length, so that one byte too many is seen. */
    size_t cuts[] = {size, size / 2, size ? size - 1 : 0};
    for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
        uint8_t *copy = malloc(cuts[i] + !cuts[i]);
        CHECK(copy);
        if (cuts[i])
            memcpy(copy, data, cuts[i]);
        struct span text = span_of(copy, cuts[i]);
        check_look(text);
        check_drops(text);
        check_trace(text);
        CHECK(!pg_text_dated(text) || memchr(copy, '\'', cuts[i]));
        free(copy);
    }
    return 0;
}
