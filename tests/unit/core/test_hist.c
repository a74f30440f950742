/* SPDX-License-Identifier: MIT */
/* Histograms and counters: what they claim about durations; reading while writing is safe. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "proxy/core/counter.h"
#include "proxy/core/hist.h"

#include <cmocka.h>

#define LONGEST (UINT64_C(1) << HIST_MAX_BITS)

static void every_bucket_borders_on_the_next(void **state)
{
    (void)state;
    uint64_t low = 0;
    for (unsigned bucket = 0; bucket < HIST_BUCKETS; bucket++) {
        uint64_t top = hist_bucket_top(bucket);
        assert_true(top >= low);
        assert_int_equal(hist_bucket(low), bucket);
        assert_int_equal(hist_bucket(top), bucket);
        /* The promise of the header: exact below 32 µs, else within 1/16. */
        if (low < 32)
            assert_int_equal(top, low);
        else if (bucket < HIST_BUCKETS - 1)
            assert_true((top - low) * 16 <= low);
        low = top + 1;
    }
    assert_int_equal(hist_bucket_top(HIST_BUCKETS - 2) + 1, LONGEST - LONGEST / 32);
    assert_int_equal(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
}

static struct hist_snapshot *snapshot_of(const struct hist *h)
{
    struct hist_snapshot *s = calloc(1, sizeof *s);
    assert_non_null(s);
    hist_merge(s, h);
    return s;
}

static void nothing_recorded(void **state)
{
    (void)state;
    static const struct hist h;
    struct hist_snapshot *s = snapshot_of(&h);
    uint64_t counts[HIST_BOUNDS];
    assert_int_equal(s->count, 0);
    assert_int_equal(hist_quantile(s, 0.5), 0);
    hist_cumulative(s, counts);
    for (size_t i = 0; i < HIST_BOUNDS; i++)
        assert_int_equal(counts[i], 0);
    free(s);
}

static void one_value_is_every_quantile(void **state)
{
    (void)state;
    static const uint64_t values[] = {0,       1,           31,          1000,
                                      1234567, LONGEST - 1, LONGEST + 5, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        struct hist *h = calloc(1, sizeof *h);
        assert_non_null(h);
        hist_record(h, values[i]);
        struct hist_snapshot *s = snapshot_of(h);
        assert_int_equal(s->count, 1);
        assert_int_equal(s->sum, values[i]);
        assert_int_equal(s->max, values[i]);
        assert_int_equal(hist_quantile(s, 0), values[i]);
        assert_int_equal(hist_quantile(s, 0.5), values[i]);
        assert_int_equal(hist_quantile(s, 1), values[i]);
        free(s);
        free(h);
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void quantiles_agree_with_a_sorted_array(void **state)
{
    (void)state;
    enum { N = 20000 };
    static uint64_t values[N];
    static const double shares[] = {0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.99995, 1};
    struct hist *h = calloc(1, sizeof *h);
    assert_non_null(h);
    uint64_t random = 7, sum = 0;
    for (size_t i = 0; i < N; i++) {
        random = random * UINT64_C(6364136223846793005) + 1;
        values[i] = (random >> 33) >> (random >> 20) % 28; /* every magnitude alike */
        sum += values[i];
        hist_record(h, values[i]);
    }
    qsort(values, N, sizeof values[0], by_value);
    struct hist_snapshot *s = snapshot_of(h);
    assert_int_equal(s->count, N);
    assert_int_equal(s->sum, sum);
    assert_int_equal(s->max, values[N - 1]);
    for (size_t i = 0; i < ARRAY_LEN(shares); i++) {
        double rank = shares[i] * (double)N;
        size_t index = (size_t)rank;
        if ((double)index >= rank && index > 0)
            index--;
        uint64_t got = hist_quantile(s, shares[i]);
        assert_true(got >= values[index]);
        assert_true(got <= values[index] + values[index] / 16);
    }
    assert_int_equal(hist_quantile(s, -3), values[0]);
    assert_int_equal(hist_quantile(s, 17), values[N - 1]);
    free(s);
    free(h);
}

static void workers_add_up(void **state)
{
    (void)state;
    struct hist *h = calloc(2, sizeof *h);
    struct hist_snapshot *s = calloc(1, sizeof *s);
    assert_true(h && s);
    for (int i = 0; i < 90; i++)
        hist_record(&h[0], 10);
    for (int i = 0; i < 10; i++)
        hist_record(&h[1], 5000);
    hist_merge(s, &h[0]);
    hist_merge(s, &h[1]);
    assert_int_equal(s->count, 100);
    assert_int_equal(s->sum, 90 * 10 + 10 * 5000);
    assert_int_equal(s->max, 5000);
    assert_int_equal(hist_quantile(s, 0.9), 10);
    assert_int_equal(hist_quantile(s, 0.91), 5000);
    free(s);
    free(h);
}

static void labels_say_the_bounds_in_seconds(void **state)
{
    (void)state;
    assert_int_equal(hist_bounds[0].us, 100);
    assert_int_equal(hist_bounds[HIST_BOUNDS - 1].us, 60000000);
    for (size_t i = 0; i < HIST_BOUNDS; i++) {
        assert_int_equal((uint64_t)(strtod(hist_bounds[i].le, NULL) * 1e6 + 0.5),
                         hist_bounds[i].us);
        assert_true(i == 0 || hist_bounds[i].us > hist_bounds[i - 1].us);
    }
}

static void the_exposition_never_flatters(void **state)
{
    (void)state;
    /* Around each bound: clearly below is counted, above never is. */
    for (size_t i = 0; i < HIST_BOUNDS; i++) {
        struct hist *h = calloc(1, sizeof *h);
        assert_non_null(h);
        uint64_t bound = hist_bounds[i].us, counts[HIST_BOUNDS];
        hist_record(h, bound - bound / 16 - 1);
        hist_record(h, bound + 1);
        hist_record(h, bound * 2);
        struct hist_snapshot *s = snapshot_of(h);
        hist_cumulative(s, counts);
        assert_int_equal(counts[i], 1);
        for (size_t k = 1; k < HIST_BOUNDS; k++)
            assert_true(counts[k] >= counts[k - 1]);
        assert_true(counts[HIST_BOUNDS - 1] <= s->count);
        free(s);
        free(h);
    }
}

/* ---- one writer, one reader ----------------------------------------------------------------- */

#define RECORDS 200000

struct shared {
    struct hist hist;
    struct counter counter;
};

static void *writer(void *arg)
{
    struct shared *shared = arg;
    for (uint64_t i = 0; i < RECORDS; i++) {
        hist_record(&shared->hist, i % 1000);
        counter_add(&shared->counter, 2);
    }
    return NULL;
}

static void a_reader_sees_it_grow(void **state)
{
    (void)state;
    struct shared *shared = calloc(1, sizeof *shared);
    assert_non_null(shared);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, writer, shared), 0);
    uint64_t count = 0, last = 0;
    for (int i = 0; i < 200; i++) {
        struct hist_snapshot *s = snapshot_of(&shared->hist);
        assert_true(s->count >= count && s->count <= RECORDS);
        assert_true(s->max < 1000);
        count = s->count;
        free(s);
        assert_true(counter_get(&shared->counter) >= last);
        last = counter_get(&shared->counter);
        assert_int_equal(last % 2, 0);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    struct hist_snapshot *s = snapshot_of(&shared->hist);
    assert_int_equal(s->count, RECORDS);
    assert_int_equal(s->sum, (uint64_t)RECORDS / 1000 * (999 * 1000 / 2));
    assert_int_equal(counter_get(&shared->counter), 2 * RECORDS);
    free(s);
    free(shared);
}

static void a_gauge_goes_both_ways(void **state)
{
    (void)state;
    struct counter c = {0};
    counter_set(&c, 5);
    counter_add(&c, 3);
    counter_sub(&c, 8);
    assert_int_equal(counter_get(&c), 0);
    counter_add(&c, UINT64_MAX);
    assert_int_equal(counter_get(&c), UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bucket_borders_on_the_next),
        cmocka_unit_test(nothing_recorded),
        cmocka_unit_test(one_value_is_every_quantile),
        cmocka_unit_test(quantiles_agree_with_a_sorted_array),
        cmocka_unit_test(workers_add_up),
        cmocka_unit_test(labels_say_the_bounds_in_seconds),
        cmocka_unit_test(the_exposition_never_flatters),
        cmocka_unit_test(a_reader_sees_it_grow),
        cmocka_unit_test(a_gauge_goes_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
