/* SPDX-License-Identifier: MIT */
/* The intrusive list: order, and that a node always knows whether it is on a list. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proxy/core/list.h"

#include <cmocka.h>

#define N 5

struct item {
    int id;
    struct list node;
};

static void items_init(struct item items[N])
{
    for (int i = 0; i < N; i++) {
        items[i].id = i;
        list_init(&items[i].node);
    }
}

/* The list holds exactly these ids, read in both directions. */
static void assert_ids(const struct list *l, const int *ids, size_t n)
{
    size_t seen = 0;
    for (const struct list *p = l->next; p != l; p = p->next, seen++) {
        assert_true(seen < n);
        assert_int_equal(OWNER(p, const struct item, node)->id, ids[seen]);
        assert_true(list_linked(p));
    }
    assert_int_equal(seen, n);
    for (const struct list *p = l->prev; p != l; p = p->prev)
        assert_int_equal(OWNER(p, const struct item, node)->id, ids[--seen]);
    assert_int_equal(seen, 0);
    assert_int_equal(list_empty(l), n == 0);
}

#define ASSERT_IDS(l, ...)                                                                         \
    assert_ids(l, (const int[]){__VA_ARGS__}, ARRAY_LEN(((const int[]){__VA_ARGS__})))

static void an_empty_list(void **state)
{
    (void)state;
    struct list l;
    list_init(&l);
    assert_ids(&l, NULL, 0);
    assert_null(list_first(&l));
    assert_null(list_last(&l));
}

static void both_ends(void **state)
{
    (void)state;
    struct list l;
    struct item it[N];
    list_init(&l);
    items_init(it);
    list_push_back(&l, &it[1].node);
    ASSERT_IDS(&l, 1);
    list_push_back(&l, &it[2].node);
    list_push_front(&l, &it[0].node);
    ASSERT_IDS(&l, 0, 1, 2);
    assert_ptr_equal(list_first(&l), &it[0].node);
    assert_ptr_equal(list_last(&l), &it[2].node);
}

static void removal_anywhere(void **state)
{
    (void)state;
    for (int gone = 0; gone < 3; gone++) {
        struct list l;
        struct item it[N];
        list_init(&l);
        items_init(it);
        int left[2], n = 0;
        for (int i = 0; i < 3; i++) {
            list_push_back(&l, &it[i].node);
            if (i != gone)
                left[n++] = i;
        }
        list_remove(&it[gone].node);
        assert_false(list_linked(&it[gone].node));
        assert_ids(&l, left, 2);
        list_remove(&it[gone].node); /* of an unlinked node: nothing happens */
        assert_ids(&l, left, 2);
        list_push_back(&l, &it[gone].node); /* may come back */
        assert_int_equal(OWNER(list_last(&l), struct item, node)->id, gone);
    }
}

static void splice_appends_in_order(void **state)
{
    (void)state;
    for (int first = 0; first <= N; first++) {
        struct list a, b;
        struct item it[N];
        list_init(&a);
        list_init(&b);
        items_init(it);
        for (int i = 0; i < N; i++)
            list_push_back(i < first ? &a : &b, &it[i].node);
        list_splice(&a, &b);
        ASSERT_IDS(&a, 0, 1, 2, 3, 4);
        assert_true(list_empty(&b));
    }
}

static void iteration_survives_removal_of_the_present_node(void **state)
{
    (void)state;
    struct list l, odd;
    struct item it[N];
    list_init(&l);
    list_init(&odd);
    items_init(it);
    for (int i = 0; i < N; i++)
        list_push_back(&l, &it[i].node);
    int visited = 0;
    LIST_EACH(node, &l) {
        assert_int_equal(OWNER(node, struct item, node)->id, visited++);
        if (visited % 2 == 0) {
            list_remove(node);
            list_push_back(&odd, node); /* may move to another list */
        }
    }
    assert_int_equal(visited, N);
    ASSERT_IDS(&l, 0, 2, 4);
    ASSERT_IDS(&odd, 1, 3);
    LIST_EACH(node, &l)
        list_remove(node);
    assert_true(list_empty(&l));
}

static void on_two_lists_at_once_ends_the_process(void **state)
{
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct list a, b;
        struct item it[N];
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO); /* the check says what broke */
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        list_init(&a);
        list_init(&b);
        items_init(it);
        list_push_back(&a, &it[0].node);
        list_push_back(&b, &it[0].node);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_list),
        cmocka_unit_test(both_ends),
        cmocka_unit_test(removal_anywhere),
        cmocka_unit_test(splice_appends_in_order),
        cmocka_unit_test(iteration_survives_removal_of_the_present_node),
        cmocka_unit_test(on_two_lists_at_once_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
