/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The wire of the echo protocol: four bytes of length (big endian), then so many bytes. A client
 * sends a frame, the server sends the same one back. The length's highest bit marks an error: the
 * frame's bytes are a sentence, and carpool's own begin with "carpool: " and the cause. Pure; any
 * thread.
 */
#include "proxy/core/err.h"
#include "proxy/core/span.h"

#define ECHO_HEAD 4
#define ECHO_FRAME_MAX ((uint32_t)1 << 20) /* bytes after the length */
#define ECHO_ERROR ((uint32_t)1 << 31)

/* Where in a frame a stream is. Zeroed memory: at a boundary. */
struct echo_framer {
    uint8_t head[ECHO_HEAD];
    uint8_t head_n;
    uint32_t left; /* of the frame's bytes, once the head is whole */
};

enum echo_step { ECHO_MORE, ECHO_OVER, ECHO_BAD };

/*
 * Walks to the end of the current frame or of the bytes: *used of them belong to it. ECHO_OVER: it
 * ends there, and the framer is at a boundary. ECHO_BAD: longer than a frame may be (then *err says
 * so).
 */
enum echo_step echo_walk(struct echo_framer *f, struct span bytes, size_t *used, struct err *err);

bool echo_at_boundary(const struct echo_framer *f);

/* An error frame of at most `cap` bytes; returns its length. */
size_t echo_put_error(uint8_t *to, size_t cap, const struct err *err);
