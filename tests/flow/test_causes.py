# SPDX-License-Identifier: MIT
"""Every cause, in every protocol: one word in what the client is told, in the log, in the metric and in the
admin API. The tables are in causes/; a cause that is in none of them needs a reason there."""

import pytest
from causes import World, all_causes, http, postgres, redis
from harness.base import wait_for
from harness.http_fixtures import _origin, nginx, origin, raw, web  # noqa: F401
from harness.redis_fixtures import cache, client, fake, key, rd  # noqa: F401
from harness.rediswire import redis_pool as _redis_pool

TABLES = {table.kind: table for table in (postgres.TABLE, redis.TABLE, http.TABLE)}


@pytest.fixture
def redis_pool():
    return _redis_pool


@pytest.fixture
def until():
    return wait_for


@pytest.fixture
def world(request, carpool):
    made = World(request)
    yield made
    made.close()


def counted(daemon, table, cause):
    return daemon.metric("carpool_errors_total", pool=table.pool, kind=table.kind, cause=cause)


@pytest.mark.parametrize("kind,cause", [(k, c) for k, t in TABLES.items() for c in t.cases])
def test_one_word_everywhere(world, kind, cause):
    table = TABLES[kind]
    run, expected = table.cases[cause]
    daemon, said = run(world)
    assert (said is None) == (expected is None), said
    if expected is not None:
        table.told(said, cause, expected)
    wait_for(lambda: counted(daemon, table, cause), 10, "the metric")
    pool = next(p for p in daemon.stats()["pools"] if p["name"] == table.pool)
    assert pool["errors"][cause] >= 1
    wait_for(lambda: daemon.log_lines(f"pool={table.pool} ", f"cause={cause} "), 5, "the log")
    others = set(pool["errors"]) - {cause}
    assert others <= {"dial_failed", "upstream_busy", "client_gone"}, "one thing happened, not several"


@pytest.mark.parametrize("kind", TABLES)
def test_no_cause_is_forgotten(kind):
    table = TABLES[kind]
    assert sorted([*table.cases, *table.excused]) == sorted(all_causes())
