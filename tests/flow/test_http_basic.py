# SPDX-License-Identifier: MIT
"""HTTP through carpool when all is well: messages of every shape arrive whole, connections are shared."""

import contextlib
import hashlib
import json
import subprocess
import threading
import time

import httpx
import pytest
from harness.base import LOOPBACK, SLOW, free_port, wait_for
from harness.carpool import SMALL_QUARANTINE
from harness.http_fixtures import _origin, nginx, origin, raw, tls_nginx, web  # noqa: F401
from harness.httpwire import Http, chunked, http_pool, reply, request
from harness.nginx import pattern

BIG = 20_000_000


def echo(response):
    """What the origin saw: {method, target, fields, body, connection}."""
    seen = json.loads(response.body)
    seen["fields"] = [(k.lower(), v) for k, v in seen["fields"]]
    return seen


# -- sharing connections


def test_keep_alive_is_reused(web, origin, workers):
    daemon = web(workers=workers, size={"max": 2})
    before = origin.accepted
    with httpx.Client(base_url=f"http://{LOOPBACK}:{daemon.port('web')}") as client:
        for n in range(20):
            assert client.get(f"/body/{n}").content == pattern(n)
    assert origin.accepted - before == 1
    assert len(origin.requests) == 20


def test_connect_per_request_clients_share_one_connection(web, origin):
    daemon = web(size={"max": 2})
    before = origin.accepted
    for _ in range(10):
        with Http(daemon.port("web")) as c:
            assert c.get("/body/5", "Connection: close").body == pattern(5)
            assert c.ends()
    assert origin.accepted - before == 1


def test_fifty_clients_keep_the_origin_s_bound(carpool, servers, workers):
    """nginx counts itself, and refuses the eleventh connection at work with 503."""
    bounded = servers.nginx(local=True, limit=10)
    path = bounded.big(20_000, "sized")
    mark = bounded.mark()
    daemon = carpool(http_pool(bounded.url(), size={"max": 10, "acquire_timeout": "30s"}),
                     workers=workers)
    wrong = []

    def ride():
        with httpx.Client(base_url=f"http://{LOOPBACK}:{daemon.port('web')}", timeout=60) as client:
            for _ in range(10):
                answer = client.get(path)
                if answer.status_code != 200 or answer.content != pattern(20_000):
                    wrong.append(answer)

    threads = [threading.Thread(target=ride) for _ in range(50)]
    with bounded.peak() as peak:
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
    assert not wrong
    assert bounded.refusals(mark) == 0
    assert peak.value <= 10
    served = wait_for(lambda: len(r := [r for r in bounded.requests(mark) if path in r["request"]]) == 500 and r,
                      what="nginx to log all")
    assert len({r["connection"] for r in served}) <= 12, "connections are reused"
    assert daemon.all_errors("web") == {}


def test_one_server_serves_many_clients_in_order(web, raw):
    daemon = web(raw.url(), size={"max": 1, "acquire_timeout": "30s"})
    clients = [Http(daemon.port("web")) for _ in range(5)]
    server = None
    for n, c in enumerate(clients):
        c.send(request("GET", f"/{n}"))
        if server is None:
            server = raw.accept()
            assert server.request().target == "/0"
        else:
            wait_for(lambda n=n: daemon.waiting("web") == n, what="the client to wait")
    for n, c in enumerate(clients):
        server.send(reply(b"%d" % n))
        assert c.response().body == b"%d" % n
        if n + 1 < len(clients):
            assert server.request().target == f"/{n + 1}"
    assert raw.accepted == 1
    for c in clients:
        c.close()


# -- shapes of messages


@pytest.mark.parametrize("n", [0, 1, 1000, 70_000, 1_000_000])
def test_bodies_of_known_length(web, n):
    daemon = web()
    with Http(daemon.port("web")) as c:
        r = c.get(f"/body/{n}")
        assert (r.framing, r.body) == ("length", pattern(n))
        r = c.ask("POST", "/echo", body=pattern(n)) if n < 1_000_000 else c.get("/echo")
        assert echo(r)["body"].encode() == (pattern(n) if n < 1_000_000 else b"")


@pytest.mark.parametrize("n", [0, 1, 1000, 70_000, 1_000_000])
def test_chunked_responses(web, n):
    daemon = web()
    with Http(daemon.port("web")) as c:
        r = c.get(f"/chunked/{n}")
        assert (r.framing, r.body) == ("chunked", pattern(n))
        assert r.trailers == [] and "trailer" not in r, "trailers end here"
        assert c.get("/body/3").body == pattern(3)


@pytest.mark.parametrize("pieces", [[], [b"a"], [b"ab"] * 500, [b"x" * 40_000, b"y", b"z" * 70_000]],
                         ids=["none", "one", "many", "large"])
def test_chunked_requests(web, pieces):
    daemon = web()
    with Http(daemon.port("web")) as c:
        c.send(request("POST", "/echo", "Transfer-Encoding: chunked") + chunked(*pieces))
        seen = echo(c.response())
        assert seen["body"].encode() == b"".join(pieces)
        assert ("transfer-encoding", "chunked") in seen["fields"]
        assert c.get("/body/3").body == pattern(3)


def test_responses_without_a_body(web, origin):
    daemon = web()
    before = origin.accepted
    with Http(daemon.port("web")) as c:
        for target in ("/status/204", "/status/304", "/status/404"):
            r = c.get(target)
            assert (r.status, r.body) == (int(target[-3:]), b"")
            assert "transfer-encoding" not in r
        assert c.get("/body/3").body == pattern(3)
    assert origin.accepted - before == 1


def test_head(web, nginx):
    """The length is told, nothing follows, and the connection is in step afterwards."""
    path = nginx.big(5000)
    daemon = web(nginx.url())
    with Http(daemon.port("web")) as c:
        r = c.ask("HEAD", path)
        assert (r.status, r["content-length"], r.body) == (200, "5000", b"")
        assert c.get(path).body == pattern(5000)


def test_a_response_that_ends_by_close(web, raw):
    """Becomes chunks for HTTP/1.1, so that its end can be told from a loss."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        for _ in range(2):
            c.send(request())
            server = raw.accept()
            server.request()
            server.send(b"HTTP/1.1 200 OK\r\n\r\n" + pattern(5000))
            server.close()
            r = c.response()
            assert (r.framing, r.body) == ("chunked", pattern(5000))


def test_http_1_0_clients(web, raw):
    """No persistence, no chunks, no interim responses; the origin is spoken to in 1.1 all the same."""
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        server = raw.accept()
        seen = server.request()
        assert seen.first == "GET /old HTTP/1.1"
        assert seen["host"] == f"{raw.host}:{raw.port}", "the upstream's, for want of another"
        server.send(b"HTTP/1.1 103 Early Hints\r\n\r\n"
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"abc", b"de"))
        r = c.response()
        assert (r.framing, r.body, r["connection"]) == ("close", b"abcde", "close")
        assert r.interim == []
    with Http(daemon.port("web")) as c:
        c.send(request())
        server.request()
        server.send(reply(b"the origin's connection lived on"))
        assert c.response().status == 200


def test_http_1_0_origin(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        r = c.response()
        assert (r.first, r.body, r["connection"]) == ("HTTP/1.1 200 OK", b"ok", None)
        assert server.ends(), "without keep-alive it is not used again"


def test_interim_responses(web):
    daemon = web()
    with Http(daemon.port("web")) as c:
        r = c.get("/continue")
        assert [i.status for i in r.interim] == [100, 103]
        assert r.interim[1]["link"] == "</x>"
        assert (r.status, r.body) == (200, b"done\n")
        assert c.get("/body/3").body == pattern(3)


# -- Expect


def test_expect_is_for_the_origin_to_meet(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/", "Content-Length: 5", "Expect: 100-continue"))
        server = raw.accept()
        assert server.head()["expect"] == "100-continue"
        c.silent()
        server.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert c.head().status == 100
        c.send(b"hello")
        assert server.exactly(5) == b"hello"
        server.send(reply(b"thanks"))
        r = c.response()
        assert (r.status, r.body, r["connection"]) == (200, b"thanks", None)


def test_a_final_answer_instead_of_100(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/", "Content-Length: 5", "Expect: 100-continue"))
        server = raw.accept()
        server.head()
        server.send(reply(b"no", status="401 Unauthorized"))
        r = c.response()
        assert (r.status, r["connection"]) == (401, "close"), "the body might follow or not"
        assert c.ends() and server.ends()


def test_curl_with_expect(web, nginx, tmp_path):
    """curl asks for 100 by itself when the body is large; nginx answers 413 or 405 early."""
    body = tmp_path / "body"
    body.write_bytes(pattern(2_000_000))
    daemon = web()
    done = subprocess.run(["curl", "-s", "-S", "-T", body, "-H", "Expect: 100-continue", "-o", "/dev/null",
                           "-w", "%{http_code}", f"http://{LOOPBACK}:{daemon.port('web')}/status/201"],
                          capture_output=True, text=True, timeout=30 * SLOW)
    assert (done.returncode, done.stdout) == (0, "201"), done


# -- big ones


def test_twenty_megabytes_down(web, nginx):
    path = nginx.big(BIG)
    daemon = web(nginx.url(), env=SMALL_QUARANTINE)
    start = daemon.rss()
    with Http(daemon.port("web")) as c:
        assert c.get(path).body == pattern(BIG)
    assert daemon.rss() - start < 12_000_000


def test_twenty_megabytes_to_a_slow_reader(web, nginx):
    """Bounded memory: the origin is not read while the client does not read."""
    path = nginx.big(BIG)
    daemon = web(nginx.url(), env=SMALL_QUARANTINE)
    start = daemon.rss()
    with Http(daemon.port("web"), rcvbuf=4096) as c:
        c.send(request("GET", path))
        c.head()
        stopped = -1
        while (now := daemon.metric("carpool_bytes_total", pool="web", direction="from_servers")) != stopped:
            stopped = now
            time.sleep(0.3)  # that nothing goes on can only be watched for a time
        assert stopped < BIG / 2, "the origin was read on"
        assert daemon.rss() - start < 12_000_000
        assert hashlib.sha256(c.exactly(BIG)).digest() == hashlib.sha256(pattern(BIG)).digest()


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_twenty_megabytes_up_to_a_slow_origin(web, raw, how):
    daemon = web(raw.url(), env=SMALL_QUARANTINE)
    start = daemon.rss()
    body = pattern(BIG)
    with Http(daemon.port("web")) as c:
        c.send(request("PUT", "/", f"Content-Length: {BIG}" if how == "length"
                       else "Transfer-Encoding: chunked"))
        sent = threading.Thread(target=lambda: c.send(
            body if how == "length" else chunked(*[body[i:i + 100_000] for i in range(0, BIG, 100_000)])))
        sent.start()
        server = raw.accept()
        head = server.head()
        time.sleep(0.5)  # nobody reads meanwhile
        assert daemon.rss() - start < 12_000_000
        server._body(head, False, False)
        assert head.body == body
        sent.join(60)
        server.send(reply(b"stored"))
        assert c.response().body == b"stored"


# -- fields


def test_fields_of_one_hop_end_here(web):
    daemon = web()
    with Http(daemon.port("web")) as c:
        seen = echo(c.get("/echo", "Connection: close, X-Private", "X-Private: 1", "Keep-Alive: timeout=9",
                          "Proxy-Connection: keep-alive", "TE: trailers", "Upgrade: websocket", "X-Public: 2",
                          "Via: 1.0 fred", "X-Forwarded-For: 192.0.2.1"))
        names = [k for k, _ in seen["fields"]]
        for gone in ("connection", "x-private", "keep-alive", "proxy-connection", "te", "upgrade"):
            assert gone not in names, gone
        fields = dict(seen["fields"])
        assert fields["x-public"] == "2"
        assert fields["host"] == "x"
        assert fields["x-forwarded-for"] == f"192.0.2.1, {LOOPBACK}"
        assert fields["x-forwarded-proto"] == "http"
        via = fields["via"].split(", ")
        assert via[0] == "1.0 fred" and via[1].startswith("1.1 carpool-")
        assert c.ends(), "the client had asked for it"


def test_responses_lose_their_hop_s_fields_too(web, raw):
    daemon = web(raw.url())
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(reply(b"ok", "Connection: keep-alive, X-Private", "Keep-Alive: timeout=9",
                          "X-Private: 1", "Set-Cookie: a", "Set-Cookie: b", "Upgrade: h2c"))
        r = c.response()
        assert r.all("set-cookie") == ["a", "b"]
        assert not any(n in r for n in ("x-private", "keep-alive", "connection", "upgrade"))
        assert r["via"].startswith("1.1 carpool-") and r["date"].endswith("GMT")


def test_a_loop_is_noticed(carpool):
    """A pool whose upstream is itself."""
    pool = http_pool("http://unused")
    pool["upstream"] = f"http://{pool['listen'][0]}"
    daemon = carpool(pool)
    with Http(daemon.port("web")) as c:
        r = c.get("/round")
        assert r.status == 508
        assert "proxy_loop_detected" in r["proxy-status"] and "denied" in r["proxy-status"]


def test_what_is_not_forwarded(web, origin):
    daemon = web()
    with Http(daemon.port("web")) as c:
        for method, target in (("CONNECT", "x:443"), ("TRACE", "/")):
            r = c.ask(method, target)
            assert r.status == 405 and "GET" in r["allow"]
        r = c.ask("OPTIONS", "*", "Max-Forwards: 0")
        assert r.status == 200 and "GET" in r["allow"]
        assert origin.requests == [], "answered here"
        assert c.get("/body/3").body == pattern(3), "on the same connection"
    assert daemon.saw("denied", "web")


# -- ways in and out


def test_unix_sockets(carpool, nginx, tmp_path):
    way_in = f"/tmp/cp-{free_port()}.sock"
    upstream = "http+unix://" + str(nginx.socket).replace("/", "%2F")
    daemon = carpool(http_pool(upstream, listen=[{"unix": way_in}]))
    with Http(None, path=way_in) as c:
        r = c.get("/echo")
        assert r.status == 200
        assert b"xff= " in r.body, "no address, no X-Forwarded-For"
    daemon.stop()


def test_tls_towards_clients(web, origin, servers):
    ca = servers.authority
    daemon = web(tls={"cert": str(ca.cert), "key": str(ca.key)})
    with httpx.Client(base_url=f"https://localhost:{daemon.port('web')}", verify=str(ca.ca)) as client:
        for n in (0, 10, 300_000):
            assert client.get(f"/body/{n}").content == pattern(n)
        answer = client.post("/echo", content=pattern(100_000))
        assert answer.json()["body"].encode() == pattern(100_000)
        fields = {k.lower(): v for k, v in answer.json()["fields"]}
        assert fields["x-forwarded-proto"] == "https"
    with Http(daemon.port("web")) as c, contextlib.suppress(ConnectionResetError):
        c.send(request())
        assert not c.rest().startswith(b"HTTP"), "plain text on a TLS port is closed"
    assert daemon.saw("tls_failed", "web")


def test_https_upstream(web, tls_nginx, workers):
    path = tls_nginx.big(300_000)
    mark = tls_nginx.mark()
    daemon = web(tls_nginx.url(tls=True) + f"?sslrootcert={tls_nginx.ca}", workers=workers)
    with Http(daemon.port("web")) as c:
        for _ in range(3):
            assert c.get(path).body == pattern(300_000)
    rows = wait_for(lambda: len(r := tls_nginx.requests(mark)) == 3 and r, what="nginx to log all")
    assert len({r["connection"] for r in rows}) == 1
    assert {r["tls"] for r in rows} == {"TLSv1.3"}


def test_idle_tls_connections_survive_their_tickets(web, tls_nginx):
    """Fresh TLS 1.3 connections carry unread session tickets: no reason to drop them."""
    daemon = web(tls_nginx.url(tls=True) + f"?sslrootcert={tls_nginx.ca}", size={"min": 2},
                 check={"checkout_after": 0, "idle": "1s"})
    wait_for(lambda: daemon.servers("web", "idle") == 2, what="two warm servers")
    with Http(daemon.port("web")) as c:
        for _ in range(4):
            assert c.get("/").status == 200
    wait_for(lambda: len(daemon.log_lines("server_open")) == 2, what="both in the log")
    assert daemon.log_lines("server_close") == []


def test_a_second_server_after_the_first_keep_alive_promise(web, raw):
    """Keep-Alive: timeout=1 is obeyed: nobody gets the connection after half of that."""
    daemon = web(raw.url(), size={"max": 1})
    with Http(daemon.port("web")) as c:
        c.send(request())
        server = raw.accept()
        server.request()
        server.send(reply(b"ok", "Keep-Alive: timeout=1"))
        assert c.response().body == b"ok"
        assert server.ends(), "carpool leaves first"
        server.close()
        c.send(request())
        second = raw.accept()
        second.request()
        second.send(reply(b"again"))
        assert c.response().body == b"again"
    assert daemon.all_errors("web") == {}


def test_idle_servers_are_pinged_and_still_leave(web):
    """check.idle looks at a server without making it look used."""
    daemon = web(size={"idle_timeout": "6s"}, check={"idle": "1s"})
    with Http(daemon.port("web")) as c:
        assert c.get("/body/1").status == 200
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="web", phase="idle",
                                   outcome="keep") > 0, what="a ping")
    assert daemon.servers("web") == 1
    wait_for(lambda: daemon.servers("web") == 0, what="the idle server to leave")
    wait_for(lambda: daemon.metric("carpool_recycle_verdicts_total", pool="web", outcome="drop_idle") == 1,
             what="the reason to be counted")
