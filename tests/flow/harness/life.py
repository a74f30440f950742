# SPDX-License-Identifier: MIT
"""Life and death of a server: a child of the tests, or one that the environment gave (servers.py)."""

import shutil
import signal

from .base import wait_for


class Mortal:
    """What Postgres, Redis and Nginx have in common. They say their `name`, how to `_spawn()` a child, and
    when it `_answers()`; `fault` is None for a child, `folder` all that it leaves behind."""

    name = None
    polite, at_the_end = signal.SIGTERM, signal.SIGKILL  # how it is stopped, and ended for good
    fault = child = folder = None

    def start(self):
        """Start, or start again on the same port, and wait until it serves."""
        if self.fault:
            self.fault("start", self.name)
        elif self.child is None or not self.child.alive():
            self.child = self._spawn()
        wait_for(self._serves, 60, f"{self.name} to answer")

    def _serves(self):
        if self.child:
            self.child.check()
        return self._answers()

    def stop(self, signo=None):
        """A polite stop."""
        self.fault("stop", self.name) if self.fault else self.child.stop(signo or self.polite)

    def kill9(self):
        """It and its children are gone in the middle of whatever they did."""
        self.fault("kill", self.name) if self.fault else self.child.kill9()

    def freeze(self):
        """Connections stay open and nobody answers, until `thaw`."""
        self.fault("pause", self.name) if self.fault else self.child.signal_family(signal.SIGSTOP)

    def thaw(self):
        self.fault("resume", self.name) if self.fault else self.child.signal_family(signal.SIGCONT)

    def close(self):
        if self.child:
            self.child.signal_family(signal.SIGCONT)
            self.child.stop(self.at_the_end)
            shutil.rmtree(self.folder, ignore_errors=True)
