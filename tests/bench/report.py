# SPDX-License-Identifier: MIT
"""The result as Markdown, and its place in a page."""

import os
import platform
import re
import subprocess
from pathlib import Path

from measure import QUIET

PACKAGES = {
    "postgres": ("postgresql-15", "postgresql-17", "pgbouncer"),
    "redis": ("redis-server", "nutcracker"),
    "http": ("nginx", "haproxy", "wrk"),
}

HEAD = ("| workload | through | per second | range | of direct | p50 µs | p99 µs | added µs"
        " | proxy CPU µs | server CPU µs |\n"
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")


def machine():
    """Cores, kernel and release: what the figures depend on, and nothing that names the machine."""
    kernel = re.match(r"\d+(\.\d+)*", platform.release()).group()
    release = platform.freedesktop_os_release()
    version = (Path("/etc/debian_version").read_text().strip()
               if release.get("ID") == "debian" else release.get("VERSION_ID", ""))
    return (f"{os.cpu_count()} cores, {platform.machine()}, Linux {kernel},"
            f" {release.get('NAME', 'unknown').split()[0]} {version}")


def versions(kind):
    """`pgbouncer 1.18.0`, ... of the distribution's packages that are installed."""
    out = []
    for package in PACKAGES[kind]:
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], text=True,
                              capture_output=True)
        if done.returncode == 0 and done.stdout:
            plain = re.match(r"(?:\d+:)?([\d.]*\d)", done.stdout).group(1)
            out.append(f"{package.partition('-')[0]} {plain}")
    return ", ".join(out)


def _count(value):
    return f"{value:,.0f}".replace(",", " ")


def _small(value):
    return f"{value:.1f}" if value < 100 else _count(value)


def _row(first, cell, direct):
    name = cell.workload.name if first else ""
    if not cell.samples:
        return f"| {name} | {cell.target.name} |" + " – |" * 8
    is_direct = cell is direct
    low, high = cell.spread("rate")
    compared = added = "–"
    if direct and direct.samples and not is_direct:
        compared = f"{cell.against(direct, lambda a, b: a.rate / b.rate):.2f}"
        if cell.workload.added:
            added = f"{cell.against(direct, lambda a, b: a.p50 - b.p50):+.0f}"
    proxy = "–" if is_direct else _small(cell.median("proxy_cpu"))
    return (f"| {name} | {cell.target.name} | {_count(cell.median('rate'))}"
            f" | {_count(low)}–{_count(high)} | {compared} | {_count(cell.median('p50'))}"
            f" | {_count(cell.median('p99'))} | {added} | {proxy}"
            f" | {_small(cell.median('server_cpu'))} |")


def _complaints(table):
    for cells in table:
        for cell in cells:
            what = f"{cell.workload.name}, {cell.target.name}"
            if cell.failed:
                yield f"{what}: stopped after {len(cell.samples)} rounds: {cell.failed}"
            errors = sum(s.errors for s in cell.samples)
            if errors:
                yield f"{what}: {errors} errors"


def markdown(kind, title, notes, table, command):
    samples = [s for cells in table for cell in cells for s in cell.samples]
    strangers = sorted(s.strangers for s in samples)[len(samples) // 2] if samples else 0.0
    verdict = ": **disturbed, measure again**." if strangers > QUIET else "."
    lines = [f"### {title}", "", f"    {command}", "", f"{machine()}; {versions(kind)}.",
             f"Other work took {strangers:.0%} of the cores meanwhile (median){verdict}", "", HEAD]
    for cells in table:
        direct = next((c for c in cells if c.target.name == "direct"), None)
        lines += [_row(i == 0, cell, direct) for i, cell in enumerate(cells)]
    lines += [""] + [f"- {note.strip()}".replace("\n", "\n  ") for note in
                     [*notes.split("\n--\n"), *_complaints(table)]]
    return "\n".join(lines) + "\n"


def _markers(kind):
    return f"<!-- bench {kind}: begin -->", f"<!-- bench {kind}: end -->"


def put(page, kind, text):
    """Replace what stands between the markers of a kind; the page must have them."""
    begin, end = _markers(kind)
    old = Path(page).read_text(encoding="utf-8")
    before, found, rest = old.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise SystemExit(f"bench: {page} has no lines {begin} and {end}")
    Path(page).write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")
