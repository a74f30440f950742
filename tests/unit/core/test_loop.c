/* SPDX-License-Identifier: MIT */
/* A loop's turn: callbacks, then deferred work, then sleep until the next timer. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "proxy/core/loop.h"

#include <cmocka.h>

/* What happened, in order, one letter each. */
struct stage {
    struct loop loop;
    struct log_ring *log;
    char story[64];
    size_t n;
    struct deferred later, more;
    struct timer timer, second;
    struct post_msg msg;
    bool more_wanted;
};

static void tell(struct stage *s, char what)
{
    assert_true(s->n + 1 < sizeof s->story);
    s->story[s->n++] = what;
}

static void on_later(struct deferred *d)
{
    struct stage *s = OWNER(d, struct stage, later);
    tell(s, 'd');
    if (s->more_wanted)
        loop_defer(&s->loop, &s->more);
}

static void on_more(struct deferred *d)
{
    tell(OWNER(d, struct stage, more), 'm');
}

static void on_timer(struct timer *t)
{
    struct stage *s = OWNER(t, struct stage, timer);
    tell(s, 't');
    loop_defer(&s->loop, &s->later);
    loop_defer(&s->loop, &s->later); /* once is enough */
    post(&s->loop, &s->msg);
}

static void on_second(struct timer *t)
{
    struct stage *s = OWNER(t, struct stage, second);
    tell(s, 's');
    loop_stop(&s->loop);
}

static void on_msg(struct post_msg *msg)
{
    struct stage *s = OWNER(msg, struct stage, msg);
    tell(s, 'p');
    if (!timer_armed(&s->second))
        loop_timer_set(&s->loop, &s->second, 1);
}

static void stage_init(struct stage *s)
{
    *s = (struct stage){.log = log_ring_new("test", LOG_ERROR)};
    loop_init(&s->loop, "test", s->log);
    deferred_init(&s->later, on_later);
    deferred_init(&s->more, on_more);
    timer_init(&s->timer, on_timer);
    timer_init(&s->second, on_second);
    post_init(&s->msg, on_msg, NULL);
}

static void stage_fini(struct stage *s)
{
    loop_fini(&s->loop);
    free(s->log);
}

static void deferred_work_is_done_before_the_loop_sleeps(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    s.more_wanted = true;
    loop_timer_set(&s.loop, &s.timer, 1);
    loop_run(&s.loop);
    /* The message needs a poll, which comes after all deferred work, also what that deferred. */
    assert_string_equal(s.story, "tdmps");
    stage_fini(&s);
}

static void cancelled_work_is_not_done(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    loop_defer(&s.loop, &s.later);
    loop_defer(&s.loop, &s.more);
    deferred_cancel(&s.later);
    deferred_cancel(&s.later);
    loop_turn(&s.loop);
    assert_string_equal(s.story, "m");
    loop_stop(&s.loop);
    loop_run(&s.loop);
    stage_fini(&s);
}

static void stop_does_what_is_deferred_still(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    loop_defer(&s.loop, &s.later);
    loop_stop(&s.loop);
    loop_run(&s.loop); /* returns, though a timer is armed */
    assert_string_equal(s.story, "d");
    stage_fini(&s);
}

static void timers_wake_the_loop_in_time(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    uint64_t begin = uv_hrtime();
    loop_timer_set(&s.loop, &s.timer, 100000); /* far away, and then not */
    loop_timer_set(&s.loop, &s.timer, 5);
    loop_timer_set(&s.loop, &s.second, 300);
    loop_run(&s.loop);
    uint64_t took = (uv_hrtime() - begin) / MSEC_NS;
    assert_string_equal(s.story, "tdps");
    assert_true(took >= 299);
    assert_true(took < 5000);
    stage_fini(&s);
}

static void on_arm(struct post_msg *msg)
{
    struct stage *s = OWNER(msg, struct stage, msg);
    loop_timer_set(&s->loop, &s->second, 2);
}

/* The loop sleeps for a long timer already when a shorter one is set. */
static void shorter_timer_is_not_overslept(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    post_init(&s.msg, on_arm, NULL);
    loop_timer_set(&s.loop, &s.timer, 60000);
    loop_turn(&s.loop);
    post(&s.loop, &s.msg);
    uint64_t begin = uv_hrtime();
    loop_run(&s.loop);
    assert_true((uv_hrtime() - begin) / MSEC_NS < 20000);
    assert_string_equal(s.story, "s");
    loop_timer_stop(&s.loop, &s.timer);
    stage_fini(&s);
}

static void on_slow(struct post_msg *msg)
{
    struct stage *s = OWNER(msg, struct stage, msg);
    uint64_t end = uv_hrtime() + 20 * MSEC_NS;
    while (uv_hrtime() < end)
        continue;
    loop_timer_set(&s->loop, &s->second, 1);
}

static void lag_is_how_long_a_turn_took(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    post_init(&s.msg, on_slow, NULL);
    post(&s.loop, &s.msg);
    loop_run(&s.loop);
    struct hist_snapshot seen = {0};
    hist_merge(&seen, &s.loop.lag);
    assert_true(seen.count >= 1);
    assert_true(hist_quantile(&seen, 1) >= 20000); /* microseconds */
    stage_fini(&s);
}

static unsigned rounds;

static void on_again(struct deferred *d)
{
    struct stage *s = OWNER(d, struct stage, later);
    if (rounds++ < 1000000)
        loop_defer_next(&s->loop, d);
}

/* Who always wants to go on keeps the loop awake, but nobody from his turn. */
static void work_put_off_lets_others_go_first(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    rounds = 0;
    deferred_init(&s.later, on_again);
    loop_defer_next(&s.loop, &s.later);
    loop_timer_set(&s.loop, &s.second, 20);
    loop_run(&s.loop);
    assert_string_equal(s.story, "s");
    assert_true(rounds > 1 && rounds < 1000000);
    stage_fini(&s);
}

/* ---- libuv rides along ---- */

static int pipes[2][2];
static uv_poll_t polls[2];

static void on_second_pipe(uv_poll_t *poll, int status, int events)
{
    struct stage *s = poll->data;
    (void)events;
    loop_called(&s->loop);
    assert_int_equal(status, 0);
    tell(s, '2');
    uv_close((uv_handle_t *)&polls[0], NULL);
    uv_close((uv_handle_t *)&polls[1], NULL);
    loop_stop(&s->loop);
}

static void on_first_pipe(uv_poll_t *poll, int status, int events)
{
    struct stage *s = poll->data;
    (void)events;
    loop_called(&s->loop);
    assert_int_equal(status, 0);
    tell(s, '1');
    uv_poll_stop(poll);
    assert_int_equal(uv_poll_init(&s->loop.uv, &polls[1], pipes[1][0]), 0);
    polls[1].data = s;
    uv_poll_start(&polls[1], UV_READABLE, on_second_pipe);
}

static void on_watch_pipe(struct deferred *d)
{
    struct stage *s = OWNER(d, struct stage, later);
    assert_int_equal(uv_poll_init(&s->loop.uv, &polls[0], pipes[0][0]), 0);
    polls[0].data = s;
    uv_poll_start(&polls[0], UV_READABLE, on_first_pipe);
}

/* What a callback of libuv's begins is watched before the loop sleeps again. */
static void what_libuv_watches_wakes_the_loop(void **state)
{
    (void)state;
    struct stage s;
    stage_init(&s);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pipe2(pipes[i], O_NONBLOCK | O_CLOEXEC), 0);
        assert_int_equal(write(pipes[i][1], "x", 1), 1);
    }
    deferred_init(&s.later, on_watch_pipe);
    loop_defer(&s.loop, &s.later);
    loop_timer_set(&s.loop, &s.second, 10000);
    loop_run(&s.loop);
    assert_string_equal(s.story, "12");
    for (int i = 0; i < 2; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
    loop_timer_stop(&s.loop, &s.second);
    stage_fini(&s);
}

static void on_uv_timer(uv_timer_t *timer)
{
    struct stage *s = timer->data;
    loop_called(&s->loop);
    tell(s, 'u');
    uv_close((uv_handle_t *)timer, NULL);
}

static void timers_of_libuv_wake_the_loop(void **state)
{
    (void)state;
    struct stage s;
    uv_timer_t timer = {.data = &s};
    stage_init(&s);
    uv_timer_init(&s.loop.uv, &timer);
    uv_timer_start(&timer, on_uv_timer, 5, 0);
    loop_timer_set(&s.loop, &s.second, 300);
    loop_run(&s.loop);
    assert_string_equal(s.story, "us");
    stage_fini(&s);
}

/* ---- the set ---- */

struct bell {
    struct source source;
    struct stage *stage;
    struct bell *other; /* taken out by this one's event */
    int fd;
    bool gone;
};

static void on_ring(struct source *source, uint32_t events)
{
    struct bell *b = OWNER(source, struct bell, source);
    assert_int_equal(events, EPOLLIN);
    if (b->gone)
        return; /* found before it was taken out: it may still be told */
    tell(b->stage, 'b');
    b->other->gone = true;
    loop_unwatch(&b->stage->loop, b->other->fd);
}

static void sources_may_take_each_other_out(void **state)
{
    (void)state;
    struct stage s;
    struct bell bells[2];
    stage_init(&s);
    for (int i = 0; i < 2; i++) {
        bells[i] = (struct bell){.source.on_events = on_ring,
                                 .stage = &s,
                                 .other = &bells[1 - i],
                                 .fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)};
        assert_true(loop_watch(&s.loop, bells[i].fd, &bells[i].source, EPOLLIN));
    }
    loop_turn(&s.loop);
    assert_string_equal(s.story, "b");
    int left = bells[0].gone;
    loop_rewatch(&s.loop, bells[left].fd, &bells[left].source, LOOP_QUIET);
    loop_turn(&s.loop);
    assert_string_equal(s.story, "b"); /* nothing is asked for any more */
    loop_unwatch(&s.loop, bells[left].fd);
    close(bells[0].fd);
    close(bells[1].fd);
    loop_stop(&s.loop);
    loop_run(&s.loop);
    stage_fini(&s);
}

static void file_has_no_events(void **state)
{
    (void)state;
    struct stage s;
    struct source source;
    stage_init(&s);
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_false(loop_watch(&s.loop, fileno(file), &source, EPOLLIN));
    fclose(file);
    loop_stop(&s.loop);
    loop_run(&s.loop);
    stage_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deferred_work_is_done_before_the_loop_sleeps),
        cmocka_unit_test(cancelled_work_is_not_done),
        cmocka_unit_test(work_put_off_lets_others_go_first),
        cmocka_unit_test(what_libuv_watches_wakes_the_loop),
        cmocka_unit_test(timers_of_libuv_wake_the_loop),
        cmocka_unit_test(sources_may_take_each_other_out),
        cmocka_unit_test(file_has_no_events),
        cmocka_unit_test(stop_does_what_is_deferred_still),
        cmocka_unit_test(timers_wake_the_loop_in_time),
        cmocka_unit_test(shorter_timer_is_not_overslept),
        cmocka_unit_test(lag_is_how_long_a_turn_took),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
