# SPDX-License-Identifier: MIT
"""Messages of protocol 3.0: `(type, body)`, made by the functions of the type's name."""

import struct

from harness.pgwire import cstr


def raw(message):
    """As it goes over the wire."""
    kind, body = message
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def _values(values):
    out = struct.pack("!H", len(values))
    for value in values:
        out += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return out


def _formats(formats):
    return struct.pack(f"!H{len(formats)}H", len(formats), *formats)


def query(sql):
    return "Q", cstr(sql)


def parse(name, sql, types=()):
    return "P", cstr(name) + cstr(sql) + struct.pack(f"!H{len(types)}I", len(types), *types)


def bind(portal, name, formats=(), values=(), results=()):
    return "B", cstr(portal) + cstr(name) + _formats(formats) + _values(values) + _formats(results)


def describe(what, name):
    return "D", what.encode() + cstr(name)


def execute(portal, rows=0):
    return "E", cstr(portal) + struct.pack("!I", rows)


def close(what, name):
    return "C", what.encode() + cstr(name)


def call(oid, formats=(), values=(), result=0):
    return "F", struct.pack("!I", oid) + _formats(formats) + _values(values) + struct.pack("!H", result)


def copy_data(data):
    return "d", data


def copy_fail(why):
    return "f", cstr(why)


COPY_DONE, SYNC, FLUSH, TERMINATE = ("c", b""), ("S", b""), ("H", b""), ("X", b"")

NAMES = {"Q": "Query", "P": "Parse", "B": "Bind", "D": "Describe", "E": "Execute", "C": "Close",
         "F": "FunctionCall", "S": "Sync", "H": "Flush", "d": "CopyData", "c": "CopyDone",
         "f": "CopyFail", "X": "Terminate"}


class _Reader:
    def __init__(self, body):
        self.body, self.at = body, 0

    def take(self, form):
        out = struct.unpack_from("!" + form, self.body, self.at)
        self.at += struct.calcsize("!" + form)
        return out[0] if len(out) == 1 else out

    def text(self):
        end = self.body.index(0, self.at)
        out = self.body[self.at:end].decode("utf-8", "backslashreplace")
        self.at = end + 1
        return out

    def bytes(self, n):
        self.at += n
        return self.body[self.at - n:self.at]

    def list(self, form):
        return [self.take(form) for _ in range(self.take("H"))]

    def values(self):
        sizes = (self.take("i") for _ in range(self.take("H")))
        return [None if n < 0 else self.bytes(n) for n in sizes]


def brief(data, limit=80):
    return repr(data) if len(data) <= limit else f"{data[:limit]!r}... ({len(data)} bytes)"


def show(message, limit=200):
    """One line for people: what a client says."""
    kind, body = message
    r, more = _Reader(body), []
    if kind == "Q":
        more = [brief(r.text(), limit)]
    elif kind == "P":
        more = [repr(r.text()), brief(r.text(), limit), f"types {r.list('I')}"]
    elif kind == "B":
        portal, name = r.text(), r.text()
        more = [f"portal {portal!r}", f"statement {name!r}", f"formats {r.list('H')}",
                f"values [{', '.join('NULL' if v is None else brief(v) for v in r.values())}]",
                f"results {r.list('H')}"]
    elif kind in "DC":
        more = [{"S": "statement", "P": "portal"}[r.bytes(1).decode()], repr(r.text())]
    elif kind == "E":
        more = [f"portal {r.text()!r}", f"rows {r.take('I')}"]
    elif kind == "F":
        more = [f"oid {r.take('I')}", f"formats {r.list('H')}",
                f"values [{', '.join('NULL' if v is None else brief(v) for v in r.values())}]",
                f"result {r.take('H')}"]
    elif body:
        more = [brief(body)]
    return " ".join([NAMES[kind], *more])


# -- what a server says, without what cannot be the same twice

FIRST_USER_OID = 16384


def _row_description(body):
    r, out = _Reader(body), []
    for _ in range(r.take("H")):
        name = r.text()
        table, column, kind, size, modifier, fmt = r.take("IhIhih")
        # Temporary tables get another oid each time.
        table = "a table" if table >= FIRST_USER_OID else table
        out.append((name, table, column, kind, size, modifier, fmt))
    return tuple(out)


def fields(body):
    """{letter: text} of an ErrorResponse or NoticeResponse."""
    return {part[:1].decode(): part[1:].decode("utf-8", "backslashreplace")
            for part in body.split(b"\0") if part}


def notification(body):
    """(channel, payload): whose it is differs."""
    r = _Reader(body[4:])
    return r.text(), r.text()


def parameter(body):
    r = _Reader(body)
    return r.text(), r.text()


def comparable(kind, body):
    """A server's message as a value that is equal for equal answers. Where in the server's source an
    error was raised (F, L, R) is not part of the answer."""
    if kind == "T":
        return kind, _row_description(body)
    if kind in "EN":
        return kind, tuple(sorted((k, v) for k, v in fields(body).items() if k not in "FLR"))
    return kind, body


def show_answer(answer, limit=160):
    kind, body = (*answer, None)[:2]
    if kind in "EN" and isinstance(body, tuple):
        have = dict(body)
        name = {"E": "ErrorResponse", "N": "NoticeResponse"}[kind]
        rest = {k: v for k, v in have.items() if k not in "SVCM"}
        return f"{name} {have.get('S')} {have.get('C')} {have.get('M')!r} {rest or ''}".rstrip()
    return " ".join([kind, *(brief(part, limit) if isinstance(part, (bytes, str)) else repr(part)
                             for part in answer[1:])])
