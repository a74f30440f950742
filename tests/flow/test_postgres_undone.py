# SPDX-License-Identifier: MIT
"""A transaction that is lost with its server has changed nothing, nor has what the client has set in it."""

import pytest
from harness.base import wait_for
from harness.pgwire import message, query
from harness.quack import READY, Quack

SHOW = ("select current_setting('timezone'), current_setting('application_name'),"
        " current_setting('work_mem'), current_setting('role')")


@pytest.fixture
def ill_fated(one, pg):
    """A client that has a transaction open, and then no server any more. `busy`: in the middle of a query."""
    def make(*statements, busy):
        daemon = one()
        wire = daemon.wire(timezone="Asia/Kolkata", application_name="billing")
        before = wire.run("set work_mem to '1111kB'"), wire.run(SHOW)
        wire.run("begin")
        for sql in statements:
            assert wire.run(sql)[2] is None
        pid = wire.run("select pg_backend_pid()")[0][0][0]
        wire.send(query("select pg_sleep(60)" if busy else "select 1"))
        if busy:
            wait_for(lambda: pg.asleep("select pg_sleep(60)"), what="the query to run")
        else:
            wire.results()
        pg.query("select pg_terminate_backend(%s)", int(pid))
        return daemon, wire, before[1][0]
    return make


TOKYO = "set timezone to 'Asia/Tokyo'"
LOST = [[TOKYO], ["select set_config('timezone', 'Asia/Tokyo', false)"], ["set role app"], ["reset work_mem"],
        ["set local timezone to 'UTC'"], ["set application_name to 'other'", "set work_mem to '2222kB'"],
        [TOKYO, "reset work_mem"], ["reset work_mem", TOKYO], [TOKYO, "savepoint a", "reset timezone"],
        ["discard plans", "reset all"]]


@pytest.mark.parametrize("end", ["rollback", "commit"])
@pytest.mark.parametrize("statements", LOST, ids="; ".join)
def test_settings_of_a_lost_transaction(ill_fated, statements, end):
    daemon, wire, before = ill_fated(*statements, busy=True)
    assert wire.results()[2].code == "08006"
    assert wire.run(end)[1] == ["ROLLBACK"]
    assert wire.run(SHOW)[0] == before
    daemon.stop()


def test_settings_of_a_transaction_lost_in_silence(ill_fated, pg):
    daemon, wire, before = ill_fated(TOKYO, busy=False)
    wait_for(lambda: pg.connections() == 0, what="the server to be gone")
    assert wire.run("select 1")[2].code == "08006"
    wire.run("rollback")
    assert wire.run(SHOW)[0] == before
    daemon.stop()


def test_the_client_hears_what_is_undone(ill_fated):
    """Drivers read results by what they have heard: of the time zone, of the encoding."""
    daemon, wire, _ = ill_fated(TOKYO, "set client_encoding to 'latin1'", busy=True)
    told = [body.split(b"\0")[:2] for kind, body in wire.until("Z") if kind == "S"]
    assert sorted(told) == [[b"TimeZone", b"Asia/Kolkata"], [b"client_encoding", b"UTF8"]]
    daemon.stop()


def test_what_was_committed_before_stays(ill_fated):
    daemon, wire, _ = ill_fated(TOKYO, "commit", "begin", "set timezone to 'UTC'", busy=True)
    assert wire.results()[2].code == "08006"
    wire.run("rollback")
    assert wire.run("select current_setting('timezone')")[0] == [["Asia/Tokyo"]]
    daemon.stop()


class Dying(Quack):
    """Does what it is told to set, and says in the same breath that it ends; or ends in the middle of it."""

    last_words = message("E", b"SFATAL\0VFATAL\0C57P01\0Mshutting down\0\0")

    def reply(self, kind, sql):
        if sql == "set work_mem to '1111kB'":
            return message("C", b"SET\0") + READY + self.last_words
        if sql == "set work_mem to '2222kB'":
            return self.last_words
        return super().reply(kind, sql)


@pytest.fixture
def dying():
    made = Dying()
    yield made
    made.close()


def test_a_setting_that_nobody_could_ask_for(orders, dying):
    """The client knows that it is set; on another server it would not be, and nobody would say so."""
    daemon = orders(upstream=dying.url())
    wire = daemon.wire()
    assert wire.run("set work_mem to '1111kB'")[1:3] == (["SET"], None)
    error = wire.farewell()
    assert (error.fields["S"], error.code) == ("FATAL", "08006")


def test_a_setting_whose_loss_is_said(orders, dying):
    daemon = orders(upstream=dying.url())
    with daemon.wire() as wire:
        assert wire.run("set work_mem to '2222kB'")[2].code == "08006"
        assert wire.run("select 1")[0] == [["1"]]
