/* SPDX-License-Identifier: MIT */
/* The effective configuration, every value of it, as YAML that loads again but for its secrets. */
#include "proxy/conf/conf_private.h"

#include <string.h>

/* ---- texts ----------------------------------------------------------------------------------- */

/* The character of a UTF-8 sequence; U+FFFD where there is none. *n is how many bytes it takes. */
static uint32_t character(const char *text, size_t *n)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t more = p[0] >= 0xf0 ? 3 : p[0] >= 0xe0 ? 2 : 1;
    uint32_t c = p[0] & (0x3fu >> more);
    *n = 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0xfffd;
    for (size_t i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0xfffd;
        c = c << 6 | (p[i] & 0x3fu);
    }
    *n = more + 1;
    return c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0xfffd : c;
}

/* In double quotes, in ASCII; a $ that would start a variable is doubled. */
static void put_quoted(FILE *out, const char *text)
{
    fputc('"', out);
    for (size_t n = 1; *text; text += n) {
        n = 1;
        if ((unsigned char)*text >= 0x80) {
            fprintf(out, "\\U%08X", (unsigned)character(text, &n));
            continue;
        }
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        if (*text == '$' && (text[1] == '$' || text[1] == '{'))
            fputc('$', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

/* Percent-encodes what has a meaning in URLs. */
static void put_encoded(FILE *out, const char *text)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    for (; text && *text; text++) {
        if (strchr(plain, *text))
            fputc(*text, out);
        else
            fprintf(out, "%%%02X", (unsigned)(unsigned char)*text);
    }
}

static void put_option(FILE *out, char *sep, const char *name, const char *value)
{
    if (!value)
        return;
    fprintf(out, "%c%s=", *sep, name);
    put_encoded(out, value);
    *sep = '&';
}

static const char *scheme_of(const struct endpoint_conf *e, const struct front_conf *f)
{
    bool tls = e->tls != ENDPOINT_TLS_DISABLE;
    if (f->kind == FRONT_REDIS)
        return e->unix_path ? "redis+unix" : tls ? "rediss" : "redis";
    if (f->kind == FRONT_HTTP)
        return e->unix_path ? "http+unix" : tls ? "https" : "http";
    return f->kind_name;
}

static void put_place(FILE *out, const struct endpoint_conf *e, const struct front_conf *f)
{
    const char *slash = e->unix_path ? strrchr(e->unix_path, '/') : NULL;
    if (e->host) {
        fprintf(out, strchr(e->host, ':') ? "[%s]:%u" : "%s:%u", e->host, (unsigned)e->port);
    } else if (f->kind == FRONT_POSTGRES) {
        for (const char *c = e->unix_path; c < slash; c++)
            put_encoded(out, (const char[]){*c, 0});
        fprintf(out, ":%u", (unsigned)e->port);
    } else {
        put_encoded(out, e->unix_path);
    }
}

void conf_url_print(const struct endpoint_conf *e, const struct front_conf *front, FILE *out)
{
    char sep = '?';
    bool verified = front->kind != FRONT_POSTGRES && e->tls == ENDPOINT_TLS_VERIFY_FULL;
    fprintf(out, "%s://", scheme_of(e, front));
    put_encoded(out, e->user);
    fprintf(out, "%s%s", e->password ? ":***" : "", e->user || e->password ? "@" : "");
    put_place(out, e, front);
    if (e->database) {
        fputc('/', out);
        put_encoded(out, e->database);
    }
    if (!verified && (e->tls != ENDPOINT_TLS_DISABLE || (front->kind == FRONT_POSTGRES && e->host)))
        put_option(out, &sep, "sslmode", conf_tls_words[e->tls]);
    put_option(out, &sep, "sslrootcert", e->tls_ca);
    put_option(out, &sep, "sslcert", e->tls_cert);
    put_option(out, &sep, "sslkey", e->tls_key);
    for (size_t i = 0; i < e->n_options; i++)
        put_option(out, &sep, e->options[i].name, e->options[i].value);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static bool is_printed(const struct schema_table *table, size_t i, unsigned variant,
                       const void *base)
{
    const struct schema_row *row = &table->rows[i], *next = row + 1;
    if (row->own || !schema_knows(row, variant))
        return false;
    if (row->type == SCHEMA_SECRET && i + 1 < table->n_rows && next->type == SCHEMA_PATH &&
        schema_string(next, base))
        return false; /* its file is printed */
    bool text =
        row->type == SCHEMA_STRING || row->type == SCHEMA_SECRET || row->type == SCHEMA_PATH;
    /* unset text has nothing to print, unless that is not its default */
    return !text || schema_string(row, base) || schema_default(row, variant);
}

static void print_rows(FILE *out, const struct schema_table *table, unsigned variant,
                       const void *base, const char *indent)
{
    char text[128];
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct schema_row *row = &table->rows[i];
        if (!is_printed(table, i, variant, base))
            continue;
        const char *string = row->type == SCHEMA_SECRET ? NULL : schema_string(row, base);
        schema_text(row, base, text, sizeof text);
        fprintf(out, "%s%s: ", indent, row->key);
        if (string || !*text || row->type == SCHEMA_SECRET)
            put_quoted(out, string ? string : text);
        else
            fputs(text, out);
        fputc('\n', out);
    }
}

static bool has_rows(const struct schema_table *table, unsigned variant, const void *base)
{
    for (size_t i = 0; i < table->n_rows; i++)
        if (is_printed(table, i, variant, base))
            return true;
    return false;
}

static void print_table(FILE *out, const struct schema_table *table, unsigned variant,
                        const void *base, const char *indent)
{
    char inner[32];
    const void *at = (const char *)base + table->offset;
    if (!has_rows(table, variant, at))
        return;
    if (table->key)
        fprintf(out, "%s%s:\n", indent, table->key);
    snprintf(inner, sizeof inner, "%s%s", indent, table->key ? "  " : "");
    print_rows(out, table, variant, at, inner);
}

/* ---- pools ----------------------------------------------------------------------------------- */

static void print_listen(FILE *out, const struct listen_conf *l)
{
    fputs("      - ", out);
    if (!l->unix_path) {
        put_quoted(out, l->label);
    } else {
        fputs("{ unix: ", out);
        put_quoted(out, l->unix_path);
        fprintf(out, ", mode: \"%04o\"", (unsigned)l->mode);
        if (l->uid != (uid_t)-1 && l->gid != (gid_t)-1)
            fprintf(out, ", owner: \"%u:%u\"", (unsigned)l->uid, (unsigned)l->gid);
        else if (l->uid != (uid_t)-1)
            fprintf(out, ", owner: \"%u\"", (unsigned)l->uid);
        else if (l->gid != (gid_t)-1)
            fprintf(out, ", owner: \":%u\"", (unsigned)l->gid);
        fputs(" }", out);
    }
    fputc('\n', out);
}

/* One line per name that may be several users: a list in any case. */
static void print_map(FILE *out, const struct auth_conf *auth)
{
    if (auth->n_map > 0)
        fputs("      map:\n", out);
    for (size_t i = 0; i < auth->n_map; i++) {
        bool first = i == 0 || strcmp(auth->map[i - 1].from, auth->map[i].from) != 0;
        bool last = i + 1 == auth->n_map || strcmp(auth->map[i + 1].from, auth->map[i].from) != 0;
        if (first) {
            fputs("        ", out);
            put_quoted(out, auth->map[i].from);
        }
        fputs(first ? ": [" : ", ", out);
        put_quoted(out, auth->map[i].to);
        fputs(last ? "]\n" : "", out);
    }
}

static void print_command(FILE *out, const struct endpoint_conf *e)
{
    if (!e->password_command)
        return;
    fputs(", password_command: ", out);
    put_quoted(out, e->password_command);
    fprintf(out, ", password_command_ttl: %llums", (unsigned long long)e->password_command_ttl_ms);
}

static void print_databases(FILE *out, const struct front_conf *f)
{
    if (f->n_databases)
        fputs("    databases:\n", out);
    for (size_t i = 0; i < f->n_databases; i++) {
        const struct database_conf *db = &f->databases[i];
        fputs("      ", out);
        put_quoted(out, db->name);
        fputs(":\n", out);
        if (db->upstream) {
            fputs("        database: ", out);
            put_quoted(out, db->upstream);
            fputc('\n', out);
        }
        for (size_t j = 0; j < conf_n_database_tables; j++)
            print_table(out, &conf_database_tables[j], FRONT_POSTGRES, conf_database_base(db),
                        "        ");
    }
}

static void print_pool(FILE *out, const struct conf_pool *pool)
{
    const struct front_conf *f = &pool->front;
    fprintf(out, "  - name: %s\n    kind: %s\n    listen:\n", pool->name, f->kind_name);
    for (size_t i = 0; i < f->n_listens; i++)
        print_listen(out, &f->listens[i]);
    fputs("    upstream:\n", out);
    for (size_t i = 0; i < pool->pool.n_endpoints; i++) {
        fputs("      - { url: \"", out);
        conf_url_print(&pool->pool.endpoints[i], f, out);
        fprintf(out, "\", priority: %u", pool->pool.endpoints[i].priority);
        print_command(out, &pool->pool.endpoints[i]);
        fputs(" }\n", out);
    }
    for (size_t i = 0; i < conf_n_pool_tables; i++) {
        const struct schema_table *table = &conf_pool_tables[i];
        print_table(out, table, conf_variant(f->kind), pool, "    ");
        if (table->key && strcmp(table->key, "auth") == 0)
            print_map(out, &f->auth);
    }
    print_databases(out, f);
}

void conf_print(const struct config *config, FILE *out)
{
    for (size_t i = 0; i < conf_n_top_tables; i++)
        print_table(out, &conf_top_tables[i], 0, config, "");
    fputs("pools:\n", out);
    for (size_t i = 0; i < config->n_pools; i++)
        print_pool(out, &config->pools[i]);
}
