# SPDX-License-Identifier: MIT
"""The smallest plan that still differs: parts are taken away as long as that holds."""

import copy
import time

from .script import SAFE_END


def _without(items, first, count):
    return items[:first] + items[first + count:]


def _chunks(n):
    """Ranges to take away, large ones first."""
    size = n
    while size:
        for first in range(n - size, -1, -size):
            yield first, size
        size //= 2


def _without_turns(plan, first, count):
    """Takes turns away, and the episodes they are for."""
    c = copy.deepcopy(plan)
    kept, seen = [[] for _ in plan.scripts], [0] * len(plan.scripts)
    for i, n in enumerate(plan.order):
        if not first <= i < first + count:
            kept[n].append(c.scripts[n].episodes[seen[n]])
        seen[n] += 1
    for script, episodes in zip(c.scripts, kept):
        script.episodes = episodes
    c.order = _without(plan.order, first, count)
    return c


def _candidates(plan):
    """Smaller plans, roughly from the boldest to the most careful."""
    if plan.order is None:
        c = copy.deepcopy(plan)
        c.order = [n for n, s in enumerate(c.scripts) for _ in s.episodes]
        yield c
    else:
        for first, count in _chunks(len(plan.order)):
            yield _without_turns(plan, first, count)
    for n, script in enumerate(plan.scripts):
        for first, count in _chunks(len(script.episodes)) if plan.order is None else ():
            c = copy.deepcopy(plan)
            c.scripts[n].episodes = _without(script.episodes, first, count)
            yield c
        for name in set(script.parameters) - {"application_name"}:
            c = copy.deepcopy(plan)
            del c.scripts[n].parameters[name]
            yield c
    yield from _smaller_episodes(plan)


def _smaller_episodes(plan):
    for n, script in enumerate(plan.scripts):
        for m, episode in enumerate(script.episodes):
            for first, count in _chunks(len(episode.steps)):
                c = copy.deepcopy(plan)
                c.scripts[n].episodes[m].steps = _without(episode.steps, first, count)
                yield c
            for end in ([], list(SAFE_END)):
                if len(end) < len(episode.end):
                    c = copy.deepcopy(plan)
                    c.scripts[n].episodes[m].end = end
                    yield c
            for k, step in enumerate(episode.steps):
                for first, count in _chunks(len(step.messages)):
                    c = copy.deepcopy(plan)
                    c.scripts[n].episodes[m].steps[k].messages = _without(step.messages, first, count)
                    yield c
                if step.cut != "whole":
                    c = copy.deepcopy(plan)
                    c.scripts[n].episodes[m].steps[k].cut = "whole"
                    yield c


def shrink(plan, differs, seconds):
    """`differs(plan)` → True for plans that show a difference (False also for plans that are no good)."""
    end = time.monotonic() + seconds
    tried = 0  # candidates in vain since the last success, which are not tried again at once
    while True:
        for i, candidate in enumerate(_candidates(plan)):
            if i < tried:
                continue
            if time.monotonic() > end:
                return plan
            if differs(candidate):
                plan, tried = candidate, i
                break
        else:
            if not tried:
                return plan
            tried = 0
