/* SPDX-License-Identifier: MIT */
/*
 * Who may log in. The users file is either a YAML mapping of names and secrets or lines of
 * PgBouncer's form, "name" "secret"; variables are not put in, since a secret may hold any
 * character.
 */
#include "proxy/conf/conf_private.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/wire/scram.h"

#define USERS_MAX 10000
#define NAME_MAX_BYTES 128
#define SECRET_MAX_BYTES 1024

struct user_list {
    struct conf_build *b;
    enum front_kind kind;
    bool md5_serves; /* the method can use md5 hashes */
    struct user_conf *users;
    size_t n, cap;
};

/* ---- one user -------------------------------------------------------------------------------- */

static bool secret_is_good(struct user_list *l, struct conf_place at, const char *secret)
{
    struct scram_verifier verifier;
    bool scram = strncmp(secret, "SCRAM-SHA-256$", 14) == 0;
    bool md5 = strncmp(secret, "md5", 3) == 0 && strlen(secret) == 35 &&
               strspn(secret + 3, "0123456789abcdef") == 32;
    if (l->kind == FRONT_POSTGRES && md5 && !l->md5_serves)
        return conf_error(l->b, at,
                          "md5 hashes cannot serve SCRAM: write the password or a SCRAM-SHA-256$ "
                          "verifier, or method: md5");
    if (l->kind == FRONT_POSTGRES && scram && !scram_verifier_parse(&verifier, span_str(secret)))
        return conf_error(l->b, at,
                          "the SCRAM verifier is damaged: write "
                          "SCRAM-SHA-256$iterations:salt$stored:server");
    if (l->kind != FRONT_POSTGRES && scram)
        return conf_error(l->b, at, "Redis clients send passwords: write the password itself");
    return true;
}

static bool add_user(struct user_list *l, struct conf_place at, struct span name,
                     struct span secret)
{
    char quoted[CONF_QUOTE + 8];
    if (l->n == l->cap)
        return conf_error(l->b, at, "there are more than %d users: write fewer", USERS_MAX);
    if (name.n == 0 || name.n > NAME_MAX_BYTES || memchr(name.p, 0, name.n))
        return conf_error(l->b, at, "a user's name has 1 to %d bytes: write one", NAME_MAX_BYTES);
    if (secret.n == 0 || secret.n > SECRET_MAX_BYTES || memchr(secret.p, 0, secret.n))
        return conf_error(l->b, at, "the secret of user %s has 1 to %d bytes: write one",
                          conf_quote(name, quoted), SECRET_MAX_BYTES);
    struct user_conf *user = &l->users[l->n];
    user->name = conf_keep(l->b->arena, name);
    user->secret = conf_keep(l->b->arena, secret);
    if (!user->name || !user->secret)
        return conf_no_memory(l->b);
    if (!secret_is_good(l, at, user->secret))
        return false;
    l->n++;
    return true;
}

/* ---- PgBouncer's lines ----------------------------------------------------------------------- */

/* "text", quotes inside doubled, off the front of *s; the result is unescaped into the scratch. */
static bool take_quoted(struct user_list *l, struct span *s, struct span *out)
{
    if (s->n < 2 || s->p[0] != '"')
        return false;
    char *p = conf_alloc(&l->b->scratch, s->n, 1);
    size_t n = 0, i = 1;
    if (!p)
        return conf_no_memory(l->b);
    for (; i < s->n; i++) {
        if (s->p[i] == '"' && !(i + 1 < s->n && s->p[i + 1] == '"'))
            break;
        i += s->p[i] == '"';
        p[n++] = (char)s->p[i];
    }
    if (i >= s->n)
        return false;
    *s = span_skip(*s, i + 1);
    *out = span_of(p, n);
    return true;
}

static void skip_blanks(struct span *s)
{
    while (s->n > 0 && (s->p[0] == ' ' || s->p[0] == '\t' || s->p[0] == '\r'))
        *s = span_skip(*s, 1);
}

static bool read_line(struct user_list *l, uint32_t number, struct span line)
{
    struct conf_place at = {number, 1};
    struct span name, secret;
    skip_blanks(&line);
    if (line.n == 0 || line.p[0] == ';' || line.p[0] == '#')
        return true;
    bool good = take_quoted(l, &line, &name);
    skip_blanks(&line);
    if (!good || !take_quoted(l, &line, &secret))
        return conf_error(l->b, at,
                          "this line is not of the form \"name\" \"secret\": write it so");
    return add_user(l, at, name, secret);
}

static bool read_lines(struct user_list *l, struct span text)
{
    bool good = true;
    for (uint32_t number = 1; text.n > 0; number++) {
        const uint8_t *end = memchr(text.p, '\n', text.n);
        size_t n = end ? (size_t)(end - text.p) : text.n;
        good = read_line(l, number, span_of(text.p, n)) && good;
        text = span_skip(text, end ? n + 1 : n);
    }
    return good;
}

/* The first line that says something starts with two quoted words; YAML has a colon there. */
static bool is_pgbouncer(struct user_list *l, struct span text)
{
    struct span any;
    while (text.n > 0) {
        skip_blanks(&text);
        const uint8_t *end = memchr(text.p, '\n', text.n);
        size_t n = end ? (size_t)(end - text.p) : text.n;
        struct span line = span_of(text.p, n);
        if (n > 0 && text.p[0] == ';')
            return true;
        if (n > 0 && text.p[0] != '#') {
            bool quoted = take_quoted(l, &line, &any);
            skip_blanks(&line);
            return quoted && line.n > 0 && line.p[0] == '"';
        }
        text = span_skip(text, end ? n + 1 : n);
    }
    return false;
}

/* ---- YAML ------------------------------------------------------------------------------------ */

static bool read_yaml(struct user_list *l, struct span text)
{
    bool good = true;
    const struct conf_node *root = conf_tree(l->b, text);
    if (!root)
        return false;
    if (root->type != CONF_MAP)
        return conf_error(l->b, root->at,
                          "the users file is a mapping: write `name: secret` lines");
    for (const struct conf_item *item = root->items; item; item = item->next) {
        if (item->value->type != CONF_SCALAR || conf_is_null(item->value))
            good = conf_error(l->b, item->at, "a user has one secret: write `name: secret`");
        else
            good = add_user(l, item->at, item->key, item->value->text) && good;
    }
    return good;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct user_conf *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static bool names_are_unique(struct user_list *l)
{
    char quoted[CONF_QUOTE + 8];
    qsort(l->users, l->n, sizeof *l->users, by_name);
    for (size_t i = 1; i < l->n; i++)
        if (strcmp(l->users[i - 1].name, l->users[i].name) == 0)
            return conf_error(l->b, (struct conf_place){1, 1}, "user %s is there twice: keep one",
                              conf_quote(span_str(l->users[i].name), quoted));
    return true;
}

static bool read_users(struct user_list *l, struct span text)
{
    l->cap = 1;
    for (size_t i = 0; i < text.n; i++) /* no form has more users than colons or lines */
        l->cap += text.p[i] == '\n' || text.p[i] == ':';
    l->cap = l->cap > USERS_MAX ? USERS_MAX : l->cap;
    l->users = conf_alloc(l->b->arena, l->cap, sizeof *l->users);
    if (!l->users)
        return conf_no_memory(l->b);
    if (!(is_pgbouncer(l, text) ? read_lines(l, text) : read_yaml(l, text)))
        return false;
    if (l->n == 0)
        return conf_error(l->b, (struct conf_place){1, 1},
                          "the users file names nobody: write `name: secret` lines");
    return names_are_unique(l);
}

bool conf_users(struct conf_build *b, struct conf_place at, const char *path, enum front_kind kind,
                struct auth_conf *auth)
{
    struct span text;
    if (!conf_read_file(b, at, path, CONF_TEXT_MAX, &text))
        return false;
    struct user_list list = {
        .b = b,
        .kind = kind,
        .md5_serves = auth->method == AUTH_MD5 || auth->method == AUTH_PASSWORD,
    };
    const char *file = b->file;
    b->file = path; /* places are in that file now */
    bool good = read_users(&list, text);
    b->file = file;
    auth->users = list.users;
    auth->n_users = list.n;
    return good;
}
