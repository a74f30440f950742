/* SPDX-License-Identifier: MIT */
/*
 * Startup packets. A stranger sends these: nothing is believed before its length is known to be
 * small, and every name and value is found by a bounded cursor.
 */
#include "proxy/wire/postgres_startup.h"

#include "proxy/wire/postgres_read.h"

enum { TLS_HANDSHAKE = 0x16 }; /* content type of a ClientHello's record */

static enum pg_startup_step bad(struct pg_startup *out, struct err *err, const char *sqlstate,
                                const char *what)
{
    memcpy(out->sqlstate, sqlstate, sizeof out->sqlstate);
    err_set(err, CAUSE_CLIENT_PROTOCOL, STAGE_CLIENT, 0, "%s", what);
    return PG_STARTUP_BAD;
}

static enum pg_startup_step bad_stranger(struct pg_startup *out, struct err *err, const char *what)
{
    out->silent = true;
    return bad(out, err, "08P01", what);
}

/* A boolean as the server reads one: any unambiguous beginning of true, false, yes, no, on, off. */
static bool read_bool(struct span v, bool *out)
{
    static const struct {
        const char *word;
        size_t least;
        bool value;
    } words[] = {{"true", 1, true}, {"false", 1, false}, {"yes", 1, true}, {"no", 1, false},
                 {"on", 2, true},   {"off", 2, false},   {"1", 1, true},   {"0", 1, false}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        size_t n = strlen(words[i].word);
        if (v.n >= words[i].least && v.n <= n && span_ieq(v, span_of(words[i].word, v.n))) {
            *out = words[i].value;
            return true;
        }
    }
    return false;
}

/* SSLRequest and GSSENCRequest: the same rules for both. */
static enum pg_startup_step encryption(struct pg_startup_seen *seen, bool *seen_this,
                                       struct span in, uint32_t length, enum pg_startup_step step,
                                       struct pg_startup *out, struct err *err)
{
    if (length != 8)
        return bad_stranger(out, err, "encryption request of a wrong length");
    if (seen->tls || *seen_this)
        return bad(out, err, "08P01", "encryption requested twice");
    if (in.n > length)
        return bad(out, err, "08P01", "unencrypted data after an encryption request");
    *seen_this = true;
    out->used = length;
    return step;
}

static enum pg_startup_step cancel(struct span packet, struct pg_startup *out, struct err *err)
{
    struct pg_cur c = pg_cur_of(span_skip(packet, 8));
    out->pid = pg_cur_u32(&c);
    out->key = pg_cur_bytes(&c, c.n);
    if (c.bad || out->key.n < 1 || out->key.n > PG_CANCEL_KEY_MAX)
        return bad_stranger(out, err, "cancel request of a wrong length");
    out->used = packet.n;
    return PG_STARTUP_CANCEL;
}

/* All pairs well-formed, and the empty name that ends them is the last byte. */
static bool params_check(struct span body, struct pg_startup *out)
{
    struct pg_cur c = pg_cur_of(body);
    for (;;) {
        struct span name = pg_cur_cstr(&c);
        if (c.bad)
            return false;
        if (name.n == 0)
            break;
        (void)pg_cur_cstr(&c);
        out->protocol_options += pg_param_is_protocol_option(name);
    }
    out->params = span_of(body.p, body.n - 1);
    return pg_cur_done(&c);
}

static enum pg_startup_step session(struct span packet, struct pg_startup *out, struct err *err)
{
    if (!params_check(span_skip(packet, 8), out))
        return bad(out, err, "08P01", "invalid startup packet layout");
    if (!pg_param_get(out->params, "user", &out->user) || out->user.n == 0)
        return bad(out, err, "28000", "no user name in the startup packet");
    if (!pg_param_get(out->params, "database", &out->database) || out->database.n == 0)
        out->database = out->user;
    if (!pg_param_get(out->params, "options", &out->options))
        out->options = (struct span){0};
    struct span value;
    bool on = false;
    if (pg_param_get(out->params, "replication", &value)) {
        if (span_eq(value, SPAN_LIT("database")))
            out->replication = PG_REPLICATION_LOGICAL;
        else if (!read_bool(value, &on))
            return bad(out, err, "22023", "invalid value for parameter \"replication\"");
        else if (on)
            out->replication = PG_REPLICATION_PHYSICAL;
    }
    out->used = packet.n;
    return PG_STARTUP_SESSION;
}

enum pg_startup_step pg_startup_next(struct pg_startup_seen *seen, struct span in,
                                     struct pg_startup *out, struct err *err)
{
    *out = (struct pg_startup){0};
    if (in.n == 0)
        return PG_STARTUP_WAIT;
    if (in.p[0] == TLS_HANDSHAKE && !seen->tls && !seen->ssl && !seen->gssenc)
        return PG_STARTUP_TLS_HELLO;
    if (in.p[0] != 0) /* the length would be over 16 MB: another protocol ("GET ...") or noise */
        return bad_stranger(out, err, "this is not the Postgres protocol");
    if (in.n < 4)
        return PG_STARTUP_WAIT;
    struct pg_cur c = pg_cur_of(in);
    uint32_t length = pg_cur_u32(&c);
    if (length < 8 || length > PG_STARTUP_MAX)
        return bad_stranger(out, err, "invalid length of the startup packet");
    if (in.n < length)
        return PG_STARTUP_WAIT;
    struct span packet = span_of(in.p, length);
    uint32_t code = pg_cur_u32(&c);
    switch (code) {
    case PG_CODE_SSL:
        return encryption(seen, &seen->ssl, in, length, PG_STARTUP_SSL, out, err);
    case PG_CODE_GSSENC:
        return encryption(seen, &seen->gssenc, in, length, PG_STARTUP_GSSENC, out, err);
    case PG_CODE_CANCEL:
        return cancel(packet, out, err);
    default:
        break;
    }
    out->major = (uint16_t)(code >> 16);
    out->minor = (uint16_t)code;
    if (out->major != 3)
        return bad(out, err, "0A000", "unsupported frontend protocol: only version 3 is served");
    return session(packet, out, err);
}

bool pg_param_next(struct span *params, struct span *name, struct span *value)
{
    struct pg_cur c = pg_cur_of(*params);
    *name = pg_cur_cstr(&c);
    *value = pg_cur_cstr(&c);
    *params = span_of(c.p, c.n);
    return !c.bad;
}

bool pg_param_get(struct span params, const char *name, struct span *value)
{
    struct span n, v;
    bool found = false;
    while (pg_param_next(&params, &n, &v)) {
        if (!span_eq(n, span_str(name)))
            continue;
        *value = v;
        found = true;
    }
    return found;
}

bool pg_param_is_protocol_option(struct span name)
{
    return name.n >= 5 && memcmp(name.p, "_pq_.", 5) == 0;
}

/* ---- options ---- */

/* isspace() of the "C" locale. */
static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* False: there is none. A backslash with nothing behind it is dropped, even if it is all. */
static bool option_word(struct span *in, uint8_t *text, struct span *word)
{
    bool escaped = false;
    size_t n = 0;
    while (in->n && is_blank(*in->p))
        *in = span_skip(*in, 1);
    if (!in->n)
        return false;
    for (; in->n && (escaped || !is_blank(*in->p)); *in = span_skip(*in, 1)) {
        escaped = !escaped && *in->p == '\\';
        if (!escaped)
            text[n++] = *in->p;
    }
    *word = span_of(text, n);
    return true;
}

enum pg_option pg_option_next(struct span *options, uint8_t *text, struct span *name,
                              struct span *value)
{
    struct span word;
    if (!option_word(options, text, &word))
        return PG_OPTION_END;
    if (span_eq(word, SPAN_LIT("--"))) /* ends the switches, as for getopt() */
        return option_word(options, text, &word) ? PG_OPTION_BAD : PG_OPTION_END;
    if (span_eq(word, SPAN_LIT("-c"))) {
        if (!option_word(options, text, &word))
            return PG_OPTION_BAD;
    } else if (word.n > 2 && word.p[0] == '-' && (word.p[1] == 'c' || word.p[1] == '-')) {
        word = span_skip(word, 2);
    } else {
        return PG_OPTION_BAD;
    }
    const uint8_t *eq = word.n ? memchr(word.p, '=', word.n) : NULL;
    if (!eq || eq == word.p)
        return PG_OPTION_BAD;
    size_t n = (size_t)(eq - word.p), at = (size_t)(word.p - text);
    for (size_t i = at; i < at + n; i++)
        if (text[i] == '-')
            text[i] = '_';
    *name = span_of(word.p, n);
    *value = span_skip(word, n + 1);
    return PG_OPTION_SETTING;
}
