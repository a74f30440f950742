/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * Writes the log rings of all threads to a descriptor, from control's thread, without ever waiting
 * for it: a reader that stops reading costs lines (counted), not time.
 */
#include "proxy/core/log_conf.h"
#include "proxy/core/loop.h"

#define WRITER_RINGS (64 + 2)

struct writer;

struct writer *writer_new(struct loop *loop, int fd);
/* Once the loop is there, before it runs. */
void writer_start(struct writer *w);
/* A ring of its own for a thread; the writer owns it. Before the thread runs. */
struct log_ring *writer_ring(struct writer *w, const char *thread, enum log_level level);
/* Level and format, from now on. */
void writer_conf(struct writer *w, const struct log_conf *conf);
/* Before the loop ends: writes what can be written at once and closes the timer. */
void writer_close(struct writer *w);
/* After all threads are gone. */
void writer_free(struct writer *w);
