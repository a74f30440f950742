# SPDX-License-Identifier: MIT
"""What clients do. A script belongs to one client and is a list of episodes; an episode is a list of
steps and ends outside of any transaction; a step is messages and what to wait for after them.
"""

import base64
import json
import random
import re
from dataclasses import dataclass, field, replace

from . import codec


@dataclass
class Step:
    messages: list
    wait: str = "due"    # due:  until every answer is there
    #                      copy: the same, or until the server asks for copy data
    #                      mark: until the answer to the empty query that the messages end with
    #                      none: nothing, the server need not say anything yet
    cut: str = "whole"   # how the bytes are written: whole, bytes, or a seed for random pieces

    def pieces(self):
        data = b"".join(codec.raw(m) for m in self.messages)
        if self.cut == "whole":
            return [data] if data else []
        if self.cut == "bytes":
            return [data[i:i + 1] for i in range(len(data))]
        rng, out, at = random.Random(self.cut), [], 0
        while at < len(data):
            n = rng.choice([1, 2, 4, 5, 6, 30, 100, 1000, 8192, 60_000])
            out.append(data[at:at + n])
            at += n
        return out


# Whatever came before, the client is outside of a transaction after this.
SAFE_END = [codec.SYNC, codec.query("rollback")]


@dataclass
class Episode:
    steps: list
    end: list = field(default_factory=lambda: list(SAFE_END))

    def all_steps(self):
        return [*self.steps, Step(self.end)] if self.end else self.steps


@dataclass
class Script:
    parameters: dict
    episodes: list


@dataclass
class Plan:
    """Scripts of all clients. `order`: whose turn it is, for one episode each; None: all at once."""
    scripts: list
    order: list | None = None

    def text(self):
        out = []
        for n, script in enumerate(self.scripts):
            if script.episodes:
                out.append(f"client {n}: startup {script.parameters}")
            for m, episode in enumerate(script.episodes):
                out.append(f"  episode {m}")
                for step in (t for t in episode.all_steps() if t.messages):
                    notes = [step.wait] * (step.wait != "due") + [f"cut {step.cut}"] * (
                        step.cut != "whole")
                    out.append("    step" + (f" ({', '.join(notes)})" if notes else ""))
                    out += ["      " + codec.show(message) for message in step.messages]
        out.append("order: " + ("all at once" if self.order is None else str(self.order)))
        return "\n".join(out)

    def size(self):
        return sum(len(s.messages) for script in self.scripts for e in script.episodes
                   for s in e.all_steps())

    def avoid(self, pattern):
        """The same plan with SELECT 1 in place of all SQL in which the pattern is found."""
        for script in self.scripts:
            for step in (t for e in script.episodes for t in e.steps):
                for i, (kind, body) in enumerate(step.messages):
                    if kind in "QP" and re.search(pattern, body.decode(errors="replace"), re.I):
                        name = body[:body.index(0) + 1] if kind == "P" else b""
                        step.messages[i] = kind, name + b"select 1\0" + b"\0\0" * (kind == "P")
        return self

    # -- a file, so that a difference can be played again without its seed

    def dump(self):
        def plain(messages):
            return [[kind, base64.b64encode(body).decode()] for kind, body in messages]
        return json.dumps({"order": self.order, "scripts": [
            {"parameters": s.parameters,
             "episodes": [{"steps": [[plain(t.messages), t.wait, t.cut] for t in e.steps],
                           "end": plain(e.end)} for e in s.episodes]} for s in self.scripts]})

    @staticmethod
    def load(text):
        def messages(plain):
            return [(kind, base64.b64decode(body)) for kind, body in plain]
        data = json.loads(text)
        return Plan([Script(s["parameters"], [
            Episode([Step(messages(m), wait, cut) for m, wait, cut in e["steps"]], messages(e["end"]))
            for e in s["episodes"]]) for s in data["scripts"]], data["order"])


__all__ = ["Episode", "Plan", "SAFE_END", "Script", "Step", "replace"]
