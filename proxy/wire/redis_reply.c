/* SPDX-License-Identifier: MIT */
/*
 * The reply framer.
 *
 *            line, header of an aggregate
 *          ┌──────┐
 *          ↓      │   '$' '=' '!'                all bytes
 *         VALUE ──┴──────────────→ BULK ───────────────→ BULK_END
 *          ↑                                                │ CRLF
 *          └────────────────────────────────────────────────┘
 *
 * left[depth - 1] counts the elements still to come in the innermost open aggregate. The end of a
 * value is the end of an element of that; when the last one ended, the aggregate itself has. An
 * attribute is a pair list in front of an element: its end ends nothing outside, unless it stands
 * at top level, where it is delivered as a thing of its own.
 */
#include "proxy/wire/redis_reply.h"

#include "proxy/wire/redis_lengths.h"

enum { VALUE, BULK, BULK_END, BROKEN };

/* Lines other than texts: numbers and headers are never longer. */
enum { SHORT_LINE = 128 };

enum found { FOUND, MORE, WRONG };

static bool is_text(uint8_t type)
{
    return type == '+' || type == '-' || type == '(';
}

static bool is_type(uint8_t c)
{
    return memchr("+-:$*_#,(!=%~|>", c, 15) != NULL;
}

/* The line at f->at, without its CRLF. */
static enum found take_line(struct redis_reply_framer *f, struct span in, struct span *line)
{
    size_t bound = is_text(in.p[f->at]) ? REDIS_REPLY_LINE : SHORT_LINE;
    size_t i = f->at + f->scan;
    for (;;) {
        const uint8_t *cr = memchr(in.p + i, '\r', in.n - i);
        i = cr ? (size_t)(cr - in.p) : in.n;
        if (i + 2 > f->at + bound)
            return WRONG;
        if (i + 1 >= in.n) {
            f->scan = i - f->at;
            return MORE;
        }
        if (in.p[i + 1] == '\n')
            break;
        i++;
    }
    *line = span_of(in.p + f->at, i - f->at);
    f->at = i + 2;
    f->scan = 0;
    return FOUND;
}

static bool is_number(struct span s)
{
    size_t i = s.n > 0 && (s.p[0] == '-' || s.p[0] == '+') ? 1 : 0;
    if (i == s.n)
        return false;
    for (; i < s.n; i++)
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
    return true;
}

/* A line made for this: its digits, no sign, no leading zero. */
static bool read_count(struct span s, uint64_t *out)
{
    *out = 0;
    if (s.n == 0 || s.n > REDIS_LENGTH_DIGITS || (s.n > 1 && s.p[0] == '0'))
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        *out = *out * 10 + (uint64_t)(s.p[i] - '0');
    }
    return true;
}

/* A value ended. True: so did the top-level reply. */
static bool value_ended(struct redis_reply_framer *f)
{
    while (f->depth > 0) {
        if (--f->left[f->depth - 1] > 0)
            return false;
        f->depth--;
        bool attribute = (f->attributes >> f->depth & 1) != 0;
        f->attributes &= ~(UINT32_C(1) << f->depth);
        if (attribute)
            return f->depth == 0;
    }
    return true;
}

enum handled { GOES_ON, ENDED, REFUSED };

static enum handled open_aggregate(struct redis_reply_framer *f, uint8_t type, struct span count)
{
    uint64_t n;
    if (type == '*' && span_eq(count, SPAN_LIT("-1"))) {
        f->null = f->null || f->depth == 0;
        return value_ended(f) ? ENDED : GOES_ON;
    }
    if (!read_count(count, &n) || (type == '>' && (f->depth > 0 || n == 0)))
        return REFUSED;
    if (type == '%' || type == '|')
        n *= 2;
    if (n == 0 && type == '|')
        return f->depth == 0 ? ENDED : GOES_ON;
    if (n == 0)
        return value_ended(f) ? ENDED : GOES_ON;
    if (f->depth == REDIS_DEPTH)
        return REFUSED;
    if (type == '|')
        f->attributes |= UINT32_C(1) << f->depth;
    f->left[f->depth++] = n;
    return GOES_ON;
}

static enum handled open_bulk(struct redis_reply_framer *f, uint8_t type, struct span length)
{
    if (type == '$' && span_eq(length, SPAN_LIT("-1"))) {
        f->null = f->null || f->depth == 0;
        return value_ended(f) ? ENDED : GOES_ON;
    }
    /* A verbatim string starts with three letters and a colon. */
    if (!read_count(length, &f->bulk_left) || (type == '=' && f->bulk_left < 4))
        return REFUSED;
    f->state = f->bulk_left > 0 ? BULK : BULK_END;
    return GOES_ON;
}

static enum handled handle_line(struct redis_reply_framer *f, struct span line)
{
    uint8_t type = line.p[0];
    struct span text = span_skip(line, 1);
    bool good = true;
    switch (type) {
    case '*':
    case '~':
    case '%':
    case '|':
    case '>':
        return open_aggregate(f, type, text);
    case '$':
    case '=':
    case '!':
        return open_bulk(f, type, text);
    case ':':
    case '(':
        good = is_number(text);
        break;
    case ',':
        good = text.n > 0;
        break;
    case '#':
        good = text.n == 1 && (text.p[0] == 't' || text.p[0] == 'f');
        break;
    case '_':
        good = text.n == 0;
        f->null = f->null || f->depth == 0;
        break;
    default: /* + - */
        break;
    }
    if (!good)
        return REFUSED;
    return value_ended(f) ? ENDED : GOES_ON;
}

/* Parses from f->at on. FOUND: the top-level reply ends at f->at. */
static enum found walk(struct redis_reply_framer *f, struct span in, struct span *line)
{
    enum handled h = GOES_ON;
    while (h == GOES_ON) {
        if (f->state == BULK) {
            size_t there = in.n - f->at;
            size_t take = there < f->bulk_left ? there : (size_t)f->bulk_left;
            f->at += take;
            f->bulk_left -= take;
            if (f->bulk_left > 0)
                return MORE;
            f->state = BULK_END;
        }
        if (f->state == BULK_END) {
            enum redis_length end = redis_crlf(in, f->at);
            if (end != REDIS_LENGTH_OK)
                return end == REDIS_LENGTH_WAIT ? MORE : WRONG;
            f->at += 2;
            f->state = VALUE;
            h = value_ended(f) ? ENDED : GOES_ON;
            continue;
        }
        if (f->at == in.n)
            return MORE;
        if (!is_type(in.p[f->at]))
            return WRONG;
        enum found got = take_line(f, in, line);
        if (got != FOUND)
            return got;
        if (f->type == 0)
            f->type = line->p[0];
        h = handle_line(f, *line);
    }
    return h == ENDED ? FOUND : WRONG;
}

static enum redis_reply_step bad(struct redis_reply_framer *f, struct err *err)
{
    f->state = BROKEN;
    err_set(err, CAUSE_UPSTREAM_PROTOCOL, STAGE_EXCHANGE, 0,
            "the server sent something that is not RESP");
    return REDIS_REPLY_BAD;
}

static enum redis_reply_kind kind_of(uint8_t type)
{
    if (type == '>')
        return REDIS_KIND_PUSH;
    return type == '|' ? REDIS_KIND_ATTRIBUTE : REDIS_KIND_REPLY;
}

static bool is_line_type(uint8_t type)
{
    return memchr("+-:_#,(", type, 7) != NULL;
}

enum redis_reply_step redis_reply_next(struct redis_reply_framer *f, struct span in, size_t hold,
                                       struct redis_reply_piece *piece, struct err *err)
{
    struct span line = {0};
    if (f->state == BROKEN || f->at > in.n)
        return bad(f, err);
    enum found got = walk(f, in, &line);
    if (got == WRONG)
        return bad(f, err);
    if (got == MORE && (f->at == 0 || (!f->open && f->at < hold)))
        return REDIS_REPLY_WAIT;
    bool ends = got == FOUND;
    *piece = (struct redis_reply_piece){
        .raw = span_of(in.p, f->at),
        .kind = kind_of(f->type),
        .type = f->type,
        .null = f->null,
        .begins = !f->open,
        .ends = ends,
    };
    if (ends && is_line_type(f->type))
        piece->line = span_skip(line, 1);
    f->at = 0;
    f->open = !ends;
    if (ends) {
        f->type = 0;
        f->null = false;
    }
    return REDIS_REPLY_PIECE;
}

/* ---- looking into small replies -------------------------------------------------------------- */

static int64_t read_integer(struct span s)
{
    bool negative = s.n > 0 && s.p[0] == '-';
    uint64_t v = 0;
    if (s.n == 0 || s.n > 19)
        return 0;
    for (size_t i = s.p[0] == '-' || s.p[0] == '+' ? 1 : 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return 0;
        v = v * 10 + (uint64_t)(s.p[i] - '0');
    }
    if (v > INT64_MAX)
        return 0;
    return negative ? -(int64_t)v : (int64_t)v;
}

static bool take_bulk(struct span *rest, size_t at, struct redis_value *value)
{
    uint64_t n;
    if (span_eq(value->text, SPAN_LIT("-1"))) {
        value->null = true;
        value->text = (struct span){0};
        *rest = span_skip(*rest, at);
        return true;
    }
    if (!read_count(value->text, &n) || rest->n - at < 2 || rest->n - at - 2 < n)
        return false;
    value->text = span_of(rest->p + at, (size_t)n);
    if (value->type == '=' && n >= 4)
        value->text = span_skip(value->text, 4);
    *rest = span_skip(*rest, at + (size_t)n + 2);
    return true;
}

bool redis_value_next(struct span *rest, struct redis_value *value)
{
    struct redis_reply_framer f = {0};
    struct span line;
    *value = (struct redis_value){0};
    if (rest->n == 0 || !is_type(rest->p[0]) || take_line(&f, *rest, &line) != FOUND)
        return false;
    value->type = line.p[0];
    value->text = span_skip(line, 1);
    if (memchr("$=!", value->type, 3))
        return take_bulk(rest, f.at, value);
    if (memchr("*~%|>", value->type, 5)) {
        if (span_eq(value->text, SPAN_LIT("-1")))
            value->null = true;
        else if (!read_count(value->text, &value->elements))
            return false;
        if (value->type == '%' || value->type == '|')
            value->elements *= 2;
        value->text = (struct span){0};
    }
    value->null = value->null || value->type == '_';
    if (value->type == ':')
        value->integer = read_integer(value->text);
    *rest = span_skip(*rest, f.at);
    return true;
}

static enum redis_sub_kind sub_kind(struct span word)
{
    static const struct {
        struct span word;
        enum redis_sub_kind kind;
    } kinds[] = {
        {SPAN_LIT("message"), REDIS_SUB_MESSAGE},
        {SPAN_LIT("pmessage"), REDIS_SUB_MESSAGE},
        {SPAN_LIT("smessage"), REDIS_SUB_MESSAGE},
        {SPAN_LIT("subscribe"), REDIS_SUB_SUBSCRIBE},
        {SPAN_LIT("unsubscribe"), REDIS_SUB_UNSUBSCRIBE},
        {SPAN_LIT("psubscribe"), REDIS_SUB_PSUBSCRIBE},
        {SPAN_LIT("punsubscribe"), REDIS_SUB_PUNSUBSCRIBE},
        {SPAN_LIT("ssubscribe"), REDIS_SUB_SSUBSCRIBE},
        {SPAN_LIT("sunsubscribe"), REDIS_SUB_SUNSUBSCRIBE},
        {SPAN_LIT("pong"), REDIS_SUB_PONG},
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (span_eq(word, kinds[i].word))
            return kinds[i].kind;
    return REDIS_SUB_NONE;
}

struct redis_sub_note redis_sub_parse(struct span raw)
{
    struct redis_sub_note note = {0};
    struct redis_value list, word, channel, count;
    if (!redis_value_next(&raw, &list) || (list.type != '*' && list.type != '>') ||
        list.elements < 2 || !redis_value_next(&raw, &word) || word.type != '$')
        return note;
    enum redis_sub_kind kind = sub_kind(word.text);
    if (kind == REDIS_SUB_MESSAGE || kind == REDIS_SUB_PONG) {
        note.kind = kind;
        return note;
    }
    if (list.elements != 3 || !redis_value_next(&raw, &channel) || channel.type == ':' ||
        !redis_value_next(&raw, &count) || count.type != ':' || count.integer < 0)
        return note;
    note.kind = kind;
    note.channel = channel.text;
    note.count = (uint64_t)count.integer;
    return note;
}

bool redis_error_is(struct span line, const char *code)
{
    size_t n = strlen(code);
    return line.n >= n && memcmp(line.p, code, n) == 0 && (line.n == n || line.p[n] == ' ');
}

enum redis_trouble redis_error_trouble(struct span line)
{
    static const struct {
        const char *code;
        enum redis_trouble trouble;
    } troubles[] = {
        {"LOADING", REDIS_TROUBLE_LOADING},
        {"MASTERDOWN", REDIS_TROUBLE_LOADING},
        {"BUSY", REDIS_TROUBLE_BUSY},
        {"TRYAGAIN", REDIS_TROUBLE_BUSY},
        {"CLUSTERDOWN", REDIS_TROUBLE_BUSY},
        {"READONLY", REDIS_TROUBLE_READONLY},
        {"ERR max number of clients", REDIS_TROUBLE_CLIENTS},
        {"NOAUTH", REDIS_TROUBLE_AUTH},
        {"WRONGPASS", REDIS_TROUBLE_AUTH},
    };
    for (size_t i = 0; i < ARRAY_LEN(troubles); i++)
        if (redis_error_is(line, troubles[i].code))
            return troubles[i].trouble;
    return REDIS_TROUBLE_NONE;
}
