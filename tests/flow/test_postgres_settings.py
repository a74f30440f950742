# SPDX-License-Identifier: MIT
"""Settings that a server does not take: the client's fault, or that of who had the server before."""

import contextlib

import pytest
from harness.base import wait_for
from harness.pgwire import SYNC, PgError, bind, cstr, execute, message, parse, query
from harness.quack import READY, SIMPLE, Quack

REFUSAL = message("E", b"".join(map(cstr, ["SERROR", "VERROR", "C22023", "Mnot today"])) + b"\0") + READY
DIRTY = 4
NEWS = message("A", b"\0\0\0\1" + cstr("news") + cstr("n" * 3000))


@pytest.mark.parametrize("options,word", [("-c nosuchthing=1", "nosuchthing"),
                                          ("-c work_mem=lots", "work_mem"),
                                          ("-c max_connections=5", "max_connections")])
def test_startup_parameter_that_the_server_refuses(orders, options, word):
    """A clear FATAL with the server's words; the server itself stays sound for others."""
    daemon = orders(size={"max": 1})
    with daemon.wire() as good:
        pid = good.run("select pg_backend_pid()")[0]
        for _ in range(3):
            with pytest.raises(PgError) as e:
                wire = daemon.wire(options=options)
                wire.send(query("select 1"))
                raise PgError(wire.until("E")[-1][1])
            assert (e.value.fields["S"], e.value.code) in (("FATAL", "22023"), ("FATAL", "42704")), e.value
            assert word in e.value.fields["M"], e.value
        assert good.run("select pg_backend_pid()")[0] == pid
        assert good.run("show work_mem")[0] == [["4MB"]]
    wait_for(lambda: set(daemon.all_errors()) == {"client_protocol"}, what="the one cause")


def test_options_that_nobody_understands(orders):
    daemon = orders()
    for options in ("-x", "work_mem=1", "-c", "-c =1"):
        with pytest.raises(PgError) as e:
            daemon.wire(options=options)
        assert (e.value.fields["S"], e.value.code) == ("FATAL", "08P01"), options


class Sullen(Quack):
    """Reports its TimeZone, and will not be set to that of Tokyo the next `refusals` times."""

    refusals = 0

    @staticmethod
    def zone(name):
        return message("S", cstr("TimeZone") + cstr(name))

    @property
    def welcome(self):
        return Quack.welcome[:9] + self.zone("UTC") + Quack.welcome[9:]

    def reply(self, kind, sql):
        if "set_config" not in sql:
            return super().reply(kind, sql)
        if "Tokyo" in sql and self.refusals:
            self.refusals -= 1
            return REFUSAL
        return self.zone("Asia/Tokyo" if "Tokyo" in sql else "Europe/Rome") + SIMPLE


@pytest.fixture
def sullen():
    made = Sullen()
    yield made
    made.close()


@pytest.mark.parametrize("attempts,refusals,served", [(1, 1, True), (1, 2, False), (3, 2, True), (3, 3, False)])
def test_what_others_left_may_be_the_reason(orders, sullen, attempts, refusals, served):
    """The client is tried on other servers as long as they hold anything of others': within `retry.attempts`, but
    once in any case. Then it hears the server's words."""
    daemon = orders(upstream=sullen.url(), retry={"attempts": attempts},
                    size={"min": 0, "max": DIRTY, "acquire_timeout": "20s"})
    with contextlib.ExitStack() as stack:
        romans = [stack.enter_context(daemon.wire(TimeZone="Europe/Rome")) for _ in range(DIRTY)]
        for wire in romans:
            wire.send(parse("select 1"), bind(), execute())
        wait_for(lambda: sum("Rome" in text for text in sullen.texts) == DIRTY, what="all servers to be in Rome")
        for wire in romans:
            wire.send(SYNC)
            wire.until("Z")
        wait_for(lambda: daemon.servers(state="idle") == DIRTY, what="all servers to be idle")
        sullen.refusals = refusals
        wire = stack.enter_context(daemon.wire(TimeZone="Asia/Tokyo"))
        wire.send(query("select 1"))
        heard = "".join(kind for kind, _ in wire.until("Z" if served else "E"))
        assert heard == ("TDCZ" if served else "E")
        assert sum("Tokyo" in text for text in sullen.texts) == refusals + served
    assert daemon.all_errors() == ({} if served else {"client_protocol": 1})


class Orderly(Sullen):
    """Notes what it is sent; NOTIFYs while it is set again."""

    def __init__(self):
        super().__init__()
        self.order, self.behind = [], b""

    def reply(self, kind, sql):
        self.order.append("set" if "set_config" in sql else sql or "sync")
        if kind == b"S":
            return BATCH
        if "set_config" in sql and len(self.order) > 1:
            return NEWS + super().reply(kind, sql) + NEWS
        if sql == "reset timezone":
            return self.zone("UTC") + message("C", b"RESET\0") + READY + self.behind
        return super().reply(kind, sql)


BATCH = message("1") + message("2") + message("C", b"INSERT 0 1\0") + READY
HALVES = 40_000


def kinds(wire):
    return "".join(kind for kind, _ in wire.until("Z") if kind != "S")


@pytest.fixture
def orderly():
    made = Orderly()
    yield made
    made.close()


def test_a_reset_is_waited_for(orders, orderly):
    """What the client came with is set again behind a RESET: before what it has sent behind it already, and
    not in the middle of that, where a query would commit what a batch has done."""
    daemon = orders(mode="session", upstream=orderly.url(), size={"max": 1})
    with daemon.wire(TimeZone="Asia/Tokyo") as wire:
        wire.run("select 1")
        wire.send(query("reset timezone"), parse("insert"), bind(), execute(), SYNC)
        assert kinds(wire) == "CZ"
        assert kinds(wire) == "AA12CZ", "nor is news kept from it"
        wire.run("select 2")
        assert orderly.order == ["set", "select 1", "reset timezone", "set", "sync", "select 2"]
    assert daemon.all_errors() == {}


@pytest.mark.parametrize("early", [True, False], ids=["sent with it", "sent later"])
def test_half_a_notice_behind_a_reset(orders, orderly, early):
    """It is not torn apart by the answer to our settings."""
    notice = message("N", b"SNOTICE\0VNOTICE\0C00000\0M" + b"x" * 2 * HALVES + b"\0\0")
    orderly.behind = notice[:HALVES]
    daemon = orders(mode="session", upstream=orderly.url(), size={"max": 1})
    with daemon.wire(TimeZone="Asia/Tokyo") as wire:
        wire.run("select 1")
        wire.send(query("reset timezone"), *([query("select 2")] if early else []))
        assert kinds(wire) == "CZ"
        wait_for(lambda: daemon.metric("carpool_bytes_total", direction="from_servers") > HALVES,
                 what="half of it to be heard")
        if not early:
            wire.send(query("select 2"))
        orderly.say(notice[HALVES:])
        assert wire.receive() == ("N", notice[5:])
        assert kinds(wire) == "AATDCZ"
        assert orderly.order == ["set", "select 1", "reset timezone", "set", "select 2"]
    assert daemon.all_errors() == {}
