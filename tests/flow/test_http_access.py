# SPDX-License-Identifier: MIT
"""`log.access` of HTTP: a line for each request, with what was asked and what was answered. What all protocols'
lines have in common is in test_log_access.py."""

import contextlib
import json
import shlex

import pytest
from harness.base import LOOPBACK, free_port, wait_for
from harness.http_fixtures import _origin, origin, raw  # noqa: F401
from harness.httpwire import Closed, Http, chunked, http_pool, refused, reply, request
from harness.nginx import pattern

COMMON = ["time", "level", "thread", "event", "pool", "kind", "conn", "client", "user", "lease", "server",
          "endpoint", "wait_us", "exchange_us", "bytes_in", "bytes_out", "outcome"]
OWN = ["method", "status", "path"]
LONGEST = 200  # bytes of a target


@pytest.fixture
def logged(carpool, request):
    """logged(upstream=..., access="all", **pool keys): with the access log, and nothing else."""
    def make(upstream=None, access="all", form="json", **over):
        upstream = upstream or request.getfixturevalue("origin").url()
        return carpool(http_pool(upstream, **over), log={"access": access, "format": form, "level": "error"})
    return make


def lines(daemon, n):
    """Exactly n access lines so far, as JSON."""
    found = wait_for(lambda: (got := daemon.log_lines('"event":"access"')) and len(got) >= n and got, 20,
                     f"{n} access lines")
    parsed = [json.loads(line) for line in found]
    for line in parsed:
        assert [k for k in line if k != "slow"] == COMMON + OWN, line
    assert len(parsed) == n
    return parsed


class Counting(Http):
    """Knows how many bytes went each way."""
    sent = got = 0

    def send(self, data):
        self.sent += len(data)
        return super().send(data)

    def _more(self, seen=b""):
        before = len(self.unread)
        super()._more(seen)
        self.got += len(self.unread) - before

    def counts(self):
        """Of what was sent and heard since the last call. Nothing may be left unread."""
        assert not self.unread
        counts = (self.sent, self.got)
        self.sent = self.got = 0
        return counts


def told(line):
    return line["method"], line["path"], line["status"], line["outcome"]


def test_what_was_asked_and_answered(logged, origin):
    """Every byte of the client's and to the client counts, heads and chunks included."""
    daemon, counts = logged(), []
    with Counting(daemon.port("web")) as c:
        assert c.get("/body/1000?a=b%20c&d").body == pattern(1000)
        counts.append(c.counts())
        c.send(request("HEAD", "/body/2"))
        assert c.head().status == 200
        counts.append(c.counts())
        assert c.ask("POST", "/status/404", body=b"x" * 5000).status == 404
        counts.append(c.counts())
        c.send(request("PUT", "/chunked/3000", "Transfer-Encoding: chunked") + chunked(b"a" * 700, b"b"))
        assert c.response().body == pattern(3000)
        counts.append(c.counts())
        c.send(request("GET", "/continue"))
        assert [m.status for m in c.response().interim] == [100, 103]
        counts.append(c.counts())
    found = lines(daemon, 5)
    assert [told(line) for line in found] == [
        ("GET", "/body/1000?a=b%20c&d", 200, "ok"), ("HEAD", "/body/2", 200, "ok"),
        ("POST", "/status/404", 404, "ok"), ("PUT", "/chunked/3000", 200, "ok"),
        ("GET", "/continue", 200, "ok")]
    assert [(line["bytes_in"], line["bytes_out"]) for line in found] == counts
    assert {(line["pool"], line["kind"], line["user"]) for line in found} == {("web", "http", "")}
    assert {f"http://{line['endpoint']}" for line in found} == {origin.url()}
    assert len({line["conn"] for line in found}) == 1 and found[0]["client"].startswith(f"{LOOPBACK}:")
    assert [line["lease"] for line in found] == [1, 2, 3, 4, 5]
    assert all(line["server"] > 0 and line["exchange_us"] > 0 for line in found)


def test_a_pipeline_is_told_apart(logged, origin):
    daemon = logged()
    asked = [request("GET", f"/body/{n}") for n in (10, 2000, 1)]
    with Counting(daemon.port("web")) as c:
        c.send(b"".join(asked))
        assert [len(c.response().body) for _ in asked] == [10, 2000, 1]
        got = c.counts()[1]
    found = lines(daemon, 3)
    assert [line["path"] for line in found] == ["/body/10", "/body/2000", "/body/1"]
    assert [line["bytes_in"] for line in found] == [len(a) for a in asked]
    assert sum(line["bytes_out"] for line in found) == got


def test_text(logged, origin):
    """The same fields in the same order, and one line stays one line."""
    daemon = logged(form="text")
    target = "/body/1?quote=%22&x=a=b&outcome=[no]"
    with Http(daemon.port("web")) as c:
        assert c.get(target).status == 200
    (line,) = wait_for(lambda: daemon.log_lines(" access "), 20, "the line")
    pairs = [pair.partition("=")[::2] for pair in shlex.split(line)[3:]]
    assert [k for k, _ in pairs] == COMMON[4:] + OWN
    fields = dict(pairs)
    assert (fields["method"], fields["status"], fields["path"], fields["outcome"]) == ("GET", "200", target, "ok")


@pytest.mark.parametrize("n", [LONGEST - 1, LONGEST, LONGEST + 1, 8000])
def test_long_targets_are_cut(logged, origin, n):
    daemon = logged()
    target = "/body/1?".ljust(n, "x")
    with Http(daemon.port("web")) as c:
        assert c.get(target).status == 200
    (line,) = lines(daemon, 1)
    assert line["path"] == (target if n <= LONGEST else target[:LONGEST - 3] + "...")


def test_absolute_and_asterisk_forms(logged, origin):
    """As the client said it."""
    daemon = logged()
    with Http(daemon.port("web")) as c:
        c.send(b"GET http://name:81/body/1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert c.response().status == 200
        assert c.ask("OPTIONS", "*").status == 404
    assert [line["path"] for line in lines(daemon, 2)] == ["http://name:81/body/1", "*"]


# -- failures


def test_what_carpool_refuses(logged, origin):
    """Nobody carried it. What cannot be read has neither method nor path."""
    daemon, counts = logged(access="errors"), []
    for asked, status in ((request("GET", "/no host", host=None), 400), (b"GET / HTTP/1.1\r\n\r\n", 400),
                          (request("TRACE", "/trace"), 405),
                          (request("GET", "/big", *[f"A{i}: b" for i in range(200)]), 431)):
        with Counting(daemon.port("web")) as c:
            c.send(asked)
            with contextlib.suppress(ConnectionResetError):  # of what it did not read
                assert c.response().status == status
            counts.append(c.counts())
    found = lines(daemon, 4)
    assert [told(line) for line in found] == [
        ("-", "", 400, "client_protocol"), ("-", "", 400, "client_protocol"),
        ("TRACE", "/trace", 405, "denied"), ("-", "", 431, "too_large")]
    assert {(line["server"], line["lease"], line["endpoint"]) for line in found} == {(0, 0, "-")}
    assert {(line["wait_us"], line["exchange_us"]) for line in found[:2]} == {(0, 0)}
    assert [line["bytes_out"] for line in found] == [got for _, got in counts]
    assert [line["bytes_in"] <= sent for line, (sent, _) in zip(found, counts)] == [True] * 4


def test_a_request_behind_another_is_no_part_of_it(logged, origin):
    """A broken one, on a connection that carried a good one."""
    daemon = logged(access="errors")
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/body/1") + b"BROKEN\r\n\r\n")
        assert c.response().status == 200
        assert c.response().status in (400, 501)
    (line,) = lines(daemon, 1)
    assert (line["method"], line["path"], line["bytes_in"]) == ("-", "", len(b"BROKEN\r\n"))


def test_what_the_upstream_did(logged, raw):
    """The answer that the client got, and by whose fault; the server is known."""
    daemon = logged(raw.url(), access="errors", breaker={"consecutive": 0, "failure_ratio": "0%"},
                    timeouts={"request": "1500ms", "read_stall": "1s"})
    with Counting(daemon.port("web")) as c:
        c.send(request("POST", "/lost", body=b"x"))
        end = raw.accept()
        end.request()
        end.close()
        assert refused(c.response(), 502, "upstream_closed")
        lost = c.counts()
        c.send(request("GET", "/late"))
        end = raw.accept()
        end.request()
        assert refused(c.response(), 504, "request_timeout")
        late = c.counts()
        c.send(request("GET", "/torn"))
        end = raw.accept()
        end.request()
        end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
        with pytest.raises(Closed):
            c.response()
    found = lines(daemon, 3)
    assert [told(line) for line in found] == [
        ("POST", "/lost", 502, "upstream_closed"), ("GET", "/late", 504, "request_timeout"),
        ("GET", "/torn", 200, "idle_timeout")]
    assert [(line["bytes_in"], line["bytes_out"]) for line in found[:2]] == [lost, late]
    assert [line["lease"] for line in found] == [1, 2, 3] and all(line["server"] for line in found)
    assert found[1]["exchange_us"] >= 1_000_000


def test_nobody_listens(logged):
    daemon = logged(f"http://{LOOPBACK}:{free_port()}", access="errors")
    with Http(daemon.port("web")) as c:
        assert c.get("/x").status == 502
    (line,) = lines(daemon, 1)
    assert told(line) == ("GET", "/x", 502, "dial_failed")
    assert (line["server"], line["endpoint"], line["exchange_us"]) == (0, "-", 0) and line["wait_us"] > 0


def test_clients_that_leave(logged, raw):
    """One before an answer, one in its middle, one while it waits."""
    daemon = logged(raw.url(), access="errors", size={"max": 1})
    with Http(daemon.port("web")) as c, Http(daemon.port("web")) as other:
        c.send(request("GET", "/first"))
        end = raw.accept()
        end.request()
        other.send(request("GET", "/waiting"))
        wait_for(lambda: daemon.waiting("web") == 1, what="the other to wait")
        other.reset()
        wait_for(lambda: daemon.waiting("web") == 0, what="the other to be gone")
        c.reset()
        assert end.rest() == b""
        end.close()
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/second"))
        end = raw.accept()
        end.request()
        end.send(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\n\r\nab")
        c.until(b"\r\n\r\nab")
        c.reset()
    assert [told(line) for line in lines(daemon, 3)] == [
        ("GET", "/waiting", 0, "client_gone"), ("GET", "/first", 0, "client_gone"),
        ("GET", "/second", 206, "client_gone")]


# -- when there is nothing to say


@pytest.mark.parametrize("access", ["off", "errors"])
def test_what_went_well_costs_no_line(logged, origin, access):
    daemon = logged(access=access)
    with Http(daemon.port("web")) as c:
        for status in (200, 404, 501, 503):  # an origin's answers are no errors of carpool's
            assert c.get(f"/status/{status}").status == status
    daemon.stop()
    assert not daemon.log_lines('"event":"access"')


def test_only_what_is_slow(logged, raw):
    daemon = logged(raw.url(), access="off", log={"slow": "1s"})
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/fast"))
        end = raw.accept()
        end.request()
        end.send(reply(b"1"))
        assert c.response().body == b"1"
        c.send(request("GET", "/slow"))
        end.request()
        end.send(b"HTTP/1.1 200 OK\r\n")
        c.silent(1.2)
        end.send(b"Content-Length: 1\r\n\r\n2")
        assert c.response().body == b"2"
    slow = [line for line in lines(daemon, 1) if line["path"] == "/slow"]
    assert [(line["slow"], line["status"]) for line in slow] == [("yes", 200)]
    assert slow[0]["exchange_us"] >= 1_000_000


def test_a_reload_in_the_middle_of_a_request(logged, raw):
    """What was not noted at its beginning is not made up at its end."""
    daemon = logged(raw.url(), access="off")
    with Http(daemon.port("web")) as c:
        c.send(request("GET", "/before"))
        end = raw.accept()
        end.request()
        daemon.write({**daemon.config, "log": {"format": "json", "access": "all", "level": "error"}})
        daemon.reload()
        end.send(reply(b"1"))
        assert c.response().body == b"1"
        c.send(request("GET", "/after"))
        end.request()
        end.send(reply(b"2"))
        assert c.response().body == b"2"
    assert [told(line) for line in lines(daemon, 2)] == [("-", "", 200, "ok"), ("GET", "/after", 200, "ok")]
