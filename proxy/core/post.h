/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * How threads talk: messages embedded in the objects they speak of. An object posts a message at
 * most once until it has run, so a mailbox is bounded by the objects that exist and posting never
 * fails.
 *
 * run      on the receiving thread, in the order of arrival per sender
 * discard  instead of run, when the receiving thread is stopping: close the socket, free the slot
 */
#include <stdatomic.h>

#include "proxy/core/base.h"

struct loop;

struct post_msg {
    struct post_msg *next;
    void (*run)(struct post_msg *msg);
    void (*discard)(struct post_msg *msg); /* NULL: run it all the same */
    _Atomic bool posted;                   /* on its way */
};

void post_init(struct post_msg *msg, void (*run)(struct post_msg *),
               void (*discard)(struct post_msg *));

/* Any thread. Hands msg (and what embeds it) over to the thread of `to`; touch nothing after. */
void post(struct loop *to, struct post_msg *msg);

/* As post(), but false if msg is already on its way: for "have a look" messages that carry
 * nothing. */
bool post_once(struct loop *to, struct post_msg *msg);
