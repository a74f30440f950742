# SPDX-License-Identifier: MIT
"""A server's machine is off the network: no refusal, no end-of-file, nothing. Needs servers in
containers (./dev compose): elsewhere nobody can be cut off."""

import os
import re
import time

import pytest
from harness.base import SLOW, wait_for
from harness.carpool import postgres_pool
from harness.httpwire import Http, http_pool
from harness.rediswire import Resp, RespError, redis_pool

# What clients may hear; which of them depends on what is noticed first.
CAUSES = {"request_timeout", "upstream_closed", "outcome_unknown", "dial_failed", "breaker_open",
          "outage", "acquire_timeout"}

IMPATIENT = {"size": {"max": 2, "acquire_timeout": "2s"},
             "timeouts": {"connect": "1s", "request": "1s", "close": "1s"},
             "tcp": {"user_timeout": "2s"}, "breaker": {"open": "200ms..1s"}}


class PostgresRider:
    def __init__(self, carpool, server):
        pool = postgres_pool(server.url(), **IMPATIENT)
        pool["timeouts"]["outage_wait"] = "1s"
        self.daemon, self.pool = carpool(pool), "orders"
        self.wire = self.daemon.wire(timeout=20 * SLOW)

    def ask(self):
        """None when all is well, else what the client hears."""
        error = self.wire.run("select 1")[2]
        return error and error.fields["M"]


class RedisRider:
    def __init__(self, carpool, server):
        self.daemon, self.pool = carpool(redis_pool(server.url(), **IMPATIENT)), "cache"
        self.client = Resp(self.daemon.port("cache"))

    def ask(self):
        answer = self.client.cmd("INCR", "rides")
        return str(answer) if isinstance(answer, RespError) else None


class HttpRider:
    def __init__(self, carpool, server):
        self.daemon, self.pool = carpool(http_pool(server.url(), **IMPATIENT)), "web"

    def ask(self):
        with Http(self.daemon.port("web")) as client:
            answer = client.get("/echo")
            return None if answer.status == 200 else answer.body.decode()


RIDERS = {"postgres": PostgresRider, "redis": RedisRider, "http": HttpRider}


@pytest.fixture(params=RIDERS)
def cut_off(request, servers):
    """A server whose network can be taken away; it is back after the test."""
    if not os.environ.get("CARPOOL_TEST_FAULT"):
        pytest.skip("servers of this machine cannot be cut off its network")
    make = {"postgres": servers.postgres, "redis": servers.redis, "http": servers.nginx}
    server = make[request.param]()
    yield server
    server.fault("connect", server.name)
    server.start()


def test_off_the_network_and_back(carpool, cut_off):
    """Each exchange ends in its time with a cause, the client stays, and service resumes by itself."""
    rider = RIDERS[cut_off.name](carpool, cut_off)
    wait_for(lambda: rider.ask() is None, 10, "service")
    cut_off.fault("disconnect", cut_off.name)
    for _ in range(3):
        begun = time.monotonic()
        said = rider.ask()
        took = time.monotonic() - begun
        assert said and took < 5 * SLOW, (said, took)
        assert CAUSES & set(re.findall(r"\w+", said)), said
    assert rider.daemon.servers(rider.pool) <= 2
    assert set(rider.daemon.all_errors(rider.pool)) <= CAUSES
    cut_off.fault("connect", cut_off.name)
    wait_for(lambda: rider.ask() is None, 20, "service")
