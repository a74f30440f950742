# SPDX-License-Identifier: MIT
"""Second tries: where nobody can tell, and nowhere else. The origin counts what it was asked."""

import collections
import contextlib
import queue
import select
import signal
import threading
import time

import pytest
from harness.base import can_connect, wait_for
from harness.http_fixtures import _frail_nginx, frail_nginx, nginx, raw, stale, web  # noqa: F401
from harness.httpwire import Closed, Http, chunked, http_pool, refused, reply, request
from harness.load import HttpxLoad, stayed
from harness.nginx import pattern


def retries(daemon):
    return daemon.metric("carpool_retries_total", pool="web")


def test_an_idle_connection_that_closes_on_the_request(stale, raw):
    daemon, (old,) = stale()
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        assert old.request().target == "/x"
        old.close()
        fresh = raw.accept()
        assert fresh.request().target == "/x"
        fresh.send(reply(b"well"))
        assert c.response().body == b"well"
    assert retries(daemon) == 1
    assert daemon.all_errors("web") == {}


def test_one_that_resets(stale, raw):
    daemon, (old,) = stale()
    with Http(daemon.port("web")) as c:
        c.send(request("DELETE", "/x"))
        assert old.request().method == "DELETE"
        old.reset()
        fresh = raw.accept()
        assert fresh.request().method == "DELETE"
        fresh.send(reply(b"well"))
        assert c.response().body == b"well"


def test_what_cannot_be_repeated_is_not(stale, raw):
    daemon, (old,) = stale()
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/x", body=b"pay"))
        assert old.request().body == b"pay"
        old.close()
        r = c.response()
        assert refused(r, 502, "upstream_closed")
        assert b"whether the request was carried out is unknown" in r.body
        assert r["connection"] is None
    assert raw.accepted == 1 and retries(daemon) == 0
    assert daemon.saw("upstream_closed", "web")


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_a_body_is_sent_again(stale, raw, how):
    daemon, (old,) = stale()
    body = pattern(60_000)
    with Http(daemon.port("web")) as c:
        if how == "length":
            c.send(request("PUT", "/x", body=body))
        else:
            c.send(request("PUT", "/x", "Transfer-Encoding: chunked") +
                   chunked(*[body[i:i + 7000] for i in range(0, len(body), 7000)]))
        assert old.request().body == body
        old.close()
        fresh = raw.accept()
        assert fresh.request().body == body
        fresh.send(reply(b"stored"))
        assert c.response().body == b"stored"
    assert retries(daemon) == 1


def test_a_body_too_large_to_keep_is_not(stale, raw):
    daemon, (old,) = stale()
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/x", body=pattern(200_000)))
        assert old.request().body == pattern(200_000)
        old.close()
        assert refused(c.response(), 502, "upstream_closed")
    assert raw.accepted == 1


def test_a_body_still_on_its_way(stale, raw):
    """What was sent so far is sent again, the rest goes to the new server alone."""
    daemon, (old,) = stale()
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/x", "Content-Length: 10") + b"hello")
        old.head()
        assert old.exactly(5) == b"hello"
        old.close()
        fresh = raw.accept()
        fresh.head()
        assert fresh.exactly(5) == b"hello"
        c.send(b"world")
        assert fresh.exactly(5) == b"world"
        fresh.send(reply(b"stored"))
        assert c.response().body == b"stored"


def test_a_body_that_outgrows_what_is_kept_meanwhile(stale, raw):
    """While the second server is waited for, more comes than can be kept: it is not lost for that."""
    daemon, (old,) = stale(size={"max": 1})
    body = pattern(150_000)
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/x", "Content-Length: 150000") + body[:60_000])
        old.head()
        assert old.exactly(60_000) == body[:60_000]
        daemon.cli("pause", "web")
        old.close()
        wait_for(lambda: daemon.waiting("web") == 1, what="the second try to wait")
        c.send(body[60_000:])
        daemon.cli("resume", "web")
        fresh = raw.accept()
        assert fresh.request().body == body
        fresh.send(reply(b"stored"))
        assert c.response().body == b"stored"


def test_not_once_anything_was_said(stale, raw):
    daemon, (old,) = stale()
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        old.request()
        old.send(b"HTTP/1.1 2")
        old.close()
        assert refused(c.response(), 502, "upstream_closed")
    assert raw.accepted == 1


def test_not_after_an_interim_response(stale, raw):
    daemon, (old,) = stale()
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        old.request()
        old.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        assert c.head().status == 103
        old.close()
        assert refused(c.response(), 502, "upstream_closed")
    assert raw.accepted == 1


def test_not_on_a_fresh_connection(web, raw):
    """It was opened for this request: that the upstream closes it is its answer."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        server = raw.accept()
        server.request()
        server.close()
        assert refused(c.response(), 502, "upstream_closed")
    assert raw.accepted == 1


def test_a_farewell_answers_nobody(stale, raw):
    """408 and close is how some origins end idle connections; it may cross a request."""
    daemon, (old,) = stale()
    bye = reply(b"", "Connection: close", status="408 Request Timeout")
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        old.request()
        old.send(bye)
        old.close()
        fresh = raw.accept()
        fresh.request()
        fresh.send(bye)  # to a connection that was not idle, it is an answer
        assert c.response().status == 408
    assert retries(daemon) == 1


def test_an_idle_connection_that_says_something_is_dropped(stale, raw):
    daemon, (old,) = stale()
    old.send(reply(b"", "Connection: close", status="408 Request Timeout"))
    assert old.ends()
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        fresh = raw.accept()
        fresh.request()
        fresh.send(reply(b"well"))
        assert c.response().body == b"well"
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="web", outcome="drop_unread") == 1,
             what="the reason to be counted")


def test_attempts_bound_the_tries(stale, raw):
    daemon, ends = stale(3, size={"max": 3})
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        for end in reversed(ends):  # the latest first
            assert end.request().target == "/x"
            end.close()
        assert refused(c.response(), 502, "upstream_closed")
    assert raw.accepted == 3 and retries(daemon) == 2


def test_attempts_1_never_tries_again(stale, raw):
    daemon, (old,) = stale(retry={"attempts": 1})
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        old.request()
        old.close()
        assert refused(c.response(), 502, "upstream_closed")
    assert raw.accepted == 1 and retries(daemon) == 0


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_connections_that_died_while_nobody_looked(stale, raw, method, reset):
    """The news of the dead connection and the request arrive at the same moment: even a POST is well,
    since not a byte of it goes to a connection that is known to be dead."""
    daemon, (old,) = stale()
    with Http(daemon.port("web")) as c:
        c.ask("OPTIONS", "*", "Max-Forwards: 0")  # accepted and alive
        daemon.signal(signal.SIGSTOP)
        try:
            old.reset() if reset else old.close()
            c.send(request(method, "/x", body=b"pay" if method == "POST" else b""))
        finally:
            daemon.signal(signal.SIGCONT)
        fresh = raw.accept()
        assert fresh.request().method == method
        fresh.send(reply(b"well"))
        assert c.response().body == b"well"
    assert daemon.all_errors("web") == {}


# -- what cannot be sent twice avoids connections that may be closing


@pytest.fixture
def aged(web, raw):
    """aged(**pool keys): carpool with one idle server, used longer than a second ago."""
    def make(*promise, **over):
        daemon = web(raw.url(), **{"size": {"min": 0, "max": 2}, **over})
        with Http(daemon.port("web")) as c:
            c.send(request("GET", "/warm"))
            end = raw.accept()
            end.request()
            end.send(reply(b"warm", *promise))
            assert c.response().body == b"warm"
        time.sleep(1.2)  # age can only be waited for
        assert daemon.servers("web", "idle") == 1
        return daemon, end
    return make


@pytest.mark.parametrize("most", [1, 2], ids=["at the bound", "with room"])
def test_a_post_gets_no_old_connection(aged, raw, most):
    """A new one is opened for it, and takes the old one's place."""
    daemon, old = aged(size={"min": 0, "max": most})
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/pay", body=b"once"))
        assert old.ends(), "not a byte of it"
        old.close()
        fresh = raw.accept()
        assert fresh.request().body == b"once"
        fresh.send(reply(b"paid"))
        assert c.response().body == b"paid"
        c.send(request("POST", "/pay", body=b"twice"))  # just used: good enough
        assert fresh.request().body == b"twice"
        fresh.send(reply(b"paid"))
        assert c.response().body == b"paid"
    assert raw.accepted == 2
    assert daemon.all_errors("web") == {}


def test_a_get_takes_an_old_one(aged, raw):
    daemon, old = aged()
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/x"))
        assert old.request().target == "/x"
        old.send(reply(b"well"))
        assert c.response().body == b"well"
    assert raw.accepted == 1


def test_half_of_what_was_promised_counts_as_fresh(aged, raw):
    daemon, old = aged("Keep-Alive: timeout=60")
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/pay", body=b"once"))
        assert old.request().body == b"once"
        old.send(reply(b"paid"))
        assert c.response().body == b"paid"
    assert raw.accepted == 1


def test_an_old_connection_is_better_than_none(aged, raw):
    """Where no new one can be opened, and the old one is still there."""
    daemon, old = aged(breaker={"consecutive": 0, "failure_ratio": "0%"}, size={"min": 0, "max": 3})
    with Http(daemon.port("web")) as c, Http(daemon.port("web")) as d:
        c.send(request("GET", "/x"))  # another one, so that one is left to be replaced
        assert old.request().target == "/x"
        d.send(request("GET", "/y"))
        other = raw.accept()
        other.request()
        for end, client in ((old, c), (other, d)):
            end.send(reply(b"well"))
            assert client.response().body == b"well"
        time.sleep(1.2)
        raw.refuse()
        wait_for(lambda: not can_connect(raw.host, raw.port), what="the port to close")
        c.send(request("POST", "/pay", body=b"once"))
        left = wait_for(lambda: len(left := [end for end in (old, other) if not end.closed()]) == 1 and left,
                        what="one of them to be closed")
        assert left[0].request().body == b"once"
        left[0].send(reply(b"paid"))
        assert c.response().body == b"paid"
    assert daemon.all_errors("web").keys() == {"dial_failed"}, "it was tried"


class Impatient:
    """Closes a connection that was idle for long, however near the next request is. Counts what it did."""

    def __init__(self, raw, idle):
        self.done, self.idle = collections.Counter(), idle
        threading.Thread(target=self._run, args=(raw,), daemon=True).start()

    def _run(self, raw):
        with contextlib.suppress(queue.Empty):
            while True:
                threading.Thread(target=self._serve, args=(raw.accept(60),), daemon=True).start()

    def _serve(self, end):
        with contextlib.suppress(Closed, OSError):
            while select.select([end.sock], [], [], self.idle)[0]:
                self.done[end.request().body] += 1
                end.send(reply(b"done"))
        end.close()


def test_no_post_is_lost_or_done_twice(web, raw, workers):
    """Clients whose pauses are as long as the origin's patience."""
    origin = Impatient(raw, 2.3)
    daemon = web(raw.url(), workers=workers, size={"max": 8})
    said = {}

    def ride(n):
        with Http(daemon.port("web")) as c:
            for turn in range(4):
                body = b"%d.%d" % (n, turn)
                said[body] = c.ask("POST", "/", body=body)
                time.sleep(2.26 + 0.01 * ((n + turn) % 8))

    riders = [threading.Thread(target=ride, args=(n,), daemon=True) for n in range(8)]
    for r in riders:
        r.start()
    for r in riders:
        r.join(60)
    assert len(said) == 32
    assert {r.status for r in said.values()} == {200}
    assert origin.done == {body: 1 for body in said}
    assert daemon.all_errors("web") == {}


def test_an_origin_that_closes_idle_connections(carpool, servers):
    """Its idle timeout is as long as the clients' pauses: the worst there is, and nobody notices."""
    origin = servers.nginx(local=True, keepalive="1s")
    daemon = carpool(http_pool(origin.url(), size={"max": 10}))
    load = HttpxLoad(daemon, 20, pause=0.9)
    load.progress(4)
    assert set(load.stop()) == {200}
    assert daemon.all_errors("web") == {}
    stayed(daemon, "web", 20)


def test_origin_killed_under_load_and_back(carpool, frail_nginx, workers):
    daemon = carpool(http_pool(frail_nginx.url(), size={"max": 5}, breaker={"open": "200ms..1s"}),
                     workers=workers)
    load = HttpxLoad(daemon, 20)
    load.progress()
    for _ in range(2):
        frail_nginx.kill9()
        wait_for(lambda: not can_connect(frail_nginx.host, frail_nginx.port), what="the port to close")
        mark = load.counts.get(200, 0)
        wait_for(lambda: set(load.counts) - {200}, what="clients to hear of it")
        frail_nginx.start()
        load.progress()
        assert load.counts[200] > mark
    told = set(load.stop()) - {200}
    assert told <= {(502, "upstream_closed"), (502, "dial_failed"), (503, "breaker_open"),
                    (503, "acquire_timeout")}, told
    for _status, cause in told:
        assert daemon.saw(cause, "web")
    stayed(daemon, "web", 20)


def test_origin_restarted_politely_under_load(carpool, frail_nginx):
    """`nginx -s quit` closes idle connections and finishes the others: only dials fail."""
    daemon = carpool(http_pool(frail_nginx.url(), size={"max": 5}, breaker={"open": "200ms..1s"}))
    load = HttpxLoad(daemon, 10)
    load.progress()
    frail_nginx.stop()
    frail_nginx.start()
    load.progress()
    told = set(load.stop()) - {200}
    assert told <= {(502, "dial_failed"), (503, "breaker_open"), (502, "upstream_closed")}, told
    stayed(daemon, "web", 10)


def test_clients_that_leave_in_the_middle(web, raw):
    """The response is nobody's: its connection is dropped, the slot comes back."""
    daemon = web(raw.url(), size={"max": 1})
    for n in range(3):
        with Http(daemon.port("web")) as c:
            c.send(request("GET", f"/{n}"))
            server = raw.accept()
            assert server.request().target == f"/{n}"
            server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            assert c.head().status == 200
            c.reset()
        with contextlib.suppress(OSError):
            while True:
                server.send(bytes(65536))
        server.close()
    wait_for(lambda: daemon.errors("client_gone", "web") == 3, what="client_gone")
    assert daemon.metric("carpool_breaker_state", pool="web", breaker="service", state="closed") == 1
