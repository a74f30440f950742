# SPDX-License-Identifier: MIT
"""What goes wrong, and what the client hears of it: one word in Proxy-Status, log, metric and /stats."""

import contextlib
import queue
import select
import threading
import time

import pytest
from harness.base import LOOPBACK, SLOW, free_port, wait_for
from harness.http_fixtures import _origin, nginx, origin, raw, tls_nginx, web  # noqa: F401
from harness.httpwire import Closed, Http, refused, reply, request
from harness.nginx import pattern

NO_BREAKER = {"consecutive": 0, "failure_ratio": "0%"}


def within(seconds):
    """A bound on what follows; sanitizers are slow."""
    class Bound:
        def __enter__(self):
            self.begin = time.monotonic()

        def __exit__(self, *_):
            took = time.monotonic() - self.begin
            assert took < seconds * SLOW + 2, f"took {took:.1f} s"
    return Bound()


# -- no server


def test_nobody_listens(web, workers):
    daemon = web(f"http://{LOOPBACK}:{free_port()}", workers=workers)
    with Http(daemon.port("web")) as c, within(3):
        r = c.get()
        assert refused(r, 502, "dial_failed")
        assert "error=connection_refused" in r["proxy-status"]
        assert "at connect" in r["proxy-status"]
        for _ in range(20):  # the door opens after five failures in a row
            r = c.get()
            if r.status == 503:
                break
        assert refused(r, 503, "breaker_open")
    assert daemon.saw("dial_failed", "web") and daemon.saw("breaker_open", "web")


def test_it_comes_up_later(web, raw):
    """The same client, the same connection."""
    raw.close()
    daemon = web(raw.url(), breaker={"open": "100ms..300ms"})
    with Http(daemon.port("web")) as c:
        assert c.get().status == 502
        raw._listen()

        def serve():
            with contextlib.suppress(queue.Empty):
                while True:
                    server = raw.accept(5)
                    with contextlib.suppress(Closed, OSError):
                        while True:
                            server.request()
                            server.send(reply(b"back"))

        threading.Thread(target=serve, daemon=True).start()
        wait_for(lambda: c.get().status == 200, 20, "the upstream to be used again", 0.05)


def test_a_name_that_is_not_found(web, workers):
    daemon = web("http://no-such-host.invalid:80", workers=workers, breaker=NO_BREAKER)
    with Http(daemon.port("web")) as c:
        for _ in range(3):  # it goes on trying
            assert refused(c.get(), 502, "dial_failed")
    assert daemon.log_lines("no-such-host.invalid")


def test_unix_socket_that_is_not_there(web):
    daemon = web("http+unix://%2Ftmp%2Fcarpool-no-such.sock")
    with Http(daemon.port("web")) as c:
        assert refused(c.get(), 502, "dial_failed")


def test_all_servers_are_busy(web, raw):
    daemon = web(raw.url(), size={"max": 1, "acquire_timeout": "300ms", "waiters": 1})
    with Http(daemon.port("web")) as a, Http(daemon.port("web")) as b, Http(daemon.port("web")) as c:
        a.send(request())
        server = raw.accept()
        server.request()
        b.send(request("POST", "/", body=b"x" * 1000))
        wait_for(lambda: daemon.waiting("web") == 1, what="b to wait")
        with within(1):
            assert refused(c.get(), 503, "queue_full")
        with within(1):
            assert refused(b.response(), 503, "acquire_timeout")
        server.send(reply(b"at last"))
        assert a.response().body == b"at last"
        b.send(request())  # it has stayed in step: the refused body was read away
        assert server.request().method == "GET"
        server.send(reply(b"now you"))
        assert b.response().body == b"now you"
    assert daemon.saw("queue_full", "web") and daemon.saw("acquire_timeout", "web")


def test_paused(web):
    daemon = web(size={"acquire_timeout": "300ms"})
    with Http(daemon.port("web")) as c:
        assert c.get("/body/1").status == 200
        daemon.cli("pause", "web")
        assert refused(c.get("/body/1"), 503, "paused")
        daemon.cli("resume", "web")
        assert c.get("/body/1").status == 200


def test_tls_is_verified(web, tls_nginx, servers):
    """Chain and name, unless told otherwise."""
    ca, other = tls_nginx.ca, servers.authority.other_ca
    by_address = f"https://{LOOPBACK}:{tls_nginx.tls_port}"
    wrong = {
        "a stranger's authority": tls_nginx.url(tls=True) + f"?sslrootcert={other}",
        "the system's authorities": tls_nginx.url(tls=True),
        "another name": f"{by_address}?sslrootcert={ca}",
        "no tls there": tls_nginx.url(tls=True, port=tls_nginx.port) + f"?sslrootcert={ca}",
    }
    for why, url in wrong.items():
        daemon = web(url)
        with Http(daemon.port("web")) as c:
            r = c.get()
            assert refused(r, 502, "tls_failed"), why
            assert "error=tls_protocol_error" in r["proxy-status"], why
        assert daemon.saw("tls_failed", "web")
        daemon.stop()
    for url in (f"{by_address}?sslmode=require", f"{by_address}?sslmode=verify-ca&sslrootcert={ca}"):
        daemon = web(url)
        with Http(daemon.port("web")) as c:
            assert c.get().status == 200
        daemon.stop()


def test_an_upstream_that_never_shakes_hands(web, black_hole):
    daemon = web(f"https://localhost:{black_hole.port}", timeouts={"connect": "200ms"})
    with Http(daemon.port("web")) as c, within(4):
        r = c.get()
        assert refused(r, 502, "dial_failed")
        assert "error=tls_protocol_error" in r["proxy-status"] and "at tls" in r["proxy-status"]
    wait_for(lambda: black_hole.open == 0, what="the sockets to be closed")


# -- the exchange


def test_an_upstream_that_never_answers(web, black_hole, workers):
    daemon = web(f"http://{black_hole.host}:{black_hole.port}", timeouts={"request": "400ms"},
                 breaker=NO_BREAKER, workers=workers)
    with Http(daemon.port("web")) as c:
        for _ in range(4):
            with within(1):
                r = c.get()
                assert refused(r, 504, "request_timeout")
                assert "error=http_response_timeout" in r["proxy-status"]
    assert daemon.saw("request_timeout", "web")


def test_request_timeout_while_waiting(web, raw):
    """The request's own time is up before the pool's patience is."""
    daemon = web(raw.url(), size={"max": 1}, timeouts={"request": "400ms"})
    with Http(daemon.port("web")) as a, Http(daemon.port("web")) as b:
        a.send(request())
        server = raw.accept()
        server.request()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")  # the head is in time
        with within(1):
            assert refused(b.get(), 504, "request_timeout")
        server.send(b"ok")
        assert a.response().body == b"ok"


def test_a_slow_body_is_no_slow_head(web, raw):
    """timeouts.request ends with the response's head, and an upload counts from its last byte on."""
    daemon = web(raw.url(), timeouts={"request": "500ms"})
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/", "Content-Length: 6"))
        server = raw.accept()
        server.head()
        for i in range(6):
            c.send(b"x")
            assert server.exactly(1) == b"x"
            time.sleep(0.2)
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        assert c.head().status == 200
        for i in range(6):
            server.send(b"y")
            assert c.exactly(1) == b"y"
            time.sleep(0.2)


def test_lost_before_the_response(web, origin):
    daemon = web(breaker=NO_BREAKER)
    with Http(daemon.port("web")) as c:
        for target in ("/close", "/reset"):
            r = c.get(target)
            assert refused(r, 502, "upstream_closed"), target
        assert c.get("/body/3").body == pattern(3)
    assert daemon.saw("upstream_closed", "web")


@pytest.mark.parametrize("target", ["/half", "/half-chunked"])
def test_lost_in_the_middle_of_the_response(web, target):
    """Told by the framing: too few bytes, no last chunk, and the end."""
    daemon = web()
    with Http(daemon.port("web")) as c:
        c.send(request("GET", target))
        assert c.head().status == 200
        with pytest.raises(Closed) as torn:
            c.exactly(100)
        assert torn.value.seen.endswith(b"0123456789\r\n" if "chunked" in target else b"0123456789")
    assert daemon.saw("upstream_closed", "web")


def test_torn_for_http_1_0(web):
    """End-of-file would look like the body's end: a reset does not."""
    daemon = web()
    with Http(daemon.port("web")) as c:
        c.send(b"GET /half-chunked HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            c.rest()


def test_killed_in_the_middle_of_a_body(carpool, servers, web):
    mortal = servers.nginx(local=True)
    path = mortal.big(20_000_000)
    daemon = web(mortal.url())
    with Http(daemon.port("web"), rcvbuf=65536) as c:
        c.send(request("GET", path))
        assert c.head()["content-length"] == "20000000"
        c.exactly(100_000)
        mortal.kill9()
        with pytest.raises((Closed, ConnectionResetError)):
            c.exactly(20_000_000)
    assert daemon.saw("upstream_closed", "web")


def test_an_early_answer(web, raw):
    """The origin answers before it has read the body, and closes: the answer is heard whole."""
    daemon = web(raw.url(), limits={"buffer": "16KiB"})
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/", "Content-Length: 50000000"))
        pour = threading.Thread(target=lambda: _pour(c, 50_000_000), daemon=True)
        pour.start()
        server = raw.accept()
        server.head()
        server.exactly(10)
        server.send(reply(b"too much", "Connection: close", status="413 Content Too Large"))
        r = c.response()
        assert (r.status, r.body, r["connection"]) == (413, b"too much", "close")
        server.close()
        c.close()
        pour.join(20 * SLOW)
        assert not pour.is_alive()
    assert daemon.all_errors("web") == {}


def _pour(c, n):
    try:
        c.send(bytes(n))
    except OSError:
        pass


def test_both_directions_at_once(web, raw):
    """An origin that answers early and reads on gets the rest."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/", "Transfer-Encoding: chunked"))
        server = raw.accept()
        server.head()
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert c.head().status == 200
        for word in (b"ping", b"pong"):
            c.send(b"4\r\n" + word + b"\r\n")
            assert server.exactly(9) == b"4\r\n" + word + b"\r\n"
            server.send(b"4\r\n" + word + b"\r\n")
            assert c.exactly(9) == b"4\r\n" + word + b"\r\n"
        c.send(b"0\r\n\r\n")
        assert server.exactly(5) == b"0\r\n\r\n"
        server.send(b"0\r\n\r\n")
        assert c.exactly(5) == b"0\r\n\r\n"


# -- the breaker of the service


def test_failures_open_the_breaker(web, raw):
    daemon = web(raw.url(), breaker={"consecutive": 5, "open": "500ms..1s"})
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        for n in range(5):
            server.request()
            server.send(reply(b"no", status="500 Internal Server Error"))
            assert c.response().status == 500
            if n < 4:
                c.send(request())
        assert daemon.metric("carpool_breaker_state", pool="web", breaker="service", state="open") == 1
        begin = time.monotonic()
        r = c.get()
        assert refused(r, 503, "breaker_open")

        def trial():
            c.send(request())
            if c.unread or not _readable(server):
                return c.response().status == 200
            server.request()
            server.send(reply(b"yes"))
            return c.response().status == 200

        wait_for(trial, 10, "a trial", 0.05)
        assert time.monotonic() - begin > 0.3, "it stayed open for a while"
        for _ in range(3):
            assert trial()
        assert daemon.metric("carpool_breaker_state", pool="web", breaker="service", state="closed") == 1
    assert daemon.saw("breaker_open", "web")


def _readable(peer):
    return bool(select.select([peer.sock], [], [], 0.3 * SLOW)[0])


def test_what_does_not_open_it(web, origin):
    """4xx and 501 are about the request, clients that leave are about clients."""
    daemon = web(breaker={"consecutive": 2}, size={"max": 8})
    with Http(daemon.port("web")) as c:
        for target in ("/status/404", "/status/501", "/status/429"):
            for _ in range(3):
                assert c.get(target).status == int(target[-3:])
    for _ in range(4):
        with Http(daemon.port("web")) as c:
            seen = len(origin.requests)
            c.send(request("GET", "/silent"))
            wait_for(lambda: len(origin.requests) > seen, what="the request")
            c.send(b"GET  x")  # nothing is read of it yet
            c.reset()
    with Http(daemon.port("web")) as c:
        assert c.get("/body/3").body == pattern(3)


# -- clients


def test_too_many_clients(web):
    daemon = web(limits={"clients": 2})
    with Http(daemon.port("web")) as a, Http(daemon.port("web")) as b:
        for c in (a, b):
            assert c.get("/body/1").status == 200
        with Http(daemon.port("web")) as c:
            r = c.get()
            assert refused(r, 503, "too_many_clients")
            assert c.ends()
        with Http(daemon.port("web")) as c:
            assert refused(c.response(), 503, "too_many_clients"), "also if it says nothing"
            assert c.ends()
        assert a.get("/body/1").status == 200
    wait_for(lambda: daemon.metric("carpool_clients", pool="web") == 0, what="clients to be gone")
    with Http(daemon.port("web")) as c:
        assert c.get("/body/1").status == 200
    assert daemon.saw("too_many_clients", "web")


def test_the_number_of_clients_is_exact(web):
    """Whichever worker they land on, and however many are being refused meanwhile."""
    daemon = web(limits={"clients": 3}, workers=2)
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Http(daemon.port("web"))) for _ in range(3)]
            for c in clients:
                assert c.get("/body/1").status == 200
            refusals = [stack.enter_context(Http(daemon.port("web"))) for _ in range(5)]
            for c in refusals[:3]:
                assert refused(c.get(), 503, "too_many_clients")
            clients[0].close()

            def comes_in():
                with Http(daemon.port("web")) as c:
                    return c.get("/body/1").status == 200

            wait_for(comes_in, 1, "a place: who is being refused takes none")
        wait_for(lambda: daemon.metric("carpool_clients", pool="web") == 0, what="clients to be gone")


def test_slow_heads(web):
    daemon = web(timeouts={"client_login": "400ms"})
    with Http(daemon.port("web")) as c, within(2):
        c.send(b"GET / HTTP/1.1\r\n")
        r = c.response()
        assert refused(r, 408, "client_timeout")
        assert c.ends()
    with Http(daemon.port("web")) as c, within(2):
        assert c.ends(), "not a word, not an answer"
    with Http(daemon.port("web")) as c, within(3):
        assert c.get("/body/1").status == 200
        time.sleep(0.6)  # between requests it is another timeout that counts
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
    daemon = web(raw.url(), timeouts={"request": "400ms"})
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
    daemon = web(nginx.url(), timeouts={"write_stall": "1s"}, limits={"buffer": "16KiB"})
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
    daemon = web(nginx.url(), timeouts={"write_stall": "1s"}, limits={"buffer": "8MiB"})
    with Http(daemon.port("web"), rcvbuf=8192) as c:
        c.send(request("GET", path))
        c.head()
        got = 0
        end = time.monotonic() + 5
        while time.monotonic() < end:
            got += len(c.exactly(20_000))
            time.sleep(0.05)
        assert got > 500_000
    assert daemon.errors("write_stall", "web") == 0


# -- responses that do not go on


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


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"X: close"])
def test_an_origin_that_goes_silent_in_a_response(web, raw, framing):
    """The client hears that the response is torn, and everybody why."""
    daemon, c, server = begin(web, raw, framing, timeouts={"read_stall": "400ms"})
    with within(2):
        said = c.rest()
    assert said == (b"ab" if b"Length" in framing else b"2\r\nab\r\n"), "no last chunk"
    assert server.rest() == b"", "its connection is not used again"
    assert daemon.saw("idle_timeout", "web")
    assert daemon.log_lines("cause=idle_timeout", "timeouts.read_stall")


def test_an_origin_that_is_only_slow(web, raw):
    """Every piece of the body starts the time anew."""
    daemon, c, server = begin(web, raw, timeouts={"read_stall": "600ms"})
    for n in range(8):
        time.sleep(0.2)
        server.send(b"x")
    assert c.exactly(10) == b"ab" + b"x" * 8
    assert daemon.all_errors("web") == {}


def test_streams_may_be_silent_where_they_are_allowed_to(web, raw):
    """read_stall: 0, for server-sent events and the like."""
    daemon, c, server = begin(web, raw, b"Transfer-Encoding: chunked",
                              timeouts={"read_stall": 0, "request": "300ms", "write_stall": "300ms"})
    assert c.exactly(7) == b"2\r\nab\r\n"
    c.silent(1.5)
    server.send(b"1\r\nc\r\n0\r\n\r\n")
    assert c.exactly(11) == b"1\r\nc\r\n0\r\n\r\n"
    assert daemon.all_errors("web") == {}


def test_a_client_that_stops_in_its_body_after_the_response_began(web, raw):
    """Nobody goes on: the client is the one who owes something, and the server is not held for ever."""
    daemon = web(raw.url(), timeouts={"read_stall": "400ms"}, size={"max": 1})
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/", "Transfer-Encoding: chunked"))
        server = raw.accept()
        server.head()
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert c.head().status == 200
        for _ in range(4):  # either side's bytes are progress
            time.sleep(0.2)
            c.send(b"1\r\nx\r\n")
            assert server.exactly(6) == b"1\r\nx\r\n"
        with within(2):
            assert c.rest() == b""
    wait_for(lambda: daemon.servers("web") == 0, what="the slot to be free")
    assert daemon.saw("client_timeout", "web")


def test_rate_limit(web, nginx):
    daemon = web(nginx.url(), limits={"rate": 2})
    with Http(daemon.port("web")) as c:
        answers = [c.get() for _ in range(4)]
        assert answers[0].status == 200
        assert refused(answers[-1], 429, "rate_limited")
    assert daemon.saw("rate_limited", "web")
