# SPDX-License-Identifier: MIT
"""Garbage at the doors that speak TLS, and at the admin API's port: its connection ends in time, nothing of it
gets behind the door, nothing is left of it, and whoever comes next is served. (Postgres: test_postgres_wire.py;
doors without TLS: test_redis_hostile.py, test_http_framing.py.)"""

import contextlib
import random
import socket
import ssl
import struct

import pytest
from harness.base import LOOPBACK, PATIENCE, free_port, wait_for, within
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin  # noqa: F401
from harness.httpwire import Http, http_pool
from harness.redis_fixtures import key, rd  # noqa: F401
from harness.rediswire import Resp, encode, redis_pool


def record(body, kind=22, version=0x0301, length=None):
    """A record of TLS, honest about its length or not."""
    return struct.pack("!BHH", kind, version, len(body) if length is None else length) + body


def client_hello():
    """A true one, that asks for nothing special."""
    out = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


HELLO = client_hello()
IN_CLEAR = {
    "redis": b"*1\r\n$4\r\nPING\r\n", "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "zeros": bytes(3000), "ones": b"\xff" * 3000,
    "empty record": record(b""), "lying record": record(b"x" * 300, length=65535),
    "alert first": record(b"\x02\x28", kind=21), "data first": record(b"GET / HTTP/1.1", kind=23),
    "unknown kind": record(b"x" * 50, kind=99), "ssl 2": b"\x80\x2e\x01\x00\x02" + bytes(43),
    "old version": record(HELLO[5:], version=0x0200), "hello of one byte": record(b"\x01"),
    "hello too long": record(b"\x01\xff\xff\xff" + bytes(200)), "hello of noise": record(b"\x01\0\x01\0" + b"!" * 256),
    "hello and noise": HELLO + b"!" * 500,
}
CUT = {"nothing": b"", "one byte": HELLO[:1], "half a header": HELLO[:3], "half a hello": HELLO[:len(HELLO) // 2],
       "a hello": HELLO}
RESPONSES = b"PONG", b"HTTP/1."


class RedisDoor:
    """A pool of Redis, its right client, and what it may say to garbage before it closes."""

    pool, refusal = "cache", b"-ERR Protocol error"
    noise = b"*1\r\n$x\r\n", b"*-7\r\n", b"*1\r\n+PING\r\n", b"*99999999999999999999\r\n"

    def __init__(self, request):
        self.upstream = request.getfixturevalue("rd").url()

    def config(self, **over):
        return redis_pool(self.upstream, **over)

    def serves(self, port, wrap):
        with Resp(port, wrap=wrap) as c:
            assert c.cmd("ECHO", "well") == b"well" and c.cmd("STRLEN", "nothing") == 0


class HttpDoor:
    pool, refusal = "web", b"HTTP/1.1 400 "
    noise = b"\x00\x01 garbage\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"*1\r\n$4\r\nPING\r\n"

    def __init__(self, request):
        self.upstream = request.getfixturevalue("origin").url()

    def config(self, **over):
        return http_pool(self.upstream, **over)

    def serves(self, port, wrap):
        with Http(port) as c:
            c.sock = wrap(c.sock)
            assert c.get("/body/5").status == 200


@pytest.fixture(params=[RedisDoor, HttpDoor], ids=["redis", "http"])
def door(request, carpool, servers):
    """(daemon, door, wrap): a pool behind TLS; half a handshake is not waited for long."""
    made, ca = request.param(request), servers.authority
    daemon = carpool(made.config(tls={"cert": str(ca.cert), "key": str(ca.key)}, timeouts={"client_login": "1s"}),
                     workers=2)
    context = ssl.create_default_context(cafile=str(ca.ca))
    wrap = lambda sock: context.wrap_socket(sock, server_hostname="localhost")  # noqa: E731
    made.serves(daemon.port(made.pool), wrap)
    return daemon, made, wrap


def all_it_says(sock):
    """What comes up to the end, by whatever means it comes."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            said += data
    return said


def throw(port, garbage, finish=False):
    with socket.create_connection((LOOPBACK, port), timeout=20 * PATIENCE) as sock, within(2):
        with contextlib.suppress(ConnectionError):  # it may be refused before all is said
            sock.sendall(garbage)
        if finish:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        return all_it_says(sock)


def at_rest(daemon, pool):
    """Nobody is left at the door, and nothing of them."""
    wait_for(lambda: daemon.metric("carpool_clients", pool=pool) == 0, what="the clients to be gone")


def counts(daemon, pool):
    return {name: daemon.metric(f"carpool_{name}", pool=pool)
            for name in ("dials_total", "leases_total")} | {"fds": daemon.descriptors()}


def test_no_tls_at_a_tls_door(door):
    """Whatever is not a handshake is answered by nothing but TLS' own alerts."""
    daemon, made, wrap = door
    port = daemon.port(made.pool)
    at_rest(daemon, made.pool)
    before = counts(daemon, made.pool)
    for what, garbage in IN_CLEAR.items():
        said = throw(port, garbage)
        assert not any(word in said for word in RESPONSES), what
    # But for those that only promise more than they say.
    wait_for(lambda: daemon.errors("tls_failed", made.pool) >= len(IN_CLEAR) - 4, what="them to be counted")
    for what, garbage in CUT.items():
        for finish in (True, False):
            said = throw(port, garbage, finish)
            assert not any(word in said for word in RESPONSES), what
    at_rest(daemon, made.pool)
    wait_for(lambda: counts(daemon, made.pool) == before, what="everything to be as before")
    assert set(daemon.all_errors(made.pool)) <= {"tls_failed", "client_timeout", "client_gone"}
    assert daemon.saw("tls_failed", made.pool)
    made.serves(port, wrap)


def test_noise_at_a_tls_door(door):
    daemon, made, wrap = door
    port, dice = daemon.port(made.pool), random.Random(7)
    at_rest(daemon, made.pool)
    before = counts(daemon, made.pool)
    for n in range(40):
        noise = dice.randbytes(dice.randint(1, 3000))
        if n % 2:  # a handshake that goes wrong somewhere
            at = dice.randrange(len(HELLO))
            noise = HELLO[:at] + noise + HELLO[at:]
        said = throw(port, noise, finish=True)
        assert not any(word in said for word in RESPONSES), noise
    at_rest(daemon, made.pool)
    wait_for(lambda: counts(daemon, made.pool) == before, what="everything to be as before")
    made.serves(port, wrap)


def test_garbage_inside_tls(door):
    """Behind a handshake it is the protocol's to refuse, in its own words."""
    daemon, made, wrap = door
    port, dice = daemon.port(made.pool), random.Random(8)

    def tls():
        return contextlib.closing(wrap(socket.create_connection((LOOPBACK, port), timeout=20 * PATIENCE)))
    for noise in made.noise:
        with within(3), tls() as sock:
            sock.sendall(noise + dice.randbytes(2000))
            assert all_it_says(sock).startswith(made.refusal), noise
    assert daemon.saw("client_protocol", made.pool)
    for _ in range(20):
        with tls() as sock:
            sock.sendall(dice.randbytes(dice.randint(1, 3000)))
    at_rest(daemon, made.pool)
    made.serves(port, wrap)


def test_records_that_break_in_the_middle(door):
    """A good handshake, a request, and then bytes that are no record: the request was answered, and no more."""
    daemon, made, wrap = door
    port = daemon.port(made.pool)
    at_rest(daemon, made.pool)
    before = counts(daemon, made.pool)
    for broken in (b"GET / HTTP/1.1\r\n", record(b"x" * 100, kind=23, version=0x0303), bytes(100)):
        with socket.create_connection((LOOPBACK, port), timeout=20 * PATIENCE) as raw:
            tls = wrap(raw.dup())
            with socket.socket(fileno=tls.detach()) as bare, within(3):
                bare.settimeout(20 * PATIENCE)
                with contextlib.suppress(ConnectionError):
                    bare.sendall(broken)
                said = all_it_says(bare)
                assert not any(word in said for word in RESPONSES)
    at_rest(daemon, made.pool)
    wait_for(lambda: counts(daemon, made.pool) == before, what="everything to be as before")
    made.serves(port, wrap)


# -- the admin API

ADMIN = {
    "zeros": bytes(5000), "redis": encode("PING"), "tls": HELLO, "postgres": struct.pack("!II", 8, 80877103),
    "half a line": b"GET /stats", "no version": b"GET /stats\r\n\r\n", "long target": b"GET /" + b"x" * 100_000,
    "many fields": b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000,
    "two lengths": b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "huge length": b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "length and chunks": b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
                         b"\r\n0\r\n\r\n",
    "a space too many": b"POST /shutdown HTTP/1.1\r\nHost : x\r\n\r\n", "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"POST /shutdown HTTP/1.1\r\n\r\n", "bare line feeds": b"POST /shutdown HTTP/1.1\nHost: x\n\n",
    "upwards": b"POST /../shutdown HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


def test_garbage_at_the_admin_port(carpool, pg):
    """On TCP, where anybody may knock: an error of HTTP's or nothing, then the end; and nothing was done."""
    port = free_port()
    daemon = carpool(postgres_pool(pg.url()), admin={"http": f"{LOOPBACK}:{port}"})
    assert daemon.get("/live").status == 200
    before, dice = daemon.descriptors(), random.Random(9)
    for what, garbage in ADMIN.items():
        said = throw(port, garbage, finish=True)
        assert said == b"" or said.startswith(b"HTTP/1.1 4") or said.startswith(b"HTTP/1.1 5"), (what, said[:200])
    for _ in range(40):
        said = throw(port, dice.randbytes(dice.randint(1, 3000)), finish=True)
        assert not said.startswith(b"HTTP/1.1 2"), said[:200]
    good = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    said = throw(port, good + bytes(1000), finish=True)
    assert said.startswith(b"HTTP/1.1 200 ") and said.count(b"HTTP/1.1") == 1, "what is right is answered, once"
    assert throw(port, good, finish=True).startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: daemon.descriptors() <= before, what="the callers to be gone")
    assert daemon.alive() and daemon.pools()["orders"]["paused"] is False
    assert not daemon.log_lines(" draining ") and not daemon.log_lines(" reload ")
