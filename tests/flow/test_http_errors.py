# SPDX-License-Identifier: MIT
"""What goes wrong, and what the client hears of it: one word in Proxy-Status, log, metric and /stats."""

import contextlib
import queue
import select
import threading
import time

import pytest
from harness.base import LOOPBACK, free_port, wait_for, within
from harness.http_fixtures import _frail_nginx, _origin, frail_nginx, nginx, origin, raw, tls_nginx, web  # noqa: F401
from harness.httpwire import NO_BREAKER, TIMEOUT, Closed, Http, refused, reply, request
from harness.nginx import pattern

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
    assert daemon.logged("no-such-host.invalid")


def test_unix_socket_that_is_not_there(web):
    daemon = web("http+unix://%2Ftmp%2Fcarpool-no-such.sock")
    with Http(daemon.port("web")) as c:
        assert refused(c.get(), 502, "dial_failed")


def test_all_servers_are_busy(web, raw):
    daemon = web(raw.url(), size={"max": 1, "acquire_timeout": "2s", "waiters": 1})
    with Http(daemon.port("web")) as a, Http(daemon.port("web")) as b, Http(daemon.port("web")) as c:
        a.send(request())
        server = raw.accept()
        server.request()
        b.send(request("POST", "/", body=b"x" * 1000))
        wait_for(lambda: daemon.waiting("web") == 1, what="b to wait")
        with within(1):
            assert refused(c.get(), 503, "queue_full")
        with within(2):
            assert refused(b.response(), 503, "acquire_timeout")
        server.send(reply(b"at last"))
        assert a.response().body == b"at last"
        b.send(request())  # it has stayed in step: the refused body was read away
        assert server.request().method == "GET"
        server.send(reply(b"now you"))
        assert b.response().body == b"now you"
    assert daemon.saw("queue_full", "web") and daemon.saw("acquire_timeout", "web")


def test_paused(web):
    daemon = web(size={"min": 1, "acquire_timeout": "500ms"})
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
    daemon = web(raw.url(), size={"max": 1}, timeouts={"request": "1500ms"})
    with Http(daemon.port("web")) as a, Http(daemon.port("web")) as b:
        a.send(request())
        server = raw.accept()
        server.request()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")  # the head is in time
        with within(1):
            assert refused(b.get(), 504, "request_timeout")
        server.send(b"ok")
        assert a.response().body == b"ok"


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


def test_killed_in_the_middle_of_a_body(frail_nginx, web):
    path = frail_nginx.big(20_000_000)
    daemon = web(frail_nginx.url())
    with Http(daemon.port("web"), rcvbuf=65536) as c:
        c.send(request("GET", path))
        assert c.head()["content-length"] == "20000000"
        c.exactly(100_000)
        frail_nginx.kill9()
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
        pour.join(60)
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
    daemon = web(raw.url(), breaker={"consecutive": 5, "open": "2s..4s"})
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        for n in range(5):
            server.request()
            begin = time.monotonic()
            server.send(reply(b"no", status="500 Internal Server Error"))
            assert c.response().status == 500
            if n < 4:
                c.send(request())
        assert daemon.metric("carpool_breaker_state", pool="web", breaker="service", state="open") == 1
        r = c.get()
        assert refused(r, 503, "breaker_open")

        def trial():
            c.send(request())
            if server.sock in select.select([c.sock, server.sock], [], [], TIMEOUT)[0]:
                server.request()
                server.send(reply(b"yes"))
            return c.response().status == 200

        wait_for(trial, 10, "a trial", 0.05)
        assert time.monotonic() - begin > 1, "it stayed open for a while"
        for _ in range(3):
            assert trial()
        assert daemon.metric("carpool_breaker_state", pool="web", breaker="service", state="closed") == 1
    assert daemon.saw("breaker_open", "web")


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

            begin = time.monotonic()
            wait_for(comes_in, what="a place")
            assert time.monotonic() - begin < 1.8, "who is being refused, for two seconds, takes none"
        wait_for(lambda: daemon.metric("carpool_clients", pool="web") == 0, what="clients to be gone")


def test_rate_limit(web, nginx):
    daemon = web(nginx.url(), limits={"rate": 2})
    with Http(daemon.port("web")) as c:
        assert c.get().status == 200
        assert refused(next(r for r in (c.get() for _ in range(100)) if r.status != 200), 429, "rate_limited")
    assert daemon.saw("rate_limited", "web")
