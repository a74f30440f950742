# SPDX-License-Identifier: MIT
"""Postgres: how each cause comes about, and the SQLSTATE that goes with it."""

from harness import pgwire
from harness.base import LOOPBACK, free_port, wait_for
from harness.pgwire import PgError, query
from harness.relays import TO_CLIENT, Half

from . import Table


def told(said, cause, sqlstate):
    assert said.fields["M"].startswith(f"carpool: {cause}: "), said
    assert said.code == sqlstate, said
    assert "pool=orders" in said.fields["D"] and "conn=" in said.fields["D"], said


TABLE = Table("postgres", "orders", told, {})
case = TABLE.case

NOWHERE = f"postgres://app:x@{LOOPBACK}:{{}}/orders"


def first_words(wire):
    """The first error that comes by itself."""
    return PgError(wire.until("E")[-1][1])


def busy(world, **over):
    """A pool of one whose server is taken: (daemon, holder, another client)."""
    daemon = world.orders(**{"size": {"min": 1, "max": 1, "acquire_timeout": "500ms"}, **over})
    holder, other = world.keep(daemon.wire()), world.keep(daemon.wire())
    holder.run("begin")
    return daemon, holder, other


@case("acquire_timeout", "53300")
def acquire_timeout(world):
    daemon, _, other = busy(world)
    return daemon, other.run("select 1")[2]


@case("cancelled", "57014")
def cancelled(world):
    daemon, _, other = busy(world, size={"max": 1, "acquire_timeout": "20s"})
    other.send(query("select 1"))
    wait_for(lambda: daemon.waiting() == 1, what="the client to wait")
    other.cancel()
    return daemon, other.results()[2]


@case("queue_full", "53300")
def queue_full(world):
    daemon, _, other = busy(world, size={"min": 1, "max": 1, "waiters": 0})
    return daemon, other.run("select 1")[2]


@case("outage", "08001")
def outage(world):
    daemon = world.orders(upstream=NOWHERE.format(free_port()), timeouts={"outage_wait": "300ms"})
    return daemon, daemon.first_error()


@case("breaker_open", "08001")
def breaker_open(world):
    daemon = world.orders(size={"min": 1})
    wire = world.keep(daemon.wire())
    daemon.cli("breaker", "orders", "open")
    return daemon, wire.run("select 1")[2]


@case("dial_failed", "08001")
def dial_failed(world):
    daemon = world.orders(upstream=NOWHERE.format(free_port()), on_down="fail")
    return daemon, daemon.first_error()


@case("upstream_auth", "08001")
def upstream_auth(world):
    daemon = world.orders(upstream=world.pg.url(password="wrong"), size={"acquire_timeout": "2s"})
    return daemon, daemon.first_error()


@case("upstream_busy", "53300")
def upstream_busy(world):
    url = world.bounded(0)
    daemon = world.orders(upstream=url, on_down="fail", size={"acquire_timeout": "1s"})
    return daemon, daemon.first_error(user="bounded")


@case("request_timeout", "57014")
def request_timeout(world):
    daemon = world.orders(timeouts={"request": "200ms"})
    return daemon, world.keep(daemon.wire()).run("select pg_sleep(30)")[2]


@case("idle_timeout", "25P03")
def idle_timeout(world):
    daemon = world.orders(timeouts={"idle_transaction": "200ms"})
    wire = world.keep(daemon.wire())
    wire.run("begin")
    return daemon, first_words(wire)


@case("write_stall")
def write_stall(world):
    daemon = world.orders(timeouts={"write_stall": "200ms"})
    wire = world.keep(daemon.wire())
    wire.send(query("select repeat('x', 1000) from generate_series(1, 100000)"))
    return daemon, None


@case("upstream_closed", "08006")
def upstream_closed(world):
    daemon = world.orders()
    return daemon, world.keep(daemon.wire()).run("select pg_terminate_backend(pg_backend_pid())")[2]


@case("upstream_protocol", "08P01")
def upstream_protocol(world):
    half = world.keep(Half(b"N", pgwire.WELCOME, pgwire.message("~", b"what?")))
    daemon = world.orders(upstream=NOWHERE.format(half.port))
    wire = world.keep(daemon.wire())
    wire.send(query("select 1"))
    return daemon, first_words(wire)


@case("outcome_unknown", "08007")
def outcome_unknown(world):
    relay = world.gate(world.pg.host, world.pg.port)
    daemon = world.orders(upstream=world.pg.url(host=relay.host, port=relay.port))
    wire = world.keep(daemon.wire())
    wire.run("begin")
    relay.pause(TO_CLIENT)
    wire.send(query("commit"))
    # 11 bytes of BEGIN, 12 of COMMIT
    wait_for(lambda: daemon.metric("carpool_bytes_total", direction="to_servers") >= 23, what="COMMIT to go")
    relay.cut()
    return daemon, wire.results()[2]


@case("client_protocol", "08P01")
def client_protocol(world):
    daemon = world.orders()
    wire = world.keep(daemon.wire())
    wire.send(pgwire.message("?"))
    return daemon, first_words(wire)


@case("client_gone")
def client_gone(world):
    daemon = world.orders()
    wire = daemon.wire()
    wire.run("begin")
    wire.abort()
    return daemon, None


@case("client_timeout", "57P05")
def client_timeout(world):
    daemon = world.orders(timeouts={"client_idle": "200ms"})
    return daemon, first_words(world.keep(daemon.wire()))


@case("auth_failed", "28P01")
def auth_failed(world):
    daemon = world.orders(auth={"method": "scram"})
    return daemon, daemon.first_error(password="wrong")


@case("tls_failed", "08001")
def tls_failed(world):
    url = world.local_pg.url(host="localhost", sslmode="verify-full",
                             sslrootcert=str(world.servers.authority.other_ca))
    daemon = world.orders(upstream=url, size={"acquire_timeout": "2s"})
    return daemon, daemon.first_error()


@case("too_many_clients", "53300")
def too_many_clients(world):
    daemon = world.orders(limits={"clients": 1})
    world.keep(daemon.wire())
    return daemon, daemon.first_error()


@case("rate_limited", "53400")
def rate_limited(world):
    daemon = world.orders(size={"min": 1}, limits={"rate": 1})
    wire = world.keep(daemon.wire())
    errors = (wire.run("select 1")[2] for _ in range(100))
    return daemon, next(e for e in errors if e)  # a slow machine may do one in a second


@case("overloaded", "53300")
def overloaded(world):
    daemon, _, other = busy(world, limits={"in_flight": 1})
    return daemon, other.run("select 1")[2]


@case("too_large", "54000")
def too_large(world):
    daemon = world.orders(size={"min": 1})
    return daemon, daemon.first_error(**{f"custom.p{i}": "x" * 100 for i in range(60)})


@case("no_route", "3D000")
def no_route(world):
    daemon = world.orders()
    return daemon, daemon.first_error(database="elsewhere")


@case("unsupported", "0A000")
def unsupported(world):
    daemon = world.orders()
    return daemon, daemon.first_error(replication="database")


@case("denied", "28000")
def denied(world):
    ca = world.servers.authority
    daemon = world.orders(tls={"cert": str(ca.cert), "key": str(ca.key), "required": True})
    return daemon, daemon.first_error()


@case("paused", "53300")
def paused(world):
    daemon = world.orders(size={"min": 1, "acquire_timeout": "200ms"}, on_down="fail")
    wire = world.keep(daemon.wire())
    daemon.cli("pause", "orders")
    return daemon, wire.run("select 1")[2]


@case("draining", "57P01")
def draining(world):
    daemon, _, idle = busy(world)  # who is inside a transaction keeps it alive
    daemon.cli("shutdown")
    return daemon, first_words(idle)
