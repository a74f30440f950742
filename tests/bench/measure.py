# SPDX-License-Identifier: MIT
"""What is measured, and how: runs of a load generator, processor time from /proc, medians of rounds.

A *target* is a way to the server (direct, or through one proxy), a *workload* is what the load
generator does. Each round runs every target of a workload once, one after the other, so that the
figures compared come from the same minute; ratios and differences are taken inside a round, then the
median over the rounds.
"""

import contextlib
import os
import re
import resource
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.base import clean_env, die_with_parent

TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()
IDLE = 8000  # clients that do nothing, where their memory is measured
QUIET = 0.1  # part of the cores that may go to strangers before a figure is called disturbed
SETTLE = 0.3  # seconds before a run, for what the one before has left to end (server processes)


class LoadFailed(Exception):
    """The load generator did not get through; the text says why."""


def generate(args, seconds, env=None):
    """Run a load generator that takes about `seconds`; returns its standard output."""
    args = [str(a) for a in args]
    try:
        done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=seconds * 3 + 20, env=clean_env(**(env or {})),
                              preexec_fn=die_with_parent(signal.SIGKILL))
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"{Path(args[0]).name} did not end") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["without a word"]
        raise LoadFailed(f"{Path(args[0]).name} ended with {done.returncode}: {last[0]}")
    return done.stdout


# ---- processor time ------------------------------------------------------------------------------

def _times(pid):
    """Seconds a process with all its threads has used, and those of its children that ended."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return sum(map(int, stat.rpartition(")")[2].split()[11:15])) / TICKS
    return 0.0


def cpu_of(child):
    """Seconds used so far by a harness process and its descendants (None: nobody, 0)."""
    return sum(map(_times, child.family())) if child else 0.0


def _machine():
    """Seconds of all cores that were not idle."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def _generators():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ---- memory --------------------------------------------------------------------------------------

def resident(child):
    """Bytes of memory a process and its descendants have."""
    return sum(int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()).group(1))
               for pid in child.family()) * 1024


# ---- one run -------------------------------------------------------------------------------------

@dataclass
class Sample:
    """What a load generator says of one run. Latencies are in microseconds."""

    ops: int
    seconds: float
    p50: float
    p99: float
    errors: int = 0
    proxy_cpu: float = 0.0   # microseconds an operation
    server_cpu: float = 0.0
    strangers: float = 0.0   # part of all cores that went to processes not of this benchmark

    @property
    def rate(self):
        return self.ops / self.seconds


@dataclass
class Target:
    """`proxy` (None: direct) and `server` are harness processes."""

    name: str
    port: int
    proxy: object
    server: object
    tls: bool = False


def measured(target, run):
    """`run()` gives a Sample; the processor time spent meanwhile is added to it."""
    before = cpu_of(target.proxy), cpu_of(target.server), _generators(), _machine()
    begun = time.monotonic()
    sample = run()
    took = time.monotonic() - begun
    after = cpu_of(target.proxy), cpu_of(target.server), _generators(), _machine()
    proxy, server, generator, machine = (b - a for a, b in zip(before, after))
    sample.proxy_cpu = proxy / sample.ops * 1e6
    sample.server_cpu = server / sample.ops * 1e6
    sample.strangers = max(0.0, machine - proxy - server - generator) / (took * CORES)
    return sample


# ---- rounds --------------------------------------------------------------------------------------

@dataclass
class Workload:
    """`run(target, seconds)` gives a Sample; 0 seconds: a warm-up, whatever it gives. `weight` scales
    the seconds of a round; `added` asks for the latency that is added to the direct way."""

    name: str
    targets: list
    run: object
    weight: float = 1.0
    added: bool = False


@dataclass
class Cell:
    """All rounds of one workload over one target."""

    workload: Workload
    target: Target
    samples: list = field(default_factory=list)
    failed: str = ""

    def median(self, what):
        return statistics.median(getattr(s, what) for s in self.samples)

    def spread(self, what):
        values = [getattr(s, what) for s in self.samples]
        return min(values), max(values)

    def against(self, direct, how):
        """Median over the rounds of how(sample, direct sample of the same round)."""
        pairs = [how(a, b) for a, b in zip(self.samples, direct.samples)]
        return statistics.median(pairs) if pairs else None


def warm_up(cell):
    """A short run whose figures are thrown away; a target that cannot do the work shows it here."""
    try:
        cell.workload.run(cell.target, 0)
    except LoadFailed as e:
        cell.failed = str(e)


class Patience:
    """Seconds that may be spent on waiting for a quiet machine and on repeating disturbed rounds."""

    def __init__(self, seconds):
        self.left = seconds

    def wait_for_quiet(self):
        while self.left > 0:
            before, begun = _machine(), time.monotonic()
            time.sleep(1)
            busy = (_machine() - before) / ((time.monotonic() - begun) * CORES)
            if busy < QUIET:
                return
            self.left -= 1

    def spent_on(self, samples, seconds):
        """True: these are to be measured again, since others had taken part of the cores."""
        if self.left <= 0 or max((s.strangers for s in samples), default=0.0) < QUIET:
            return False
        self.left -= seconds
        return True


def one_round(cells, seconds, tell):
    """A sample of each cell that can; a cell that fails gets none any more."""
    samples = []
    for cell in cells:
        if cell.failed:
            continue
        tell(cell.target.name)
        time.sleep(SETTLE)
        try:
            sample = measured(cell.target,
                              lambda: cell.workload.run(cell.target, cell.workload.weight * seconds))
            samples.append((cell, sample))
        except LoadFailed as e:
            cell.failed = str(e)
    return samples


def rounds(workloads, count, seconds, patience, tell):
    """Measure everything; a list of cells by workload. `tell(text)` says what is going on."""
    table = []
    for workload in workloads:
        cells = [Cell(workload, t) for t in workload.targets]
        for cell in cells:
            warm_up(cell)
        done = 0
        while done < count:
            patience.wait_for_quiet()
            begun = time.monotonic()
            first = done % len(cells)
            samples = one_round(cells[first:] + cells[:first], seconds, lambda name: tell(
                f"{workload.name}, round {done + 1} of {count}: {name}"))
            if patience.spent_on([s for _, s in samples], time.monotonic() - begun):
                tell("others were busy: once more")
                continue
            for cell, sample in samples:
                cell.samples.append(sample)
            done += 1
        table.append(cells)
    return table
