# SPDX-License-Identifier: MIT
"""HTTP: how each cause comes about, and the status that goes with it; the word is in Proxy-Status."""

from harness.base import LOOPBACK, free_port
from harness.httpwire import Http, refused, request

from . import Table


def told(said, cause, status):
    assert refused(said, status, cause)


TABLE = Table("http", "web", told, {
    "cancelled": "HTTP/1.1 has no word for it: a client that does not want to wait leaves",
    "upstream_auth": "an origin's 401 and 407 are its answers, not carpool's login",
    "upstream_busy": "an origin's 503 is its answer",
    "outcome_unknown": "said by the status: 502 for what may have been executed",
    "auth_failed": "HTTP doors have no logins",
    "no_route": "one pool behind one door",
})
case = TABLE.case


def client(world, daemon, **more):
    return world.keep(Http(daemon.port("web"), **more))


def busy(world, **over):
    """A pool of one whose server is at work: (daemon, another client)."""
    daemon = world.web(world.raw.url(), **{"size": {"min": 1, "max": 1, "acquire_timeout": "500ms"}, **over})
    holder, other = client(world, daemon), client(world, daemon)
    holder.send(request())
    world.raw.accept().request()
    return daemon, other


@case("idle_timeout")
def idle_timeout(world):
    daemon = world.web(world.raw.url(), timeouts={"read_stall": "200ms"})
    c = client(world, daemon)
    c.send(request())
    server = world.raw.accept()
    server.request()
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12")
    assert c.head().status == 200
    assert c.rest() == b"12"
    return daemon, None


@case("acquire_timeout", 503)
def acquire_timeout(world):
    daemon, other = busy(world)
    return daemon, other.get()


@case("queue_full", 503)
def queue_full(world):
    daemon, other = busy(world, size={"min": 1, "max": 1, "waiters": 0})
    return daemon, other.get()


@case("outage", 503)
def outage(world):
    daemon = world.web(f"http://{LOOPBACK}:{free_port()}", on_down="wait",
                       timeouts={"outage_wait": "200ms"})
    return daemon, client(world, daemon).get()


@case("breaker_open", 503)
def breaker_open(world):
    daemon = world.web()
    daemon.cli("breaker", "web", "open")
    return daemon, client(world, daemon).get()


@case("dial_failed", 502)
def dial_failed(world):
    daemon = world.web(f"http://{LOOPBACK}:{free_port()}")
    return daemon, client(world, daemon).get()


@case("request_timeout", 504)
def request_timeout(world):
    daemon = world.web(world.raw.url(), timeouts={"request": "200ms"})
    return daemon, client(world, daemon).get()


@case("write_stall")
def write_stall(world):
    path = world.nginx.big(20_000_000)
    daemon = world.web(world.nginx.url(), timeouts={"write_stall": "200ms"})
    client(world, daemon, rcvbuf=4096).send(request("GET", path))
    return daemon, None


@case("upstream_closed", 502)
def upstream_closed(world):
    daemon = world.web(world.raw.url())
    c = client(world, daemon)
    c.send(request("POST", "/", body=b"once only"))
    server = world.raw.accept()
    server.request()
    server.close()
    return daemon, c.response()


@case("upstream_protocol", 502)
def upstream_protocol(world):
    daemon = world.web(world.raw.url())
    c = client(world, daemon)
    c.send(request("POST", "/", body=b"once only"))
    server = world.raw.accept()
    server.request()
    server.send(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
    return daemon, c.response()


@case("client_protocol", 400)
def client_protocol(world):
    daemon = world.web()
    c = client(world, daemon)
    c.send(b"GET / HTTP/1.1\r\n\r\n")
    return daemon, c.response()


@case("client_gone")
def client_gone(world):
    daemon = world.web(world.raw.url())
    c = client(world, daemon)
    c.send(request())
    world.raw.accept().request()
    c.reset()
    return daemon, None


@case("client_timeout", 408)
def client_timeout(world):
    daemon = world.web(timeouts={"client_login": "500ms"})
    c = client(world, daemon)
    c.send(b"GET / HTTP/1.1\r\n")
    return daemon, c.response()


@case("tls_failed", 502)
def tls_failed(world):
    daemon = world.web(world.nginx.url().replace("http:", "https:"))
    return daemon, client(world, daemon).get()


@case("too_many_clients", 503)
def too_many_clients(world):
    daemon = world.web(limits={"clients": 1})
    assert client(world, daemon).get("/body/1").status == 200
    return daemon, client(world, daemon).get()


@case("rate_limited", 429)
def rate_limited(world):
    daemon = world.web(limits={"rate": 1})
    c = client(world, daemon)
    return daemon, next(r for r in (c.get("/body/1") for _ in range(100)) if r.status != 200)


@case("overloaded", 503)
def overloaded(world):
    daemon, other = busy(world, limits={"in_flight": 1})
    return daemon, other.get()


@case("too_large", 431)
def too_large(world):
    daemon = world.web()
    c = client(world, daemon)
    c.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 200_000 + b"\r\n\r\n")
    return daemon, c.response()


@case("unsupported", 501)
def unsupported(world):
    daemon = world.web()
    c = client(world, daemon)
    c.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
    return daemon, c.response()


@case("denied", 405)
def denied(world):
    daemon = world.web()
    c = client(world, daemon)
    c.send(request("TRACE", "/"))
    return daemon, c.response()


@case("paused", 503)
def paused(world):
    daemon = world.web(size={"acquire_timeout": "200ms"})
    daemon.cli("pause", "web")
    return daemon, client(world, daemon).get()


@case("draining", 503)
def draining(world):
    """Who comes to a pool that drains; those who are there get an answer with `Connection: close`."""
    daemon = world.web()
    daemon.cli("drain", "web")
    return daemon, client(world, daemon).get()
