# SPDX-License-Identifier: MIT
"""Redis: how each cause comes about. Errors are `-ERR carpool: <cause> ...`; where Redis has words of
its own that client libraries look for, those stand in front of the cause."""

import socket

from harness.base import LOOPBACK, free_port
from harness.rediswire import Resp, RespError

from . import Table


def told(said, cause, words):
    if words is True:
        assert said.cause == cause, said
    else:
        assert str(said).startswith(words) and str(said).endswith(f"(carpool: {cause})"), said


TABLE = Table("redis", "cache", told, {
    "cancelled": "Redis has no word for it: a client that does not want to wait leaves",
    "idle_timeout": "a client that keeps a server by MULTI has `client_idle`",
    "outcome_unknown": "said in the words of upstream_closed and request_timeout",
    "no_route": "a client cannot name where it wants to go: SELECT is `unsupported`",
})
case = TABLE.case


def riders(world, daemon, n=1, **more):
    made = [world.keep(Resp(daemon.port("cache"), **more)) for _ in range(n)]
    return made[0] if n == 1 else made


def silent(words, conn):
    return None


def busy(world, **over):
    """A pool of one whose server is reserved: (daemon, another client)."""
    daemon = world.cache(**{"size": {"min": 1, "max": 1, "acquire_timeout": "500ms"}, **over})
    holder, other = riders(world, daemon, 2)
    assert holder.cmd("WATCH", world.key) == "OK"
    return daemon, other


@case("acquire_timeout", True)
def acquire_timeout(world):
    daemon, other = busy(world)
    return daemon, other.cmd("GET", world.key)


@case("queue_full", True)
def queue_full(world):
    daemon, other = busy(world, size={"min": 1, "max": 1, "waiters": 0})
    return daemon, other.cmd("GET", world.key)


@case("outage", True)
def outage(world):
    daemon = world.cache(f"redis://{LOOPBACK}:{free_port()}/0", on_down="wait",
                         timeouts={"outage_wait": "200ms"})
    return daemon, riders(world, daemon).cmd("GET", "x")


@case("breaker_open", True)
def breaker_open(world):
    daemon = world.cache()
    daemon.cli("breaker", "cache", "open")
    return daemon, riders(world, daemon).cmd("GET", "x")


@case("dial_failed", True)
def dial_failed(world):
    daemon = world.cache(f"redis://{LOOPBACK}:{free_port()}/0")
    return daemon, riders(world, daemon).cmd("GET", "x")


@case("upstream_auth", True)
def upstream_auth(world):
    wrong = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    server = world.fake(login={b"auth": wrong, b"hello": wrong})
    daemon = world.cache(f"redis://:x@{server.host}:{server.port}/0")
    return daemon, riders(world, daemon).cmd("GET", "x")


@case("upstream_busy", True)
def upstream_busy(world):
    server = world.fake(greeting=b"-ERR max number of clients reached\r\n")
    daemon = world.cache(server.url(), size={"acquire_timeout": "1s"})
    return daemon, riders(world, daemon).cmd("GET", "x")


@case("request_timeout", True)
def request_timeout(world):
    daemon = world.cache(world.fake(silent).url(), timeouts={"request": "200ms"}, retry={"attempts": 1})
    return daemon, riders(world, daemon).cmd("GET", "x")


@case("write_stall")
def write_stall(world):
    daemon = world.cache(limits={"buffer": "16KiB"}, timeouts={"write_stall": "200ms"})
    c = riders(world, daemon)
    assert c.cmd("SET", world.key, b"v" * 1_000_000) == "OK"
    for _ in range(30):
        c.send("GET", world.key)
    return daemon, None


@case("upstream_closed", True)
def upstream_closed(world):
    server = world.fake(silent)
    daemon = world.cache(server.url())
    c = riders(world, daemon)
    c.send("INCR", "x")
    world.until(lambda: server.commands("INCR"))
    server.hang_up()
    return daemon, c.read()


@case("upstream_protocol", True)
def upstream_protocol(world):
    daemon = world.cache(world.fake(lambda words, conn: b"?what\r\n").url())
    return daemon, riders(world, daemon).cmd("INCR", "x")


@case("client_protocol", "ERR Protocol error")
def client_protocol(world):
    daemon = world.cache()
    c = riders(world, daemon)
    c.write(b"*1\r\n$x\r\n")
    return daemon, c.read()


@case("client_gone")
def client_gone(world):
    server = world.fake(silent)
    daemon = world.cache(server.url())
    c = riders(world, daemon)
    c.send("INCR", "x")
    world.until(lambda: server.commands("INCR"))
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    c.close()  # a reset: who only shuts down its side may still want the answer
    return daemon, None


@case("client_timeout")
def client_timeout(world):
    daemon = world.cache(timeouts={"client_idle": "200ms"})
    c = riders(world, daemon)
    assert c.rest() == b""
    return daemon, None


@case("auth_failed", "WRONGPASS")
def auth_failed(world):
    daemon = world.carpool(start=False)
    (daemon.folder / "users").write_text("rider: s3cret\n")
    config = world.redis_pool(world.rd.url(), auth={"method": "password",
                                                    "users_file": str(daemon.folder / "users")})
    daemon.write({"pools": [config]})
    daemon.start()
    return daemon, riders(world, daemon).cmd("AUTH", "rider", "wrong")


@case("tls_failed", True)
def tls_failed(world):
    server = world.servers.redis(local=True, tls=True)
    world.at_end(lambda: world.servers.forget(server))
    strange = world.servers.authority.other_ca
    daemon = world.cache(f"rediss://localhost:{server.tls_port}/0?sslrootcert={strange}")
    return daemon, riders(world, daemon).cmd("GET", "x")


@case("too_many_clients", True)
def too_many_clients(world):
    daemon = world.cache(limits={"clients": 1})
    _, second = riders(world, daemon, 2)
    return daemon, second.read()


@case("rate_limited", True)
def rate_limited(world):
    daemon = world.cache(limits={"rate": 1})
    c = riders(world, daemon)
    replies = (c.cmd("GET", "x") for _ in range(100))
    return daemon, next(r for r in replies if isinstance(r, RespError))


@case("overloaded", True)
def overloaded(world):
    server = world.fake(silent)
    daemon = world.cache(server.url(), limits={"in_flight": 1})
    first, second = riders(world, daemon, 2)
    first.send("GET", "x")
    world.until(lambda: server.commands("GET"))
    return daemon, second.cmd("GET", "x")


@case("too_large", True)
def too_large(world):
    daemon = world.cache()
    return daemon, riders(world, daemon).cmd("CLIENT", "SETNAME", "x" * 1000)


@case("unsupported", True)
def unsupported(world):
    daemon = world.cache()
    return daemon, riders(world, daemon).cmd("SELECT", "1")


@case("denied", True)
def denied(world):
    daemon = world.cache()
    return daemon, riders(world, daemon).cmd("SHUTDOWN")


@case("paused", True)
def paused(world):
    daemon = world.cache(size={"acquire_timeout": "200ms"})
    daemon.cli("pause", "cache")
    return daemon, riders(world, daemon).cmd("GET", "x")


@case("draining", True)
def draining(world):
    """Who comes to a pool that drains; those who are there are let go without a word."""
    daemon = world.cache()
    daemon.cli("drain", "cache")
    return daemon, riders(world, daemon).read()
