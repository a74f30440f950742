/* SPDX-License-Identifier: MIT */
/* The command line: what runs in this process, and what asks a running carpool. */
#include <stdio.h>
#include <string.h>

#include "proxy/cli.h"
#include "proxy/control.h"
#include "proxy/core/crypto.h"

static const char usage[] =
    "carpool pools connections: your application talks to local ports, carpool keeps few, "
    "bounded,\n"
    "health-checked connections to Postgres, Redis and HTTP servers.\n"
    "\n"
    "  carpool run   [-c FILE | URL ...]   serve; without both from the URLs in $CARPOOL_POOLS\n"
    "                                      carpool run postgres://app@db/orders redis://cache\n"
    "  carpool check [-c FILE | URL ...]   find every mistake in a configuration\n"
    "  carpool config                      every configuration key: type, default, range\n"
    "\n"
    "A running carpool answers through its admin API (-s PATH, -s HOST:PORT, -c FILE, or "
    "$CARPOOL_ADMIN):\n"
    "  carpool status                      is all well? and if not, what to do\n"
    "  carpool pools | stats               figures of every pool\n"
    "  carpool clients | servers [POOL]    every connection from and to\n"
    "  carpool pause | resume | recycle | drain POOL\n"
    "  carpool breaker POOL open|closed|auto\n"
    "  carpool reload | shutdown | health\n"
    "  carpool wait [-- COMMAND]           until it is ready, then run COMMAND\n"
    "\n"
    "  carpool version\n"
    "  carpool VERB --help                 more about one of these\n";

static const char run_help[] =
    "usage: carpool run [-c FILE | URL ...]\n"
    "\n"
    "Serves until SIGTERM or SIGINT, which drain it; a second one ends it at once. SIGHUP reads\n"
    "the configuration again. Logs go to standard output.\n"
    "\n"
    "  -c, --config FILE  the configuration (see `carpool config` for its keys)\n"
    "  URL ...            instead of a file: a pool for each, with every default, on 127.0.0.1 "
    "and\n"
    "                     ::1, Postgres from port 6432, Redis from 6380, HTTP from 8081\n"
    "\n"
    "Without both, URLs are taken from $CARPOOL_POOLS, which keeps passwords out of the list of\n"
    "processes. $CARPOOL_LISTEN sets the addresses (\"*\": all); other keys outside of pools have\n"
    "variables too: $CARPOOL_LOG_LEVEL, $CARPOOL_LOG_FORMAT, $CARPOOL_ADMIN_HTTP, "
    "$CARPOOL_WORKERS.\n";

static const char check_help[] =
    "usage: carpool check [-c FILE | URL ...]\n"
    "\n"
    "Reads a configuration as `carpool run` would and reports every mistake with file, line and\n"
    "column. Exit code: 0 if it can be used (there may be warnings), 1 if not. Neither addresses\n"
    "nor upstreams are tried.\n"
    "\n"
    "  -c, --config FILE  the configuration; without it URLs, or those of $CARPOOL_POOLS\n";

static const char config_help[] = "usage: carpool config [--markdown]\n"
                                  "\n"
                                  "Every key of the configuration: type, range, default, what a "
                                  "reload does with a change, meaning.\n"
                                  "\n"
                                  "  --markdown  as docs/configuration.md\n";

struct args {
    const char *file;
    const char *const *urls;
    size_t n_urls;
};

static bool read_args(int argc, char **argv, struct args *out)
{
    *out = (struct args){0};
    int i = 2;
    if (i < argc && (strcmp(argv[i], "-c") == 0 || strcmp(argv[i], "--config") == 0)) {
        if (i + 1 >= argc) {
            fprintf(stderr, "carpool: %s needs a file name\n", argv[i]);
            return false;
        }
        out->file = argv[i + 1];
        i += 2;
    }
    if (i < argc && argv[i][0] == '-') {
        fprintf(stderr, "carpool: unknown option %s (see carpool %s --help)\n", argv[i], argv[1]);
        return false;
    }
    out->urls = (const char *const *)argv + i;
    out->n_urls = (size_t)(argc - i);
    if (out->file && out->n_urls) {
        fprintf(stderr, "carpool: give a file or URLs, not both\n");
        return false;
    }
    return true;
}

static int run(int argc, char **argv)
{
    struct args a;
    uint8_t any[CRYPTO_SHA256];
    if (!read_args(argc, argv, &a))
        return 2;
    /* OpenSSL sets itself up at its first use, and what fails then fails for ever: not on a worker,
     * at a moment when memory is short. */
    if (!crypto_sha256(span_of(NULL, 0), any)) {
        fprintf(stderr, "carpool: no SHA-256: OpenSSL cannot be used here\n");
        return 1;
    }
    return control_run(&(struct control_args){
        .file = a.file, .urls = a.urls, .n_urls = a.n_urls, .kinds = builtin_kinds});
}

static int check(int argc, char **argv)
{
    struct args a;
    if (!read_args(argc, argv, &a))
        return 2;
    struct conf_report *report = conf_report_new();
    struct config *config = a.file ? conf_load_file(a.file, NULL, report)
                                   : conf_load_urls(a.urls, a.n_urls, NULL, report);
    conf_report_print(report, stderr);
    conf_report_free(&report);
    if (!config)
        return 1;
    printf("%s: ok, %zu pool%s\n", config->source, config->n_pools,
           config->n_pools == 1 ? "" : "s");
    conf_free(&config);
    return 0;
}

static int config_keys(int argc, char **argv)
{
    bool markdown = argc > 2 && strcmp(argv[2], "--markdown") == 0;
    if (argc > 2 && !markdown) {
        fprintf(stderr, "carpool: unknown option %s (see carpool config --help)\n", argv[2]);
        return 2;
    }
    conf_keys_print(stdout, markdown ? CONF_KEYS_MARKDOWN : CONF_KEYS_TEXT);
    return 0;
}

static int version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts("carpool " CARPOOL_VERSION);
    return 0;
}

/* What runs in this process; all else asks one that runs. */
static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} verbs[] = {
    {"run", run, run_help},
    {"check", check, check_help},
    {"config", config_keys, config_help},
    {"version", version, "usage: carpool version\n"},
    {"--version", version, "usage: carpool version\n"},
};

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* Before a `--`, behind which options are somebody else's. */
static bool asks_for_help(int argc, char **argv)
{
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (is_help(argv[i]))
            return true;
    return false;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "help";
    bool help = strcmp(verb, "help") == 0;
    if (is_help(verb) || (help && argc < 3)) {
        fputs(usage, argc > 1 ? stdout : stderr);
        return argc > 1 ? 0 : 2;
    }
    if (help)
        verb = argv[2];
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (strcmp(verb, verbs[i].name) != 0)
            continue;
        if (!help && !asks_for_help(argc, argv))
            return verbs[i].run(argc, argv);
        fputs(verbs[i].help, stdout);
        return 0;
    }
    return help ? cli_help(verb) : cli_run(argc, argv);
}
