/* SPDX-License-Identifier: MIT */
/*
 * libpq by hand: PQprepare, pipeline mode with Sync and Flush, single rows, COPY, PQcancel. See
 * riders.py for what a rider is asked and answers.
 */
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = 256 };

static PGconn *db;
static const char *table;
static char answer[2 * TEXT];

/* The code of a result, "00000" if it is none; the result is gone. */
static const char *code_of(PGresult *r)
{
    static char code[6];
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    snprintf(code, sizeof code, "%s", state ? state : r ? "00000" : "-----");
    PQclear(r);
    return code;
}

static const char *run(const char *sql)
{
    return code_of(PQexec(db, sql));
}

static int number(PGresult *r)
{
    int n = PQntuples(r) == 1 ? (int)strtol(PQgetvalue(r, 0, 0), NULL, 10) : -1;
    PQclear(r);
    return n;
}

static PGresult *with_number(const char *before, const char *behind, const char *n)
{
    char text[TEXT];
    snprintf(text, sizeof text, "%s %s %s", before, table, behind);
    return PQexecParams(db, text, 1, NULL, &n, NULL, NULL, 0);
}

static const char *insert(const char *n)
{
    return code_of(with_number("insert into", "(n) values ($1)", n));
}

static int count(const char *n)
{
    return number(with_number("select count(*) from", "where n = $1", n));
}

static void ping(const char *n)
{
    (void)n;
    snprintf(answer, sizeof answer, "%d", number(PQexec(db, "select 1")));
}

/* A named one with a description asked for, an unnamed one in two steps. */
static void prepared(const char *n)
{
    int total = 0;
    PQclear(PQprepare(db, "twice", "select $1::int * 2", 0, NULL));
    PGresult *r = PQdescribePrepared(db, "twice");
    bool described = PQnparams(r) == 1 && PQparamtype(r, 0) == 23;
    PQclear(r);
    for (int i = 1; described && i <= strtol(n, NULL, 10); i++) {
        char text[16];
        const char *value = text;
        snprintf(text, sizeof text, "%d", i);
        int twice = number(PQexecPrepared(db, "twice", 1, &value, NULL, NULL, 0));
        PQclear(PQprepare(db, "", "select $1::int * 4", 0, NULL));
        int four_times = number(PQexecPrepared(db, "", 1, &value, NULL, NULL, 0));
        if (four_times == 2 * twice)
            total += twice;
    }
    snprintf(answer, sizeof answer, "%d", total);
    if (strcmp(run("deallocate twice"), "00000") != 0 ||
        strcmp(code_of(PQdescribePrepared(db, "twice")), "26000") != 0)
        snprintf(answer, sizeof answer, "deallocate did not do it");
}

static void rollback(const char *n)
{
    run("begin");
    insert(n);
    int inside = count(n);
    run("rollback");
    snprintf(answer, sizeof answer, "%d %d", inside, count(n));
}

static void commit(const char *n)
{
    run("begin");
    insert(n);
    run("savepoint here");
    insert(n);
    run("rollback to savepoint here");
    insert(n);
    run("commit");
    snprintf(answer, sizeof answer, "%d", count(n));
}

static void failed(const char *n)
{
    char first[6], second[6];
    run("begin");
    insert(n);
    snprintf(first, sizeof first, "%s", run("select 1/0"));
    snprintf(second, sizeof second, "%s", run("select 1"));
    run("rollback");
    snprintf(answer, sizeof answer, "%s %s %d", first, second, count(n));
}

/* Row by row. */
static void big(const char *n)
{
    (void)n;
    long rows = 0, size = 0;
    PQsendQuery(db, "select g, repeat('x', 1000) from generate_series(1, 4000) g");
    PQsetSingleRowMode(db);
    for (PGresult *r; (r = PQgetResult(db)); PQclear(r))
        if (PQresultStatus(r) == PGRES_SINGLE_TUPLE) {
            rows++;
            size += PQgetlength(r, 0, 1);
        }
    snprintf(answer, sizeof answer, "%ld %ld", rows, size);
}

/* Inserts in one pipeline, the `bad`th of which divides by zero: the code of the first error. */
static const char *pipeline_of(const char *n, int inserts, int bad)
{
    static char code[6];
    char text[TEXT];
    snprintf(text, sizeof text, "insert into %s (n, note) select $1::int, 1 / $2::int", table);
    snprintf(code, sizeof code, "00000");
    PQenterPipelineMode(db);
    PQsendPrepare(db, "divide", text, 0, NULL);
    for (int i = 0; i < inserts; i++) {
        const char *values[] = {n, i == bad ? "0" : "1"};
        PQsendQueryPrepared(db, "divide", 2, values, NULL, NULL, 0);
        if (i == inserts / 2)
            PQsendFlushRequest(db); /* answers so far, with no Sync */
    }
    PQpipelineSync(db);
    for (int ends = 0; ends < inserts + 1; ends++) {
        PGresult *r = PQgetResult(db);
        bool first_error = PQresultStatus(r) == PGRES_FATAL_ERROR && strcmp(code, "00000") == 0;
        if (first_error)
            snprintf(code, sizeof code, "%s", code_of(r));
        else
            PQclear(r);
        PQclear(PQgetResult(db)); /* NULL between the commands */
    }
    PGresult *sync = PQgetResult(db);
    if (PQresultStatus(sync) != PGRES_PIPELINE_SYNC)
        snprintf(code, sizeof code, "nosyn");
    PQclear(sync);
    if (!PQexitPipelineMode(db))
        snprintf(code, sizeof code, "noend");
    run("deallocate divide");
    return code;
}

static void pipeline(const char *n)
{
    const char *code = pipeline_of(n, 20, -1);
    if (strcmp(code, "00000") != 0) {
        snprintf(answer, sizeof answer, "%s", code);
        return;
    }
    int before = count(n);
    code = pipeline_of(n, 3, 1);
    snprintf(answer, sizeof answer, "%d %s %d", before, code, count(n));
}

static void copy(const char *n)
{
    char text[TEXT], line[32];
    snprintf(text, sizeof text, "copy %s (n) from stdin", table);
    PQclear(PQexec(db, text));
    int size = snprintf(line, sizeof line, "%s\n", n);
    for (int i = 0; i < 500; i++)
        PQputCopyData(db, line, size);
    PQputCopyEnd(db, NULL);
    PGresult *r = PQgetResult(db);
    long sent = strtol(PQcmdTuples(r), NULL, 10), out = 0;
    PQclear(r);
    PQclear(PQgetResult(db));
    snprintf(text, sizeof text, "copy (select n from %s where n = %s) to stdout", table, n);
    PQclear(PQexec(db, text));
    for (char *row; PQgetCopyData(db, &row, 0) > 0; PQfreemem(row))
        out++;
    while ((r = PQgetResult(db)))
        PQclear(r);
    snprintf(answer, sizeof answer, "%ld %ld", sent, out);
}

static void cursor(const char *n)
{
    (void)n;
    int seen = 0, portion;
    run("begin");
    run("declare portions cursor for select generate_series(1, 1000)");
    do {
        PGresult *r = PQexec(db, "fetch 100 from portions");
        portion = PQntuples(r);
        seen += portion;
        PQclear(r);
    } while (portion > 0);
    run("commit");
    snprintf(answer, sizeof answer, "%d", seen);
}

static void cancel(const char *n)
{
    (void)n;
    char error[TEXT];
    PGcancel *request = PQgetCancel(db);
    PQsendQuery(db, "select pg_sleep(60)");
    poll(NULL, 0, 1000);
    PQcancel(request, error, sizeof error);
    PQfreeCancel(request);
    snprintf(answer, sizeof answer, "%s", code_of(PQgetResult(db)));
    PQclear(PQgetResult(db));
}

static void set(const char *n)
{
    char text[TEXT];
    snprintf(text, sizeof text,
             "set statement_timeout = %s; set application_name to 'rider %s'; set my.rider = '%s'",
             n, n, n);
    snprintf(answer, sizeof answer, "%s", strcmp(run(text), "00000") == 0 ? "ok" : "refused");
}

static void show(const char *n)
{
    (void)n;
    static const char *const names[] = {"statement_timeout", "application_name", "my.rider"};
    size_t at = 0;
    for (int i = 0; i < 3; i++) {
        char text[TEXT];
        snprintf(text, sizeof text, "show %s", names[i]);
        PGresult *r = PQexec(db, text);
        at += (size_t)snprintf(answer + at, sizeof answer - at, "%s%.60s", i ? " " : "",
                               PQntuples(r) == 1 ? PQgetvalue(r, 0, 0) : "?");
        PQclear(r);
    }
}

static void slow(const char *n)
{
    char text[TEXT];
    snprintf(text, sizeof text, "select pg_sleep(%s)", n);
    snprintf(answer, sizeof answer, "%s", run(text));
}

static const struct {
    const char *word;
    void (*run)(const char *n);
} verbs[] = {
    {"ping", ping},     {"prepared", prepared}, {"rollback", rollback}, {"commit", commit},
    {"failed", failed}, {"big", big},           {"pipeline", pipeline}, {"copy", copy},
    {"cursor", cursor}, {"cancel", cancel},     {"set", set},           {"show", show},
    {"slow", slow},
};

static void answer_line(char *line)
{
    char *end = line + strcspn(line, "\n");
    *end = 0;
    char *n = strchr(line, ' ');
    if (n)
        *n++ = 0;
    snprintf(answer, sizeof answer, "error - what is %s?", line);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(verbs[i].word, line) == 0)
            verbs[i].run(n ? n : "");
    if (PQstatus(db) != CONNECTION_OK)
        snprintf(answer, sizeof answer, "error - the connection is lost");
    puts(answer);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char info[TEXT], line[TEXT];
    if (argc != 6)
        return 2;
    snprintf(info, sizeof info, "host=%s port=%s user=%s dbname=%s", argv[1], argv[2], argv[3],
             argv[4]);
    table = argv[5];
    db = PQconnectdb(info);
    if (PQstatus(db) != CONNECTION_OK) {
        fputs(PQerrorMessage(db), stderr);
        return 1;
    }
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        answer_line(line);
    PQfinish(db);
    return 0;
}
