# SPDX-License-Identifier: MIT
"""The pause before another try (`retry.backoff`): who needs one, and what ends it.

A pause is random between nothing and what is configured, so these tests have several clients in theirs:
that all of them draw a short one does not happen.
"""

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


def lose(end, target="/x"):
    """The origin's end of a connection gets a request, and closes without a word."""
    assert end.request().target == target
    end.close()


@pytest.fixture
def pausing(stale):
    """pausing(**pool keys): carpool, clients who have lost two servers each and wait for their third try."""
    def make(top=None, **over):
        daemon, ends = stale(2 * CLIENTS, top=top, **{"retry": {"backoff": LONG}, **over})
        clients = []
        for _ in range(CLIENTS):
            clients.append(Http(daemon.port("web")))
            clients[-1].send(request("GET", "/x"))
            lose(ends.pop())  # the latest first
            lose(ends.pop())
        return daemon, clients
    return make


def serve(raw):
    """From now on the origin answers whatever it is asked."""
    def answer(end):
        with contextlib.suppress(Closed, OSError):
            while end.request():
                end.send(reply(b"well"))
        end.close()

    def run():
        with contextlib.suppress(queue.Empty):
            while True:
                threading.Thread(target=answer, args=(raw.accept(20),), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()


def states(daemon):
    return [row["state"] for row in daemon.json("/clients")["clients"]]


def test_the_first_one_needs_none(stale, raw):
    """A connection that was closing is no sign of trouble."""
    daemon, (old,) = stale(retry={"backoff": LONG}, timeouts={"request": 0})
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        lose(old)
        fresh = raw.accept()
        assert fresh.request().target == "/x"
        fresh.send(reply(b"well"))
        assert c.response().body == b"well"


def test_the_second_one_does(pausing, raw):
    """It is not served meanwhile, has no server, and keeps nobody else from one."""
    before = 2 * CLIENTS
    daemon, clients = pausing(timeouts={"request": 0})
    wait_for(lambda: daemon.pools()["web"]["leases"] + raw.accepted - before < CLIENTS, what="a pause")
    figures = daemon.pools()["web"]
    assert figures["clients"] == CLIENTS and figures["waiting"] == 0
    assert set(states(daemon)) <= {"waiting", "active"} and "waiting" in states(daemon)
    assert raw.accepted - before < CLIENTS
    assert daemon.metric("carpool_retries_total", pool="web") == CLIENTS + raw.accepted - before
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


def test_it_is_no_longer_than_the_request_has_time(pausing, raw):
    """Where the pause would outlast timeouts.request, the client is told at once what happened."""
    daemon, clients = pausing(timeouts={"request": "5s"}, breaker={"consecutive": 0, "failure_ratio": "0%"})
    told = [c.response() for c in clients]
    for r in told:
        assert r.status == 504 or refused(r, 502, "upstream_closed")
    assert 502 in {r.status for r in told}
    assert raw.accepted - 2 * CLIENTS == [r.status for r in told].count(504)


def test_the_request_s_time_goes_on_behind_it(pausing, raw):
    """Pause and last try together have what was left of timeouts.request, not as much again."""
    daemon, clients = pausing(timeouts={"request": "3s"}, retry={"backoff": "2500ms..2500ms"},
                              top={"log": {"access": "all", "format": "json"}})
    for c in clients:
        assert refused(c.response(), 504, "request_timeout")
    lines = wait_for(lambda: (got := daemon.log_lines('"status":504')) and len(got) == CLIENTS and got,
                     what="access lines")
    took = [(line["wait_us"] + line["exchange_us"]) / 1e6 for line in map(json.loads, lines)]
    assert all(2.9 < t < 4.2 for t in took), took


def test_so_does_the_pool_s_patience(stale, raw):
    """A second try waits for a server no longer than a first one."""
    daemon, ends = stale(2, size={"max": 2, "acquire_timeout": "300ms"}, retry={"backoff": "20ms..20ms"})
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        lose(ends.pop())
        end = ends.pop()
        assert end.request().target == "/x"
        daemon.cli("pause", "web")
        end.close()
        assert refused(c.response(), 503, "paused")


def test_a_client_that_leaves_ends_it(pausing, raw):
    daemon, clients = pausing(timeouts={"request": 0})
    for c in clients:
        c.reset()
    wait_for(lambda: daemon.metric("carpool_clients", pool="web") == 0, what="the clients to be gone")
    wait_for(lambda: daemon.errors("client_gone", "web") == CLIENTS, what="what became of them")
    wait_for(lambda: daemon.servers("web") == 0, what="the slots to be free")
    assert raw.accepted - 2 * CLIENTS < CLIENTS


def test_a_drain_does_not_wait_for_it(pausing, raw):
    """What could be tried later is tried now, and answered."""
    daemon, clients = pausing(timeouts={"request": 0}, top={"drain": {"deadline": "25s"}})
    daemon.signal(signal.SIGTERM)
    serve(raw)
    for c in clients:
        r = c.response()
        assert r.body == b"well" and r["connection"] == "close"
        assert c.ends()
        c.close()
    daemon.ended()


def test_so_does_an_operator_s_drain(pausing, raw):
    daemon, clients = pausing(timeouts={"request": 0})
    daemon.cli("drain", "web")
    serve(raw)
    assert all(c.response().body == b"well" for c in clients)
