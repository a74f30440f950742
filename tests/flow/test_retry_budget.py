# SPDX-License-Identifier: MIT
"""`retry.budget`: when an upstream fails everything, second tries add a share to its load and do not multiply
it. Ten a second are always free, so that a quiet pool may retry at all."""

import select
import time

import pytest
from harness.base import wait_for
from harness.http_fixtures import raw, web  # noqa: F401
from harness.httpwire import NO_BREAKER, Http, refused, reply, request
from harness.redis_fixtures import cache, client, fake  # noqa: F401
from harness.rediswire import HANG_UP

FLOOR = 10  # a second


class Stopwatch:
    def __init__(self):
        self.begun = time.monotonic()

    def floor(self):
        """What was free since."""
        return FLOOR + FLOOR * (time.monotonic() - self.begun) + 1


@pytest.mark.parametrize("budget,share", [("0%", 0), ("50%", 0.5), ("100%", 1)])
def test_redis(cache, client, fake, budget, share):  # noqa: F811
    """Every read loses its server. With 0 % only the floor is tried again, with 100 % each."""
    server = fake(lambda words, conn: HANG_UP)
    daemon = cache(server.url(), breaker=NO_BREAKER,
                   retry={"attempts": 2, "budget": budget, "backoff": "1ms..1ms"})
    c, n, watch = client(daemon), 80, Stopwatch()
    for _ in range(n):
        assert c.cmd("GET", "lost").cause == "upstream_closed"
    retries = daemon.metric("carpool_retries_total", pool="cache")
    assert len(server.commands("GET")) == n + retries, "nothing is tried in secret"
    assert retries <= n * share + watch.floor()
    assert retries >= (n if share == 1 else n * share)
    assert retries >= FLOOR
    wait_for(lambda: daemon.errors("upstream_closed", "cache") == n, what="all of them to be counted")


def test_http(web, raw):  # noqa: F811
    """Idle connections that all turn out to be closing. The first try on another one is free, the second
    needs the budget: without one, requests fail that could have been tried a third time."""
    clients = 40
    daemon = web(raw.url(), size={"min": 0, "max": clients}, breaker=NO_BREAKER,
                 retry={"attempts": 3, "budget": "0%"})
    riders = [Http(daemon.port("web")) for _ in range(clients)]
    ends = []
    for rider in riders:
        rider.send(request("GET", "/warm"))
        ends.append(raw.accept())
        assert ends[-1].request().target == "/warm"
    for rider, end in zip(riders, ends):
        end.send(reply(b"warm", "Keep-Alive: timeout=600"))
        assert rider.response().body == b"warm"
        rider.close()
    wait_for(lambda: daemon.servers("web", "idle") == clients, what="idle servers")
    watch, asked = Stopwatch(), 0
    ends.reverse()  # the latest first
    with Http(daemon.port("web")) as c:
        while len(ends) >= 3:
            c.send(request("GET", "/x"))
            asked += 1
            while ends and (heard := select.select([c.sock, ends[0].sock], [], [], 20)[0]) != [c.sock]:
                assert heard == [ends[0].sock] and ends[0].request().target == "/x"
                ends.pop(0).close()
            assert refused(c.response(), 502, "upstream_closed")
    paid = daemon.metric("carpool_retries_total", pool="web") - asked
    assert FLOOR <= paid <= watch.floor() and raw.accepted == clients
    wait_for(lambda: daemon.errors("upstream_closed", "web") == asked, what="all of them to be counted")
