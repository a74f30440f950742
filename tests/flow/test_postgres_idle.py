# SPDX-License-Identifier: MIT
"""What a server says that nobody has asked for, while it is idle or behind the last answer it owed.

PostgreSQL tells of changed parameters and of notices at any time: such a server is sound. An error is its
last word, also before it has closed. Words behind the answer to carpool's own reset belong to nobody, and
the answers to the next client might be out of step.
"""

import pytest
from harness.base import wait_for
from harness.pgwire import cstr, fields, message, query
from harness.quack import READY, SIMPLE, Quack


def said_in_fields(kind, *parts):
    return message(kind, b"".join(map(cstr, parts)) + b"\0")


def reports(name, value):
    return message("S", cstr(name) + cstr(value))


NOTICE = said_in_fields("N", "SNOTICE", "VNOTICE", "C00000", "Mit will rain")
FAREWELL = said_in_fields("E", "SFATAL", "VFATAL", "C57P05", "Mtoo long idle")
DISCARDED = message("C", b"DISCARD ALL\0") + READY


class Talker(Quack):
    """Reports its TimeZone; `behind` stands behind its answer to DISCARD ALL."""

    welcome = Quack.welcome[:9] + reports("TimeZone", "UTC") + Quack.welcome[9:]
    behind = b""

    def reply(self, kind, sql):
        if sql == "DISCARD ALL":
            return DISCARDED + self.behind
        if "set_config" in sql:
            return reports("TimeZone", "UTC" if "UTC" in sql else "Europe/Rome") + SIMPLE
        return super().reply(kind, sql)


@pytest.fixture
def talker():
    made = Talker()
    yield made
    made.close()


@pytest.fixture
def one(orders, talker):
    """A daemon with one server, which is the talker."""
    def make(**over):
        size = {"min": 0, "max": 1, "acquire_timeout": "20s", **over.pop("size", {})}
        return orders(upstream=talker.url(), size=size, **over)
    return make


def verdicts(daemon, **which):
    return daemon.metric("carpool_recycle_verdicts_total", **which)


def says(daemon, talker, *words):
    """While it is idle. It has been heard when this returns."""
    wait_for(lambda: daemon.servers(state="idle") == 1, what="the server to be idle")
    for piece in words:
        before = daemon.metric("carpool_bytes_total", direction="from_servers")
        talker.say(piece)
        wait_for(lambda: daemon.metric("carpool_bytes_total", direction="from_servers")
                 == before + len(piece), what="carpool to hear that")


def kinds(wire, sql):
    wire.send(query(sql))
    return "".join(kind for kind, _ in wire.until("Z"))


@pytest.mark.parametrize("words", [[NOTICE], [NOTICE[:3], NOTICE[3:]], [NOTICE + NOTICE[:20], NOTICE[20:]]],
                         ids=["notice", "in two pieces", "one and a half"])
def test_words_of_a_sound_server(one, talker, words):
    """Nobody hears them whom they do not concern, and the server is kept."""
    daemon = one()
    with daemon.wire() as wire:
        assert kinds(wire, "select 1") == "TDCZ"
        says(daemon, talker, *words)
        assert kinds(wire, "select 1") == "TDCZ"
    assert talker.accepted == 1 and talker.texts == ["select 1"] * 2
    wait_for(lambda: daemon.servers(state="idle") == 1, what="the server to come back")
    assert verdicts(daemon, outcome="keep") == verdicts(daemon)
    assert daemon.all_errors() == {}


def test_server_that_becomes_another(one, talker):
    """What only a server decides, each client hears before the answer of the first server that says so."""
    news = [reports("server_version", "15.1"), reports("in_hot_standby", "on")]
    daemon = one()

    def hears(wire):
        wire.send(query("select 1"))
        said = wire.until("Z")
        assert "".join(kind for kind, _ in said).endswith("TDCZ")
        return sorted(message(kind, body) for kind, body in said[:-4])
    with daemon.wire() as wire, daemon.wire(TimeZone="Europe/Rome") as roman:
        says(daemon, talker, *news)
        assert hears(wire) == sorted(news)
        assert hears(wire) == []
        assert hears(roman) == sorted(news), "which must be set to what it wants first"
        assert hears(roman) == hears(wire) == []
        with daemon.wire() as late:
            wanted = {"server_version": "15.1", "in_hot_standby": "on"}
            assert wanted.items() <= late.parameters.items() or hears(late) == sorted(news)
            assert hears(late) == []
    wait_for(lambda: daemon.servers(state="idle") == 1, what="the server to come back")
    assert talker.accepted == 1 and daemon.all_errors() == {}


def test_parameters_that_change_while_idle(one, talker):
    """What each client was told holds for it: the server is set to that if it has changed, and only then."""
    daemon = one()
    with daemon.wire() as wire, daemon.wire(TimeZone="Europe/Rome") as roman:
        assert (wire.parameters["TimeZone"], roman.parameters["TimeZone"]) == ("UTC", "Europe/Rome")
        says(daemon, talker, reports("TimeZone", "Europe/Rome"))
        assert kinds(roman, "select 'roman'") == "TDCZ"
        assert talker.texts == ["select 'roman'"], "it has what this client wants"
        assert kinds(wire, "select 1") == "TDCZ"
        assert len(talker.texts) == 3 and "UTC" in talker.texts[1], "it was set to what this one knows"
        assert kinds(wire, "select 2") == "TDCZ"
        assert talker.texts[3:] == ["select 2"]
    assert talker.accepted == 1
    assert daemon.all_errors() == {}


@pytest.mark.parametrize("words", [FAREWELL, message("D", b"\0\0"), READY, b"HTTP/1.1 408 Timeout\r\n\r\n"],
                         ids=["error", "row", "ready", "another protocol"])
def test_words_of_a_server_that_is_of_no_use(one, talker, words):
    """It has not closed. No client gets it, and none hears of it."""
    daemon = one()
    with daemon.wire() as wire:
        assert kinds(wire, "select 1") == "TDCZ"
        says(daemon, talker, words)
        wait_for(lambda: verdicts(daemon, phase="idle", outcome="drop_unread") == 1, what="the verdict")
        assert kinds(wire, "select 2") == "TDCZ"
    assert talker.accepted == 2
    assert daemon.all_errors() == {}


@pytest.mark.parametrize("behind", [b"", NOTICE, SIMPLE, b"Z"], ids=["nothing", "notice", "answer", "byte"])
def test_words_behind_a_reset(one, talker, behind):
    daemon = one(mode="session")
    talker.behind = behind
    with daemon.wire() as wire:
        assert kinds(wire, "select 1") == "TDCZ"
    wait_for(lambda: verdicts(daemon, phase="return") == 2, what="the verdicts of login and reset")
    assert verdicts(daemon, phase="return", outcome="drop_unread") == (1 if behind else 0)
    with daemon.wire() as wire:
        assert kinds(wire, "select 2") == "TDCZ"
    assert talker.accepted == (2 if behind else 1)
    assert talker.texts[:3] == ["select 1", "DISCARD ALL", "select 2"]
    assert daemon.all_errors() == {}


def test_half_a_notice_behind_the_last_answer(one, talker):
    """The client is owed the other half: until then the server is nobody else's."""
    notice = said_in_fields("N", "SNOTICE", "VNOTICE", "C00000", "M" + "x" * 100_000)
    daemon = one(size={"acquire_timeout": "300ms"})
    with daemon.wire() as wire, daemon.wire() as other:
        talker.answer = SIMPLE + notice[:30_000]
        assert wire.run("select 1")[0] == [["1"]]
        talker.answer = SIMPLE
        assert other.run("select 2")[2].code == "53300"
        talker.say(notice[30_000:])
        kind, body = wire.receive()
        assert kind == "N" and fields(body)["M"] == "x" * 100_000
        wait_for(lambda: daemon.servers(state="idle") == 1, what="the server to be free")
        assert other.run("select 3")[0] == [["1"]]
    assert talker.accepted == 1
    assert verdicts(daemon, outcome="keep") == verdicts(daemon)


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("rest", [True, False], ids=["whole", "half"])
@pytest.mark.parametrize("at", [3, 30_000])
def test_clocks_run_behind_half_a_notice(one, talker, mode, rest, at):
    """A client in a transaction is idle also while half a message of its server's is all there is of it."""
    notice = said_in_fields("N", "SNOTICE", "VNOTICE", "C00000", "M" + "x" * 100_000)
    daemon = one(mode=mode, timeouts={"idle_transaction": "1s"})
    with daemon.wire() as wire:
        talker.answer = message("C", b"BEGIN\0") + message("Z", b"T") + notice[:at]
        assert kinds(wire, "begin") == "CZ"
        if rest:
            talker.say(notice[at:])
            assert wire.receive()[0] == "N"
        else:
            wire.sock.settimeout(10)
        words = b""
        while data := wire.sock.recv(65536):
            words += data
        assert b"25P03" in wire.buffer + words
