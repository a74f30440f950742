# SPDX-License-Identifier: MIT
"""A peer that leaves, or stands still, at each point of an exchange: the other one hears the truth, nothing is
kept of it, and who comes next is served by a connection that is in step."""

import contextlib
import socket

import pytest
from harness.base import wait_for
from harness.http_fixtures import raw, web  # noqa: F401
from harness.httpwire import Http, refused, reply, request

UPLOAD = ("POST", "/up", "Content-Length: 10")
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"
HALF_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"
PATIENCE = {"request": "1s", "read_stall": "1s", "client_login": "1s"}


class Scene:
    """A client `c` and the origin's `end` of its exchange, brought to some point."""

    def __init__(self, daemon, raw, what, said=b""):
        self.daemon, self.c = daemon, Http(daemon.port("web"))
        self.c.send(what)
        self.end = raw.accept()
        self.end.head()
        if said:
            self.end.send(said)


def uploading(daemon, raw, said=b""):
    """The origin has half of the body, and has said so much."""
    scene = Scene(daemon, raw, request(*UPLOAD) + b"12345", said)
    assert scene.end.exactly(5) == b"12345"
    return scene


def expecting(daemon, raw, said=b""):
    return Scene(daemon, raw, request(*UPLOAD, "Expect: 100-continue"), said)


def asking(daemon, raw, said=b""):
    return Scene(daemon, raw, request("GET", "/down"), said)


def heard(scene, status):
    assert scene.c.head().status == status
    return scene


# Before the response's head has come: (how it comes to that, whether the client still owes bytes).
BEFORE = {
    "in the request's body": (uploading, True),
    "before 100": (expecting, True),
    "after 100": (lambda *a: heard(expecting(*a, b"HTTP/1.1 100 Continue\r\n\r\n"), 100), True),
    "before the response": (asking, False),
    "in the response's head": (lambda *a: asking(*a, b"HTTP/1.1 200 OK\r\nContent-Le"), False),
    "after an interim response": (
        lambda *a: heard(asking(*a, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), 103), False),
}
# ... and after.
DURING = {
    "in a body of known length": (lambda *a: heard(asking(*a, HALF), 200), False),
    "in a chunked body": (lambda *a: heard(asking(*a, HALF_CHUNKED), 200), False),
    "in an early response": (lambda *a: heard(uploading(*a, HALF), 200), True),
    "in an early response instead of 100": (lambda *a: heard(expecting(*a, HALF), 200), True),
}
ALL = BEFORE | DURING


@pytest.fixture
def alone(web, raw):
    """alone(**pool keys): a pool of one server, so that whatever is kept of it is missed."""
    def make(**over):
        return web(raw.url(), **{"size": {"min": 0, "max": 1}, "breaker": {"consecutive": 0, "failure_ratio": "0%"},
                                 **over})
    return make


def served(daemon, raw, dropped=True):
    """The slot is free, or its server in step: the next client has what it asked for."""
    wait_for(lambda: daemon.pools()["web"]["leases"] == 0, what="the lease to be over")
    if dropped:
        wait_for(lambda: daemon.servers("web") == 0, what="the slot to be free")
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/next"))
        end = raw.accept()
        assert end.request().target == "/next"
        end.send(reply(b"well"))
        assert c.response().body == b"well"
    wait_for(lambda: daemon.metric("carpool_clients", pool="web") == 0, what="the clients to be gone")
    figures = daemon.pools()["web"]
    assert (figures["waiting"], figures["leases"]) == (0, 0)
    return True


def gone(end):
    """The origin's end is closed by carpool, whatever was sent before."""
    with contextlib.suppress(ConnectionResetError):
        end.rest()
    end.close()
    return True


# -- clients


@pytest.mark.parametrize("point", ALL)
def test_a_client_resets(alone, raw, point):
    daemon = alone()
    scene = ALL[point][0](daemon, raw)
    scene.c.reset()
    assert gone(scene.end)
    assert served(daemon, raw)
    assert daemon.all_errors("web") == {"client_gone": 1}


@pytest.mark.parametrize("point", [p for p in ALL if ALL[p][1]])
def test_a_client_ends_in_its_body(alone, raw, point):
    """End-of-file before the end of what was announced."""
    daemon = alone()
    scene = ALL[point][0](daemon, raw)
    scene.c.close()
    assert gone(scene.end)
    assert served(daemon, raw)
    assert daemon.all_errors("web") == {"client_gone": 1}


@pytest.mark.parametrize("point", [p for p in ALL if not ALL[p][1]])
def test_a_client_that_has_said_all_may_end(alone, raw, point):
    """End-of-file behind a whole request is no abort: it is answered."""
    daemon = alone()
    scene = ALL[point][0](daemon, raw)
    scene.c.finish()
    rest = {"before the response": reply(b"done"), "in the response's head": b"ngth: 4\r\n\r\ndone",
            "after an interim response": reply(b"done"), "in a body of known length": b"67890",
            "in a chunked body": b"0\r\n\r\n"}[point]
    scene.end.send(rest)
    assert scene.c.rest().endswith(rest[-4:])
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/next"))
        assert scene.end.request().target == "/next"
        scene.end.send(reply(b"well"))
        assert c.response().body == b"well"
    assert daemon.all_errors("web") == {}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("said", [b"GET", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n"],
                         ids=["in the line", "in the head", "after an empty line"])
def test_a_client_leaves_in_its_head(alone, raw, said, how):
    daemon = alone()
    c = Http(daemon.port("web"))
    c.send(said)
    state = "idle" if said == b"\r\n" else "reading"
    wait_for(lambda: [row["state"] for row in daemon.json("/clients")["clients"]] == [state], what=state)
    getattr(c, how)()
    assert served(daemon, raw)
    assert daemon.all_errors("web") == ({} if state == "idle" else {"client_gone": 1})


@pytest.mark.parametrize("body", [False, True], ids=["a whole request", "half a body"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_leaves_while_it_waits(alone, raw, how, body):
    """At once, if it cannot be answered; one that has said all may still want its answer."""
    daemon = alone()
    scene = asking(daemon, raw)
    waiter = Http(daemon.port("web"))
    waiter.send(request(*UPLOAD) if body else request("GET", "/waiting"))
    wait_for(lambda: daemon.waiting("web") == 1, what="the other to wait")
    getattr(waiter, how)()
    if body or how == "reset":
        wait_for(lambda: daemon.waiting("web") == 0, what="its place to be free")
        wait_for(lambda: daemon.errors("client_gone", "web") == 1, what="what became of it")
    scene.end.send(reply(b"done"))
    assert scene.c.response().body == b"done"
    scene.c.close()
    if not body and how == "close":
        assert scene.end.request().target == "/waiting"
        scene.end.send(reply(b"done"))
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/next"))
        assert scene.end.request().target == "/next"
        scene.end.send(reply(b"well"))
        assert c.response().body == b"well"


# -- origins


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("point", BEFORE)
def test_an_origin_leaves_before_its_response(alone, raw, point, how):
    daemon = alone()
    scene = BEFORE[point][0](daemon, raw)
    getattr(scene.end, how)()
    r = scene.c.response()
    assert refused(r, 502, "upstream_closed")
    assert (b"unknown" in r.body) == BEFORE[point][1], "said of a POST, and only of that"
    if point == "in the request's body":
        assert r["connection"] is None, "the rest of the body is read away"
        scene.c.send(b"67890")
        assert scene.c.ask("OPTIONS", "*", "Max-Forwards: 0").status == 200
    elif BEFORE[point][1]:
        assert r["connection"] == "close", "nobody knows whether the body comes"
    scene.c.close()
    assert served(daemon, raw)
    assert daemon.all_errors("web") == {"upstream_closed": 1}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("point", DURING)
def test_an_origin_leaves_in_its_response(alone, raw, point, how):
    daemon = alone()
    scene = DURING[point][0](daemon, raw)
    getattr(scene.end, how)()
    with contextlib.suppress(ConnectionResetError):
        assert not scene.c.rest().endswith(b"0\r\n\r\n"), "torn, and that shows"
    scene.c.close()
    assert served(daemon, raw)
    assert daemon.all_errors("web") == {"upstream_closed": 1}


# -- nobody leaves, nothing comes


@pytest.mark.parametrize("point", BEFORE)
def test_nothing_more_before_the_response(alone, raw, point):
    """Whoever owes something is named."""
    daemon = alone(timeouts=PATIENCE)
    scene = BEFORE[point][0](daemon, raw)
    r = scene.c.response()
    if point in ("in the request's body", "after 100"):
        assert refused(r, 408, "client_timeout") and r["connection"] == "close"
    else:
        assert refused(r, 504, "request_timeout")
    assert gone(scene.end)
    scene.c.close()
    assert served(daemon, raw)
    assert sum(daemon.all_errors("web").values()) == 1


@pytest.mark.parametrize("point", DURING)
def test_nothing_more_of_the_response(alone, raw, point):
    daemon = alone(timeouts=PATIENCE)
    scene = DURING[point][0](daemon, raw)
    assert not scene.c.rest().endswith(b"0\r\n\r\n")
    assert gone(scene.end)
    scene.c.close()
    assert served(daemon, raw)
    (cause,) = daemon.all_errors("web")
    assert cause == ("client_timeout" if DURING[point][1] else "idle_timeout")


def test_a_head_that_never_ends(alone, raw):
    """Bytes of a head are no head: its deadline stands, however steadily they come."""
    daemon = alone(timeouts=PATIENCE)
    scene = asking(daemon, raw, b"HTTP/1.1 200 OK\r\nA: ")
    scene.end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    scene.c.sock.settimeout(0.05)
    for _ in range(400):
        with contextlib.suppress(OSError):
            scene.end.send(b"a")
        try:
            scene.c._more()
            break
        except TimeoutError:
            continue
    scene.c.sock.settimeout(20)
    assert refused(scene.c.response(), 504, "request_timeout")
    scene.end.close()
    scene.c.close()
    assert served(daemon, raw)


# -- one byte at a time


def test_expect_byte_by_byte(alone, raw):
    daemon = alone()
    with Http(daemon.port("web")) as c:
        c.trickle(request(*UPLOAD, "Expect: 100-continue"))
        end = raw.accept()
        assert end.head()["expect"] == "100-continue"
        end.trickle(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert c.head().status == 100
        c.trickle(b"0123456789")
        assert end.exactly(10) == b"0123456789"
        end.trickle(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(b"stored"))
        r = c.response()
        assert ([m.status for m in r.interim], r.body) == ([103], b"stored")
        c.trickle(request("GET", "/again"))
        assert end.request().target == "/again"
        end.trickle(reply(b"well"))
        assert c.response().body == b"well"


@pytest.mark.parametrize("last", [False, True], ids=["reads on", "closes"])
def test_an_early_response_byte_by_byte(alone, raw, last):
    """Both go on at once; an origin that closes is not sent the rest."""
    daemon = alone()
    c = Http(daemon.port("web"))
    c.trickle(request(*UPLOAD) + b"12345")
    end = raw.accept()
    end.head()
    assert end.exactly(5) == b"12345"
    end.trickle(reply(b"early", *["Connection: close"] * last)[:-2])
    c.trickle(b"678")
    if not last:
        assert end.exactly(3) == b"678"
    end.trickle(b"ly")
    assert c.response().body == b"early"
    assert c.ends()
    c.close()
    assert gone(end)
    assert served(daemon, raw)
    assert daemon.all_errors("web") == {}
