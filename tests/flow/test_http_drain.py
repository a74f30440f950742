# SPDX-License-Identifier: MIT
"""SIGTERM, reload and recycle under HTTP load: what was begun is finished, and nothing is left over."""

import signal
import threading
import time

from harness.base import LOOPBACK, SLOW, can_connect, wait_for
from harness.http_fixtures import _origin, nginx, origin, raw, web  # noqa: F401
from harness.httpwire import Closed, Http, http_pool, reply, request
from harness.nginx import pattern


def test_idle_clients_are_let_go(web):
    daemon = web()
    with Http(daemon.port("web")) as fresh, Http(daemon.port("web")) as used:
        assert used.get("/body/1").status == 200
        daemon.signal(signal.SIGTERM)
        assert used.ends() and fresh.ends()
        used.close(), fresh.close()
    daemon.ended()


def test_a_running_exchange_is_finished(web, raw):
    """The last response says that it is the last."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as early, Http(daemon.port("web")) as late:
        early.send(request())
        first = raw.accept()
        first.request()
        first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        assert early.head()["connection"] is None
        late.send(request("POST", "/", "Content-Length: 4") + b"ab")
        second = raw.accept()
        second.head()
        daemon.signal(signal.SIGTERM)
        wait_for(lambda: not can_connect(LOOPBACK, daemon.port("web")), what="the door to close")
        first.send(b"well")
        assert early.exactly(4) == b"well" and early.ends()
        late.send(b"cd")
        assert second.exactly(4) == b"abcd"
        second.send(reply(b"well"))
        r = late.response()
        assert (r.body, r["connection"]) == (b"well", "close")
        assert late.ends()
    daemon.ended()


def test_a_waiting_request_still_gets_its_turn(web, raw):
    daemon = web(raw.url(), size={"max": 1})
    with Http(daemon.port("web")) as a, Http(daemon.port("web")) as b:
        a.send(request("GET", "/a"))
        server = raw.accept()
        server.request()
        b.send(request("GET", "/b"))
        wait_for(lambda: daemon.waiting("web") == 1, what="b to wait")
        daemon.signal(signal.SIGTERM)
        wait_for(lambda: not can_connect(LOOPBACK, daemon.port("web")), what="the door to close")
        server.send(reply(b"a"))
        assert a.response().body == b"a"
        assert server.request().target == "/b"
        server.send(reply(b"b"))
        assert b.response()["connection"] == "close"
    daemon.ended()


def test_a_pipeline_that_is_cut_is_told_where(web):
    """Whatever has been read already when the drain begins: the last answer says that it is the last."""
    daemon = web()
    with Http(daemon.port("web")) as c:
        assert c.get("/body/1").status == 200
        daemon.signal(signal.SIGSTOP)
        try:
            c.send(request("TRACE", "/") * 500)
            daemon.signal(signal.SIGTERM)
        finally:
            daemon.signal(signal.SIGCONT)
        answers = 0
        try:
            while (r := c.response())["connection"] is None:
                assert r.status == 405
                answers += 1
            assert r["connection"] == "close" and c.ends()
        except Closed:
            assert answers == 500, "all of them were answered before the drain began"
    daemon.ended()


def test_the_deadline_ends_what_does_not_end(carpool, raw):
    """Who has heard nothing yet hears why; a response that has begun is torn, and nothing is added to it."""
    daemon = carpool(http_pool(raw.url(), size={"max": 2}), drain={"deadline": "500ms"})
    with Http(daemon.port("web")) as asks, Http(daemon.port("web")) as begun, \
            Http(daemon.port("web")) as waits:
        asks.send(request())
        server = raw.accept()
        server.request()
        begun.send(request())
        other = raw.accept()
        other.request()
        other.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        assert begun.head().status == 200 and begun.exactly(2) == b"ha"
        waits.send(request())
        wait_for(lambda: daemon.waiting("web") == 1, what="the third client to wait")
        daemon.signal(signal.SIGTERM)
        for c in asks, waits:
            r = c.response()
            assert (r.status, r["connection"]) == (503, "close") and "draining" in r["proxy-status"]
            assert c.ends()
        assert begun.ends()
        server.close(), other.close()
    daemon.ended()


class Load:
    """Raw clients on keep-alive connections; notes what was finished and what was cut."""

    def __init__(self, daemon, clients, target):
        self.finished, self.cut, self.wrong = 0, [], []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ride, args=(Http(daemon.port("web")), target),
                                          daemon=True) for _ in range(clients)]
        for t in self._threads:
            t.start()

    def _ride(self, c, target):
        with c:
            while True:
                try:
                    c.send(request("GET", target))
                    c._more() if not c.unread else None
                except (Closed, OSError):
                    return  # between requests: a connection that was let go
                try:
                    r = c.response()
                except (Closed, OSError) as e:
                    self.cut.append(e)
                    return
                with self._lock:
                    self.finished += 1
                if r.status != 200 or r.body != pattern(50_000):
                    self.wrong.append(r)
                if r["connection"] == "close":
                    return

    def join(self):
        for t in self._threads:
            t.join(60)
        assert not any(t.is_alive() for t in self._threads)


def test_drain_under_load_tears_no_response(web, nginx, workers):
    path = nginx.big(50_000)
    daemon = web(nginx.url(), workers=workers, size={"max": 5, "acquire_timeout": "30s"})
    load = Load(daemon, 30, path)
    wait_for(lambda: load.finished > 60, what="load")
    daemon.signal(signal.SIGTERM)
    daemon.ended()
    load.join()
    assert load.cut == [] and load.wrong == []


def test_bounds_are_reloaded_under_load(web, nginx):
    path = nginx.big(50_000)
    daemon = web(nginx.url(), workers=2, size={"max": 8, "acquire_timeout": "30s"})
    load = Load(daemon, 20, path)
    for size in (2, 6, 1, 8):
        daemon.change("web", size={"max": size})
        daemon.reload()
        wait_for(lambda size=size: daemon.servers("web") <= size, what=f"at most {size} servers")
        now = load.finished
        wait_for(lambda now=now: load.finished > now + 30, what="load to go on")
    daemon.signal(signal.SIGTERM)
    daemon.ended()
    load.join()
    assert load.cut == [] and load.wrong == []


def test_recycle_replaces_every_server(web, nginx):
    daemon = web(nginx.url(), size={"max": 3})
    mark = nginx.mark()
    with Http(daemon.port("web")) as c:
        assert c.get("/a").status == 200
        daemon.cli("recycle", "web")
        assert c.get("/b").status == 200

    def both():
        found = [r for r in nginx.requests(mark) if r["request"][:6] in ("GET /a", "GET /b")]
        return len(found) == 2 and found
    rows = wait_for(both, what="nginx to log both")
    assert len({r["connection"] for r in rows}) == 2


def test_everything_is_given_back(web, nginx, origin):
    """After many exchanges of every kind: descriptors, servers and clients as before."""
    daemon = web(size={"max": 4})
    before = None
    for _ in range(3):
        for target in ("/body/10", "/chunked/5000", "/status/204", "/close", "/half", "/last", "/garbage"):
            with Http(daemon.port("web")) as c:
                c.send(request("GET", target))
                try:
                    c.response()
                except Closed:
                    pass
        wait_for(lambda: daemon.metric("carpool_clients", pool="web") == 0, what="clients to be gone")
        wait_for(lambda: daemon.servers("web", "closing") + daemon.servers("web", "busy") == 0,
                 what="servers to be idle or gone")
        servers = daemon.servers("web")
        # The admin API's own connection ends a moment after its answer.
        before = before or daemon.descriptors() - servers
        wait_for(lambda: daemon.descriptors() - servers <= before, what="descriptors to be as before")
