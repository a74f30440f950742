/* SPDX-License-Identifier: MIT */
/*
 * SCRAM messages from strangers, and verifiers from files. Input: a byte of options, client-first,
 * a newline, client-final. Nothing made up may ever prove a password.
 */
#include "proxy/wire/scram.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct span stored = SPAN_LIT("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
                                           "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
                                           "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=");

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t random[SCRAM_NONCE] = {1};
    struct scram_verifier v, other;
    struct scram s;
    struct err err;
    char out[SCRAM_OUT_MAX];
    size_t n;
    if (size == 0)
        return 0;
    struct span in = span_of(data + 1, size - 1);
    if (scram_verifier_parse(&other, in))
        CHECK(other.salt_n > 0 && other.salt_n <= SCRAM_SALT_MAX && other.iterations > 0);
    CHECK(scram_verifier_parse(&v, stored));
    CHECK(scram_init(&s, &v, random, data[0] & 1 ? SPAN_LIT("certificate") : (struct span){0}));
    const uint8_t *newline = in.n ? memchr(in.p, '\n', in.n) : NULL;
    size_t first_n = newline ? (size_t)(newline - in.p) : in.n;
    struct span mechanism =
        data[0] & 2 ? SPAN_LIT(SCRAM_MECHANISM_PLUS) : SPAN_LIT(SCRAM_MECHANISM);
    enum scram_verdict r =
        scram_first(&s, mechanism, span_of(in.p, first_n), out, sizeof out, &n, &err);
    CHECK(r == SCRAM_GO_ON || r == SCRAM_BAD);
    CHECK(r == SCRAM_GO_ON ? n > 0 && n < sizeof out : n == 0);
    struct span final = newline ? span_skip(in, first_n + 1) : (struct span){0};
    r = scram_final(&s, final, out, sizeof out, &n, &err);
    CHECK((r == SCRAM_DENIED || r == SCRAM_BAD) && n == 0);
    scram_fini(&s);
    return 0;
}
