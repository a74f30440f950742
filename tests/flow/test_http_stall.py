# SPDX-License-Identifier: MIT
"""Peers that stop, or are only slow: heads and bodies that do not come, clients that take nothing, responses
that do not go on. Each wait has its own deadline, and whoever makes progress is left alone."""

import contextlib
import threading
import time

import pytest
from harness.base import SLOW, wait_for, within
from harness.http_fixtures import _origin, nginx, origin, raw, web  # noqa: F401
from harness.httpwire import NO_BREAKER, Http, refused, reply, request
from harness.nginx import pattern


# -- clients


def test_slow_heads(web):
    daemon = web(timeouts={"client_login": "1s"})
    with Http(daemon.port("web")) as c, within(2):
        c.send(b"GET / HTTP/1.1\r\n")
        r = c.response()
        assert refused(r, 408, "client_timeout")
        assert c.ends()
    with Http(daemon.port("web")) as c, within(2):
        assert c.ends(), "not a word, not an answer"
    with Http(daemon.port("web")) as c, within(3):
        assert c.get("/body/1").status == 200
        time.sleep(1.2)  # between requests it is another timeout that counts
        assert c.get("/body/1").status == 200
        c.send(b"GET / HTT")
        assert refused(c.response(), 408, "client_timeout")
    assert daemon.saw("client_timeout", "web")


def test_slowloris(web):
    """A byte now and then does not help: a head has an absolute deadline."""
    daemon = web(timeouts={"client_login": "800ms"})
    with Http(daemon.port("web")) as c, within(3):
        head = request("GET", "/", "A: " + "b" * 100)
        with pytest.raises(OSError):
            for i in range(len(head)):
                c.send(head[i:i + 1])
                time.sleep(0.1)
            c.send(b"x" * 100_000)


def test_a_body_that_stops(web, raw):
    daemon = web(raw.url(), timeouts={"request": "1s"})
    with Http(daemon.port("web")) as c, within(2):
        c.send(request("PUT", "/", "Content-Length: 10") + b"12345")
        server = raw.accept()
        server.head()
        assert refused(c.response(), 408, "client_timeout")
        assert c.ends()
        assert server.rest() == b"12345"


def test_waiting_for_100_is_no_dawdling(web, raw):
    daemon = web(raw.url(), timeouts={"request": "400ms"})
    with Http(daemon.port("web")) as c, within(2):
        c.send(request("PUT", "/", "Content-Length: 10", "Expect: 100-continue"))
        raw.accept().head()
        assert refused(c.response(), 504, "request_timeout")


def test_idle_clients(web):
    daemon = web(timeouts={"client_idle": "1s"})
    with Http(daemon.port("web")) as c:
        assert c.get("/body/1").status == 200
        with within(3):
            assert c.ends()
    assert daemon.saw("client_timeout", "web")


def test_a_client_that_stops_reading(web, nginx):
    path = nginx.big(20_000_000)
    daemon = web(nginx.url(), timeouts={"write_stall": "1s"}, size={"max": 1})
    with Http(daemon.port("web"), rcvbuf=4096) as c, Http(daemon.port("web")) as other:
        c.send(request("GET", path))
        other.send(request("GET", "/"))
        with within(8):
            assert other.response().status == 200, "its server came free"
    assert daemon.saw("write_stall", "web")


def test_a_slow_reader_is_not_a_stuck_one(web, nginx):
    """It takes longer than write_stall, but never stands still for so long."""
    path = nginx.big(3_000_000)
    daemon = web(nginx.url(), timeouts={"write_stall": "2s"}, limits={"buffer": "16KiB"})
    with Http(daemon.port("web"), rcvbuf=32768) as c:
        c.send(request("GET", path))
        c.head()
        got = b""
        for _ in range(30):
            got += c.exactly(100_000)
            time.sleep(0.1)
        assert got == pattern(3_000_000)
    assert daemon.all_errors("web") == {}


def test_a_slow_reader_behind_a_fast_origin(web, nginx):
    """The queue never becomes empty, and is as long as ever whenever somebody looks: what counts is that
    the client takes bytes."""
    path = nginx.big(20_000_000)
    daemon = web(nginx.url(), timeouts={"write_stall": "2s"}, limits={"buffer": "8MiB"})
    with Http(daemon.port("web"), rcvbuf=8192) as c:
        c.send(request("GET", path))
        c.head()
        got = 0
        end = time.monotonic() + 5
        while time.monotonic() < end or got < 500_000:
            got += len(c.exactly(20_000))
            time.sleep(0.05)
    assert daemon.errors("write_stall", "web") == 0


# -- origins


@pytest.mark.parametrize("request_timeout", ["30s", 0], ids=["request", "no request"])
def test_an_origin_that_stops_reading(web, raw, request_timeout):
    """It takes the head and a little of the body, and then not a byte for timeouts.write_stall."""
    daemon = web(raw.url(), breaker=NO_BREAKER,
                 timeouts={"write_stall": "1s", "request": request_timeout, "close": "200ms"})
    with Http(daemon.port("web")) as c:
        body = threading.Thread(target=pour, args=(c, 50_000_000), daemon=True)
        c.send(request("PUT", "/", "Content-Length: 50000000"))
        begun = time.monotonic()
        body.start()
        server = raw.accept()
        server.head()
        server.exactly(100)
        r = c.response()
        assert refused(r, 504, "write_stall")
        assert 0.9 < time.monotonic() - begun < 2 + 8 * SLOW
        assert r["connection"] == "close" and "timeouts.write_stall" in r.body.decode()
        c.close()
        body.join(60)
        assert not body.is_alive()
    assert daemon.saw("write_stall", "web")
    wait_for(lambda: daemon.servers("web") == 0, what="the slot to be free")
    server.close()


def pour(c, n):
    with contextlib.suppress(OSError):
        c.send(bytes(n))


def test_a_slow_origin_is_not_a_stuck_one(web, raw):
    """It takes longer for the body than write_stall, but never stands still for so long."""
    daemon = web(raw.url(), timeouts={"write_stall": "2s"}, limits={"buffer": "16KiB"})
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/", "Content-Length: 8000000"))
        body = threading.Thread(target=pour, args=(c, 8_000_000), daemon=True)
        body.start()
        server = raw.accept()
        server.head()
        for _ in range(40):
            server.exactly(200_000)
            time.sleep(0.1)
        body.join(60)
        server.send(reply(b"stored"))
        assert c.response().body == b"stored"
    assert daemon.all_errors("web") == {}


def begin(web, raw, framing=b"Content-Length: 10", **over):
    """(daemon, client, origin's end): a response with two bytes of its body."""
    daemon = web(raw.url(), breaker=NO_BREAKER, **over)
    c = Http(daemon.port("web"))
    c.send(request())
    server = raw.accept()
    server.request()
    server.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
    server.send(b"2\r\nab\r\n" if b"chunked" in framing else b"ab")
    assert c.head().status == 200
    return daemon, c, server


def test_a_slow_body_is_no_slow_head(web, raw):
    """timeouts.request ends with the response's head, and an upload counts from its last byte on."""
    daemon = web(raw.url(), timeouts={"request": "1s"})
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/", "Content-Length: 6"))
        server = raw.accept()
        server.head()
        for i in range(6):
            c.send(b"x")
            assert server.exactly(1) == b"x"
            time.sleep(0.25)
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        assert c.head().status == 200
        for i in range(6):
            server.send(b"y")
            assert c.exactly(1) == b"y"
            time.sleep(0.25)


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"X: close"])
def test_an_origin_that_goes_silent_in_a_response(web, raw, framing):
    """The client hears that the response is torn, and everybody why."""
    daemon, c, server = begin(web, raw, framing, timeouts={"read_stall": "1s"})
    with within(2):
        said = c.rest()
    assert said == (b"ab" if b"Length" in framing else b"2\r\nab\r\n"), "no last chunk"
    assert server.rest() == b"", "its connection is not used again"
    assert daemon.saw("idle_timeout", "web")
    assert daemon.logged("cause=idle_timeout", "timeouts.read_stall")


def test_an_origin_that_is_only_slow(web, raw):
    """Every piece of the body starts the time anew."""
    daemon, c, server = begin(web, raw, timeouts={"read_stall": "1500ms"})
    for n in range(8):
        time.sleep(0.25)
        server.send(b"x")
    assert c.exactly(10) == b"ab" + b"x" * 8
    assert daemon.all_errors("web") == {}


def test_streams_may_be_silent_where_they_are_allowed_to(web, raw):
    """read_stall: 0, for server-sent events and the like."""
    daemon, c, server = begin(web, raw, b"Transfer-Encoding: chunked",
                              timeouts={"read_stall": 0, "request": "1s", "write_stall": "1s"})
    assert c.exactly(7) == b"2\r\nab\r\n"
    c.silent(1.5)
    server.send(b"1\r\nc\r\n0\r\n\r\n")
    assert c.exactly(11) == b"1\r\nc\r\n0\r\n\r\n"
    assert daemon.all_errors("web") == {}


def test_a_client_that_stops_in_its_body_after_the_response_began(web, raw):
    """Nobody goes on: the client is the one who owes something, and the server is not held for ever."""
    daemon = web(raw.url(), timeouts={"read_stall": "1s"}, size={"max": 1})
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/", "Transfer-Encoding: chunked"))
        server = raw.accept()
        server.head()
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert c.head().status == 200
        for _ in range(4):  # either side's bytes are progress
            time.sleep(0.3)
            c.send(b"1\r\nx\r\n")
            assert server.exactly(6) == b"1\r\nx\r\n"
        with within(2):
            assert c.rest() == b""
    wait_for(lambda: daemon.servers("web") == 0, what="the slot to be free")
    assert daemon.saw("client_timeout", "web")
