# SPDX-License-Identifier: MIT
"""The pause before another try (`retry.backoff`): who needs one, and what ends it.

A pause is random between nothing and what is configured, so these tests have several clients in theirs:
that all of them draw a short one does not happen.
"""

import collections
import contextlib
import json
import queue
import signal
import threading

import pytest
from harness.base import wait_for
from harness.http_fixtures import raw, stale  # noqa: F401
from harness.httpwire import Closed, Http, refused, reply, request

CLIENTS = 6
LONG = "1m..1m"


class Fickle:
    """An origin that closes on the first two requests for each target. The third is answered as soon as
    `answers` is set."""

    def __init__(self, raw, ends):
        self.asked, self.answers, self._lock = collections.Counter(), threading.Event(), threading.Lock()
        for end in ends:
            self._begin(self._serve, end)
        self._begin(self._accept, raw)

    @staticmethod
    def _begin(work, arg):
        threading.Thread(target=work, args=(arg,), daemon=True).start()

    def _accept(self, raw):
        with contextlib.suppress(queue.Empty):
            while True:
                self._begin(self._serve, raw.accept(60))

    def _serve(self, end):
        end.sock.settimeout(120)
        with contextlib.suppress(Closed, OSError):
            while self._count(end.request().target) > 2:
                self.answers.wait(120)
                end.send(reply(b"well"))
        end.close()

    def _count(self, target):
        with self._lock:
            self.asked[target] += 1
            return self.asked[target]

    @property
    def thirds(self):
        """How many have come to their third try."""
        return sum(n > 2 for n in self.asked.values())


@pytest.fixture
def pausing(stale, raw):
    """pausing(**pool keys): (carpool, clients who lose two servers each and wait for their third try, the
    origin). There are idle servers left for those who wait hardly at all."""
    def make(top=None, **over):
        daemon, ends = stale(3 * CLIENTS, top=top, **{"retry": {"backoff": LONG}, **over})
        origin = Fickle(raw, ends)
        clients = [Http(daemon.port("web")) for _ in range(CLIENTS)]
        for n, c in enumerate(clients):
            c.send(request("GET", f"/{n}"))
        wait_for(lambda: sum(n >= 2 for n in origin.asked.values()) == CLIENTS, what="two losses each")
        return daemon, clients, origin
    return make


def states(daemon):
    return [row["state"] for row in daemon.json("/clients")["clients"]]


def test_the_first_one_needs_none(stale, raw):
    """A connection that was closing is no sign of trouble."""
    daemon, (old,) = stale(retry={"backoff": LONG}, timeouts={"request": 0})
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        assert old.request().target == "/x"
        old.close()
        fresh = raw.accept()
        assert fresh.request().target == "/x"
        fresh.send(reply(b"well"))
        assert c.response().body == b"well"


def test_the_second_one_does(pausing):
    """Who waits for it has no server, and is in nobody's way."""
    daemon, clients, origin = pausing(timeouts={"request": 0})

    def at_rest():
        thirds, figures = origin.thirds, daemon.pools()["web"]
        retries = daemon.metric("carpool_retries_total", pool="web")
        return (figures["leases"] == thirds and retries == CLIENTS + thirds and thirds < CLIENTS
                and states(daemon).count("waiting") == CLIENTS - thirds)

    wait_for(at_rest, what="clients in their pauses")
    assert daemon.waiting("web") == 0
    assert daemon.all_errors("web") == {}


def test_then_it_is_made(stale, raw):
    """With what the client sent meanwhile."""
    daemon, ends = stale(2, retry={"backoff": "300ms..300ms"})
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/x", "Content-Length: 10") + b"hello")
        for end in reversed(ends):
            end.head()
            assert end.exactly(5) == b"hello"
            end.close()
        c.send(b"world")
        fresh = raw.accept()
        assert fresh.request().body == b"helloworld"
        fresh.send(reply(b"stored"))
        assert c.response().body == b"stored"
        c.send(request("GET", "/next"))
        assert fresh.request().target == "/next"
        fresh.send(reply(b"well"))
        assert c.response().body == b"well"
    assert daemon.metric("carpool_retries_total", pool="web") == 2
    assert daemon.all_errors("web") == {}


def test_it_is_no_longer_than_the_request_has_time(pausing):
    """Where the pause would outlast timeouts.request, the client is told at once what happened."""
    daemon, clients, origin = pausing(timeouts={"request": "5s"},
                                      breaker={"consecutive": 0, "failure_ratio": "0%"})
    told = [c.response() for c in clients]
    assert all(r.status == 504 or refused(r, 502, "upstream_closed") for r in told)
    assert 502 in {r.status for r in told}
    assert origin.thirds == [r.status for r in told].count(504)


def test_the_request_s_time_goes_on_behind_it(pausing):
    """Pause and last try together have what was left of timeouts.request, not as much again."""
    daemon, clients, origin = pausing(timeouts={"request": "3s"}, retry={"backoff": "2500ms..2500ms"},
                                      top={"log": {"access": "all", "format": "json"}})
    told = [c.response() for c in clients]
    assert all(r.status == 502 or refused(r, 504, "request_timeout") for r in told)
    late = [r.status for r in told].count(504)
    assert late > 0
    lines = wait_for(lambda: (got := daemon.log_lines('"status":504')) and len(got) == late and got,
                     what="access lines")
    took = [(line["wait_us"] + line["exchange_us"]) / 1e6 for line in map(json.loads, lines)]
    assert all(2.5 < t < 5.4 for t in took), took


def test_so_does_the_pool_s_patience(stale):
    """A second try waits for a server no longer than a first one."""
    daemon, ends = stale(2, size={"max": 2, "acquire_timeout": "1s"}, retry={"backoff": "20ms..20ms"})
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        for end in reversed(ends):
            assert end.request().target == "/x"
            if end is ends[0]:
                daemon.cli("pause", "web")
            end.close()
        assert refused(c.response(), 503, "paused")


def test_a_client_that_leaves_ends_it(pausing):
    daemon, clients, origin = pausing(timeouts={"request": 0})
    for c in clients:
        c.reset()
    wait_for(lambda: daemon.metric("carpool_clients", pool="web") == 0, what="the clients to be gone")
    wait_for(lambda: daemon.errors("client_gone", "web") == CLIENTS, what="what became of them")
    wait_for(lambda: daemon.pools()["web"]["leases"] == 0, what="the leases to be over")
    assert origin.thirds < CLIENTS


def test_a_drain_does_not_wait_for_it(pausing):
    """What could be tried later is tried now, and answered."""
    daemon, clients, origin = pausing(timeouts={"request": 0}, top={"drain": {"deadline": "25s"}})
    daemon.signal(signal.SIGTERM)
    origin.answers.set()
    for c in clients:
        r = c.response()
        assert r.body == b"well" and r["connection"] == "close"
        assert c.ends()
        c.close()
    daemon.ended()


def test_neither_does_an_operator_s(pausing):
    daemon, clients, origin = pausing(timeouts={"request": 0})
    daemon.cli("drain", "web")
    origin.answers.set()
    assert all(c.response().body == b"well" for c in clients)
