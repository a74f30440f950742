# SPDX-License-Identifier: MIT
"""Fixtures of the Redis tests, imported by the files that use them.

    rd          a healthy Redis for the whole run
    frail_rd    one that tests may kill and freeze; it is well again afterwards
    cache       cache(upstream=None, workers=1, **pool keys): carpool with one pool `cache`, default: rd
    client      client(daemon) -> Resp, closed after the test
    fake        fake(answer, login=...) -> FakeRedis of the test's own
    key         a name no other test uses
"""

import itertools

import pytest

from .base import wait_for
from .rediswire import FakeRedis, Resp, redis_pool

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def rd(servers):
    return servers.redis()


@pytest.fixture(scope="session")
def _frail_rd(servers, rd):
    return rd if rd.fault else servers.redis()


@pytest.fixture
def frail_rd(_frail_rd):
    wait_for(lambda: _frail_rd.connections() == 0, 10, "connections of the test before to end")
    _frail_rd.set_maxclients(10000)
    yield _frail_rd
    if _frail_rd.fault or _frail_rd.child.alive():
        _frail_rd.thaw()
    _frail_rd.start()


@pytest.fixture
def cache(carpool, request):
    def make(upstream=None, workers=1, **over):
        if upstream is None:
            upstream = request.getfixturevalue("rd").url()
        return carpool(redis_pool(upstream, **over), workers=workers)
    return make


@pytest.fixture
def client():
    made = []

    def make(daemon, **more):
        made.append(Resp(daemon.port("cache"), **more))
        return made[-1]
    yield make
    for one in made:
        one.close()


@pytest.fixture
def fake():
    made = []

    def make(*args, **more):
        made.append(FakeRedis(*args, **more))
        return made[-1]
    yield make
    for one in made:
        one.close()


@pytest.fixture
def key():
    return f"k{next(_numbers)}"
