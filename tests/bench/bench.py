# SPDX-License-Identifier: MIT
"""How fast, and what it costs: direct, through carpool, through the distribution's proxies.

    ./dev bench                          all kinds, under six minutes
    ./dev bench postgres --seconds 8     one kind, longer runs
    ./dev bench --write docs/performance.md

Everything is started here on free loopback ports and gone afterwards. docs/performance.md says what
the figures mean.
"""

import argparse
import contextlib
import re
import shlex
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "flow"))

import bench_http
import bench_postgres
import bench_redis
import measure
import report
from harness.carpool import find_binary
from harness.servers import Servers
from peers import Unsupported

KINDS = {"postgres": bench_postgres, "redis": bench_redis, "http": bench_http}


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench")
    parser.add_argument("kinds", nargs="*", metavar="kind",
                        help="postgres, redis, http (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured (3)")
    parser.add_argument("--seconds", type=int,
                        help="length of a full run (4 for one kind, 3 for several)")
    parser.add_argument("--patience", type=int, default=0, metavar="SECONDS",
                        help="may be spent on waiting while other work takes the cores (0)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only workloads that match")
    parser.add_argument("--write", metavar="FILE", help="put the tables into this page")
    args = parser.parse_args()
    for kind in args.kinds:
        if kind not in KINDS:
            parser.error(f"{kind}: the kinds are {', '.join(KINDS)}")
    args.kinds = args.kinds or list(KINDS)
    args.seconds = args.seconds or (4 if len(args.kinds) == 1 else 3)
    if args.rounds < 1 or args.seconds < 1:
        parser.error("rounds and seconds are at least 1")
    if args.write and args.only:
        parser.error("--write wants whole tables, --only makes parts")
    return args


def tell(text):
    print(f"   {text}", file=sys.stderr, flush=True)


def bench(kind, args, binary, servers, patience):
    """The table of one kind as Markdown, or None when this carpool cannot do it."""
    module = KINDS[kind]
    with contextlib.ExitStack() as stack:
        try:
            one = module.Bench(stack, servers, binary)
        except Unsupported as e:
            print(f"\n== skipped: {kind}: {e}\n", flush=True)
            return None
        workloads = [w for w in one.workloads() if re.search(args.only, w.name)]
        table = measure.rounds(workloads, args.rounds, args.seconds, patience, tell)
        notes = [one.notes]
        if hasattr(one, "extra") and not args.only:
            notes.append(one.extra(tell))
    command = f"./dev bench {kind} --rounds {args.rounds} --seconds {args.seconds}"
    if args.patience:
        command += f" --patience {args.patience}"
    if args.only:
        command += f" --only {shlex.quote(args.only)}"
    return report.markdown(kind, one.title, "\n--\n".join(notes), table, command)


def main():
    args = arguments()
    binary = find_binary()
    if not binary:
        raise SystemExit("bench: no carpool binary: ./dev build release, or set CARPOOL_BIN")
    for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signo, lambda *_: sys.exit(1))
    patience = measure.Patience(args.patience)
    begun = time.monotonic()
    with contextlib.closing(Servers()) as servers:
        for kind in args.kinds:
            tell(f"{kind}: starting servers")
            text = bench(kind, args, binary, servers, patience)
            if text:
                print(f"\n{text}", flush=True)
                if args.write:
                    report.put(args.write, kind, text)
    tell(f"took {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
