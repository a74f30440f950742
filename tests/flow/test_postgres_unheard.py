# SPDX-License-Identifier: MIT
"""A server is lost before it has heard a byte of the statement: another one gets it, and the client does not
notice. It is never done twice.
"""

import signal

import pytest
from harness import pgwire
from harness.base import wait_for
from harness.pgwire import query
from harness.quack import SIMPLE, Quack


@pytest.mark.parametrize("what", ["simple", "extended", "named"])
@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_a_statement_of_which_no_byte_has_left_goes_elsewhere(orders, local_pg, gate, what, sslmode):
    """The server's reset is there before the statement is sent, but not seen yet: the client does not notice."""
    relay = gate(local_pg.host, local_pg.port)
    daemon = orders(upstream=local_pg.url(host=relay.host, port=relay.port, sslmode=sslmode),
                    size={"max": 1}, check={"checkout_after": "1h"})
    name = "mine" if what == "named" else ""
    with daemon.wire() as wire:
        first = wire.run("select pg_backend_pid()")[0]
        daemon.signal(signal.SIGSTOP)
        try:
            if what == "simple":
                wire.send(query("select pg_backend_pid()"))
            else:
                wire.send(pgwire.parse("select pg_backend_pid()", name), pgwire.bind(name), pgwire.describe(),
                          pgwire.execute(), pgwire.SYNC)
            relay.cut(reset=True)
            wait_for(lambda: relay.open == 0, what="the connection to be gone")
        finally:
            daemon.signal(signal.SIGCONT)
        rows, _, error, status = wire.results()
        assert (error, status) == (None, "I") and rows != first
        assert daemon.all_errors() == {}


@pytest.mark.parametrize("before", ["begin", "begin; reset search_path"])
def test_a_statement_in_a_transaction_goes_nowhere_else(orders, local_pg, gate, before):
    """Also when carpool has just set its server again, so that the client has said nothing since."""
    relay = gate(local_pg.host, local_pg.port)
    daemon = orders(upstream=local_pg.url(host=relay.host, port=relay.port), size={"max": 1},
                    check={"checkout_after": "1h"})
    with daemon.wire(search_path="pg_catalog") as wire:
        assert wire.run(before)[3] == "T"
        wait_for(lambda: daemon.json("/clients?pool=orders")["clients"][0]["state"] == "in_transaction",
                 what="the server to be set again")
        daemon.signal(signal.SIGSTOP)
        try:
            wire.send(query("create table public.twice (a int)"))
            relay.cut(reset=True)
            wait_for(lambda: relay.open == 0, what="the connection to be gone")
        finally:
            daemon.signal(signal.SIGCONT)
        error, status = wire.results()[2:]
        assert (error.code, status) == ("08006", "E")
        assert local_pg.value("select to_regclass('public.twice')", db="orders") is None


def test_servers_that_leave_before_they_have_heard_the_client_are_not_tried_for_ever(orders):
    """Each closes at the settings that go first: as many tries as `retry` has, and then the client hears why."""
    quack = Quack()
    quack.answer = None
    daemon = orders(upstream=quack.url(), retry={"attempts": 3, "budget": "100%"})
    try:
        with daemon.wire(search_path="pg_catalog") as wire:
            error, status = wire.run("select 1")[2:]
            assert (error.code, status) == ("08006", "I")
            assert (quack.asked, daemon.metric("carpool_retries_total", pool="orders")) == (3, 2)
            quack.answer = SIMPLE
            wire.send(query("select 1"))
            assert wire.until("Z")[-1][1] == b"I"
    finally:
        quack.close()
