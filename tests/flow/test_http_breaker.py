# SPDX-License-Identifier: MIT
"""The breaker of an HTTP service: what opens it, who may try whether it can close, and what the others hear."""

import contextlib
import queue
import select

import pytest
from harness.base import wait_for
from harness.http_fixtures import raw, web  # noqa: F401
from harness.httpwire import Http, refused, reply, request

SICK = reply(b"no", status="500 Internal Server Error")


def service(daemon):
    """The breaker's state."""
    return daemon.stats()["pools"][0]["breaker"]["service"]


def fails(daemon, raw, how):
    """One exchange, on a connection of its own, that goes wrong."""
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/", body=b"x"))
        end = raw.accept()
        end.request()
        if how == "500":
            end.send(SICK)
        elif how == "closes":
            end.close()
        elif how == "garbage":
            end.send(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
        elif "torn" in how:
            end.send(b"HTTP/1.1 %s\r\nContent-Length: 5\r\n\r\n12" % how.encode())
            end.close()
            status = c.head().status
            assert c.rest() == b"12"
            return status
        status = c.response().status
        end.close()
        return status


HOW = {"500": 500, "closes": 502, "garbage": 502, "silence": 504, "200 and torn": 200, "500 and torn": 500}


@pytest.fixture
def sick(web, raw):
    """sick(how, **pool keys): carpool whose breaker has just opened."""
    def make(how="500", **over):
        daemon = web(raw.url(), **{"breaker": {"consecutive": 3, "open": "1s..1s"}, "size": {"min": 0, "max": 4},
                                   "timeouts": {"request": "300ms" if how == "silence" else "15s"}, **over})
        for n in range(3):
            assert service(daemon) == "closed"
            assert fails(daemon, raw, how) == HOW[how]
            wait_for(lambda: daemon.servers("web") == 0, what="the server to be gone")
        wait_for(lambda: service(daemon) == "open", what="the breaker to open")
        return daemon
    return make


@pytest.mark.parametrize("how", HOW)
def test_what_opens_it(sick, raw, how):
    """From then on the origin hears nothing, and clients are told at once, and when to come again."""
    daemon = sick(how, breaker={"consecutive": 3, "open": "20s..20s"})
    before = raw.accepted
    with Http(daemon.port("web")) as c:
        for method in ("GET", "POST"):
            r = c.ask(method, "/", body=b"x" if method == "POST" else b"")
            assert refused(r, 503, "breaker_open")
            assert "destination_unavailable" in r["proxy-status"]
            assert 5 <= int(r["retry-after"]) <= 25
    assert raw.accepted == before


def attempt(daemon, raw, asked):
    """(client, the origin's end), or None if the client was refused."""
    client = Http(daemon.port("web"))
    client.send(asked)
    for _ in range(500):
        with contextlib.suppress(queue.Empty):
            end = raw.accept(0.02)
            end.head()
            return client, end
        if select.select([client.sock], [], [], 0)[0]:
            assert refused(client.response(), 503, "breaker_open")
            client.close()
            return None
    raise AssertionError("the client hears nothing, and neither does the origin")


def let_through(daemon, raw, asked=request("GET", "/trial"), timeout=10):
    """The same, for one that the breaker lets try."""
    return wait_for(lambda: attempt(daemon, raw, asked), timeout, "a trial", 0.05)


def test_one_client_tries_for_all(sick, raw):
    """While it does, the others are refused; three that go well, one after the other, close it."""
    daemon = sick()
    for _ in range(3):
        trial, end = let_through(daemon, raw)
        for _ in range(4):
            assert attempt(daemon, raw, request()) is None
        assert service(daemon) == "half_open"
        end.send(reply(b"well", "Connection: close"))
        assert trial.response().body == b"well"
        end.close()
    wait_for(lambda: service(daemon) == "closed", what="the breaker to close")
    for _ in range(2):
        client, end = attempt(daemon, raw, request())
        end.send(reply(b"well", "Connection: close"))
        assert client.response().body == b"well"


def test_a_trial_that_fails_opens_it_again(sick, raw):
    daemon = sick(breaker={"consecutive": 3, "open": "1s..20s"})
    trial, end = let_through(daemon, raw)
    end.send(SICK)
    assert trial.response().status == 500
    wait_for(lambda: service(daemon) == "open", what="the breaker to be open again")
    assert refused(trial.get(), 503, "breaker_open")


def test_a_trial_that_is_never_answered(sick, raw):
    """The deadline of the request is the trial's, too."""
    daemon = sick("silence", breaker={"consecutive": 3, "open": "1s..20s"})
    trial, _end = let_through(daemon, raw)
    assert refused(trial.response(), 504, "request_timeout")
    wait_for(lambda: service(daemon) == "open", what="the breaker to be open again")


@pytest.mark.parametrize("how", ["leaves", "breaks off", "waits in vain"])
def test_a_trial_that_tells_nothing_is_passed_on(sick, raw, how):
    """The client left, what it sent was no HTTP, or the pool had no server: the next one may try at once, and
    not only when the trial is given up for lost, after ten seconds."""
    daemon = sick(size={"min": 0, "max": 4, "acquire_timeout": "500ms"})
    asked = request("GET", "/trial") if how == "leaves" else request("POST", "/", "Transfer-Encoding: chunked")
    if how == "waits in vain":
        daemon.cli("pause", "web")
        with Http(daemon.port("web")) as c:
            wait_for(lambda: "paused" in c.get()["proxy-status"], 10, "a trial that waits", 0.05)
        daemon.cli("resume", "web")
    else:
        trial, end = let_through(daemon, raw, asked)
        if how == "leaves":
            trial.reset()
        else:
            trial.send(b"no chunk\r\n")
            assert trial.response().status == 400
        end.rest()
        end.close()
    assert service(daemon) == "half_open"
    other, end = let_through(daemon, raw, timeout=5)
    end.send(reply(b"well"))
    assert other.response().body == b"well"
