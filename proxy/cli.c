/* SPDX-License-Identifier: MIT */
/*
 * Where a running carpool is asked, first match: --socket, the `admin:` of --config,
 * $CARPOOL_ADMIN, $CARPOOL_ADMIN_SOCKET, /run/carpool/admin.sock. What it answers goes to
 * stdout, what went wrong to stderr.
 */
#include "proxy/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "admin/client.h"
#include "admin/show.h"
#include "proxy/conf/conf.h"

#define DEFAULT_SOCKET "/run/carpool/admin.sock"
#define ANSWER_MS 30000 /* a reload may take a while: secrets are derived anew */
#define HEALTH_MS 5000
#define WAIT_MS 60000
#define WAIT_STEP_MS 200

enum { WELL = 0, FAILED = 1, MISUSED = 2 };

struct cli {
    const char *verb;
    const char *socket, *config; /* options as given */
    bool json, help;
    uint64_t timeout_ms;
    char **args; /* what is not an option; behind `--` everything */
    int n_args;
    char *where, *token; /* ours */
    struct client *client;
};

struct verb {
    const char *name;
    int min_args, max_args;
    const char *usage;
    int (*run)(struct cli *cli);
    const char *help; /* sentences, lines of at most 80 */
};

/* ---- where carpool is ---- */

static char *http_address(const struct admin_conf *admin)
{
    char *url = NULL;
    const char *host = admin->host;
    if (strcmp(host, "0.0.0.0") == 0)
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0)
        host = "::1";
    bool v6 = strchr(host, ':') != NULL;
    if (asprintf(&url, "http://%s%s%s:%u", v6 ? "[" : "", host, v6 ? "]" : "", admin->port) < 0)
        return NULL;
    return url;
}

static bool find_in_config(struct cli *cli)
{
    struct conf_report *report = conf_report_new();
    struct config *config = conf_load_file(cli->config, NULL, report);
    if (!config) {
        conf_report_print(report, stderr);
        fprintf(stderr, "carpool: %s does not say where carpool listens (use --socket)\n",
                cli->config);
    } else {
        const struct admin_conf *admin = &config->admin;
        if (admin->socket)
            cli->where = strdup(admin->socket);
        else if (admin->host)
            cli->where = http_address(admin);
        else
            fprintf(stderr, "carpool: %s has no admin API (admin.socket, admin.http)\n",
                    cli->config);
        if (admin->token && !cli->token)
            cli->token = strdup(admin->token);
    }
    conf_report_free(&report);
    conf_free(&config);
    return cli->where != NULL;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* "localhost:9601", "[::1]:9601" and the like: an address, though nobody wrote http:// */
static bool is_host_port(const char *where)
{
    const char *colon = strrchr(where, ':');
    return colon && colon != where && colon[1] && !strchr(where, '/') &&
           colon[1 + strspn(colon + 1, "0123456789")] == '\0';
}

static bool settle(struct cli *cli, const char *where)
{
    if (strncmp(where, "https://", 8) == 0) {
        fprintf(stderr, "carpool: the admin API speaks no TLS: write http://%s\n", where + 8);
        return false;
    }
    bool http = strncmp(where, "http://", 7) == 0;
    if (!http && !strchr(where, '/') && !is_host_port(where)) {
        fprintf(stderr,
                "carpool: \"%s\" is no address: write the path of the admin socket, or HOST:PORT\n",
                where);
        return false;
    }
    if (asprintf(&cli->where, "%s%s", is_host_port(where) ? "http://" : "", where) < 0)
        cli->where = NULL;
    return cli->where != NULL;
}

static bool find(struct cli *cli)
{
    const char *token = environment("CARPOOL_ADMIN_TOKEN");
    if (token)
        cli->token = strdup(token);
    if (!cli->socket && cli->config)
        return find_in_config(cli);
    const char *where = cli->socket;
    if (!where)
        where = environment("CARPOOL_ADMIN");
    if (!where)
        where = environment("CARPOOL_ADMIN_SOCKET");
    return settle(cli, where ? where : DEFAULT_SOCKET);
}

/* ---- asking ---- */

/* What cannot be done yet can be in a moment: for two seconds it is tried again. */
enum { BUSY_TRIES = 100, BUSY_WAIT_NS = 20 * 1000 * 1000 };

/* True: an answer with a status below 400, to be freed by the caller. */
static bool ask(struct cli *cli, const char *method, const char *path, struct client_answer *out)
{
    char why[512];
    unsigned tries_max = strcmp(method, "POST") == 0 ? BUSY_TRIES : 0;
    for (unsigned tries = 0;; tries++) {
        if (!client_ask(cli->client, method, path, out, why, sizeof why)) {
            fprintf(stderr, "carpool: %s\n", why);
            return false;
        }
        if (out->status < 400)
            return true;
        if (out->status != 503 || tries == tries_max)
            break;
        free(out->body);
        nanosleep(&(struct timespec){.tv_nsec = BUSY_WAIT_NS}, NULL);
    }
    show_answer(out->body, "carpool: ", stderr);
    free(out->body);
    return false;
}

static int show(struct cli *cli, const char *path, bool (*print)(const char *, FILE *))
{
    struct client_answer answer;
    if (!ask(cli, "GET", path, &answer))
        return FAILED;
    bool good = true;
    if (cli->json)
        fputs(answer.body, stdout);
    else
        good = print(answer.body, stdout);
    if (!good)
        fprintf(stderr, "carpool: %s gave an answer that is not carpool's\n", answer.where);
    free(answer.body);
    return good ? WELL : FAILED;
}

static int act(struct cli *cli, const char *path)
{
    struct client_answer answer;
    if (!ask(cli, "POST", path, &answer))
        return FAILED;
    show_answer(answer.body, "", stdout);
    free(answer.body);
    return WELL;
}

/* ---- verbs ---- */

static bool is_pool_name(const char *name)
{
    /* What a configuration allows, and what names of databases and users become behind it. */
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:=";
    bool good = *name && !name[strspn(name, plain)];
    if (!good)
        fprintf(stderr, "carpool: \"%s\" is not the name of a pool (see carpool pools)\n", name);
    return good;
}

static int run_status(struct cli *cli)
{
    return show(cli, "/stats", show_status);
}

static int run_pools(struct cli *cli)
{
    return show(cli, "/pools", show_pools);
}

static int run_stats(struct cli *cli)
{
    return show(cli, "/stats", show_stats);
}

/* clients, servers: the verb is the page's name. */
static int run_rows(struct cli *cli)
{
    char path[256];
    if (cli->n_args && !is_pool_name(cli->args[0]))
        return MISUSED;
    snprintf(path, sizeof path, "/%s%s%.128s", cli->verb, cli->n_args ? "?pool=" : "",
             cli->n_args ? cli->args[0] : "");
    return show(cli, path, strcmp(cli->verb, "clients") == 0 ? show_clients : show_servers);
}

static int run_reload(struct cli *cli)
{
    return act(cli, "/reload");
}

static int run_shutdown(struct cli *cli)
{
    return act(cli, "/shutdown");
}

/* pause, resume, recycle, drain, breaker: the verb is the action's name. */
static int run_pool_action(struct cli *cli)
{
    const char *pool = cli->args[0], *to = cli->n_args > 1 ? cli->args[1] : NULL;
    char path[256];
    if (!is_pool_name(pool))
        return MISUSED;
    if (to && strcmp(to, "open") != 0 && strcmp(to, "closed") != 0 && strcmp(to, "auto") != 0) {
        fprintf(stderr, "carpool: a breaker is open, closed or auto, not \"%s\"\n", to);
        return MISUSED;
    }
    snprintf(path, sizeof path, "/pools/%.128s/%s%s%s", pool, cli->verb, to ? "?to=" : "",
             to ? to : "");
    return act(cli, path);
}

/* Is it there, and does it take clients? Says what is missing if `loud`. */
static bool is_ready(struct cli *cli, bool loud)
{
    struct client_answer answer;
    char why[512];
    if (!client_ask(cli->client, "GET", "/ready", &answer, why, sizeof why)) {
        if (loud)
            fprintf(stderr, "carpool: %s\n", why);
        return false;
    }
    bool ready = answer.status == 200;
    if (!ready && loud) {
        fprintf(stderr, "carpool: not ready\n");
        show_ready(answer.body, "carpool: ", stderr);
    }
    free(answer.body);
    return ready;
}

static int run_health(struct cli *cli)
{
    struct client_answer live;
    if (!ask(cli, "GET", "/live", &live))
        return FAILED;
    free(live.body);
    if (!is_ready(cli, true))
        return FAILED;
    puts("live and ready");
    return WELL;
}

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / MSEC_NS;
}

static int run_wait(struct cli *cli)
{
    const struct timespec step = {0, WAIT_STEP_MS * (long)MSEC_NS};
    uint64_t until = now_ms() + cli->timeout_ms;
    while (!is_ready(cli, false)) {
        if (now_ms() >= until) {
            is_ready(cli, true);
            return FAILED;
        }
        nanosleep(&step, NULL);
    }
    if (cli->n_args == 0)
        return WELL;
    execvp(cli->args[0], cli->args);
    perror(cli->args[0]);
    return FAILED;
}

static const struct verb verbs[] = {
    {"status", 0, 0, "status [--json]", run_status,
     "Is all well? A line for the whole and one for each pool, and what to do where\n"
     "something is wrong. --json: the page /stats."},
    {"pools", 0, 0, "pools [--json]", run_pools,
     "Each pool's servers by state, who waits, who is connected. --json: the page /pools."},
    {"stats", 0, 0, "stats [--json]", run_stats,
     "Every figure of every pool: times, errors by cause, dials, checks, bytes.\n"
     "--json: the page /stats."},
    {"clients", 0, 1, "clients [POOL] [--json]", run_rows,
     "Who is connected: since when, in which state, with which server, for how long, and\n"
     "what pins it there between exchanges. At most 1000. --json: the page /clients."},
    {"servers", 0, 1, "servers [POOL] [--json]", run_rows,
     "Every connection to an upstream: its state and age, leases now and so far, how long\n"
     "it has been idle or held. At most 1000. --json: the page /servers."},
    {"health", 0, 0, "health", run_health,
     "Exit code 0 if carpool answers and is ready (listens, and size.min was reached or\n"
     "10 s have passed), else 1 and what is missing. For HEALTHCHECK and probes."},
    {"wait", 0, 1 << 20, "wait [--timeout 60s] [-- COMMAND ...]", run_wait,
     "Waits until carpool is ready, then becomes COMMAND. Exit code 1 if it is not ready\n"
     "in time."},
    {"reload", 0, 0, "reload", run_reload,
     "Reads the configuration again, and says what changes. One with a mistake changes\n"
     "nothing: exit code 1."},
    {"shutdown", 0, 0, "shutdown", run_shutdown,
     "Drains and ends carpool, as SIGTERM does; a second time ends what is left at once."},
    {"pause", 1, 1, "pause POOL", run_pool_action,
     "Exchanges under way may end, new ones wait (up to acquire_timeout) for `resume`:\n"
     "for a restart or switch of the server that clients need not notice."},
    {"resume", 1, 1, "resume POOL", run_pool_action, "Ends `pause` and `drain`."},
    {"drain", 1, 1, "drain POOL", run_pool_action,
     "New clients are refused, exchanges under way finish, idle clients are closed, each in\n"
     "its protocol's words; `clients POOL` shows who is left. `resume` ends it."},
    {"recycle", 1, 1, "recycle POOL", run_pool_action,
     "Every server is closed and replaced, each when it is free: after a failover, or to\n"
     "spread connections anew."},
    {"breaker", 2, 2, "breaker POOL open|closed|auto", run_pool_action,
     "open: nothing is dialed or sent until you say otherwise. closed: whatever fails, go\n"
     "on. auto: as configured."},
};

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

/* ---- the command line ---- */

static void print_usage(const struct verb *verb, FILE *out)
{
    fprintf(out,
            "usage: carpool %s [-s PATH | -s HOST:PORT | -c FILE]\n"
            "\n%s\n\n"
            "  -s, --socket  the admin address: a Unix socket's path, or HOST:PORT\n"
            "                (default: $CARPOOL_ADMIN, else " DEFAULT_SOCKET ")\n"
            "  -c, --config  take the admin address and token from this configuration\n"
            "$CARPOOL_ADMIN_TOKEN is the token, where the address asks for one.\n",
            verb->usage, verb->help);
}

/* Is argv[*i] this option? Then *value is what follows, or NULL if nothing does. */
static bool is_option(char **argv, int argc, int *i, const char *brief, const char *full,
                      const char **value)
{
    const char *arg = argv[*i];
    size_t n = strlen(full);
    if (strncmp(arg, full, n) == 0 && arg[n] == '=') {
        *value = arg + n + 1;
        return true;
    }
    if (strcmp(arg, brief) != 0 && strcmp(arg, full) != 0)
        return false;
    *value = *i + 1 < argc ? argv[++*i] : NULL;
    return true;
}

static bool read_option(struct cli *cli, char **argv, int argc, int *i)
{
    const char *arg = argv[*i], *value = "";
    if (strcmp(arg, "--json") == 0) {
        cli->json = true;
    } else if (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0) {
        cli->help = true;
    } else if (is_option(argv, argc, i, "-s", "--socket", &value)) {
        cli->socket = value;
    } else if (is_option(argv, argc, i, "-c", "--config", &value)) {
        cli->config = value;
    } else if (is_option(argv, argc, i, "-t", "--timeout", &value)) {
        if (value && !schema_parse_duration(span_str(value), &cli->timeout_ms)) {
            fprintf(stderr, "carpool: \"%s\" is no duration (like 30s)\n", value);
            return false;
        }
    } else {
        fprintf(stderr, "carpool: unknown option %s\n", arg);
        return false;
    }
    if (!value)
        fprintf(stderr, "carpool: %s needs a value\n", arg);
    return value != NULL;
}

/* Arguments are gathered at the front of argv + 2. */
static bool read_arguments(struct cli *cli, int argc, char **argv)
{
    cli->args = argv + 2;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            while (++i < argc)
                cli->args[cli->n_args++] = argv[i];
        } else if (argv[i][0] == '-' && argv[i][1]) {
            if (!read_option(cli, argv, argc, &i))
                return false;
        } else {
            cli->args[cli->n_args++] = argv[i];
        }
    }
    cli->args[cli->n_args] = NULL; /* argv[argc] is one, and there is never less room */
    return true;
}

static int run(struct cli *cli, const struct verb *verb)
{
    int code = FAILED;
    if (find(cli)) {
        bool health = verb->run == run_health || verb->run == run_wait;
        cli->client = client_new(cli->where, cli->token, health ? HEALTH_MS : ANSWER_MS);
        if (cli->client)
            code = verb->run(cli);
        else
            fprintf(stderr, "carpool: out of memory\n");
    }
    client_free(cli->client);
    free(cli->where);
    free(cli->token);
    return code;
}

static int unknown(const char *name)
{
    fprintf(stderr, "carpool: unknown command \"%s\" (see carpool help)\n", name);
    return MISUSED;
}

int cli_help(const char *name)
{
    const struct verb *verb = find_verb(name);
    if (!verb)
        return unknown(name);
    print_usage(verb, stdout);
    return WELL;
}

int cli_run(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    const struct verb *verb = find_verb(name);
    if (!verb)
        return unknown(name);
    struct cli cli = {.verb = verb->name, .timeout_ms = WAIT_MS};
    bool good = read_arguments(&cli, argc, argv);
    if (good && cli.help) {
        print_usage(verb, stdout);
        return WELL;
    }
    if (!good || cli.n_args < verb->min_args || cli.n_args > verb->max_args) {
        print_usage(verb, stderr);
        return MISUSED;
    }
    return run(&cli, verb);
}
