/* SPDX-License-Identifier: MIT */
/* The command line: what runs in this process, and what asks a running carpool. */
#include <stdio.h>
#include <string.h>

#include "proxy/cli.h"
#include "proxy/control.h"

static const char usage[] =
    "carpool pools connections: your application talks to local ports, carpool keeps few, "
    "bounded,\n"
    "health-checked connections to Postgres, Redis and HTTP servers.\n"
    "\n"
    "  carpool run   [-c FILE] [URL ...]   serve; without a file from URLs or $CARPOOL_POOLS, for "
    "example\n"
    "                                      carpool run postgres://app@db/orders redis://cache\n"
    "  carpool check [-c FILE] [URL ...]   find every mistake in a configuration\n"
    "  carpool config                      every configuration key: type, default, range\n"
    "\n"
    "A running carpool answers through its admin socket (-s PATH or http://HOST:PORT; "
    "$CARPOOL_ADMIN):\n"
    "  carpool status                      is all well? and if not, what to do\n"
    "  carpool pools | stats [--json]      figures of every pool\n"
    "  carpool pause | resume | recycle POOL\n"
    "  carpool breaker POOL open|closed|auto\n"
    "  carpool reload | shutdown | health\n"
    "  carpool wait [-- COMMAND]           until it is ready, then run COMMAND\n"
    "\n"
    "  carpool version | help\n";

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
        fprintf(stderr, "carpool: unknown option %s (see carpool help)\n", argv[i]);
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
    if (!read_args(argc, argv, &a))
        return 2;
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
    conf_keys_print(stdout, markdown ? CONF_KEYS_MARKDOWN : CONF_KEYS_TEXT);
    return 0;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "help";
    if (strcmp(verb, "run") == 0)
        return run(argc, argv);
    if (strcmp(verb, "check") == 0)
        return check(argc, argv);
    if (strcmp(verb, "config") == 0)
        return config_keys(argc, argv);
    if (strcmp(verb, "version") == 0 || strcmp(verb, "--version") == 0) {
        puts("carpool " CARPOOL_VERSION);
        return 0;
    }
    if (strcmp(verb, "help") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
        fputs(usage, stdout);
        return argc > 1 ? 0 : 2;
    }
    return cli_run(argc, argv);
}
