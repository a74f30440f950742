/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * The verbs that ask a running carpool: status, pools, stats, clients, servers, health, wait,
 * reload, shutdown, pause, resume, drain, recycle, breaker. They speak to its admin API and to
 * nothing else.
 */

/* argv as main() got it: argv[1] is the verb. Returns the exit code: 0 well, 1 failed, 2 called
   wrongly (also for a verb nobody knows). `wait` with a command becomes that command and does
   not return. */
int cli_run(int argc, char **argv);
/* `carpool help VERB`: what the verb does. The exit status. */
int cli_help(const char *name);
