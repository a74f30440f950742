/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The chunked coding, taken off (RFC 9112 section 7.1). Private to the HTTP codec. Extensions and
 * trailers are walked, checked for their bytes, bounded and dropped.
 */
#include "proxy/core/span.h"

struct http_chunks {
    uint8_t state;     /* enum in http_chunk.c */
    uint8_t digits;    /* of the size being read */
    uint64_t left;     /* payload bytes of this chunk still to come */
    uint32_t overhead; /* extension bytes not outweighed by payload; then trailer bytes */
    uint32_t extensions_max;
    uint32_t trailers_max;
};

enum http_chunk_step {
    HTTP_CHUNK_MORE,
    HTTP_CHUNK_BODY,
    HTTP_CHUNK_END,
    HTTP_CHUNK_BAD,
};

void http_chunks_init(struct http_chunks *c, uint32_t extensions_max, uint32_t trailers_max);

/* With BAD, *status (400, 413 or 431) and *reason say why. */
enum http_chunk_step http_chunks_next(struct http_chunks *c, struct span in, size_t *used,
                                      struct span *body, uint16_t *status, const char **reason);
