/* SPDX-License-Identifier: MIT */
/* The queue of bytes, against a plain array that does the same the slow way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "proxy/core/bufq.h"

#include <cmocka.h>

#define ROOM ((size_t)1 << 20)

struct both {
    struct chunk_pool cp;
    struct bufq q;
    uint8_t *want; /* what the queue should hold */
    size_t n;
    uint8_t next;
};

static void both_init(struct both *b, unsigned keep)
{
    *b = (struct both){.want = malloc(ROOM)};
    assert_non_null(b->want);
    chunk_pool_init(&b->cp, keep);
}

static void both_fini(struct both *b)
{
    bufq_clear(&b->cp, &b->q);
    chunk_pool_fini(&b->cp);
    free(b->want);
}

static void append(struct both *b, size_t n)
{
    uint8_t *at = b->want + b->n;
    for (size_t i = 0; i < n; i++)
        at[i] = b->next++;
    assert_true(bufq_append(&b->cp, &b->q, span_of(at, n)));
    b->n += n;
}

static void consume(struct both *b, size_t n)
{
    bufq_consume(&b->cp, &b->q, n);
    memmove(b->want, b->want + n, b->n - n);
    b->n -= n;
}

static void assert_same(const struct both *b)
{
    static uint8_t copy[ROOM];
    assert_int_equal(b->q.len, b->n);
    assert_int_equal(bufq_peek(&b->q, copy, ROOM), b->n);
    assert_memory_equal(copy, b->want, b->n);
    size_t half = b->n / 2;
    assert_int_equal(bufq_peek(&b->q, copy, half), half);
    struct iovec iov[300];
    int max = 300, n = bufq_iov(&b->q, iov, max);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        assert_true(iov[i].iov_len > 0);
        assert_true(at + iov[i].iov_len <= b->n);
        assert_memory_equal(iov[i].iov_base, b->want + at, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    assert_int_equal(at, b->n);
    if (n > 1) {
        assert_int_equal(bufq_iov(&b->q, iov, 1), 1);
        assert_int_equal(bufq_iov(&b->q, iov, 0), 0);
    }
}

static void is_empty_at_first_and_again(void **state)
{
    (void)state;
    struct both b;
    both_init(&b, 4);
    assert_same(&b);
    append(&b, 0);
    assert_null(b.q.head); /* no memory while it is empty */
    append(&b, 10);
    consume(&b, 10);
    assert_null(b.q.head);
    assert_null(b.q.tail);
    append(&b, 3);
    assert_same(&b);
    both_fini(&b);
}

static void edges_of_chunks(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, CHUNK_DATA - 1, CHUNK_DATA, CHUNK_DATA + 1, 3 * CHUNK_DATA};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
            struct both b;
            both_init(&b, 2);
            append(&b, sizes[i]);
            append(&b, sizes[k]);
            assert_same(&b);
            consume(&b, sizes[i]);
            assert_same(&b);
            append(&b, 1);
            consume(&b, sizes[k]);
            assert_same(&b);
            consume(&b, 1);
            assert_same(&b);
            both_fini(&b);
        }
    }
}

static void behaves_like_an_array(void **state)
{
    (void)state;
    struct both b;
    both_init(&b, 8);
    uint64_t x = 88172645463325252u;
    for (unsigned step = 0; step < 4000; step++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        size_t n = (size_t)(x >> 20) % (step % 5 ? 300 : 20000);
        if (x % 101 == 0) {
            bufq_clear(&b.cp, &b.q);
            b.n = 0;
        } else if (x % 2 && b.n + n <= ROOM / 4) {
            append(&b, n);
        } else {
            consume(&b, n < b.n ? n : b.n);
        }
        assert_true(b.cp.n_free <= 8);
        if (step % 16 == 0)
            assert_same(&b);
        assert_int_equal(b.q.len, b.n);
    }
    assert_same(&b);
    both_fini(&b);
}

static void chunks_are_used_again(void **state)
{
    (void)state;
    struct both b;
    both_init(&b, 3);
    append(&b, 5 * CHUNK_DATA);
    consume(&b, 5 * CHUNK_DATA);
    assert_int_equal(b.cp.n_free, 3); /* the rest went back to the allocator */
    struct chunk *ready = b.cp.free;
    append(&b, 1);
    assert_ptr_equal(b.q.head, ready);
    assert_int_equal(b.cp.n_free, 2);
    both_fini(&b);
}

static void queues_share_a_pool(void **state)
{
    (void)state;
    struct both b;
    struct bufq other = {0};
    both_init(&b, 8);
    append(&b, 6000);
    assert_true(bufq_append(&b.cp, &other, span_of(b.want, 5000)));
    consume(&b, 6000);
    uint8_t copy[5000], want[5000];
    append(&b, 6000); /* takes the chunks just freed, not the other's */
    memset(want, 0, sizeof want);
    for (size_t i = 0; i < sizeof want; i++)
        want[i] = (uint8_t)i;
    assert_int_equal(bufq_peek(&other, copy, sizeof copy), sizeof copy);
    assert_memory_equal(copy, want, sizeof copy);
    bufq_clear(&b.cp, &other);
    both_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_empty_at_first_and_again), cmocka_unit_test(edges_of_chunks),
        cmocka_unit_test(behaves_like_an_array),       cmocka_unit_test(chunks_are_used_again),
        cmocka_unit_test(queues_share_a_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
