# SPDX-License-Identifier: MIT
"""What a message is and where it ends: every kind of doubt is a refusal, on both sides, over the wire.

The codec's own tests know all vectors; here a sample of each class shows that the relay heeds what the
codec says, and that nothing of a refused message reaches the other side.
"""

import json
import signal
import time

import pytest
from harness.base import wait_for
from harness.http_fixtures import _origin, nginx, origin, raw, web  # noqa: F401
from harness.httpwire import Closed, Http, chunked, http_pool, refused, reply, request
from harness.nginx import pattern

H = b"Host: h\r\n"
POST = b"POST / HTTP/1.1\r\n" + H
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

# name → (bytes, status, cause)
BAD_HEADS = {
    "version 0.9": (b"GET / HTTP/0.9\r\n" + H + b"\r\n", 505, "unsupported"),
    "version 2.0": (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505, "unsupported"),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported"),
    "unknown method": (b"BREW / HTTP/1.1\r\n" + H + b"\r\n", 501, "unsupported"),
    "lower case method": (b"get / HTTP/1.1\r\n" + H + b"\r\n", 501, "unsupported"),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400, "client_protocol"),
    "bare lf": (b"GET / HTTP/1.1\nHost: h\n\n", 400, "client_protocol"),
    "obs-fold": (b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n c\r\n\r\n", 400, "client_protocol"),
    "no colon": (b"GET / HTTP/1.1\r\n" + H + b"A\r\n\r\n", 400, "client_protocol"),
    "nul in a value": (b"GET / HTTP/1.1\r\n" + H + b"A: b\0c\r\n\r\n", 400, "client_protocol"),
    "fragment": (b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n", 400, "client_protocol"),
    "userinfo": (b"GET http://u:p@h/ HTTP/1.1\r\n" + H + b"\r\n", 400, "client_protocol"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "client_protocol"),
    "two hosts": (b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", 400, "client_protocol"),
    "space before colon": (POST + b"Content-Length : 3\r\n\r\nabc", 400, "client_protocol"),
    "length 010": (POST + b"Content-Length: 010\r\n\r\n0123456789", 400, "client_protocol"),
    "length +1": (POST + b"Content-Length: +1\r\n\r\na", 400, "client_protocol"),
    "length list": (POST + b"Content-Length: 1, 1\r\n\r\na", 400, "client_protocol"),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400,
                    "client_protocol"),
    "length 2^64": (POST + b"Content-Length: 18446744073709551616\r\n\r\n", 413, "too_large"),
    "CL.TE": (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
              "client_protocol"),
    "TE.CL": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400,
              "client_protocol"),
    "TE ,chunked": (POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 400, "client_protocol"),
    "TE twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400,
                 "client_protocol"),
    "TE identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 400, "client_protocol"),
    "TE gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501,
                         "unsupported"),
    "empty TE and CL": (POST + b"Transfer-Encoding:\r\nContent-Length: 1\r\n\r\na", 400,
                        "client_protocol"),
    "TE in 1.0": (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
                  "client_protocol"),
    "nominated host": (b"GET / HTTP/1.1\r\n" + H + b"Connection: host\r\n\r\n", 400,
                       "client_protocol"),
    "unknown expectation": (POST + b"Expect: a miracle\r\nContent-Length: 1\r\n\r\na", 417,
                            "unsupported"),
    "long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n", 414, "too_large"),
    "long line": (b"GET / HTTP/1.1\r\n" + H + b"A: " + b"b" * 9000 + b"\r\n\r\n", 431, "too_large"),
    "long head": (b"GET / HTTP/1.1\r\n" + H + (b"A: " + b"b" * 5000 + b"\r\n") * 13 + b"\r\n", 431,
                  "too_large"),
    "many fields": (b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n" * 150 + b"\r\n", 431, "too_large"),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "client_protocol"),
    "postgres": (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", 400, "client_protocol"),
    "redis": (b"*1\r\n$4\r\nPING\r\n", 400, "client_protocol"),
    "garbage": (bytes(range(256)) * 20, 400, "client_protocol"),
}

BAD_BODIES = {
    "size 2^63": (CHUNKED + b"8000000000000000\r\n", 413),
    "size 2^64": (CHUNKED + b"10000000000000000\r\n", 400),
    "negative size": (CHUNKED + b"-1\r\n", 400),
    "size 0x1": (CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n", 400),
    "no crlf behind the payload": (CHUNKED + b"1\r\nxy\r\n0\r\n\r\n", 400),
    "bare lf": (CHUNKED + b"1\nx\n0\n\n", 400),
    "endless extension": (CHUNKED + b"1;" + b"a" * 9000 + b"\r\nx\r\n0\r\n\r\n", 413),
    "long trailers": (CHUNKED + b"0\r\n" + (b"A: " + b"b" * 3000 + b"\r\n") * 4 + b"\r\n", 431),
}


def test_doubtful_requests_are_refused(web, origin):
    daemon = web()
    before = origin.accepted
    for name, (data, status, cause) in BAD_HEADS.items():
        with Http(daemon.port("web")) as c:
            c.send(data)
            r = c.response()
            assert refused(r, status, cause), name
            assert r["connection"] == "close" and c.ends(), name
    assert origin.requests == [] and origin.accepted == before, "nothing reached the origin"
    for cause in ("client_protocol", "too_large", "unsupported"):
        assert daemon.saw(cause, "web")


def test_a_refusal_is_heard_over_what_is_still_sent(web):
    """Closing at once would reset the connection and take the answer back."""
    daemon = web()
    with Http(daemon.port("web")) as c:
        c.send(b"GET  / HTTP/1.1\r\n" + b"x" * 1_000_000)
        assert c.response().status == 400
        assert c.ends()


def test_bodies_that_go_wrong(web, raw):
    """The head has been forwarded by then: the origin sees a request that never ends."""
    daemon = web(raw.url())
    for name, (data, status) in BAD_BODIES.items():
        with Http(daemon.port("web")) as c:
            c.send(CHUNKED)
            server = raw.accept()
            assert server.head().method == "POST"
            c.send(data[len(CHUNKED):])
            r = c.response()
            assert r.status == status and r["connection"] == "close", name
            assert b"0\r\n\r\n" not in server.rest(), name
            server.close()


def test_bodies_that_are_bad_from_the_start(web, raw):
    """Head and bad body in one piece: the origin never hears of it, and its connection is kept."""
    daemon = web(raw.url(), size={"min": 1})
    server = raw.accept()
    wait_for(lambda: daemon.servers("web", "idle") == 1, what="a warm server")
    for name, (data, status) in BAD_BODIES.items():
        if len(data) < 1000:
            with Http(daemon.port("web")) as c:
                c.send(data)
                assert c.response().status == status, name
    server.silent()
    assert raw.accepted == 1


def test_smuggled_requests_stay_bodies(web):
    """What looks like a request inside a body is one to nobody."""
    daemon = web()
    inner = request("GET", "/admin")
    with Http(daemon.port("web")) as c:
        seen = json.loads(c.ask("POST", "/echo", body=inner).body)
        assert seen["body"].encode() == inner
        c.send(request("POST", "/echo", "Transfer-Encoding: chunked") + chunked(inner[:7], inner[7:]))
        assert json.loads(c.response().body)["body"].encode() == inner


def test_chunks_are_made_anew(web, raw):
    """Extensions, trailers and odd sizes end here; payloads do not."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(CHUNKED + b"0003;x=y\r\nabc\r\n2\r\nde\r\n000\r\nContent-Length: 9\r\n\r\n")
        server = raw.accept()
        seen = server.request()
        assert (seen.body, seen.trailers) == (b"abcde", [])
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"0003;x=y\r\nabc\r\n2\r\nde\r\n000\r\nSet-Cookie: a\r\n\r\n")
        r = c.response()
        assert (r.body, r.trailers) == (b"abcde", [])
        assert r.all("set-cookie") == []


# -- responses

BAD_RESPONSES = {
    "no http": b"\x00\x01 garbage\r\n\r\n",
    "version 2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "status 99": b"HTTP/1.1 099 Low\r\n\r\n",
    "status 999": b"HTTP/1.1 999 High\r\n\r\n",
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "length +3": b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
    "TE twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "TE identity": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nabc",
    "TE in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "104 with a length": b"HTTP/1.1 104 What\r\nContent-Length: 3\r\n\r\nabc",
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "bare lf": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "obs-fold": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "long head": b"HTTP/1.1 200 OK\r\n" + (b"A: " + b"b" * 9000 + b"\r\n") * 8 + b"\r\n",
}


def test_doubtful_responses_become_502(web, raw):
    daemon = web(raw.url(), breaker={"consecutive": 0, "failure_ratio": "0%"})
    for name, data in BAD_RESPONSES.items():
        with Http(daemon.port("web")) as c:
            c.send(request())
            server = raw.accept()
            server.request()
            server.send(data)
            r = c.response()
            assert refused(r, 502, "upstream_protocol"), name
            assert r["connection"] is None, "the client has done nothing wrong"
            server.rest()  # carpool closes
            server.close()
    assert daemon.saw("upstream_protocol", "web")


def test_a_nul_in_a_reason_is_dropped(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n")
        assert c.response().first == "HTTP/1.1 200 "


def test_chunks_that_go_wrong_tear_the_response(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n")
        assert c.head().status == 200
        with pytest.raises(Closed) as torn:
            c.exactly(1000)
        assert torn.value.seen == b"3\r\nabc\r\n", "what was good, and no end"
    assert daemon.saw("upstream_protocol", "web")


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_two_responses_for_one_request(web, raw, late):
    """The second one answers nobody, least of all the next client."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(reply(b"right") + (b"" if late else reply(b"wrong")))
        assert c.response().body == b"right"
        if late:
            server.send(reply(b"wrong"))
        assert server.ends(), "the connection is out of step"
        c.send(request())
        second = raw.accept()
        second.request()
        second.send(reply(b"right again"))
        assert c.response().body == b"right again"
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="web", outcome="drop_unread") == 1,
             what="the reason to be counted")


# -- cut into pieces


def test_byte_at_a_time(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        for how in ("length", "chunked"):
            body = b"hello world"
            if how == "length":
                c.trickle(request("POST", "/slow", body=body))
            else:
                c.trickle(request("POST", "/slow", "Transfer-Encoding: chunked") +
                          chunked(b"hello", b" world"))
            server = raw.accept() if how == "length" else server  # noqa: F821
            seen = server.request()
            assert (seen.target, seen.body) == ("/slow", body)
            if how == "length":
                server.trickle(reply(b"slow too"))
            else:
                server.trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
                               chunked(b"slow", b" too"))
            assert c.response().body == b"slow too"
    assert raw.accepted == 1


def test_trickling_relays_on_both_sides(web, gate, origin):
    """Segments of one byte, each way, through a relay that cuts them."""
    inner = gate(origin.host, origin.port)
    daemon = web(f"http://{inner.host}:{inner.port}")
    outer = gate("127.0.0.1", daemon.port("web"))
    inner.trickle()
    outer.trickle()
    with Http(outer.port) as c:
        assert c.get("/chunked/3000").body == pattern(3000)
        assert json.loads(c.ask("POST", "/echo", body=pattern(2000)).body)["body"].encode() == pattern(2000)


@pytest.mark.parametrize("idle", [False, True], ids=["at the beginning", "between requests"])
def test_one_empty_line_before_a_request(web, origin, idle):
    """RFC 9112 section 2.2; a second one is no more welcome when it comes on its own."""
    daemon = web()
    with Http(daemon.port("web")) as c:
        if idle:
            assert c.get("/body/1").status == 200
        c.send(b"\r\n")
        c.silent()
        assert c.get("/body/2").body == pattern(2)
        c.send(b"\r\n")
        c.silent()
        c.send(b"\r\n")
        assert refused(c.response(), 400, "client_protocol")
        assert c.ends()


# -- pipelining


def test_pipelined_requests_are_answered_in_order(web, origin, workers):
    daemon = web(workers=workers)
    with Http(daemon.port("web")) as c:
        c.send(b"".join(request("GET", f"/body/{n}") for n in range(200)))
        for n in range(200):
            assert c.response().body == pattern(n)
    assert [r["target"] for r in origin.requests] == [f"/body/{n}" for n in range(200)]


def test_pipelining_of_every_kind(web, origin):
    daemon = web()
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/echo", body=b"one") + request("HEAD", "/body/5") +
               request("POST", "/echo", "Transfer-Encoding: chunked") + chunked(b"two") +
               request("TRACE", "/") + request("OPTIONS", "*", "Max-Forwards: 0") +
               request("GET", "/status/204") + request("GET", "/delay/100") + request("BREW", "/"))
        assert json.loads(c.response().body)["body"] == "one"
        r = c.response("HEAD")
        assert r["content-length"] == "5"
        # The origin answers HEAD with a body all the same: that connection is gone, the client's is not.
        assert json.loads(c.response().body)["body"] == "two"
        assert [c.response().status for _ in range(5)] == [405, 200, 204, 200, 501]
        assert c.ends()


def test_a_pipeline_takes_turns_with_others(carpool, origin):
    """Also where every answer is carpool's own, so that nothing else makes it pause."""
    daemon = carpool(http_pool(origin.url()), log={"access": "errors", "format": "json", "level": "error"})
    n = 100
    clients = [Http(daemon.port("web")) for _ in range(2)]
    for c in clients:
        assert c.ask("OPTIONS", "*", "Max-Forwards: 0").status == 200
    daemon.signal(signal.SIGSTOP)
    try:
        for c in clients:
            c.send(request("TRACE", "/") * n)
    finally:
        daemon.signal(signal.SIGCONT)
    for c in clients:
        assert [c.response().status for _ in range(n)] == [405] * n
        c.close()
    lines = wait_for(lambda: (got := daemon.log_lines('"event":"access"')) and len(got) >= 2 * n and got,
                     what="access lines")
    order = [json.loads(line)["conn"] for line in lines]
    first, second = dict.fromkeys(order)
    assert order.index(second) < n, "the second client did not wait for the end of the first one's"
    assert order.count(first) == order.count(second) == n


def test_the_next_request_waits_for_the_response(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/1") + request("GET", "/2"))
        server = raw.accept()
        assert server.request().target == "/1"
        server.silent()
        assert raw.accepted == 1
        server.send(reply(b"1"))
        assert server.request().target == "/2"
        server.send(reply(b"2"))
        assert [c.response().body for _ in range(2)] == [b"1", b"2"]


def test_a_client_that_pipelines_and_does_not_read(web, origin):
    """What it sends ahead is bounded, what it does not take is bounded, and others are served."""
    daemon = web(timeouts={"write_stall": "1s"}, limits={"buffer": "16KiB"},
                 tcp={"keepalive": "30s"})
    with Http(daemon.port("web"), rcvbuf=4096) as c, Http(daemon.port("web")) as other:
        c.sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 50_000_000:
                sent += c.sock.send(request("GET", "/body/100000") * 100)
        except TimeoutError:
            pass
        assert sent < 50_000_000, "reading went on"
        assert other.get("/body/10").body == pattern(10)
        begin = time.monotonic()
        assert daemon.saw("write_stall", "web")
        assert time.monotonic() - begin < 20
    assert len(origin.requests) < 1000


# -- half-closed


def test_a_client_s_end_of_file_after_its_request_is_no_abort(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/1") + request("POST", "/2", body=b"x")).finish()
        server = raw.accept()
        for n in (1, 2):
            assert server.request().target == f"/{n}"
            server.send(reply(b"%d" % n))
            assert c.response().body == b"%d" % n
        assert c.ends()


def test_end_of_file_in_the_middle_of_a_request_is_one(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(b"GET / HT").finish()
        assert c.ends()
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/", "Content-Length: 10") + b"12345").finish()
        server = raw.accept()
        server.head()
        assert server.rest() == b"12345", "and the end"
        assert c.ends()
    wait_for(lambda: daemon.errors("client_gone", "web") == 2, what="both to be counted")
