/* SPDX-License-Identifier: MIT */
/* Looking a command up, and the few whose class depends on their arguments. */
#include "proxy/wire/redis_commands.h"

#include "proxy/wire/redis_table.h"

static const char *const class_names[REDIS_CLASS_COUNT] = {
    [REDIS_UNKNOWN] = "unknown",
    [REDIS_READ] = "read",
    [REDIS_WRITE] = "write",
    [REDIS_BLOCKING] = "blocking",
    [REDIS_SUBSCRIBING] = "subscribing",
    [REDIS_TRANSACTION] = "transaction",
    [REDIS_STICKY] = "sticky",
    [REDIS_LOCAL] = "local",
    [REDIS_REFUSED] = "refused",
};

const char *redis_class_name(enum redis_class class)
{
    CHECK((unsigned)class < REDIS_CLASS_COUNT);
    return class_names[class];
}

/* A name in lower case, or "container|subcommand". */
struct key {
    char text[REDIS_NAME_LONGEST];
    size_t n;
};

static bool key_add(struct key *k, struct span word)
{
    if (word.n > sizeof k->text - k->n)
        return false;
    for (size_t i = 0; i < word.n; i++) {
        if (word.p[i] == '\0') /* would end the comparison below too early */
            return false;
        k->text[k->n++] = (char)ascii_lower(word.p[i]);
    }
    return true;
}

static int key_compare(const struct key *k, const char *name)
{
    int order = strncmp(k->text, name, k->n);
    return order != 0 ? order : (name[k->n] == '\0' ? 0 : -1);
}

static const struct redis_row *find(const struct key *k)
{
    size_t low = 0, high = redis_rows_n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int order = key_compare(k, redis_rows[mid].name);
        if (order == 0)
            return &redis_rows[mid];
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

static struct redis_verdict verdict_of(const struct redis_row *row)
{
    return (struct redis_verdict){
        .class = (enum redis_class)row->class,
        .id = (enum redis_id)row->id,
        .retryable = (row->flags & REDIS_ROW_RETRY) != 0,
        .in_multi = (row->flags & REDIS_ROW_MULTI) != 0,
        .script = (row->flags & REDIS_ROW_SCRIPT) != 0,
        .sweeping = (row->flags & REDIS_ROW_SWEEPING) != 0,
        .name = row->name,
        .reason = redis_reasons[row->why],
    };
}

/* One may stand between MULTI and EXEC: whatever it is, the server queues it. */
static struct redis_verdict unknown(void)
{
    return (struct redis_verdict){.class = REDIS_UNKNOWN, .in_multi = true};
}

static struct redis_verdict classify_sub(struct key *k, const struct redis_row *container,
                                         const struct redis_cmd *cmd)
{
    const struct redis_row *row = NULL;
    if (cmd->nargs > 1 && key_add(k, SPAN_LIT("|")) && key_add(k, cmd->args[1]))
        row = find(k);
    if (row)
        return verdict_of(row);
    if ((container->flags & REDIS_ROW_OPEN) != 0)
        return unknown();
    return (struct redis_verdict){
        .class = REDIS_REFUSED,
        .unknown_sub = true,
        .name = container->name,
        .reason = "the subcommand is not known",
    };
}

/*
 * Options of XREAD and XREADGROUP up to STREAMS, read as the server reads them: COUNT n, BLOCK ms,
 * GROUP g c, NOACK. A name that looks like an option's value (a group called "block") is none.
 */
struct options {
    uint32_t skip;
    bool block, end;
};

static void option(struct options *o, struct span arg)
{
    if (o->skip > 0)
        o->skip--;
    else if (span_ieq(arg, SPAN_LIT("count")))
        o->skip = 1;
    else if (span_ieq(arg, SPAN_LIT("group")))
        o->skip = 2;
    else if (span_ieq(arg, SPAN_LIT("block")))
        o->block = o->end = true;
    else if (span_ieq(arg, SPAN_LIT("streams")))
        o->end = true;
}

static bool blocks(const struct redis_cmd *cmd)
{
    struct options o = {.skip = 1}; /* the name */
    if (cmd->argc == cmd->nargs || !cmd->complete) {
        for (uint32_t i = 0; i < cmd->nargs && !o.end; i++)
            option(&o, cmd->args[i]);
        return o.block || (!o.end && !cmd->complete);
    }
    struct redis_args it = redis_args_of(cmd);
    struct span arg;
    while (!o.end && redis_args_next(&it, &arg))
        option(&o, arg);
    return o.block;
}

struct redis_verdict redis_classify(const struct redis_cmd *cmd)
{
    struct key k = {.n = 0};
    const struct redis_row *row = NULL;
    if (cmd->nargs > 0 && key_add(&k, cmd->args[0]))
        row = find(&k);
    /* "client|id" is our spelling, not a command. */
    if (!row || memchr(k.text, '|', k.n))
        return unknown();
    if ((row->flags & REDIS_ROW_CONTAINER) != 0 && cmd->argc > 1)
        return classify_sub(&k, row, cmd);
    struct redis_verdict v = verdict_of(row);
    if ((row->flags & REDIS_ROW_STREAM) != 0 && blocks(cmd)) {
        v.class = REDIS_BLOCKING;
        v.retryable = false;
    }
    return v;
}

bool redis_table_entry(size_t i, struct redis_verdict *out)
{
    if (i >= redis_rows_n)
        return false;
    *out = verdict_of(&redis_rows[i]);
    return true;
}

/* ---- MULTI ... EXEC in one block ----------------------------------------------------------- */

/* One command of the block. False: this is no block. */
static bool block_take(struct redis_block *b, const struct redis_cmd *cmd, bool *end)
{
    struct redis_verdict v = redis_classify(cmd);
    *end = b->commands > 0 && v.id == REDIS_ID_EXEC && cmd->argc == 1;
    if (b->commands++ == 0)
        return v.id == REDIS_ID_MULTI && cmd->argc == 1;
    b->script = b->script || v.script;
    b->sweeping = b->sweeping || v.sweeping;
    return *end || ((v.class == REDIS_READ || v.class == REDIS_WRITE) && v.in_multi);
}

bool redis_block_find(struct span in, const struct redis_limits *limits, size_t max_bytes,
                      uint32_t max_commands, struct redis_block *out)
{
    struct redis_framer f = {0};
    struct redis_cmd cmd;
    struct err err;
    size_t at = 0;
    bool end = false;
    *out = (struct redis_block){0};
    if (in.n > max_bytes)
        in.n = max_bytes;
    while (!end) {
        if (out->commands == max_commands ||
            redis_request_next(&f, limits, span_skip(in, at), &cmd, &err) != REDIS_COMMAND)
            return false;
        /* Blanks swallowed in between would travel with the block: leave that to the slow way. */
        if (cmd.used != cmd.raw.n || !block_take(out, &cmd, &end))
            return false;
        at += cmd.used;
    }
    out->raw = span_of(in.p, at);
    return true;
}
