# SPDX-License-Identifier: MIT
"""Peers that mean harm, on either side: nothing gets past that one end reads differently from the other,
nobody hears what was said to somebody else, and nothing is held for ever."""

import contextlib
import json
import signal
import threading
import time

import pytest
from harness.base import SLOW, wait_for
from harness.http_fixtures import _origin, origin, raw, web  # noqa: F401
from harness.httpwire import NO_BREAKER, Closed, Http, refused, reply, request

SECRET = reply(b"somebody else's")


# -- clients


@pytest.mark.parametrize("first", [
    request("GET", "/first", "Connection: close"),
    request("GET", "/first", "Connection: keep-alive", version="1.0"),
    request("POST", "/first", "Connection: x, close", body=b"abc"),
], ids=["close", "1.0 keep-alive", "post and close"])
def test_nothing_is_read_behind_the_last_request(web, origin, first):
    daemon = web()
    with Http(daemon.port("web")) as c:
        c.send(first + request("GET", "/second"))
        r = c.response()
        assert r["connection"] == "close"
        assert c.ends()
    assert [seen["target"] for seen in origin.requests] == ["/first"]


def test_the_target_s_authority_wins(web, raw):
    """Absolute form: whoever routes by Host must not see another one."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(b"GET http://public:81/a?b HTTP/1.1\r\nHost: private\r\nX-Forwarded-Host: x\r\n\r\n")
        server = raw.accept()
        seen = server.request()
        assert seen.first == "GET /a?b HTTP/1.1"
        assert seen.all("host") == ["public:81"]
        server.send(reply(b"ok"))
        assert c.response().status == 200


def test_twins_by_underscore_do_not_get_through(web):
    """CGI-like origins read `_` as `-`."""
    daemon = web()
    with Http(daemon.port("web")) as c:
        r = c.ask("POST", "/echo", "Content_Length: 999", "Transfer_Encoding: chunked",
                  "X_Forwarded_For: 10.0.0.1", "Host_Name: fine", body=b"abc")
        seen = json.loads(r.body)
        names = [k.lower() for k, _ in seen["fields"]]
        assert seen["body"] == "abc" and "host_name" in names
        assert not {"content_length", "transfer_encoding", "x_forwarded_for"} & set(names)


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_an_upgrade_is_not_a_tunnel(web, origin, protocol):
    """The bytes behind it are the next request, by the same rules as every other."""
    daemon = web()
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/echo", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}",
                       "HTTP2-Settings: AAMAAABk") + b"GET  /smuggled HTTP/1.1\r\n\r\n")
        names = [k.lower() for k, _ in json.loads(c.response().body)["fields"]]
        assert not {"upgrade", "http2-settings", "connection"} & set(names)
        assert c.response().status == 400
        assert c.ends()
    assert len(origin.requests) == 1


def test_a_response_before_the_end_of_the_request(web, raw):
    """What is left of the body must not become the next client's request."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c, Http(daemon.port("web")) as d:
        c.send(request("POST", "/", "Content-Length: 40") + b"GET ")
        server = raw.accept()
        server.head()
        server.send(reply(b"early"))
        r = c.response()
        assert (r.body, r["connection"]) == (b"early", "close")
        with contextlib.suppress(OSError):
            c.send(b"/admin HTTP/1.1\r\nHost: h\r\n\r\n")
        assert server.rest() in (b"GET ", b"GET /admin HTTP/1.1\r\nHost: h\r\n\r\n"), "and the end"
        d.send(request("GET", "/d"))
        other = raw.accept()
        assert other.request().target == "/d"
        other.send(reply(b"d"))
        assert d.response().body == b"d"


def test_a_crowd_of_slow_heads_keeps_nobody_out(web):
    """Half a head costs a chunk of memory for a bounded time."""
    daemon = web(timeouts={"client_login": "2s"}, limits={"clients": 400})
    start = daemon.rss()
    crowd = [Http(daemon.port("web")) for _ in range(300)]
    for c in crowd:
        c.send(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 600)
    with Http(daemon.port("web")) as c:
        assert c.get("/body/5").status == 200
    assert daemon.rss() - start < 300 * 32_000  # sanitizers included
    for c in crowd:
        assert c.response().status == 408
        c.close()
    wait_for(lambda: daemon.errors("client_timeout", "web") == 300, what="all of them to be counted")


# -- upstreams


@pytest.mark.parametrize("line", [
    b"A: b\rSet-Cookie: x\r\n", b"A: b\0c\r\n", b"A: b\nSet-Cookie: x\r\n", b"A b: c\r\n", b"A : b\r\n",
    b": b\r\n", b"A: b\r\n\tc\r\n", b"A: b\x7f\r\n", b"A\r\n", b"Connection: content-length\r\n",
], ids=["bare cr", "nul", "bare lf", "space in a name", "space before the colon", "no name", "fold",
        "delete", "no colon", "nominated length"])
def test_responses_that_could_be_split(web, raw, line):
    daemon = web(raw.url(), breaker=NO_BREAKER)
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + line + b"\r\nok")
        assert refused(c.response(), 502, "upstream_protocol")
        assert b"ok" not in server.rest()


def test_a_reason_cannot_split_either(web, raw):
    daemon = web(raw.url(), breaker=NO_BREAKER)
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(b"HTTP/1.1 200 OK\rSet-Cookie: x\r\nContent-Length: 0\r\n\r\n")
        assert refused(c.response(), 502, "upstream_protocol")


@pytest.mark.parametrize("method,head", [
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
    ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 1000\r\n\r\n"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
], ids=["HEAD", "204", "304", "length 0"])
def test_a_body_where_none_may_be_answers_nobody(web, raw, method, head):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c, Http(daemon.port("web")) as d:
        c.send(request(method))
        server = raw.accept()
        server.request()
        server.send(head + SECRET)
        r = c.response(method)
        assert r.body == b"" and not c.unread
        assert server.ends()
        d.send(request())
        other = raw.accept()
        other.request()
        other.send(reply(b"right"))
        assert d.response().body == b"right"
        c.send(request())
        other.request()
        other.send(reply(b"right"))
        assert c.response().body == b"right"


def test_a_response_that_waits_for_its_request(web, raw):
    """Sent to an idle connection at the moment it is leased: with check.checkout_after: 0 every one is
    looked at before."""
    daemon = web(raw.url(), check={"checkout_after": 0})
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/warm"))
        old = raw.accept()
        old.request()
        old.send(reply(b"warm"))
        assert c.response().body == b"warm"
        daemon.signal(signal.SIGSTOP)
        try:
            c.send(request("GET", "/x"))
            old.send(SECRET)
        finally:
            daemon.signal(signal.SIGCONT)
        fresh = raw.accept()
        fresh.request()
        fresh.send(reply(b"right"))
        assert c.response().body == b"right"


@pytest.mark.parametrize("reads", [True, False], ids=["reader", "no reader"])
def test_a_flood_of_interim_responses(web, raw, reads):
    """They are no progress: the deadline of the head stands, and so does the bound of what is kept."""
    daemon = web(raw.url(), timeouts={"request": "1s"}, limits={"buffer": "16KiB"}, breaker=NO_BREAKER)
    start = daemon.rss()
    with Http(daemon.port("web"), rcvbuf=8192) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        over = threading.Event()

        def pour():
            with contextlib.suppress(OSError):
                while not over.is_set():
                    server.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)

        pourer = threading.Thread(target=pour, daemon=True)
        pourer.start()
        heard, begin = [], time.monotonic()
        reader = threading.Thread(target=lambda: heard.append(c.response()), daemon=True)
        try:
            if reads:
                reader.start()
            wait_for(lambda: daemon.errors("request_timeout", "web"), what="the deadline")
            assert time.monotonic() - begin < 8 * SLOW
            if reads:
                reader.join(60)
                assert refused(heard[0], 504, "request_timeout") and len(heard[0].interim) > 100
            assert daemon.rss() - start < 20_000_000
        finally:
            over.set()
            server.reset()
            pourer.join(60)


def test_tiny_chunks_without_end(web, raw):
    """Each byte in a chunk of its own, with an extension: neither memory nor the stream's order suffers."""
    daemon = web(raw.url(), limits={"buffer": "16KiB"})
    start = daemon.rss()
    n = 100_000
    with Http(daemon.port("web"), rcvbuf=8192) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        pourer = threading.Thread(target=lambda: server.send(b"1\r\nx\r\n" * n + b"0\r\n\r\n"), daemon=True)
        pourer.start()
        assert c.response().body == b"x" * n
        pourer.join(60)
    assert daemon.rss() - start < 20_000_000
    with Http(daemon.port("web")) as c:
        c.send(request())
        server.request()
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert c.head().status == 200
        with contextlib.suppress(OSError):
            server.send(b"1;" + b"e" * 900 + b"\r\nx\r\n")
            server.send((b"1;" + b"e" * 900 + b"\r\nx\r\n") * 50)
        with pytest.raises(Closed):
            c.exactly(1000)
    assert daemon.saw("upstream_protocol", "web")
