/* SPDX-License-Identifier: MIT */
/*
 * Every key there is. `carpool config` and docs/configuration.md print these rows; nothing else
 * needs to change for a new plain value.
 */
#include "proxy/conf/conf_private.h"

#define SECOND 1000
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define KIB 1024
#define MIB (1024 * KIB)

#define ONLY_POSTGRES (1u << FRONT_POSTGRES)
#define ONLY_HTTP (1u << FRONT_HTTP)
#define ONLY_LOGINS (1u << FRONT_POSTGRES | 1u << FRONT_REDIS)

static const char *const log_level_words[] = {"error", "warn", "info", "debug", NULL};
static const char *const log_format_words[] = {"text", "json", NULL};
static const char *const log_access_words[] = {"off", "errors", "all", NULL};
static const char *const pool_access_words[] = {"default", "off", "errors", "all", NULL};
static const char *const mode_words[] = {"session", "transaction", "statement", NULL};
static const char *const state_words[] = {"pin", "refuse", "allow", NULL};
static const char *const on_down_words[] = {"wait", "fail", NULL};
static const char *const target_words[] = {"any", "primary", "replica", "prefer-replica", NULL};
static const char *const auth_words[] = {"auto", "trust", "scram", "password",
                                         "md5",  "peer",  "cert",  NULL};
static const char *const login_words[] = {"pool", "client", NULL};
static const char *const return_words[] = {"fast", "verified", "clean", NULL};
const char *const conf_kind_words[] = {"postgres", "redis", "http", NULL};

/* clang-format off */
static const struct schema_row top_rows[] = {
    ROW(config, workers, "workers", COUNT_AUTO, "1", 1, 64, NEEDS_RESTART,
        "threads that carry traffic; auto is the number of CPUs the machine or the cgroup allows"),
    ROW_OWN("pools", LIST, "required", RELOADS,
            "what is pooled, one entry per upstream and identity"),
};

static const struct schema_row log_rows[] = {
    ROW_ENUM(log_conf, level, "level", log_level_words, "info", RELOADS,
             "nothing finer than this is written"),
    ROW_ENUM(log_conf, format, "format", log_format_words, "text", RELOADS, "form of a line"),
    ROW_ENUM(log_conf, access, "access", log_access_words, "off", RELOADS,
             "a line for each exchange at its end, or for those that failed; see docs/admin.md"),
};

static const struct schema_row admin_rows[] = {
    ROW(admin_conf, socket, "socket", STRING, ADMIN_SOCKET_DEFAULT, 0, 107, NEEDS_RESTART,
        "Unix socket of the admin API (mode 0600); empty means none"),
    ROW(admin_conf, http, "http", STRING, NULL, 0, 0, NEEDS_RESTART,
        "TCP address of the admin API, like 127.0.0.1:9601"),
    ROW(admin_conf, token, "token", SECRET, NULL, 0, 4096, RELOADS,
        "bearer token for everything but /live, /ready and /metrics on an address that is not "
        "loopback"),
    ROW(admin_conf, token_file, "token_file", PATH, NULL, 0, 0, RELOADS, "file with that token"),
};

static const struct schema_row drain_rows[] = {
    ROW(drain_conf, delay_ms, "delay", DURATION, "0", 0, HOUR, RELOADS,
        "time between answering not ready and closing the listeners"),
    ROW(drain_conf, deadline_ms, "deadline", DURATION, "8s", 0, DAY, RELOADS,
        "time for running exchanges to end before they are cut"),
};

static const struct schema_row pool_rows[] = {
    ROW_OWN("name", STRING, "required", RELOADS,
             "unique, 1 to 63 of a-z, 0-9, _ and -; the pool's identity over reloads"),
    ROW_OWN("kind", ENUM, "as the URL", RELOADS, "the protocol", .words = conf_kind_words),
    ROW_OWN("listen", LIST, "localhost, first free port from 6432 / 6380 / 8081", RELOADS,
             "one address or a list of them; see Addresses"),
    ROW_OWN("upstream", LIST, "required", NEW_CONNECTIONS,
             "one URL, or a list of URLs and mappings; see Upstreams"),
    ROW_OWN("databases", LIST, "the upstream's", NEW_CONNECTIONS,
            "several databases behind one listener, a pool for each; see Several databases",
            .only = ONLY_POSTGRES),
    ROW_ENUM(conf_pool, front.login_as, "login_as", login_words, "pool", NEW_CONNECTIONS,
             "as whom servers are logged in to: the upstream's user, or each client's own, with a "
             "pool for each; see Several databases", .only = ONLY_POSTGRES),
    ROW_ENUM(conf_pool, front.mode, "mode", mode_words, "transaction", NEW_CONNECTIONS,
             "how long a client keeps a server", .only = ONLY_POSTGRES),
    ROW_ENUM(conf_pool, front.session_state, "session_state", state_words, "pin", NEW_CONNECTIONS,
             "transaction and statement mode, what a session leaves on its server and cannot "
             "follow the client: temporary tables, advisory locks, LISTEN: pin keeps the client "
             "there, refuse refuses it, allow lets it be", .only = ONLY_POSTGRES),
    ROW(conf_pool, front.add_host, "add_host", BOOL, "false", 0, 0, NEW_CONNECTIONS,
        "puts a client's host and port behind the application_name it logs in with, so that "
        "pg_stat_activity says who is behind a server; a server that goes from client to client "
        "is then set anew each time",
        .only = ONLY_POSTGRES),
    ROW_ENUM(conf_pool, pool.on_down, "on_down", on_down_words, "wait", RELOADS,
             "while the upstream cannot be reached: clients wait up to timeouts.outage_wait, or "
             "fail at once",
             .def[1] = "fail", .def[2] = "fail"),
    ROW_ENUM(conf_pool, pool.target, "target", target_words, "any", NEW_CONNECTIONS,
             "of several upstreams, which to use: servers that take writes (primary), standbys "
             "(replica), a primary only where no standby is to be had (prefer-replica), or the "
             "first that answers", .only = ONLY_POSTGRES),
    ROW(conf_pool, pool.dns_ttl_ms, "dns_ttl", DURATION, "15s", 100, DAY, NEW_CONNECTIONS,
        "the addresses of an upstream's name are looked up again after so long; servers at an "
        "address that is no longer among them take no new work; 0 looks it up for each dial, and "
        "leaves servers where they are",
        .zero_ok = true),
};

static const struct schema_row auth_rows[] = {
    ROW_ENUM(auth_conf, method, "method", auth_words, "auto", NEW_CONNECTIONS,
             "how clients prove who they are; see Who may log in", .only = ONLY_LOGINS),
    ROW(auth_conf, users_file, "users_file", PATH, NULL, 0, 0, NEW_CONNECTIONS,
        "file of names and secrets; see Who may log in", .only = ONLY_LOGINS),
    ROW_OWN("map", LIST, "none", NEW_CONNECTIONS,
            "for peer and cert, a mapping: a name of the system or in a certificate, and the user "
            "or list of users it may log in as; without it both names must be the same",
            .only = ONLY_POSTGRES),
    ROW(auth_conf, query, "query", STRING, NULL, 0, 4096, NEW_CONNECTIONS,
        "asks the database for users that no file names; see Who may log in",
        .only = ONLY_POSTGRES),
    ROW(auth_conf, query_ttl_ms, "query_ttl", DURATION, "30s", 0, DAY, NEW_CONNECTIONS,
        "for so long an answer of query counts, also that there is no such user",
        .only = ONLY_POSTGRES),
    ROW(auth_conf, failures, "failures", COUNT, "30", 0, 60000, NEW_CONNECTIONS,
        "failed logins a minute from one address before more are refused unheard; 0 no limit",
        .only = ONLY_POSTGRES),
};

static const struct schema_row tls_rows[] = {
    ROW(tls_conf, cert, "cert", PATH, NULL, 0, 0, NEW_CONNECTIONS,
        "PEM file with the certificate shown to clients, chain included"),
    ROW(tls_conf, key, "key", PATH, NULL, 0, 0, NEW_CONNECTIONS, "PEM file with its private key"),
    ROW(tls_conf, ca, "ca", PATH, NULL, 0, 0, NEW_CONNECTIONS,
        "PEM file with the authority that every client's certificate must come from"),
    ROW(tls_conf, required, "required", BOOL, "false", 0, 0, NEW_CONNECTIONS,
        "refuse clients that do not ask for TLS", .only = ONLY_POSTGRES),
};

static const struct schema_row size_rows[] = {
    ROW(size_conf, min, "min", COUNT, "1", 0, 100000, RELOADS, "servers kept open"),
    ROW(size_conf, max, "max", COUNT, "20", 1, 100000, RELOADS,
        "upper bound of servers, dialing and closing ones included, over all workers"),
    ROW(size_conf, total, "total", COUNT, "0", 0, 100000, RELOADS,
        "upper bound of servers over all databases and users behind the listener, shared fairly "
        "among those that want more; 0 no bound but max for each",
        .only = ONLY_POSTGRES),
    ROW(size_conf, waiters, "waiters", COUNT, "1024", 0, 1000000, RELOADS,
        "clients that may wait while all servers are taken; 0 refuses them. Who waits for a server "
        "that is being opened within max does not count"),
    ROW(size_conf, statements, "statements", COUNT, "500", 0, 100000, RELOADS,
        "transaction and statement mode: prepared statements kept on each server for all clients, "
        "least recently used first out; 0 keeps a client that names statements on its server "
        "instead",
        .only = ONLY_POSTGRES),
    ROW(size_conf, statement_bytes, "statement_bytes", SIZE, "4MiB", 64 * KIB, 1024 * MIB, RELOADS,
        "their texts together on each server", .only = ONLY_POSTGRES),
    ROW(size_conf, acquire_timeout_ms, "acquire_timeout", DURATION, "3s", 1, HOUR, RELOADS,
        "longest wait for a busy pool"),
    ROW(size_conf, idle_timeout_ms, "idle_timeout", DURATION, "10m", 10, 30 * (uint64_t)DAY,
        RELOADS, "servers above min are closed after so long without work; 0 never",
        .zero_ok = true),
    ROW(size_conf, max_lifetime_ms, "max_lifetime", DURATION, "30m", 10, 30 * (uint64_t)DAY,
        RELOADS, "a server is replaced at this age, less up to a tenth; 0 never", .zero_ok = true),
};

static const struct schema_row check_rows[] = {
    ROW_ENUM_OR_TEXT(check_conf, on_return, statement, "on_return", return_words, "fast", RELOADS,
                     "when a server comes back: fast trusts the protocol, verified adds a round "
                     "trip, clean resets the session first; or a statement of your own"),
    ROW(check_conf, idle_ms, "idle", DURATION, "30s", 10, DAY, RELOADS,
        "ping a server after so long without work; 0 never", .zero_ok = true),
    ROW(check_conf, checkout_after_ms, "checkout_after", DURATION, "1s", 0, DAY, RELOADS,
        "look for end-of-file before using a server idle for longer, and any for a second after "
        "one was lost; 0 always"),
    ROW(check_conf, timeout_ms, "timeout", DURATION, "1s", 1, 5 * MINUTE, RELOADS,
        "bound of each check"),
    ROW(check_conf, leak_after_ms, "leak_after", DURATION, "1m", 10, DAY, RELOADS,
        "warn when a client keeps a server for longer; 0 never", .zero_ok = true),
};

static const struct schema_row timeouts_rows[] = {
    ROW(timeouts_conf, connect_ms, "connect", DURATION, "5s", 1, 5 * MINUTE, RELOADS,
        "one dial, from the socket to logged in"),
    ROW(timeouts_conf, request_ms, "request", DURATION, "0", 1, DAY, RELOADS,
        "one exchange: a Postgres query, a Redis command (blocking ones exempt), an HTTP request "
        "up to the response's head; 0 no limit",
        .zero_ok = true, .def[1] = "5s", .def[2] = "15s"),
    ROW(timeouts_conf, transaction_ms, "transaction", DURATION, "0", 1, DAY, RELOADS,
        "a transaction from its begin to its end; then it is rolled back and its session ended, as "
        "by PostgreSQL's transaction_timeout; 0 no limit",
        .zero_ok = true, .only = ONLY_POSTGRES),
    ROW(timeouts_conf, idle_transaction_ms, "idle_transaction", DURATION, "0", 1, DAY, RELOADS,
        "a client silent inside a transaction; 0 no limit", .zero_ok = true,
        .only = ONLY_POSTGRES),
    ROW(timeouts_conf, client_idle_ms, "client_idle", DURATION, "0", 10, 30 * (uint64_t)DAY,
        RELOADS, "a client silent between exchanges; 0 no limit", .zero_ok = true),
    ROW(timeouts_conf, client_login_ms, "client_login", DURATION, "15s", 1, HOUR, RELOADS,
        "a client from connected to logged in; HTTP: to the end of the request's head"),
    ROW(timeouts_conf, write_stall_ms, "write_stall", DURATION, "30s", 1, HOUR, RELOADS,
        "a peer that takes none of the bytes it is sent"),
    ROW(timeouts_conf, read_stall_ms, "read_stall", DURATION, "60s", 10, DAY, RELOADS,
        "an upstream that sends nothing more of a response it has begun; 0 no limit, for streams "
        "that may be silent for long",
        .zero_ok = true, .only = ONLY_HTTP),
    ROW(timeouts_conf, outage_wait_ms, "outage_wait", DURATION, "30s", 0, HOUR, RELOADS,
        "with on_down: wait, longest wait for an upstream that is down, or a pool that is paused"),
    ROW(timeouts_conf, close_ms, "close", DURATION, "5s", 1, MINUTE, RELOADS,
        "from a server's goodbye to its end-of-file; then its slot is freed anyway"),
};

static const struct schema_row retry_rows[] = {
    ROW(retry_conf, attempts, "attempts", COUNT, "3", 1, 20, RELOADS,
        "tries in all where trying again is safe; 1 never tries again"),
    ROW_RANGE(retry_conf, backoff_min_ms, backoff_max_ms, "backoff", "25ms..250ms", 1, MINUTE,
              RELOADS,
              "redis, http: longest pause before a second try, doubled up to the second value; "
              "http: not before the first one after an idle connection that was closing"),
    ROW(retry_conf, budget, "budget", PERCENT, "20%", 0, 100, RELOADS,
        "share of requests that may be second tries"),
};

static const struct schema_row breaker_rows[] = {
    ROW(breaker_conf, consecutive, "consecutive", COUNT, "5", 0, 1000, RELOADS,
        "failures in a row that open it; 0 never"),
    ROW(breaker_conf, failure_ratio, "failure_ratio", PERCENT, "50%", 0, 100, RELOADS,
        "share of failures in ten seconds that opens it; 0% never"),
    ROW(breaker_conf, min_requests, "min_requests", COUNT, "20", 1, 1000000, RELOADS,
        "... once there were so many requests"),
    ROW_RANGE(breaker_conf, open_min_ms, open_max_ms, "open", "1s..30s", 1, HOUR, RELOADS,
              "how long it stays open at first, doubling at each relapse, and at most"),
};

static const struct schema_row limits_rows[] = {
    ROW(limits_conf, clients, "clients", COUNT, "10000", 1, 1000000, RELOADS,
        "connections of clients; one more is refused in its protocol's words"),
    ROW(limits_conf, in_flight, "in_flight", COUNT, "0", 0, 1000000, RELOADS,
        "exchanges at once, waiting ones included; 0 no limit"),
    ROW(limits_conf, rate, "rate", COUNT, "0", 0, 10000000, RELOADS,
        "exchanges a second; 0 no limit"),
    ROW(limits_conf, statements, "statements", COUNT, "5000", 1, 1000000, NEW_CONNECTIONS,
        "prepared statements of one client, where clients share them", .only = ONLY_POSTGRES),
    ROW(limits_conf, statement_bytes, "statement_bytes", SIZE, "16MiB", 64 * KIB, 1024 * MIB,
        NEW_CONNECTIONS, "their names and texts together", .only = ONLY_POSTGRES),
    ROW(limits_conf, pools, "pools", COUNT, "200", 1, 100000, RELOADS,
        "pools for databases and users behind the listener at once; idle ones go away",
        .only = ONLY_POSTGRES),
    ROW(limits_conf, buffer, "buffer", SIZE, "256KiB", 16 * KIB, 64 * MIB, NEW_CONNECTIONS,
        "bytes held for a slow peer before the other side is paused; HTTP: also the bound, up to "
        "64KiB, of what is kept of a body for a second try, and of what a client sends ahead"),
};

static const struct schema_row pool_log_rows[] = {
    ROW_ENUM(pool_log_conf, access, "access", pool_access_words, "default", RELOADS,
             "which exchanges of this pool get a line; default: those that log.access says"),
    ROW(pool_log_conf, slow_ms, "slow", DURATION, "0", 1, DAY, RELOADS,
        "an exchange longer than this gets its line in the access log whatever `access` says, "
        "with slow=yes at its end; 0 none",
        .zero_ok = true),
};

static const struct schema_row tcp_rows[] = {
    ROW(tcp_conf, keepalive_ms, "keepalive", DURATION, "30s", SECOND, 2 * HOUR, NEW_CONNECTIONS,
        "silence before TCP probes the peer, in whole seconds; 0 off", .zero_ok = true),
    ROW(tcp_conf, user_timeout_ms, "user_timeout", DURATION, "30s", 10, HOUR, NEW_CONNECTIONS,
        "unacknowledged bytes end the connection after so long; 0 the system's", .zero_ok = true),
};

static const struct schema_row database_rows[] = {
    ROW_OWN("database", STRING, "the same name", NEW_CONNECTIONS,
            "what the server calls it; beside it, everything of size, check, timeouts, retry, "
            "breaker and log but size.total"),
};

static const struct schema_row listen_rows[] = {
    ROW(conf_listen_item, address, "address", STRING, NULL, 0, 0, RELOADS,
        "host and port, as in the short form"),
    ROW(conf_listen_item, unix_path, "unix", STRING, NULL, 0, 107, RELOADS,
        "path of a Unix socket, from the root"),
    ROW(conf_listen_item, mode, "mode", STRING, "0660", 0, 5, RELOADS,
        "permissions of the Unix socket, octal"),
    ROW(conf_listen_item, owner, "owner", STRING, NULL, 0, 128, RELOADS,
        "user, user:group or :group that the Unix socket is given to"),
};

static const struct schema_row upstream_rows[] = {
    ROW_OWN("url", STRING, "required", NEW_CONNECTIONS, "as in the short form"),
    ROW(conf_upstream_item, priority, "priority", COUNT, "1", 0, 1000, NEW_CONNECTIONS,
        "smaller ones are used first"),
    ROW(conf_upstream_item, password, "password", SECRET, NULL, 0, 4096, NEW_CONNECTIONS,
        "the password, where the URL has none"),
    ROW(conf_upstream_item, password_file, "password_file", PATH, NULL, 0, 0, NEW_CONNECTIONS,
        "file with the password"),
    ROW(conf_upstream_item, password_command, "password_command", STRING, NULL, 0, 4096,
        NEW_CONNECTIONS,
        "postgres: a command for /bin/sh that prints the password, for tokens that last minutes; "
        "it counts towards timeouts.connect and is killed after 30 s"),
    ROW(conf_upstream_item, password_command_ttl_ms, "password_command_ttl", DURATION, "10m",
        SECOND, DAY, NEW_CONNECTIONS,
        "what it printed is good for so long; a reload, or a server that refuses it, runs it "
        "again"),
};
/* clang-format on */

#define TABLE(name, list, at, text)                                                                \
    {.key = (name), .rows = (list), .n_rows = ARRAY_LEN(list), .offset = (at), .help = (text)}

const struct schema_table conf_top_tables[] = {
    TABLE(NULL, top_rows, 0, "The process"),
    TABLE("log", log_rows, offsetof(struct config, log), "What is logged, to standard output"),
    TABLE("admin", admin_rows, offsetof(struct config, admin), "Where the admin API listens"),
    TABLE("drain", drain_rows, offsetof(struct config, drain), "How carpool stops"),
};
const size_t conf_n_top_tables = ARRAY_LEN(conf_top_tables);

#define FRONT(member) (offsetof(struct conf_pool, front) + offsetof(struct front_conf, member))
#define POOL(member) (offsetof(struct conf_pool, pool) + offsetof(struct pool_conf, member))

const struct schema_table conf_pool_tables[] = {
    TABLE(NULL, pool_rows, 0, "One entry of pools"),
    TABLE("auth", auth_rows, FRONT(auth), "How clients log in"),
    TABLE("tls", tls_rows, FRONT(tls), "TLS towards clients, on TCP addresses"),
    TABLE("size", size_rows, POOL(size), "How many servers, for how long"),
    TABLE("check", check_rows, POOL(check), "How servers are known to be well"),
    TABLE("timeouts", timeouts_rows, POOL(timeouts), "How long anything may take"),
    TABLE("retry", retry_rows, POOL(retry), "Trying again"),
    TABLE("breaker", breaker_rows, POOL(breaker), "When an upstream is left alone"),
    TABLE("limits", limits_rows, FRONT(limits), "What clients may use up"),
    TABLE("log", pool_log_rows, POOL(log), "What is logged of this pool beside the rest"),
    TABLE("tcp", tcp_rows, POOL(tcp), "Options of TCP sockets, on both sides"),
};
const size_t conf_n_pool_tables = ARRAY_LEN(conf_pool_tables);

/* What a database may say differently. */
const struct schema_table conf_database_tables[] = {
    TABLE(NULL, database_rows, 0, "One of several databases"),
    TABLE("size", size_rows, POOL(size), ""),
    TABLE("check", check_rows, POOL(check), ""),
    TABLE("timeouts", timeouts_rows, POOL(timeouts), ""),
    TABLE("retry", retry_rows, POOL(retry), ""),
    TABLE("breaker", breaker_rows, POOL(breaker), ""),
    TABLE("log", pool_log_rows, POOL(log), ""),
};
const size_t conf_n_database_tables = ARRAY_LEN(conf_database_tables);

const struct schema_table conf_listen_table =
    TABLE("listen[]", listen_rows, 0, "An address written as a mapping");
const struct schema_table conf_upstream_table =
    TABLE("upstream[]", upstream_rows, 0, "An upstream written as a mapping");

unsigned conf_variant(enum front_kind kind)
{
    return kind == FRONT_OTHER ? FRONT_REDIS : (unsigned)kind;
}
