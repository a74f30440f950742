/* SPDX-License-Identifier: MIT */
/*
 * Every key, for people: `carpool config` on a terminal, and docs/configuration.md, which is this
 * file's Markdown form and is compared with it by a test.
 */
#include "proxy/conf/conf_private.h"

#include <string.h>

/* ---- one row --------------------------------------------------------------------------------- */

/* "0", or "0 / 5s / 15s" where the kinds differ, or "none". */
static void default_text(const struct schema_row *row, char *buf, size_t cap)
{
    const char *first = row->def[0];
    bool differ = false;
    for (unsigned v = 1; v < SCHEMA_VARIANTS; v++)
        differ = differ || row->def[v];
    if (!first)
        snprintf(buf, cap, "none");
    else if (!differ)
        snprintf(buf, cap, "%s", first);
    else
        snprintf(buf, cap, "%s / %s / %s", schema_default(row, 0), schema_default(row, 1),
                 schema_default(row, 2));
}

static void kinds_text(const struct schema_row *row, char *buf, size_t cap)
{
    buf[0] = 0;
    for (unsigned k = 0; row->only && conf_kind_words[k]; k++)
        if (row->only & 1u << k)
            snprintf(buf + strlen(buf), cap - strlen(buf), "%s%s", *buf ? ", " : "; only ",
                     conf_kind_words[k]);
}

static const char *separator(const struct schema_row *row, const char *range, const char *text)
{
    return !*range ? "" : row->words ? " " : text;
}

static void print_row(FILE *out, const char *path, const struct schema_row *row)
{
    char def[96], range[96], kinds[48];
    default_text(row, def, sizeof def);
    kinds_text(row, kinds, sizeof kinds);
    schema_range_text(row, range, sizeof range);
    fprintf(out, "%s%s\n    %s%s%s; default %s; reload: %s%s\n    %s\n", path, row->key,
            schema_type_word(row->type), separator(row, range, ", "), range, def,
            schema_reload_word(row->reload), kinds, row->help);
}

static void print_row_markdown(FILE *out, const struct schema_row *row)
{
    char def[96], range[96], kinds[48];
    default_text(row, def, sizeof def);
    kinds_text(row, kinds, sizeof kinds);
    schema_range_text(row, range, sizeof range);
    fprintf(out, "| `%s` | %s%s%s | %s | %s | %s%s |\n", row->key, schema_type_word(row->type),
            separator(row, range, ": "), range, def, schema_reload_word(row->reload), row->help,
            kinds);
}

static void print_table(FILE *out, const char *prefix, const struct schema_table *table,
                        enum conf_keys_format format)
{
    char path[64];
    snprintf(path, sizeof path, "%s%s%s", prefix, table->key ? table->key : "",
             table->key ? "." : "");
    size_t n = strlen(path);
    if (format == CONF_KEYS_MARKDOWN) {
        if (n > 0)
            fprintf(out, "\n### `%.*s`\n", (int)n - 1, path);
        fprintf(out,
                "\n%s.\n\n| key | value | default | reload | meaning |\n|---|---|---|---|---|\n",
                table->help);
    } else {
        fprintf(out, "# %s\n", table->help);
    }
    for (size_t i = 0; i < table->n_rows; i++) {
        if (format == CONF_KEYS_MARKDOWN)
            print_row_markdown(out, &table->rows[i]);
        else
            print_row(out, path, &table->rows[i]);
    }
    if (format == CONF_KEYS_TEXT)
        fputc('\n', out);
}

/* ---- the page -------------------------------------------------------------------------------- */

static const char intro[] =
    "# Configuration\n"
    "\n"
    "This page is what `carpool config --markdown` prints; `carpool config` prints its tables for "
    "a\n"
    "terminal. `carpool check -c FILE` reports everything that is wrong with a file, each with "
    "its\n"
    "line and column.\n"
    "\n"
    "    pools:\n"
    "      - name: orders\n"
    "        listen: 127.0.0.1:6432\n"
    "        upstream: postgres://app:${ORDERS_PASSWORD}@db:5432/orders?sslmode=verify-full\n"
    "\n"
    "## The file\n"
    "\n"
    "The file is YAML (or JSON, which is YAML too), at most 1 MiB. Unknown and repeated keys are\n"
    "errors. A relative path means a file beside the configuration file.\n"
    "\n"
    "- **Durations** are numbers with units: `250ms`, `30s`, `1m30s`, `2h`, `1d`. **Sizes** too: "
    "`B`,\n"
    "  `KiB`, `MiB`, `GiB`, `KB`, `MB`, `GB`. **Percentages** carry their sign. `0` needs no "
    "unit.\n"
    "- **`${NAME}`** in a value is replaced by that environment variable; a missing one is an "
    "error.\n"
    "  `${NAME:-text}` has a default for a variable that is missing or empty. `$$` is one `$`; a "
    "`$`\n"
    "  before anything else is itself. In a URL the variable's value is taken as it is, whatever\n"
    "  characters a password has; a variable for host and port, or at the start of the URL, may "
    "hold\n"
    "  all of that part.\n"
    "- **Secrets** come from variables or from files: `password_file`, `token_file`, `users_file`. "
    "A\n"
    "  secret's file holds one line. Secrets are never printed: not in errors, not in logs, not "
    "by\n"
    "  the admin API.\n"
    "- **Reload** (SIGHUP, `carpool reload`) reads the file again. A file with an error changes\n"
    "  nothing. The tables say how each key follows: *at once*, for *new connections*, or only "
    "after\n"
    "  a *restart*. Pools are told apart by their names: a new name is a new pool, a name that is "
    "gone\n"
    "  is drained. `carpool reload` says what changes, and what has to wait for a restart; "
    "`/config`\n"
    "  always shows what is in force. An address cannot go from one pool to another in one "
    "reload: take it\n"
    "  away in one and give it in the next.\n"
    "- Where three defaults are given they are for postgres / redis / http.\n"
    "\n"
    "## Without a file\n"
    "\n"
    "`carpool run URL ...`, or `CARPOOL_POOLS` with URLs between blanks (so that passwords are "
    "not\n"
    "seen in the list of processes), gives each URL a pool with every default. Pools are named "
    "after\n"
    "their kind: `postgres`, `postgres2`, `redis`, `http`. They listen on 127.0.0.1 and ::1, "
    "postgres\n"
    "from port 6432 upwards, redis from 6380, http from 8081. `CARPOOL_LISTEN` names other hosts, "
    "for\n"
    "example `0.0.0.0` or `*`. Keys outside of pools have variables of their own: `log.level` is\n"
    "`CARPOOL_LOG_LEVEL`, `admin.http` is `CARPOOL_ADMIN_HTTP`, `workers` is `CARPOOL_WORKERS`.\n"
    "\n"
    "Beside a file these variables are not read: the file says it all, and may use `${NAME}`. "
    "A\n"
    "`CARPOOL_` variable that nobody reads is warned about, with the name that was probably "
    "meant, by\n"
    "`run` and by `check`; it is no error, since Kubernetes sets such variables by itself for a "
    "service\n"
    "that is called carpool.\n"
    "\n"
    "## Upstreams\n"
    "\n"
    "| kind | URL |\n"
    "|---|---|\n"
    "| postgres | `postgres://user:password@host:5432/database?sslmode=verify-full` |\n"
    "| | `postgres://user@%2Frun%2Fpostgresql/database`, "
    "`postgres://user@/database?host=/run/postgresql` |\n"
    "| redis | `redis://user:password@host:6379/0`, with TLS `rediss://`, "
    "`redis+unix:///run/redis.sock?db=0` |\n"
    "| http | `http://host:80`, `https://host:443`, `http+unix://%2Frun%2Fapi.sock` |\n"
    "\n"
    "IPv6 addresses stand in brackets. In a password, `/ ? # @ %` are written as `%2F %3F %23 %40\n"
    "%25`. TLS is told by libpq's names for every kind: `sslmode`, `sslrootcert`, `sslcert`, "
    "`sslkey`.\n"
    "`rediss` and `https` verify chain and name unless `sslmode=verify-ca` or `require` says\n"
    "otherwise; postgres without `sslmode` takes TLS when the server offers it and verifies "
    "nothing,\n"
    "as libpq does. Without `sslrootcert` the system's authorities count. Postgres URLs also take\n"
    "`application_name`, `options`, `client_encoding` and libpq's options of TLS.\n"
    "\n"
    "Several upstreams are a list; smaller priorities are used first, equal ones in their order; "
    "with\n"
    "Postgres only those that the pool's `target` wants. They have one user and one database.\n"
    "\n"
    "    upstream:\n"
    "      - { url: postgres://app@db1/orders, priority: 1, password_file: /run/secrets/orders }\n"
    "      - { url: postgres://app@db2/orders, priority: 2, password_file: /run/secrets/orders }\n"
    "\n"
    "## Addresses\n"
    "\n"
    "`127.0.0.1:6432`, `[::1]:6432`, `localhost:6432` (both of these), `*:6432` (every IPv4 and "
    "IPv6\n"
    "address), or the path of a Unix socket; with its permissions and owner as a mapping:\n"
    "\n"
    "    listen: [\"127.0.0.1:6432\", { unix: /run/carpool/.s.PGSQL.6432, mode: \"0660\", owner: "
    "\"app:app\" }]\n"
    "\n"
    "## Who may log in\n"
    "\n"
    "With `method: auto` clients on loopback addresses and Unix sockets are trusted, unless there "
    "is a\n"
    "`users_file`; on every other address Postgres clients log in by SCRAM-SHA-256 and Redis "
    "clients by\n"
    "AUTH. Without a `users_file` they use the upstream's own user and password. `method: trust` "
    "on an\n"
    "address that is not loopback is an error. HTTP has no logins.\n"
    "\n"
    "Postgres knows six more ways than trust:\n"
    "\n"
    "| `method` | the client shows | secrets that serve |\n"
    "|---|---|---|\n"
    "| `scram` | SCRAM-SHA-256; over TLS also SCRAM-SHA-256-PLUS | password, `SCRAM-SHA-256$...` "
    "|\n"
    "| `md5` | PostgreSQL's md5; SCRAM where the secret is `SCRAM-SHA-256$...` | all |\n"
    "| `password` | the password itself: over TLS, or from this machine | all |\n"
    "| `peer` | nothing: the kernel names the process' user; Unix sockets | none is needed |\n"
    "| `cert` | a certificate that `tls.ca` signed; TLS | none is needed |\n"
    "\n"
    "Where `peer` or `cert` cannot work (`peer` over TCP, `cert` on a Unix socket) that address "
    "asks for\n"
    "`scram`. With `peer` and `cert` the client's other name (of the process' user; the "
    "certificate's\n"
    "common name, or a DNS name, e-mail address or URI in it) must be the user it logs in as, or "
    "`map`\n"
    "must say that it may be:\n"
    "\n"
    "    auth: { method: cert, map: { \"orders.internal\": app, \"spiffe://shop/report\": [app, "
    "report] } }\n"
    "\n"
    "A `users_file` is YAML, `name: secret`, or lines of `\"name\" \"secret\"` as PgBouncer has "
    "them. For\n"
    "Postgres a secret is a password, a verifier as the server stores it (`SCRAM-SHA-256$...`) or, "
    "for\n"
    "`md5` and `password`, `md5` and 32 digits; for Redis a password. Variables are not replaced "
    "in it.\n"
    "\n"
    "With `query`, users that no file names are asked for in the database, on one of the pool's "
    "own servers:\n"
    "the statement gets the name as `$1` and gives at most one row of the name, the secret, and if "
    "there\n"
    "is a third column the seconds until it expires (null: never). Names of tables and functions "
    "carry\n"
    "their schema: the search path is `pg_catalog`. `query: roles` is the server's own users, "
    "which the\n"
    "pool's user must be allowed to read (`pg_authid`, with `rolcanlogin` and `rolvaliduntil`); "
    "else a\n"
    "function does:\n"
    "\n"
    "    create function lookup.carpool(name) returns table (n name, secret text, seconds "
    "numeric)\n"
    "      language sql security definer set search_path = pg_catalog, pg_temp as $$ select "
    "rolname,\n"
    "      rolpassword, extract(epoch from rolvaliduntil) - extract(epoch from now())\n"
    "      from pg_authid where rolname = $1 and rolcanlogin $$;\n"
    "\n"
    "    auth: { query: \"select * from lookup.carpool($1)\" }\n"
    "\n"
    "## Several databases\n"
    "\n"
    "A Postgres listener can serve more than the upstream's own database:\n"
    "\n"
    "    - name: main\n"
    "      listen: 127.0.0.1:6432\n"
    "      upstream: postgres://app:${PASSWORD}@db/postgres\n"
    "      databases: { orders: { size: { max: 30 } }, reports: { database: reports_v2 }, \"*\": "
    "}\n"
    "      size: { max: 10, total: 60 }\n"
    "\n"
    "or, without settings of their own, `databases: [orders, reports]`. `\"*\"` is every database "
    "that is\n"
    "not named. Each has a pool of its own, called `main:orders`, within its own `size.max`; "
    "`size.total`\n"
    "bounds all of them together, and when it is reached those that want more get equal shares. "
    "Pools of\n"
    "databases that are named are there from the beginning; those of `\"*\"` come with their "
    "first client,\n"
    "keep no `size.min`, and go away when they have neither clients nor servers. `carpool pause "
    "main` (and\n"
    "so on) means all of them, `carpool pause main:orders` one.\n"
    "\n"
    "With `login_as: client` servers are logged in to as each client's own user, with a pool for "
    "each\n"
    "database and user (`main:orders:alice`): what the server grants, limits and logs is theirs. "
    "The\n"
    "password is what the client sent (`auth.method: password`; without a `users_file` the server "
    "alone\n"
    "judges it) or the one in the `users_file`; where there is none, the server is asked without.\n"
    "\n"
    "## Keys\n";

void conf_keys_print(FILE *out, enum conf_keys_format format)
{
    if (format == CONF_KEYS_MARKDOWN)
        fputs(intro, out);
    for (size_t i = 0; i < conf_n_top_tables; i++)
        print_table(out, "", &conf_top_tables[i], format);
    for (size_t i = 0; i < conf_n_pool_tables; i++)
        print_table(out, "pools[].", &conf_pool_tables[i], format);
    struct schema_table database = conf_database_tables[0];
    database.key = "databases[]";
    print_table(out, "pools[].", &database, format);
    print_table(out, "pools[].", &conf_listen_table, format);
    print_table(out, "pools[].", &conf_upstream_table, format);
}
