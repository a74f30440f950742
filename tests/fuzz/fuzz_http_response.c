/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as an upstream's, in answer to any kind of request: however they are cut, the parser
 * says the same, a refusal is always a 502, and what we would forward is accepted by our own parser
 * with the framing we claim.
 */
#include "proxy/wire/http_forward.h"
#include "tests/unit/wire/test_http_trace.h"

static void check_forwarded(const struct http_head *before, struct http_asked asked,
                            struct span text, enum http_body framing)
{
    struct http_limits wide = HTTP_LIMITS_RESPONSE;
    wide.head *= 2;
    wide.line *= 2;
    wide.fields *= 2;
    struct http_parser *p = http_parser_new(HTTP_KIND_RESPONSE, &wide);
    CHECK(p);
    http_parser_expect(p, asked);
    size_t used;
    struct http_event ev;
    CHECK(http_parser_feed(p, text, &used, &ev) == HTTP_STEP_HEAD);
    CHECK(used == text.n && ev.head->status == before->status && ev.head->minor == 1);
    CHECK(ev.head->body == framing && ev.head->length == before->length);
    CHECK(ev.head->tunnel == before->tunnel && ev.head->interim == before->interim);
    http_parser_free(p);
}

static void forward_first(struct span in, struct http_asked asked, bool old_client)
{
    struct http_limits limits = HTTP_LIMITS_RESPONSE;
    struct http_response_hop hop = {.pseudonym = SPAN_LIT("c-1"),
                                    .date = SPAN_LIT("Sun, 06 Nov 1994 08:49:37 GMT"),
                                    .client_minor = old_client ? 0 : 1};
    struct http_parser *p = http_parser_new(HTTP_KIND_RESPONSE, &limits);
    CHECK(p);
    http_parser_expect(p, asked);
    size_t used;
    struct http_event ev;
    enum http_step step = http_parser_feed(p, in, &used, &ev);
    CHECK(step != HTTP_STEP_BAD || ev.bad.status == 502);
    if (step == HTTP_STEP_HEAD) {
        static uint8_t buf[80 * 1024];
        struct http_bad bad;
        struct http_out out = http_out_of(buf, sizeof buf);
        enum http_body framing;
        bool close;
        enum http_verdict v = http_forward_response(ev.head, &hop, &out, &framing, &close, &bad);
        CHECK(v == HTTP_FORWARD || (v == HTTP_FORWARD_SKIP && ev.head->interim));
        if (v == HTTP_FORWARD)
            check_forwarded(ev.head, asked, span_of(buf, out.n), framing);
    }
    http_parser_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct trace whole, cut;
    if (size < 3)
        return 0;
    struct span in = span_of(data + 2, size - 2);
    const struct trace_input input = {
        .kind = HTTP_KIND_RESPONSE,
        .limits = HTTP_LIMITS_RESPONSE,
        .asked = {.head = data[1] & 1, .connect = data[1] & 2, .upgrade = data[1] & 4},
        .eof = data[1] & 8,
    };
    trace_run(&whole, &input, in, in.n, 1);
    trace_run(&cut, &input, in, data[0] ? data[0] : 1, data[0] % 32 + 1u);
    CHECK(whole.n == cut.n && memcmp(whole.text, cut.text, whole.n) == 0);
    CHECK(whole.surplus == cut.surplus || strstr(whole.text, "BAD"));
    forward_first(in, input.asked, data[1] & 16);
    return 0;
}
