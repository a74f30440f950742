/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a client's: however they are cut, the parser says the same; and what we would
 * forward of an accepted head is itself accepted, as the same kind of message, with nothing left of
 * this hop.
 */
#include "proxy/wire/http_forward.h"
#include "tests/unit/wire/test_http_trace.h"

static const struct http_request_hop hop = {
    .pseudonym = {(const uint8_t *)"c-1", 3},
    .client = {(const uint8_t *)"::1", 3},
    .authority = {(const uint8_t *)"up:80", 5},
};

static void check_forwarded(const struct http_head *before, struct span text)
{
    struct http_limits wide = HTTP_LIMITS_REQUEST;
    wide.head *= 2;
    wide.line *= 2;
    wide.fields *= 2;
    struct http_parser *p = http_parser_new(HTTP_KIND_REQUEST, &wide);
    CHECK(p);
    size_t used;
    struct http_event ev;
    CHECK(http_parser_feed(p, text, &used, &ev) == HTTP_STEP_HEAD);
    CHECK(used == text.n && ev.head->minor == 1);
    CHECK(ev.head->body == before->body && ev.head->length == before->length);
    CHECK(ev.head->method == before->method && ev.head->host.n > 0);
    for (size_t i = 0; i < ev.head->n_fields; i++)
        CHECK(!ev.head->fields[i].hop || ev.head->fields[i].id == HTTP_F_TRANSFER_ENCODING);
    http_parser_free(p);
}

static void forward_first(struct span in)
{
    struct http_limits limits = HTTP_LIMITS_REQUEST;
    struct http_parser *p = http_parser_new(HTTP_KIND_REQUEST, &limits);
    CHECK(p);
    size_t used;
    struct http_event ev;
    if (http_parser_feed(p, in, &used, &ev) == HTTP_STEP_HEAD) {
        static uint8_t buf[80 * 1024];
        struct http_bad bad;
        struct http_out out = http_out_of(buf, sizeof buf);
        enum http_verdict v = http_forward_request(ev.head, &hop, &out, &bad);
        CHECK(v != HTTP_FORWARD_SMALL);
        if (v == HTTP_FORWARD)
            check_forwarded(ev.head, span_of(buf, out.n));
    }
    http_parser_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct trace whole, cut;
    const struct trace_input input = {.kind = HTTP_KIND_REQUEST, .limits = HTTP_LIMITS_REQUEST};
    if (size < 2)
        return 0;
    struct span in = span_of(data + 1, size - 1);
    size_t step = data[0] % 32 + 1u;
    trace_run(&whole, &input, in, in.n, 1);
    trace_run(&cut, &input, in, data[0] ? data[0] : 1, step);
    CHECK(whole.n == cut.n && memcmp(whole.text, cut.text, whole.n) == 0);
    forward_first(in);
    return 0;
}
