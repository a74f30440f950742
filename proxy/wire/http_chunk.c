/* SPDX-License-Identifier: MIT */
/*
 * Takes the chunked coding off, one byte at a time on the lines and in whole pieces in the payload.
 * llhttp is not asked here: it accepts sizes up to 2^64 - 1, any number of leading zeros, and
 * extensions and trailers without end.
 *
 *     SIZE --digits--> SIZE --;--> EXT --CR--> SIZE_LF --LF--> DATA --> DATA_CR --> DATA_LF -> SIZE
 *                        `---------CR-----------^   `-- size 0 --> LINE
 *     LINE --token--> NAME --:--> VALUE --CR--> VALUE_LF --LF--> LINE       (trailers)
 *     LINE --CR--> LAST_LF --LF--> OVER
 */
#include "proxy/wire/http_chunk.h"

#include "proxy/wire/http_private.h"

enum state {
    SIZE,
    EXT,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    LINE,
    NAME,
    VALUE,
    VALUE_LF,
    LAST_LF,
    OVER
};

/* Enough for every size below 2^63, and an end to leading zeros. */
#define DIGITS_MAX 16

void http_chunks_init(struct http_chunks *c, uint32_t extensions_max, uint32_t trailers_max)
{
    *c = (struct http_chunks){
        .state = SIZE, .extensions_max = extensions_max, .trailers_max = trailers_max};
}

/* NULL, or why the byte is refused. Each on_ function handles the states it is named after. */

static const char *on_size(struct http_chunks *c, uint8_t b)
{
    if (http_classes[b] & HTTP_C_HEX) {
        if (c->digits == DIGITS_MAX)
            return "a chunk size has too many digits";
        uint8_t digit = (uint8_t)(b <= '9' ? b - '0' : (b | 0x20) - 'a' + 10);
        c->left = c->left << 4 | digit;
        c->digits++;
        return c->left > INT64_MAX ? "a chunk size is beyond all bounds" : NULL;
    }
    if (c->digits == 0)
        return "a chunk does not begin with its size";
    if (b == '\r')
        c->state = SIZE_LF;
    else if (b == ';')
        c->state = EXT;
    else
        return "a chunk size is followed by something else than its line's end";
    return NULL;
}

static const char *on_extension(struct http_chunks *c, uint8_t b)
{
    if (b == '\r')
        c->state = SIZE_LF;
    else if (!(http_classes[b] & HTTP_C_VALUE))
        return "a chunk extension holds a control byte";
    else if (++c->overhead > c->extensions_max)
        return "there are too many bytes of chunk extensions";
    return NULL;
}

static const char *on_size_end(struct http_chunks *c, uint8_t b)
{
    if (b != '\n')
        return "the line of a chunk size ends in a bare carriage return";
    c->state = c->left ? DATA : LINE;
    if (c->left == 0)
        c->overhead = 0; /* counts trailers from here */
    return NULL;
}

static const char *on_data_end(struct http_chunks *c, uint8_t b)
{
    if (b != (c->state == DATA_CR ? '\r' : '\n'))
        return "a chunk is longer than its size";
    if (c->state == DATA_CR) {
        c->state = DATA_LF;
        return NULL;
    }
    c->state = SIZE;
    c->digits = 0;
    return NULL;
}

static const char *on_trailer(struct http_chunks *c, uint8_t b)
{
    uint8_t class = http_classes[b];
    if (++c->overhead > c->trailers_max)
        return "the trailer section is too long";
    if (c->state == LINE && b == '\r')
        c->state = LAST_LF;
    else if (c->state == LINE && (class & HTTP_C_TOKEN))
        c->state = NAME;
    else if (c->state == NAME && b == ':')
        c->state = VALUE;
    else if (c->state == VALUE && b == '\r')
        c->state = VALUE_LF;
    else if (!(c->state == NAME && (class & HTTP_C_TOKEN)) &&
             !(c->state == VALUE && (class & HTTP_C_VALUE)))
        return "the trailer section is malformed";
    return NULL;
}

static const char *on_trailer_end(struct http_chunks *c, uint8_t b)
{
    if (b != '\n')
        return "a line of the trailer section ends in a bare carriage return";
    c->state = c->state == LAST_LF ? OVER : LINE;
    return NULL;
}

static const char *on_byte(struct http_chunks *c, uint8_t b)
{
    switch ((enum state)c->state) {
    case SIZE:
        return on_size(c, b);
    case EXT:
        return on_extension(c, b);
    case SIZE_LF:
        return on_size_end(c, b);
    case DATA_CR:
    case DATA_LF:
        return on_data_end(c, b);
    case LINE:
    case NAME:
    case VALUE:
        return on_trailer(c, b);
    case VALUE_LF:
    case LAST_LF:
        return on_trailer_end(c, b);
    case DATA:
    case OVER:
        break;
    }
    return "a byte stands outside of any line"; /* never asked in these states */
}

static struct span take_payload(struct http_chunks *c, struct span in)
{
    size_t n = in.n < c->left ? in.n : (size_t)c->left;
    c->left -= n;
    if (c->left == 0)
        c->state = DATA_CR;
    c->overhead = n < c->overhead ? c->overhead - (uint32_t)n : 0;
    return span_of(in.p, n);
}

/* A message that is well formed but too much is told so. */
static uint16_t status_for(const struct http_chunks *c)
{
    if (c->state == SIZE && c->left > INT64_MAX)
        return 413;
    if (c->state == EXT && c->overhead > c->extensions_max)
        return 413;
    if ((c->state == LINE || c->state == NAME || c->state == VALUE) &&
        c->overhead > c->trailers_max)
        return 431;
    return 400;
}

enum http_chunk_step http_chunks_next(struct http_chunks *c, struct span in, size_t *used,
                                      struct span *body, uint16_t *status, const char **reason)
{
    for (*used = 0; *used < in.n && c->state != OVER;) {
        if (c->state == DATA) {
            *body = take_payload(c, span_skip(in, *used));
            *used += body->n;
            return HTTP_CHUNK_BODY;
        }
        *reason = on_byte(c, in.p[*used]);
        if (*reason) {
            *status = status_for(c);
            return HTTP_CHUNK_BAD;
        }
        ++*used;
    }
    return c->state == OVER ? HTTP_CHUNK_END : HTTP_CHUNK_MORE;
}
