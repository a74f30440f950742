# SPDX-License-Identifier: MIT
"""Random plans from a seed: any message in any legal order, also those that can only fail."""

import random
import struct
from dataclasses import dataclass

from . import codec, statements
from .codec import COPY_DONE, FLUSH, SYNC, query
from .pipelines import Pipelines
from .script import Episode, Plan, Script, Step
from .statements import KINDS


@dataclass(frozen=True)
class Profile:
    """What scripts may contain.

    plain     nothing that outlives a transaction but settings the server reports
    named     prepared statements, named and unnamed, used in later transactions
    session   whatever lives in a server's session
    pinned    as session, but each client begins with LISTEN, and nothing ends that
    loose     what keeps a server, and what ends that
    blockless as prepared, without transaction blocks
    piped     as prepared, and long pipelines; pipedless, pipedloose: as blockless, as loose;
              pipedsession: for session mode
    """
    name: str
    named: bool = False
    session: bool = False
    pinned: bool = False
    loose: bool = False
    blocks: bool = True
    piped: bool = False
    resets: bool = True  # in pipelines: carpool's query behind one ends a session's unnamed statement


PROFILES = {p.name: p for p in (Profile("plain"), Profile("prepared", named=True),
                                Profile("session", named=True, session=True),
                                Profile("pinned", named=True, session=True, pinned=True),
                                Profile("loose", session=True, loose=True),
                                Profile("blockless", named=True, blocks=False),
                                Profile("piped", named=True, piped=True),
                                Profile("pipedsession", named=True, piped=True, resets=False),
                                Profile("pipedless", named=True, blocks=False, piped=True),
                                Profile("pipedloose", named=True, session=True, loose=True, piped=True))}

NAMES = ["s1", "s1", "s2", "s3", "Quo\"te d", "n" * 70]
PORTALS = ["", "", "", "p1", "p2"]


def weighted(rng, pairs):
    return rng.choices([p[0] for p in pairs], [p[1] for p in pairs])[0]


class Client(Pipelines):
    """Writes the script of one client. What it believes of names and transactions is only a guess
    that makes most messages meaningful; what is true, the server says."""

    def __init__(self, seed, n, profile, listens):
        self.rng = random.Random(seed)
        self.n, self.profile, self.listens = n, profile, listens
        self.names = {}
        self.tx = False

    def sql(self, text):
        return text.replace("{t}", statements.prefix(self.n)).replace("{n}", str(self.n))

    def chance(self, p):
        return self.rng.random() < p

    # -- steps

    def cut(self, messages):
        size = sum(len(m[1]) + 5 for m in messages)
        if size < (3000 if self.profile.piped else 600) and self.chance(0.12):
            return "bytes"
        return f"{self.rng.randrange(10**6)}" if self.chance(0.25) else "whole"

    def step(self, messages, wait="due"):
        return Step(messages, wait, self.cut(messages))

    def fits(self, text):
        """What fails inside of a block leaves it open behind its query."""
        return self.profile.blocks or "begin;" not in text

    def queries(self, *texts):
        texts = [text if self.fits(text) else "select 'no block'" for text in texts]
        # An error inside of "begin; ...; commit" leaves a failed transaction behind.
        self.tx = self.tx or any(w in t.lower() for t in texts for w in ("begin", "start tr"))
        return [self.step([query(self.sql(text)) for text in texts])]

    def forget_unnamed(self):
        self.names.pop("", None)

    def simple(self):
        self.forget_unnamed()
        texts = [weighted(self.rng, statements.SIMPLE) for _ in range(self.rng.choice([1, 1, 1, 2, 4]))]
        return self.queries(*texts)

    def setting(self):
        self.forget_unnamed()
        rng = self.rng
        hidden = self.profile.session and self.chance(0.4)
        have = statements.HIDDEN if hidden else statements.SETTINGS
        name = rng.choice(list(have))
        value = rng.choice(have[name])
        return self.queries(rng.choice([
            f"set {name} = '{value}'", f"set {name} to '{value}'", f"SET SESSION {name} = '{value}'",
            f"select set_config('{name}', '{value}', false)", f"set {name} to default",
            f"reset {name}", f"show {name}", f"select current_setting('{name}')",
            f"set {name} = '{value}'; show {name}", f"set {name} = '{value}'; select 1/0",
            f"begin; set {name} = '{value}'; rollback", f"begin; set {name} = '{value}'; commit",
            f"begin; set local {name} = '{value}'; show {name}; commit",
            f"select set_config('{name}', '{value}', true), current_setting('{name}')",
            "reset all", "show work_mem", "show search_path",
            "discard all" if not self.profile.pinned else "show all_settings_please"]))

    def lived_in(self):
        """Something of the session."""
        self.forget_unnamed()
        pairs = statements.SESSION
        if self.profile.loose:
            pairs = pairs + statements.LOOSENED
        elif self.profile.pinned:
            pairs = pairs + statements.SEQUENCES
        else:
            pairs = pairs + statements.SEQUENCES + statements.END_OF_SESSION
        if self.listens and self.chance(0.3):
            pairs = statements.NOTIFY
        return self.queries(weighted(self.rng, pairs))

    def deallocation(self):
        text = self.rng.choice(["deallocate s1", "deallocate prepare s2", 'deallocate "s3"',
                                "deallocate all", "DEALLOCATE ALL", "discard all", "discard plans",
                                "deallocate nosuch"])
        if self.profile.pinned and "all" in text:
            text = "deallocate s1"
        if self.chance(0.5):
            self.names.clear()
        if self.chance(0.6):
            return self.queries(text)
        return [self.step([codec.parse("", text), codec.bind("", ""), codec.execute(""), SYNC])]

    # -- the extended protocol

    def value(self, kind, binary):
        rng = self.rng
        if self.chance(0.08):
            return None
        if self.chance(0.03):
            return rng.choice([b"", b"rubbish", b"\xff\xff\xff\xff\xff", b"\0"])
        text = KINDS[kind].text(rng)
        return KINDS[kind].binary(text) if binary else text

    def bound(self, args):
        """Formats and values for these kinds of parameters."""
        rng = self.rng
        able = [KINDS[k].binary is not None for k in args]
        style = rng.choice(["text", "one", "each"] + ["all"] * all(able))
        if style == "each":
            formats = [int(a and self.chance(0.5)) for a in able]
        else:
            formats = {"text": [], "one": [0], "all": [1]}[style]
        per = formats if style == "each" else [int(style == "all")] * len(args)
        values = [self.value(k, f) for k, f in zip(args, per)]
        if self.chance(0.02):
            values.append(b"more")
        return formats, values

    def bind(self, portal, name, args):
        formats, values = self.bound(args)
        results = self.rng.choice([[], [], [0], [1], [1]] * 5 + [[0, 1]])
        return codec.bind(portal, name, formats, values, results)

    def types(self, args):
        oids = [KINDS[k].oid for k in args]
        return self.rng.choice([[], [], oids, oids, [0] * len(oids), oids[:1], [0] + oids[1:]])

    def statement(self):
        usable = [s for s in statements.EXTENDED if self.tx or not s.tx]
        return self.rng.choices(usable, [s.weight for s in usable])[0]

    def parsed(self, name):
        s = self.statement()
        out = []
        if name and (name in self.names) and self.chance(0.85):
            out.append(codec.close("S", name))
        self.names[name] = s
        return out + [codec.parse(name, self.sql(s.sql), self.types(s.args))], s

    def describes(self):
        """Of an older statement: a server that does not have it cannot parse it in a transaction that
        has failed, where PostgreSQL still describes what returns no rows."""
        stays = self.profile.session and not self.profile.loose
        return stays or not self.tx

    def used(self, name, s, fresh=False):
        """A statement's name, bound and executed in one of many ways."""
        portal = self.rng.choice(PORTALS)
        out = []
        if (fresh or self.describes()) and self.chance(0.2):
            out.append(codec.describe("S", name))
        if portal and self.chance(0.3):
            out.append(codec.close("P", portal))
        out.append(self.bind(portal, name, s.args))
        if self.chance(0.5):
            out.append(codec.describe("P", portal))
        rows = self.rng.choice([0, 0, 0, 0, 1, 2, 5])
        for _ in range(self.rng.choice([0, 1, 1, 2, 3, 4]) if rows else 1 + self.chance(0.03)):
            out.append(codec.execute(portal, rows))
        if self.chance(0.15):
            out.append(codec.close("P", portal))
        return out

    def odd(self):
        """Messages by themselves."""
        rng = self.rng
        portal = rng.choice(["p1", "p2", "p9"])
        name = rng.choice(["nosuch", "s9"])
        return [rng.choice([
            codec.execute(portal, rng.choice([0, 1, 3])), codec.execute(portal, 2),
            codec.describe("P", portal), codec.close("P", portal), codec.close("S", name),
            codec.describe("S", name), codec.bind("p1", name), FLUSH])]

    def batch_ops(self):
        """Some messages between two Syncs."""
        rng, out = self.rng, []
        fresh = False  # the unnamed statement is of this batch
        for _ in range(rng.choice([1, 1, 2, 3, 5])):
            known = [n for n in self.names if self.profile.named] or [None]
            what = rng.random()
            if what < 0.07:
                out += self.odd()
            elif self.profile.named and what < 0.45 and known != [None]:
                name = rng.choice(known)
                out += self.used(name, self.names[name])
            elif self.profile.named and what < 0.5:
                name = rng.choice(NAMES + [""])
                out.append(rng.choice([codec.close("S", name), self.bind("", name, ())] +
                                      [codec.describe("S", name)] * self.describes()))
            elif self.profile.named and what < 0.75:
                name = rng.choice(NAMES + ["", ""])
                more, s = self.parsed(name)
                out += more + (self.used(name, s, True) if self.chance(0.7) else [])
            else:
                more, s = self.parsed("")
                fresh = True
                out += more + self.used("", s, True)
            if fresh and self.chance(0.1):
                out.append(codec.describe("S", ""))
            if self.chance(0.03):
                out.append(query(self.sql("select 'in the middle'")))
                self.forget_unnamed()
                fresh = False
        return out

    def batch(self):
        messages = []
        for _ in range(self.rng.choice([1, 1, 1, 2, 3, 6])):
            if self.chance(0.15):
                messages += self.control()
            messages += self.batch_ops() + [SYNC]
        return self.steps_from(messages)

    def control(self):
        """BEGIN and its like by the extended protocol, with a Sync of its own or without."""
        text = self.sql(self.rng.choice(["begin", "begin", "commit", "rollback", "savepoint a"]))
        if not self.profile.blocks and text == "begin":
            text = "end"
        self.tx = self.tx or text == "begin"
        self.names[""] = statements.Statement(text)
        return [codec.parse("", text), codec.bind("", ""), codec.execute("")] + [SYNC] * self.chance(0.7)

    def steps_from(self, messages):
        """One step, or several: some end in Flush, some in nothing at all."""
        out, at = [], 0
        while at < len(messages):
            n = len(messages) if self.chance(0.6) else at + self.rng.randrange(1, 6)
            part = messages[at:n]
            at = n
            if part[-1] == SYNC or part[-1][0] == "Q":
                out.append(self.step(part))
            elif self.chance(0.6):
                out.append(self.step(part + [FLUSH]))
            else:
                out.append(self.step(part, "none"))
        return out

    # -- COPY

    def copy_lines(self):
        rng = self.rng
        out = b""
        for i in range(rng.choice([0, 1, 3, 20, 400])):
            out += b"%d\t%s\t2024-01-%02d\n" % (i, rng.choice([b"x", b"\\N", b"y" * 200]), i % 28 + 1)
            if self.chance(0.01):
                out += rng.choice([b"rubbish\n", b"1\t2\n", b"x\ty\t2024-01-01\n", b"1\tx\t2024-13-01\n"])
        return out + (b"\\.\n" if self.chance(0.1) else b"")

    def copy_binary(self):
        row = struct.pack("!hii", 3, 4, 7) + struct.pack("!i", 1) + b"b" + struct.pack("!i", -1)
        return b"PGCOPY\n\xff\r\n\0" + bytes(8) + row * self.rng.randrange(4) + struct.pack("!h", -1)

    def copy_messages(self, data):
        rng, out, at = self.rng, [], 0
        while at < len(data):
            n = rng.choice([1, 7, 100, 5000, 100_000])
            out.append(codec.copy_data(data[at:at + n]))
            at += n
            if len(out) > 40:
                out.append(codec.copy_data(data[at:]))
                break
            if self.chance(0.05):
                out.append(rng.choice([SYNC, FLUSH, codec.copy_data(b"")]))
        if self.chance(0.1):
            out.insert(rng.randrange(len(out) + 1), SYNC)
        return out + [codec.copy_fail("changed my mind") if self.chance(0.15) else COPY_DONE]

    def copy_in(self):
        """Ends in a mark: which Syncs a failed COPY has eaten nobody can tell from outside."""
        binary = self.chance(0.15)
        sql = self.sql("copy {t}copy from stdin" + (" (format binary)" if binary else ""))
        sql = self.rng.choice([sql] * 5 + [sql.replace("copy from", "nosuch from"), sql + "; select 'after'"])
        twice = not binary and self.chance(0.1)
        extended = self.chance(0.4)
        if extended:
            begin = [codec.parse("", sql), codec.bind("", ""), codec.execute("")]
        else:
            begin = [query(sql + "; " + sql if twice else sql)]
        data = self.copy_messages(self.copy_binary() if binary else self.copy_lines())
        if twice and not extended:
            data += self.copy_messages(self.copy_lines())
        mark = [SYNC] * (extended or self.chance(0.1)) + [query("")]
        self.forget_unnamed()
        if self.chance(0.4):
            return [self.step(begin + data + mark, "mark")]
        return [self.step(begin, "copy"), self.step(data + mark, "mark")]

    # -- the rest

    def function(self):
        oid, args = self.rng.choice(statements.FUNCTIONS)
        formats, values = self.bound(args)
        return [self.step([codec.call(oid, formats, values, int(self.chance(0.5)))])]

    def large(self):
        """A parameter and a row of some hundred kilobytes."""
        data = b"0123456789abcdef" * self.rng.randrange(1, 20_000)
        self.forget_unnamed()
        return [self.step([codec.parse("", "select $1::text, length($1)"),
                           codec.bind("", "", [], [data]), codec.execute(""), SYNC])]

    def something(self):
        doors = [(self.simple, 6), (self.batch, 9), (self.setting, 3), (self.copy_in, 2),
                 (self.function, 2), (self.large, 0.4)]
        if self.profile.named:
            doors.append((self.deallocation, 1.5))
        if self.profile.piped:
            doors.append((self.pipeline, 14))
        if self.profile.session:
            doors.append((self.lived_in, 8))
        return weighted(self.rng, doors)()

    def transaction(self):
        self.forget_unnamed()
        text = self.rng.choice(statements.BEGIN)
        if self.tx and "isolation" in text:
            text = "begin"  # carpool's query behind a RESET inside would be "any query" before it
        self.tx = True
        steps = self.queries(text)
        for _ in range(self.rng.randrange(5)):
            if self.chance(0.15):
                steps += self.queries("rollback", "begin")
            elif self.chance(0.4):
                steps += self.queries(weighted(self.rng, statements.IN_TRANSACTION))
            else:
                steps += self.something()
        return steps

    def end(self):
        """To be outside of a transaction after this, whatever happened."""
        if not self.tx and self.chance(0.8) and not self.profile.piped:
            return []
        text = self.rng.choice(statements.END)
        self.tx = False
        if self.chance(0.25) and ";" not in text:
            self.names[""] = statements.Statement(text)
            return [codec.parse("", text), codec.bind("", ""), codec.execute(""), SYNC]
        self.forget_unnamed()
        return [query(text)]

    def episode(self):
        steps = []
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            blocks = self.chance(0.35) and self.profile.blocks
            steps += self.transaction() if blocks else self.something()
        return Episode(steps, self.end())

    def script(self, episodes):
        # Who names no application goes by carpool's name.
        parameters = {"application_name": f"client {self.n}"}
        parameters |= dict(self.rng.sample(statements.STARTUP, self.rng.choice([0, 0, 1, 2])))
        out = []
        if self.profile.pinned:
            out.append(Episode([Step([query(f"listen pin{self.n}")])], []))
        out += [self.episode() for _ in range(episodes)]
        return Script(parameters, out)


def make_plan(seed, profile):
    """The same seed and profile give the same plan, always."""
    rng = random.Random(f"{profile}/{seed}")
    clients = rng.choice([2, 2, 3, statements.CLIENTS])
    one_by_one = rng.random() < 0.6
    scripts = [Client(f"{profile}/{seed}/{n}", n, PROFILES[profile], one_by_one)
               .script(rng.randrange(2, 7)) for n in range(clients)]
    order = [n for n, s in enumerate(scripts) for _ in s.episodes]
    rng.shuffle(order)
    return Plan(scripts, order if one_by_one else None)
