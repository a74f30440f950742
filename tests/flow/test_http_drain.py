# SPDX-License-Identifier: MIT
"""SIGTERM, reload and recycle under HTTP load: what was begun is finished, and nothing is left over."""

import http.client
import itertools
import re
import signal
import threading

import httpx
from harness.base import LOOPBACK, Peak, can_connect, wait_for
from harness.http_fixtures import _origin, nginx, origin, raw, web  # noqa: F401
from harness.httpwire import TIMEOUT, Closed, Http, http_pool, reply, request
from harness.load import httpx_client
from harness.nginx import pattern
from harness.relays import TO_CLIENT


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
    """Clients on keep-alive connections, half of them by hand, half of httpx; each request has a number of its
    own. Notes what was answered and what was cut."""

    def __init__(self, daemon, clients, target):
        self.answered, self.cut, self.wrong = [], [], []
        self._threads = [threading.Thread(target=ride, args=(daemon, f"{target}?{n}"), daemon=True)
                         for n, ride in zip(range(clients), itertools.cycle((self._by_hand, self._by_httpx)))]
        for t in self._threads:
            t.start()

    def _note(self, target, status, body):
        self.answered.append(f"GET {target} HTTP/1.1")
        if status != 200 or body != pattern(50_000):
            self.wrong.append((target, status, len(body)))

    def _by_hand(self, daemon, target):
        with Http(daemon.port("web")) as c:
            for turn in itertools.count():
                try:
                    c.send(request("GET", f"{target}.{turn}"))
                    c._more() if not c.unread else None
                except (Closed, OSError):
                    return  # between requests: a connection that was let go
                try:
                    r = c.response()
                except (Closed, OSError) as e:
                    self.cut.append(e)
                    return
                self._note(f"{target}.{turn}", r.status, r.body)
                if r["connection"] == "close":
                    return

    def _by_httpx(self, daemon, target):
        """It connects again when a connection has ended: then nobody listens."""
        with httpx_client(daemon) as c:
            for turn in itertools.count():
                try:
                    r = c.get(f"{target}.{turn}")
                except (httpx.ConnectError, httpx.ReadError, httpx.WriteError):
                    return
                except httpx.RemoteProtocolError as e:
                    if "without sending a response" not in str(e):
                        self.cut.append(e)
                    return
                except Exception as e:
                    self.cut.append(e)
                    return
                self._note(f"{target}.{turn}", r.status_code, r.content)

    def goes_on(self, more=30):
        now = len(self.answered)
        wait_for(lambda: len(self.answered) > now + more, what="load to go on")

    def join(self):
        for t in self._threads:
            t.join(60)
        assert not any(t.is_alive() for t in self._threads)
        assert self.cut == [] and self.wrong == []


def test_drain_under_load_loses_no_response(carpool, nginx, gate, workers):
    """Whatever the origin was asked has been answered to the client that asked, and whole; also what it has
    answered already, and what has not arrived yet, when the end begins."""
    path = nginx.big(50_000)
    wait_for(lambda: nginx.connections() == 0, what="clients of the test before to be gone")
    mark, way = nginx.mark(), gate(nginx.host, nginx.port)
    daemon = carpool(http_pool(nginx.url(host=way.host, port=way.port), size={"max": 5, "acquire_timeout": "60s"},
                               timeouts={"request": "60s"}), workers=workers, drain={"deadline": "60s"})
    load = Load(daemon, 30, path)
    load.goes_on(60)
    way.pause(TO_CLIENT)
    wait_for(lambda: daemon.leases("web") == 5, what="all servers to be at work")
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: not can_connect(LOOPBACK, daemon.port("web")), what="the door to close")
    way.resume()
    daemon.ended()
    load.join()
    wait_for(lambda: nginx.connections() == 0, what="nginx to have seen and logged the end")
    asked = [(r["request"], r["status"]) for r in nginx.requests(mark) if path in r["request"]]
    assert sorted(asked) == sorted((r, 200) for r in load.answered)


class Census:
    """with Census(nginx) as c: c.now() connections by nginx' own count, asked over one that stays."""

    def __init__(self, nginx):
        self._conn = http.client.HTTPConnection(nginx.host, nginx.port, timeout=TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._conn.close()

    def now(self):
        self._conn.request("GET", "/nginx")
        return int(re.search(rb"Active connections: (\d+)", self._conn.getresponse().read())[1]) - 1


def test_bounds_are_reloaded_under_load(web, nginx):
    """nginx counts its connections: never more than the bound, and all of it is used."""
    path = nginx.big(50_000)
    wait_for(lambda: nginx.connections() == 0, what="clients of the test before to be gone")
    daemon = web(nginx.url(), workers=2, size={"max": 8, "acquire_timeout": "60s"}, timeouts={"request": "60s"})
    with Census(nginx) as census:
        with Peak(census.now, 0.002) as first:
            load = Load(daemon, 20, path)
            wait_for(lambda: first.value == 8, what="the pool to grow")
        for size in (2, 6, 1, 8):
            daemon.change("web", size={"max": size})
            daemon.reload()
            wait_for(lambda size=size: census.now() == size, what=f"{size} connections")
            with Peak(census.now, 0.002) as peak:
                load.goes_on()
            assert peak.value == size and peak.samples and peak.error is None
        assert first.value == 8 and first.error is None
    daemon.signal(signal.SIGTERM)
    daemon.ended()
    load.join()


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
