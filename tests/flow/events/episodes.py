# SPDX-License-Identifier: MIT
"""What takes several exchanges, in which a client keeps its server: each of them ends what keeps it."""

import time

from harness.pgwire import query

from .deeds import LOST, Unit, extended, look, set_unit
from .tally import MAYBE, NO, YES


class Abandoned(Exception):
    """An answer was an error, with an excuse: there is no point in going on."""


def step(client, sql, rows=(), expected=(), on=None, status="I", rng=None, data=None):
    """One exchange that has to go well for the rest to make sense."""
    unit = Unit(data or query(sql), list(rows), expected, on, status)
    if client.say(unit, pace=client.pace(rng) if rng else None)[0].error:
        raise Abandoned


# -- transactions


def transaction(client, rng):
    if client.round.mode == "statement":
        return
    group, session = client.group(), client.session
    session.begin()
    fate = MAYBE
    try:
        fate = _steps(client, rng, group)
    finally:
        client.round.tally.settle(group, fate)
        session.end(fate)


def _steps(client, rng, group):
    begin = client.say(Unit(query("begin"), [], status="T"))[0]
    if begin.error:
        return NO
    for _ in range(rng.randrange(1, 5)):
        failed = _one_of_many(client, rng, group)
        if failed:
            client.say(Unit(query("rollback"), []))
            return NO
    return _end(client, rng)


def _one_of_many(client, rng, group):
    """True: the transaction has failed."""
    kind = rng.choice(["insert", "insert", "look", "set", "local", "think", "wait"])
    if kind == "think":
        time.sleep(rng.choice([0.02, 0.15, 0.4]))
        return False
    if kind == "insert":
        sql = f"insert into ev_log values ('{group}', {client.round.tally.sent(group)})"
        data = query(sql) if rng.random() < 0.5 else extended(sql)
        unit = Unit(data, [], status="T")
    elif kind == "wait":
        unit = Unit(query("select pg_sleep(0.1)"), [[""]], status="T")
    elif kind == "local":
        unit = Unit(query(f"set local lock_timeout to '{rng.randrange(1, 9)}s'"), [], status="T")
    else:
        unit = set_unit(client, rng, "T") if kind == "set" else look(client, "T")
    return client.say(unit, pace=client.pace(rng))[0].error is not None


def _end(client, rng):
    if rng.random() < 0.3:
        client.say(Unit(query("rollback"), []))
        return NO
    answer = client.say(Unit(query("commit"), []))[0]
    if answer.error is None:
        return YES if answer.tags == ["COMMIT"] else NO
    return MAYBE if answer.code == "08007" else NO


# -- what keeps a server


def temporary(client, rng):
    """A table that nobody else may see. It is gone with its server, and then that was said."""
    session, expected = client.session, client.round.refused
    mark = session.mark()

    def made(answer):
        if answer.error is None:
            session.temp = {True}
        elif answer.code in LOST:
            session.temp = {True, False}
    try:
        step(client, "create temp table ev_own (owner text)", (), expected, made, rng=rng)
        step(client, f"insert into ev_own values ('{mark}')", on=None)
        for _ in range(rng.randrange(1, 4)):
            client.say(look(client), pace=client.pace(rng))
            step(client, "select owner from ev_own", [[mark]])
    except Abandoned:
        pass
    _let_go(client, rng, "discard temp")


def listening(client, rng):
    session, own = client.session, f"ev_{client.number}"
    session.channels.add(own)
    try:
        step(client, f"listen {own}", (), client.round.refused, rng=rng)
        for _ in range(rng.randrange(1, 3)):
            client.heard.clear()
            word = session.mark()
            answer = client.say(Unit(query(f"notify {own}, '{word}'")))[0]
            if answer.error is None and word not in client.heard and not client.round.shared:
                client.wrong(f"did not hear its own {word}")
            client.say(look(client), pace=client.pace(rng))
    except Abandoned:
        pass
    _let_go(client, rng, "unlisten *")


def advisory(client, rng):
    """A lock of the session, on a key of the client's own: its own sessions one after the other."""
    try:
        sql = f"select pg_try_advisory_lock({client.number}) is not null"
        step(client, sql, [["t"]], client.round.refused, rng=rng)
        client.say(look(client), pace=client.pace(rng))
    except Abandoned:
        pass
    _let_go(client, rng, "select pg_advisory_unlock_all()")


def sql_statement(client, rng):
    """PREPARE in SQL."""
    session, name = client.session, f"sql{client.session.marks}"
    mark = session.mark()
    try:
        step(client, f"prepare {name} as select $1 || ' {mark}'", (), client.round.refused, rng=rng)
        for _ in range(rng.randrange(1, 3)):
            step(client, f"execute {name}('x')", [[f"x {mark}"]], rng=rng)
    except Abandoned:
        pass
    _let_go(client, rng, "deallocate all")


def held_cursor(client, rng):
    if client.round.mode == "statement":
        return
    mark = client.session.mark()
    try:
        step(client, f"declare ev_c cursor with hold for select '{mark}', g from generate_series(1, 3) g", (),
             client.round.refused, rng=rng)
        step(client, "fetch 2 from ev_c", [[mark, "1"], [mark, "2"]], rng=rng)
        step(client, "fetch 2 from ev_c", [[mark, "3"]], rng=rng)
    except Abandoned:
        pass
    _let_go(client, rng, "close all")


def _let_go(client, rng, sql):
    """By its own end, by DISCARD ALL, or by leaving."""
    session = client.session
    if rng.random() < 0.2:
        client.leave(rng)
        return
    if rng.random() < 0.2:
        sql = "discard all"

    def remember(answer):
        surely = answer.error is None
        if sql == "discard all":
            session.discard(surely)
        elif sql == "discard temp":
            session.temp = {False} if surely else session.temp | {False}
        elif sql == "deallocate all":
            session.statements.clear()
        if surely and sql in ("discard all", "unlisten *"):
            session.channels.clear()
    answer = client.say(Unit(query(sql), None, on=remember), pace=client.pace(rng))[0]
    if answer.error:
        client.leave(rng)  # it might be kept for long
        return
    client.say(look(client))


def forbidden(client, rng):
    """BEGIN in statement mode: nothing behind it is done, and the client is over."""
    if client.round.mode != "statement":
        return
    group, tally = client.group(), client.round.tally
    tally.sent(group)
    data = query("begin") + query(f"insert into ev_log values ('{group}', 0)") + query("commit")
    answers = client.say_forbidden(data, 3, "transaction blocks are not allowed")
    if answers is None:
        tally.settle(group, NO)  # else BEGIN was not done, and the rest is a statement like others
