# SPDX-License-Identifier: MIT
"""Whatever happens while clients work, each answer is their own, said once, and true.

    EVENT_ROUNDS=100  so many seeds for each mode (default: none, since timing is of chance: ./dev soak plays them)
    EVENT_SEED=7      the first seed; without EVENT_ROUNDS the only one

A failure prints its seed, which decides the same again; only the timing differs. See events/__init__.py.
"""

import os
import random

import pytest
from events.round import WORLD, Round

MODES = ["transaction", "session", "statement"]


def seeds():
    rounds, seed = os.environ.get("EVENT_ROUNDS"), os.environ.get("EVENT_SEED")
    if seed is not None and rounds is None:
        return [int(seed)]
    if rounds is None:
        return []
    first = int(seed) if seed is not None else random.randrange(10**6) * 1000
    return range(first, first + int(rounds))


@pytest.fixture(scope="module")
def world(servers):
    pg = servers.postgres(local=True)
    pg.query(WORLD, db="orders")
    return pg


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("mode", MODES)
def test_events(world, carpool, mode, seed):
    play = Round(seed, mode, world, restarts=seed % 5 == 4)
    play.play(carpool)
    if play.problems:
        shown = [play.text(), *play.problems[:8], f"{len(play.problems)} problems"]
        pytest.fail("\n\n".join(shown), pytrace=False)
