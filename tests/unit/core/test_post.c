/* SPDX-License-Identifier: MIT */
/* Messages between threads: all arrive, in order per sender, or are discarded; none is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include "proxy/core/loop.h"

#include <cmocka.h>

#define SENDERS 3
#define MESSAGES 4000

struct box;

struct letter {
    struct post_msg msg;
    struct box *box;
    unsigned sender, number;
};

/* Who receives, and what came. */
struct box {
    struct loop loop;
    struct log_ring *log;
    pthread_t thread;
    unsigned next[SENDERS]; /* number expected */
    unsigned run, discarded, wrong;
    struct post_msg stop;
};

static void on_letter(struct post_msg *msg)
{
    struct letter *l = OWNER(msg, struct letter, msg);
    l->box->run++;
    if (l->number != l->box->next[l->sender]++)
        l->box->wrong++;
}

static void on_discard(struct post_msg *msg)
{
    OWNER(msg, struct letter, msg)->box->discarded++;
}

static void on_stop(struct post_msg *msg)
{
    loop_stop(&OWNER(msg, struct box, stop)->loop);
}

static void *run(void *arg)
{
    struct box *box = arg;
    loop_run(&box->loop);
    return NULL;
}

static void box_init(struct box *box)
{
    *box = (struct box){.log = log_ring_new("box", LOG_ERROR)};
    loop_init(&box->loop, "box", box->log);
    post_init(&box->stop, on_stop, NULL);
}

static void box_start(struct box *box)
{
    assert_int_equal(pthread_create(&box->thread, NULL, run, box), 0);
}

static void box_end(struct box *box)
{
    loop_fini(&box->loop);
    free(box->log);
}

/* ---- many senders ---- */

struct sender {
    struct box *box;
    pthread_t thread;
    unsigned number;
    struct letter *letters;
};

static void *send_all(void *arg)
{
    struct sender *s = arg;
    for (unsigned i = 0; i < MESSAGES; i++)
        post(&s->box->loop, &s->letters[i].msg);
    return NULL;
}

static void all_arrive_in_order_per_sender(void **state)
{
    (void)state;
    struct box box;
    struct sender senders[SENDERS];
    box_init(&box);
    for (unsigned k = 0; k < SENDERS; k++) {
        struct sender *s = &senders[k];
        *s = (struct sender){.box = &box, .letters = calloc(MESSAGES, sizeof *s->letters)};
        assert_non_null(s->letters);
        for (unsigned i = 0; i < MESSAGES; i++) {
            s->letters[i] = (struct letter){.box = &box, .sender = k, .number = i};
            post_init(&s->letters[i].msg, on_letter, NULL);
        }
    }
    box_start(&box);
    for (unsigned k = 0; k < SENDERS; k++)
        assert_int_equal(pthread_create(&senders[k].thread, NULL, send_all, &senders[k]), 0);
    for (unsigned k = 0; k < SENDERS; k++)
        pthread_join(senders[k].thread, NULL);
    post(&box.loop, &box.stop);
    pthread_join(box.thread, NULL);
    assert_int_equal(box.run, SENDERS * MESSAGES);
    assert_int_equal(box.wrong, 0);
    box_end(&box);
    for (unsigned k = 0; k < SENDERS; k++)
        free(senders[k].letters);
}

/* ---- one sender, on the same thread ---- */

static void turn(struct box *box)
{
    loop_turn(&box->loop);
}

static void stop(struct box *box)
{
    loop_stop(&box->loop);
    loop_run(&box->loop);
    box_end(box);
}

static void nothing_runs_inside_post(void **state)
{
    (void)state;
    struct box box;
    struct letter l = {.box = &box};
    box_init(&box);
    post_init(&l.msg, on_letter, NULL);
    post(&box.loop, &l.msg);
    assert_int_equal(box.run, 0);
    turn(&box);
    assert_int_equal(box.run, 1);
    turn(&box);
    assert_int_equal(box.run, 1);
    stop(&box);
}

static void post_once_is_once_until_it_has_run(void **state)
{
    (void)state;
    struct box box;
    struct letter l = {.box = &box};
    box_init(&box);
    post_init(&l.msg, on_letter, NULL);
    assert_true(post_once(&box.loop, &l.msg));
    assert_false(post_once(&box.loop, &l.msg));
    turn(&box);
    assert_int_equal(box.run, 1);
    assert_true(post_once(&box.loop, &l.msg));
    turn(&box);
    assert_int_equal(box.run, 2);
    stop(&box);
}

struct again {
    struct post_msg msg;
    struct box *box;
    unsigned left, runs;
};

static void on_again(struct post_msg *msg)
{
    struct again *a = OWNER(msg, struct again, msg);
    a->runs++;
    if (a->left && a->left--)
        post(&a->box->loop, &a->msg);
}

static void message_may_post_itself_again(void **state)
{
    (void)state;
    struct box box;
    struct again a = {.box = &box, .left = 2};
    box_init(&box);
    post_init(&a.msg, on_again, NULL);
    post(&box.loop, &a.msg);
    turn(&box);
    assert_int_equal(a.runs, 1); /* not in the same turn: others have theirs in between */
    turn(&box);
    turn(&box);
    turn(&box);
    assert_int_equal(a.runs, 3);
    stop(&box);
}

static void late_messages_are_discarded(void **state)
{
    (void)state;
    struct box box;
    struct letter kind = {.box = &box}, plain = {.box = &box};
    box_init(&box);
    post_init(&kind.msg, on_letter, on_discard);
    post_init(&plain.msg, on_letter, NULL); /* knows only how to run */
    loop_stop(&box.loop);
    loop_run(&box.loop);
    post(&box.loop, &kind.msg);
    post(&box.loop, &plain.msg);
    assert_int_equal(box.run + box.discarded, 0);
    box_end(&box);
    assert_int_equal(box.discarded, 1);
    assert_int_equal(box.run, 1);
}

static void messages_before_the_start_are_done_first(void **state)
{
    (void)state;
    struct box box;
    struct letter l = {.box = &box};
    box_init(&box);
    post_init(&l.msg, on_letter, on_discard);
    post(&box.loop, &l.msg);
    post(&box.loop, &box.stop);
    box_start(&box);
    pthread_join(box.thread, NULL);
    assert_int_equal(box.run, 1);
    box_end(&box);
    assert_int_equal(box.discarded, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_arrive_in_order_per_sender),
        cmocka_unit_test(nothing_runs_inside_post),
        cmocka_unit_test(post_once_is_once_until_it_has_run),
        cmocka_unit_test(message_may_post_itself_again),
        cmocka_unit_test(late_messages_are_discarded),
        cmocka_unit_test(messages_before_the_start_are_done_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
