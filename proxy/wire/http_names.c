/* SPDX-License-Identifier: MIT */
/* Names the codec knows: methods and fields, from the two tables in http.h. */
#include "proxy/wire/http_private.h"

static const struct {
    const char *text;
    uint8_t len;
    bool safe, idempotent;
} methods[HTTP_M_COUNT] = {
#define X(name, text, safe, idempotent)                                                            \
    [HTTP_M_##name] = {text, sizeof(text) - 1, safe, idempotent},
    HTTP_METHODS(X)
#undef X
};

static const struct {
    const char *text;
    uint8_t len;
} fields[HTTP_F_COUNT] = {[HTTP_F_OTHER] = {"", 0},
#define X(name, text) [HTTP_F_##name] = {text, sizeof(text) - 1},
                          HTTP_FIELDS(X)
#undef X
};

/* By length of the name: every field of every message is looked up, most fall out here. */
#define LONGEST 19
static const uint8_t by_length[LONGEST + 1][3] = {
    [2] = {HTTP_F_TE},
    [3] = {HTTP_F_VIA},
    [4] = {HTTP_F_HOST, HTTP_F_DATE},
    [6] = {HTTP_F_COOKIE, HTTP_F_EXPECT},
    [7] = {HTTP_F_TRAILER, HTTP_F_UPGRADE},
    [9] = {HTTP_F_FORWARDED},
    [10] = {HTTP_F_CONNECTION, HTTP_F_KEEP_ALIVE, HTTP_F_SET_COOKIE},
    [11] = {HTTP_F_RETRY_AFTER},
    [12] = {HTTP_F_MAX_FORWARDS, HTTP_F_PROXY_STATUS},
    [13] = {HTTP_F_AUTHORIZATION},
    [14] = {HTTP_F_CONTENT_LENGTH, HTTP_F_HTTP2_SETTINGS},
    [15] = {HTTP_F_X_FORWARDED_FOR, HTTP_F_IDEMPOTENCY_KEY},
    [16] = {HTTP_F_PROXY_CONNECTION, HTTP_F_X_FORWARDED_HOST},
    [17] = {HTTP_F_TRANSFER_ENCODING, HTTP_F_X_FORWARDED_PROTO},
    [19] = {HTTP_F_PROXY_AUTHORIZATION},
};

enum http_field_id http_field_lookup(struct span name)
{
    if (name.n > LONGEST)
        return HTTP_F_OTHER;
    for (size_t i = 0; i < ARRAY_LEN(by_length[0]); i++) {
        uint8_t id = by_length[name.n][i];
        if (id == HTTP_F_OTHER)
            break;
        if (span_ieq(name, span_of(fields[id].text, fields[id].len)))
            return (enum http_field_id)id;
    }
    return HTTP_F_OTHER;
}

enum http_method http_method_lookup(struct span text)
{
    for (unsigned m = 0; m < HTTP_M_COUNT; m++)
        if (span_eq(text, span_of(methods[m].text, methods[m].len)))
            return (enum http_method)m;
    return HTTP_M_COUNT;
}

bool http_method_is_safe(enum http_method method)
{
    return methods[method].safe;
}

bool http_method_is_idempotent(enum http_method method)
{
    return methods[method].idempotent;
}

const char *http_method_text(enum http_method method)
{
    CHECK((unsigned)method < HTTP_M_COUNT);
    return methods[method].text;
}

const struct http_field *http_find(const struct http_head *head, enum http_field_id id)
{
    for (size_t i = 0; i < head->n_fields; i++)
        if (head->fields[i].id == id)
            return &head->fields[i];
    return NULL;
}

const struct http_field *http_find_name(const struct http_head *head, struct span name)
{
    for (size_t i = 0; i < head->n_fields; i++)
        if (span_ieq(head->fields[i].name, name))
            return &head->fields[i];
    return NULL;
}
