/* SPDX-License-Identifier: MIT */
/* carpool with the echo protocol instead of its own three: `carpool-echo run -c FILE` or URLs. */
#include <stdio.h>
#include <string.h>

#include "proxy/control.h"
#include "tests/echo/echo.h"

static const struct kind kinds[] = {
    {"echo", &echo_driver, &echo_relay},
    {NULL, NULL, NULL},
};

static const struct conf_kind extra[] = {{.name = "echo", .upstream_port = 7, .local_port = 7007}};

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "run") != 0) {
        fprintf(stderr, "usage: carpool-echo run [-c FILE | URL ...]\n");
        return 2;
    }
    const struct conf_options options = {.extra = extra, .n_extra = 1};
    struct control_args args = {.kinds = kinds, .options = &options};
    if (argc == 4 && strcmp(argv[2], "-c") == 0) {
        args.file = argv[3];
    } else {
        args.urls = (const char *const *)argv + 2;
        args.n_urls = (size_t)(argc - 2);
    }
    return control_run(&args);
}
