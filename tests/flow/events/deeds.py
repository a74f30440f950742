# SPDX-License-Identifier: MIT
"""What clients do within one exchange. A deed takes the client and its own source of chance.

A `Unit` is what is answered by one ReadyForQuery: its bytes, and what its answer has to be.
"""

import time

from harness.pgwire import (FLUSH, SYNC, bind, close, cstr, describe, execute, message, parse, query)

from .session import SHOWN, own_value
from .tally import MAYBE, NO, YES

LOST = ("08006", "08007")  # the server is gone, and what became of the statement is not known


class Unit:
    """`rows`: what it gives, or a function that looks at that and says what is wrong; `expected`: errors that
    need no excuse; `on`: told the answer; `status`: of the transaction."""

    def __init__(self, data, rows=None, expected=(), on=None, status="I"):
        self.data, self.rows, self.expected, self.on, self.status = data, rows, expected, on, status


def fate_of(answer):
    if answer.error is None:
        return YES
    return MAYBE if answer.code in LOST else NO


# -- looking


def shown_columns(mark):
    settings = ", ".join(f"current_setting('{name}')" for name in SHOWN)
    return f"'{mark}', to_regclass('pg_temp.ev_own')::text, {settings}"


def look(client, status="I"):
    """Whose settings and temporary tables are these?"""
    session, mark = client.session, client.session.mark()

    def judge(rows):
        if len(rows) != 1 or rows[0][0] != mark:
            return f"{rows}, not one row of {mark}"
        return "; ".join(session.wrong(rows[0][2:], rows[0][1], client.round.shared))
    return Unit(query(f"select {shown_columns(mark)}"), judge, status=status)


def ask(client, rng):
    client.say(look(client), pace=client.pace(rng))


def rows(client, rng):
    """A result larger than the buffers, often read slowly."""
    mark, n, width = client.session.mark(), rng.choice([3, 50, 400]), rng.choice([10, 1000])
    unit = Unit(query(f"select '{mark}', g, repeat('x', {width}) from generate_series(1, {n}) g"),
                [[mark, str(g), "x" * width] for g in range(1, n + 1)])
    client.say(unit, pace=client.slow(rng))


def sleep(client, rng):
    mark, seconds = client.session.mark(), rng.choice([0.02, 0.1, 0.25, 0.5])
    client.say(Unit(query(f"select pg_sleep({seconds}), '{mark}'"), [["", mark]]), pace=client.pace(rng))


def mistake(client, rng):
    bad = rng.choice([("select 1/0", "22012"), ("select nothing_here", "42703"), ("selekt", "42601")])
    units = [Unit(query(bad[0]), [], (bad[1],))] if rng.random() < 0.5 else \
        [Unit(extended(bad[0]), [], (bad[1],))]
    client.say(*units, look(client), pace=client.pace(rng))


def leave(client, rng):
    client.leave(rng)


def vanish(client, rng):
    client.vanish(rng)


def idle(client, rng):
    time.sleep(rng.choice([0.01, 0.05, 0.3]))


# -- the extended protocol


def extended(sql, name="", values=(), end=SYNC, limit=0):
    return parse(sql, name) + bind(name, "", values) + describe() + execute("", limit) + end


def marked(client, rng):
    """Some extended statement that gives a mark."""
    mark = client.session.mark()
    return Unit(extended("select $1::text, 1", values=[mark]), [[mark, "1"]])


def pipeline(client, rng):
    units = [rng.choice([marked, named_unit, written_unit])(client, rng) for _ in range(rng.randrange(2, 7))]
    if rng.random() < 0.3:
        units.insert(rng.randrange(len(units)), Unit(extended("select 1/0"), [], ("22012",)))
    client.say(*units, pace=client.pace(rng))


def batch(client, rng):
    """Several statements before one Sync."""
    marks = [client.session.mark() for _ in range(rng.randrange(2, 6))]
    data = b"".join(extended("select $1::text", values=[mark], end=b"") for mark in marks)
    client.say(Unit(data + SYNC, [[mark] for mark in marks]), pace=client.pace(rng))


def portal(client, rng):
    """Rows in parts; asked for together, or one part after the other behind a Flush."""
    mark = client.session.mark()
    sql = "select $1::text, g::text from generate_series(1, 6) g"
    want = [[mark, str(g)] for g in range(1, 7)]
    if rng.random() < 0.5:
        data = extended(sql, values=[mark], end=b"", limit=2) + execute("", 2) + execute() + SYNC
        client.say(Unit(data, want), pace=client.pace(rng))
        return
    unit = Unit(extended(sql, values=[mark], end=FLUSH, limit=2), want)
    client.say_in_two(unit, lambda answer: (execute() if answer.error is None else b"") + SYNC, rng)


def named_unit(client, rng, padding=""):
    """A named statement of the client's own text; named anew, or as it was before."""
    session, mark = client.session, client.session.mark()
    name, text = f"s{rng.randrange(4)}", rng.randrange(6)
    known = session.statements.get(name)
    again = known is not None and rng.random() < 0.7
    text = known if again else text
    sql = f"select $1::text, 'text {text}'::text, s.* from ev_shape s {padding}"
    before = b"" if again else close("S", name) + parse(sql, name)
    session.statements.pop(name, None)

    def remember(answer):
        if answer.error is None:
            session.statements[name] = text

    def judge(found):
        if [r[:2] for r in found] != [[mark, f"text {text}"]]:
            return f"{found}, not one row of {mark}, text {text}"
    data = before + bind(name, "", [mark]) + describe() + execute() + SYNC
    return Unit(data, judge, on=remember)


def named(client, rng):
    client.say(named_unit(client, rng), pace=client.pace(rng))


def long_text(client, rng):
    """A statement too long to be shared: the client keeps its server, so it leaves."""
    client.say(named_unit(client, rng, "/*" + "x" * 70000 + "*/"), pace=client.pace(rng))
    client.say(look(client))
    client.leave(rng)


# -- writing


def written_unit(client, rng):
    """Rows, all of them or none."""
    group, tally = client.group(), client.round.tally
    count = rng.choice([1, 1, 3])
    inserts = [f"insert into ev_log values ('{group}', {tally.sent(group)})" for _ in range(count)]
    data = query("; ".join(inserts)) if rng.random() < 0.5 else \
        b"".join(extended(sql, end=b"") for sql in inserts) + SYNC
    return Unit(data, [], on=lambda answer: tally.settle(group, fate_of(answer), answer))


def write(client, rng):
    client.say(written_unit(client, rng), pace=client.pace(rng))


def copy_in(client, rng):
    group, tally, wide = client.group(), client.round.tally, rng.choice([10, 3000])
    fail = rng.random() < 0.2
    lines = b"".join(message("d", f"{group}\t{tally.sent(group)}\t{'y' * wide}\n".encode())
                     for _ in range(rng.choice([1, 5, 40])))
    end = message("f", cstr("thought better of it")) if fail else message("c")
    expected = ("57014",) if fail else ()
    simple = rng.random() < 0.5
    sql = "copy ev_log from stdin"
    begin = query(sql) if simple else parse(sql) + bind() + execute()

    def settle(answer):
        tally.settle(group, NO if fail else fate_of(answer), answer)
    unit = Unit(begin, [], expected, settle)
    if simple and rng.random() < 0.5:  # all at once, in the hope that it is taken
        unit.data = begin + lines + end
        client.say(unit, pace=client.pace(rng))
        return
    unit.data += b"" if simple else FLUSH
    sync = b"" if simple else SYNC
    client.say_in_two(unit, lambda answer: (lines + end if answer.kinds.endswith("G") else b"") + sync, rng)


def copy_out(client, rng):
    mark, n = client.session.mark(), rng.choice([1, 100, 3000])
    want = [f"{mark}\t{g}\n" for g in range(1, n + 1)]

    def compare(answer):
        if answer.error is None and answer.copied != want:
            client.wrong(f"COPY gave {len(answer.copied)} lines {answer.copied[:2]}, not {n} of {mark}")
    sql = f"copy (select '{mark}', g from generate_series(1, {n}) g) to stdout"
    client.say(Unit(query(sql), [], on=compare), pace=client.slow(rng))


# -- settings


def set_unit(client, rng, status="I"):
    session, name = client.session, rng.choice(SHOWN)
    kind = rng.choice(["set", "set", "set_config", "reset"])
    own = own_value(name, session.client, rng.randrange(8))
    value = session.came_with[name] if kind == "reset" else own
    shown = value if name == "search_path" else f"'{value}'"
    sql = {"set": f"set {name} to {shown}", "reset": f"reset {name}",
           "set_config": f"select set_config('{name}', '{value}', false)"}[kind]

    def remember(answer):
        if answer.error is None or answer.code in LOST:
            session.set(name, value, answer.error is None)
    return Unit(query(sql), [[value]] if kind == "set_config" else [], (), remember, status)


def settings(client, rng):
    units = [set_unit(client, rng) for _ in range(rng.randrange(1, 3))]
    client.say(*units, look(client), pace=client.pace(rng))


def discard(client, rng):
    session = client.session

    def remember(answer):
        session.discard(answer.error is None)
        if answer.error is None:
            session.channels.clear()
    client.say(Unit(query("discard all"), [], on=remember), pace=client.pace(rng))
    client.say(look(client))


def notify(client, rng):
    """To anybody: who listens must be the only one to hear it."""
    other = rng.randrange(client.round.clients)
    client.say(Unit(query(f"notify ev_{other}, 'from {client.session.name}'")), pace=client.pace(rng))
