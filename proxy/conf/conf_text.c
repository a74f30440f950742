/* SPDX-License-Identifier: MIT */
/* Where values come from beside the file itself: the environment, secrets' files. */
#include "proxy/conf/conf_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VALUE_MAX (UINT64_C(64) << 10) /* bytes of one expanded value */
#define SECRET_MAX 4096

/* ---- variables ------------------------------------------------------------------------------- */

static bool is_name_byte(uint8_t c, bool first)
{
    bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    return letter || c == '_' || (!first && c >= '0' && c <= '9');
}

size_t conf_var_length(struct span raw, size_t i)
{
    if (i + 1 >= raw.n || raw.p[i] != '$')
        return 0;
    if (raw.p[i + 1] == '$')
        return 2;
    if (raw.p[i + 1] != '{')
        return 0;
    const uint8_t *end = memchr(raw.p + i, '}', raw.n - i);
    return end ? (size_t)(end - raw.p) - i + 1 : 0;
}

struct sink {
    char *p; /* NULL: only counts */
    size_t n;
};

static void put(struct sink *to, struct span s)
{
    if (to->p && s.n > 0)
        memcpy(to->p + to->n, s.p, s.n);
    to->n += s.n;
}

/* `var` is what stands between the braces. */
static bool put_variable(struct conf_build *b, struct conf_place at, struct span var,
                         struct sink *to)
{
    char quoted[CONF_QUOTE + 8], name[128];
    size_t n = 0;
    while (n < var.n && is_name_byte(var.p[n], n == 0))
        n++;
    bool has_default = var.n >= n + 2 && var.p[n] == ':' && var.p[n + 1] == '-';
    if (n == 0 || n >= sizeof name || (!has_default && n < var.n))
        return conf_error(b, at,
                          "%s is no variable: write ${NAME} or ${NAME:-default}, or $$ for $",
                          conf_quote(span_of(var.p, n < 24 ? n : 24), quoted));
    snprintf(name, sizeof name, "%.*s", (int)n, (const char *)var.p);
    const char *value = getenv(name);
    if (has_default && (!value || !*value))
        put(to, span_skip(var, n + 2));
    else if (!value)
        return conf_error(b, at, "the environment has no %s: set it, or write ${%s:-default}", name,
                          name);
    else
        put(to, span_str(value));
    return true;
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool put_percent(struct conf_build *b, struct conf_place at, struct span raw, size_t i,
                        struct sink *to)
{
    int hi = i + 1 < raw.n ? hex_digit(raw.p[i + 1]) : -1;
    int lo = i + 2 < raw.n ? hex_digit(raw.p[i + 2]) : -1;
    uint8_t byte = (uint8_t)(hi * 16 + lo);
    if (hi < 0 || lo < 0)
        return conf_error(b, at, "a %% in a URL needs two hex digits after it: write %%25 for %%");
    put(to, span_of(&byte, 1));
    return true;
}

static bool expand_into(struct conf_build *b, struct conf_place at, struct span raw,
                        struct conf_expand how, struct sink *to)
{
    for (size_t i = 0; i < raw.n;) {
        size_t var = how.vars ? conf_var_length(raw, i) : 0;
        bool brace = how.vars && raw.p[i] == '$' && i + 1 < raw.n && raw.p[i + 1] == '{';
        if (brace && var == 0)
            return conf_error(b, at, "a ${ has no } after it: close it, or write $${ for ${");
        if (brace && !put_variable(b, at, span_of(raw.p + i + 2, var - 3), to))
            return false;
        bool percent = how.percent && raw.p[i] == '%';
        if (percent && !put_percent(b, at, raw, i, to))
            return false;
        if (!brace && !percent)
            put(to, span_of(raw.p + i, 1));
        i += var ? var : percent ? 3 : 1;
    }
    return true;
}

bool conf_expand(struct conf_build *b, struct conf_place at, struct span raw,
                 struct conf_expand how, struct span *out)
{
    struct sink count = {NULL, 0};
    if (!expand_into(b, at, raw, how, &count))
        return false;
    if (count.n > VALUE_MAX)
        return conf_error(b, at, "the value is longer than %llu bytes: write a shorter one",
                          (unsigned long long)VALUE_MAX);
    struct sink text = {conf_alloc(&b->scratch, count.n + 1, 1), 0};
    if (!text.p)
        return conf_no_memory(b);
    if (!expand_into(b, at, raw, how, &text))
        return false;
    *out = span_of(text.p, text.n);
    for (size_t i = 0; i < text.n; i++)
        if ((uint8_t)text.p[i] < 0x20 || text.p[i] == 0x7f)
            return conf_error(b, at, "the value holds a control character: write it without");
    return true;
}

bool conf_scalar(struct conf_build *b, const struct conf_node *node, const char *what,
                 struct span *out)
{
    if (node->type != CONF_SCALAR)
        return conf_error(b, node->at, "%s is one value, not a %s: write `%s: value`", what,
                          node->type == CONF_MAP ? "mapping" : "list", what);
    if (conf_is_null(node))
        return conf_error(b, node->at, "%s has no value: write one, or leave the key out", what);
    return conf_expand(b, node->at, node->text, (struct conf_expand){.vars = !node->literal}, out);
}

/* ---- files ----------------------------------------------------------------------------------- */

const char *conf_path(struct conf_build *b, const char *path)
{
    if (path[0] == '/' || !b->dir)
        return path;
    const char *joined = conf_format(b->arena, "%s/%s", b->dir, path);
    if (!joined)
        conf_no_memory(b);
    return joined;
}

const char *conf_readable(struct conf_build *b, struct conf_place at, const char *path)
{
    char quoted[CONF_QUOTE + 8];
    const char *full = conf_path(b, path);
    if (full && access(full, R_OK) != 0) {
        conf_error(b, at, "%s cannot be read: %s; check the path and its permissions",
                   conf_quote(span_str(full), quoted), strerror(errno));
        return NULL;
    }
    return full;
}

/* Reads until the end, at most max + 1 bytes; -1 with errno. */
static ssize_t read_all(int fd, char *p, size_t max)
{
    size_t n = 0;
    while (n <= max) {
        ssize_t got = read(fd, p + n, max + 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -1 : (ssize_t)n;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

bool conf_read_file(struct conf_build *b, struct conf_place at, const char *path, size_t max,
                    struct span *out)
{
    struct stat st = {0};
    char quoted[CONF_QUOTE + 8];
    conf_quote(span_str(path), quoted);
    /* O_NONBLOCK: a FIFO or a device must not hold the caller. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        return conf_error(b, at, "%s cannot be read: %s; check the path and its permissions",
                          quoted, strerror(why));
    }
    bool regular = S_ISREG(st.st_mode);
    char *p = regular ? conf_alloc(&b->scratch, max + 1, 1) : NULL;
    ssize_t n = p ? read_all(fd, p, max) : 0;
    int why = errno;
    close(fd);
    if (!regular)
        return conf_error(b, at, "%s is no ordinary file: name one", quoted);
    if (!p)
        return conf_no_memory(b);
    if (n < 0)
        return conf_error(b, at, "%s cannot be read: %s; check the path and its permissions",
                          quoted, strerror(why));
    if ((size_t)n > max)
        return conf_error(b, at, "%s is larger than %zu bytes: name a smaller file", quoted, max);
    *out = span_of(p, (size_t)n);
    return true;
}

bool conf_read_secret(struct conf_build *b, struct conf_place at, const char *path,
                      const char **out)
{
    struct span text;
    if (!conf_read_file(b, at, path, SECRET_MAX, &text))
        return false;
    if (text.n > 0 && text.p[text.n - 1] == '\n')
        text.n--;
    if (text.n > 0 && text.p[text.n - 1] == '\r')
        text.n--;
    if (text.n == 0)
        return conf_error(b, at, "the secret's file is empty: write the secret into it");
    for (size_t i = 0; i < text.n; i++)
        if (text.p[i] < 0x20 || text.p[i] == 0x7f)
            return conf_error(b, at,
                              "the secret's file holds more than one line of text: keep one");
    *out = conf_keep(b->arena, text);
    return *out ? true : conf_no_memory(b);
}
