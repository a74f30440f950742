# SPDX-License-Identifier: MIT
"""One word everywhere: a table of causes for each protocol, filled by the modules of this package.

A case brings its cause about with a real client and returns `(daemon, said)`: what the client was told, in
its protocol's own words, or None where a client cannot be told anything. `excused` are the causes that a
protocol cannot meet, each with the reason.
"""

import re
from contextlib import ExitStack

from harness.carpool import ROOT

# Causes no client can be made to meet from outside, whatever it speaks.
NOBODY = {"killed": "ends dials when carpool stops; their clients were closed before, with `draining`",
          "internal": "out of memory: test_nomem.py"}


def all_causes():
    """The one enum, read where it is defined."""
    text = (ROOT / "proxy" / "core" / "err.h").read_text()
    table = text[text.index("#define CAUSES(X)"):text.index("#define STAGES(X)")]
    return re.findall(r'X\(\w+, "(\w+)"\)', table)


class Table:
    """The causes of one protocol. `told(said, cause, expected)` checks what a client was told."""

    def __init__(self, kind, pool, told, excused):
        self.kind, self.pool, self.told = kind, pool, told
        self.excused = {**NOBODY, **excused}
        self.cases = {}

    def case(self, cause, expected=None):
        """`expected`: the code that goes with the cause (SQLSTATE, HTTP status, ...), or None: nothing
        can be told."""
        def register(run):
            self.cases[cause] = (run, expected)
            return run
        return register


class World:
    """Everything a case may need, made when it is asked for: fixtures by their names, and `keep()`."""

    def __init__(self, request):
        self._request, self._kept = request, ExitStack()

    def __getattr__(self, fixture):
        return self._request.getfixturevalue(fixture)

    def keep(self, what):
        """Close it after the test's questions were asked."""
        self._kept.callback(what.close)
        return what

    def at_end(self, do):
        self._kept.callback(do)

    def close(self):
        self._kept.close()
