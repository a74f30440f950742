# SPDX-License-Identifier: MIT
"""Long pipelines: many batches in one breath, which fail here and there, and name statements again, close
them, use what a batch before should have made. What clients prepare is often of the same text.
"""

from . import codec, statements
from .codec import COPY_DONE, FLUSH, SYNC, query
from .statements import Statement

NAMES = ["s1", "s1", "s2", "s3", "s4", ""]
LONG = [3000, 16_000, 40_000, 64_000]     # of texts
TOO_LONG = [66_000, 100_000, 300_000]     # to be shared, if it has a name


class Pipelines:
    """What a Client does of this kind. Methods that end in _ops return messages without a Sync."""

    def pipeline(self):
        many = self.rng.choice([2, 3, 5, 8, 20, 60] + [300] * self.chance(0.2))
        messages = []
        for _ in range(many):
            for _ in range(self.rng.choice([1, 1, 2, 4]) if many < 50 else 1):
                messages += self.piped_ops()
            messages += batch_end(self.rng)
        return self.breaths(messages + [SYNC])

    def breaths(self, messages):
        """Steps of many messages each; a COPY and all up to the Sync behind it are sent together (due.py)."""
        out, at = [], 0
        while at < len(messages):
            n = len(messages) if self.chance(0.5) else min(at + self.rng.randrange(1, 60), len(messages))
            while n < len(messages) and (messages[n][0] in "dcf" or messages[n] == SYNC or (
                    any(m[0] in "dcf" for m in messages[at:n]) and messages[n - 1] != SYNC)):
                n += 1
            part = messages[at:n]
            at += len(part)
            if part[-1] == SYNC:
                out.append(self.step(part))
            else:
                out.append(self.step(part + [FLUSH]) if self.chance(0.6) else self.step(part, "none"))
        return out

    def piped_ops(self):
        doors = [(self.named_ops, 8), (self.again_ops, 3), (self.failing_ops, 2.5), (self.setting_ops, 2),
                 (self.block_ops, 2 * self.profile.blocks), (self.portal_ops, 2), (self.copying_ops, 1),
                 (self.query_ops, 1.5), (self.long_ops, 0.3), (self.odd, 1)]
        return self.rng.choices([d[0] for d in doors], [d[1] for d in doors])[0]()

    def common(self):
        """A statement that others may prepare, too."""
        if self.chance(0.3):
            return self.statement()
        return Statement(*self.rng.choice(statements.COMMON))

    def prepared_ops(self, name, s):
        self.names[name] = s
        return [codec.parse(name, self.sql(s.sql), self.types(s.args))]

    def run_ops(self, name, s):
        portal = self.rng.choice(["", "", "p1"])
        return [codec.close("P", portal)] * bool(portal) + [self.bind(portal, name, s.args),
                                                            codec.execute(portal)]

    def named_ops(self):
        """Something with a name that may be there, or not: a batch before may have failed."""
        name = self.rng.choice(NAMES)
        known = self.names.get(name)
        what = self.rng.random()
        if known and what < 0.5:
            return self.run_ops(name, known)
        if known and what < 0.6 and self.describes():
            return [codec.describe("S", name)]
        if known and what < 0.75:
            again = self.prepared_ops(name, self.common()) if self.chance(0.8) else []
            return [codec.close("S", name), *again]
        s = self.common()
        return self.prepared_ops(name, s) + (self.run_ops(name, s) if self.chance(0.6) else [])

    def again_ops(self):
        """The same name twice, without a Close or with one between."""
        name = self.rng.choice(NAMES)
        s, other = self.common(), self.common()
        close = [codec.close("S", name)]
        first, second = self.prepared_ops(name, s), self.prepared_ops(name, other)
        return self.rng.choice([
            first + second, close + first + close + second, first + [FLUSH] + second,
            close + first + second + self.run_ops(name, other), close + close + second,
            close + first + self.run_ops(name, s) + close + second + self.run_ops(name, other),
            close + first + close + self.run_ops(name, s), first + [SYNC] + second])

    def failing_ops(self):
        name = self.rng.choice(NAMES)
        s = self.names.get(name) or Statement("select 1")
        return self.rng.choice([
            [codec.bind("", name, [], [b"1"] * (len(s.args) + 1))],
            [codec.bind("", name, [7], [b"1"] * len(s.args))],
            [codec.bind("", name, [0, 0, 0, 1], [b"1"] * len(s.args))],
            [codec.bind("", name, [], [b"1"] * len(s.args), [9])],
            [codec.execute("p9")], [codec.describe("P", "p9")], [codec.bind("", "nosuch")],
            [codec.parse("", "select 1/0"), codec.bind("", ""), codec.execute("")],
            [codec.parse(name, "selec")], [codec.parse(name, "select $1::nosuch")],
            [codec.parse("", "select nosuch"), codec.close("S", name)]])

    def extended(self, text, name=""):
        s = Statement(text)
        close = [codec.close("S", name)] if name and name in self.names else []
        return close + self.prepared_ops(name, s) + [codec.bind("", name), codec.execute("")]

    def setting_ops(self):
        text = self.rng.choice(statements.PIPED_SETTINGS)
        resets = "reset" in text or "default" in text
        if resets and not self.profile.resets:
            text, resets = "show TimeZone", False
        out = self.extended(text, self.rng.choice(["", "", "s3"]))
        # What the client came with is set again behind the batch.
        return out + [SYNC] if resets else out + out[-1:] * self.chance(0.05)

    def block_ops(self):
        text = self.rng.choice(["begin", "begin", "commit", "rollback", "savepoint a", "rollback to a",
                                "release a", "end", "start transaction"])
        if text not in ("begin", "start transaction"):
            return self.extended(text, self.rng.choice(["", "", "s2"]))
        self.tx = True
        # A name of its own, or gone at once: what is run later is not to begin another.
        name = self.rng.choice(["", "begin", "begin"])
        begin = [] if name and self.chance(0.5) else [codec.close("S", name), codec.parse(name, text)]
        return begin + [codec.bind("", name), codec.execute("")] + [codec.close("S", "")] * (not name)

    def portal_ops(self):
        """Suspended, across other messages."""
        s = Statement("select i, $1::text from generate_series(1, 9) i", ("text",))
        name, portal = self.rng.choice(["", "s4"]), self.rng.choice(["p1", "p2", ""])
        out = [codec.close("S", name)] * bool(name) + self.prepared_ops(name, s)
        out += [codec.close("P", portal), self.bind(portal, name, s.args)]
        for _ in range(self.rng.randrange(1, 5)):
            out.append(codec.execute(portal, self.rng.choice([1, 2, 4, 0])))
            out += self.rng.choice([[], [FLUSH], [codec.describe("P", portal)], [codec.close("S", name)]])
        return out

    def copying_ops(self):
        way = self.rng.random()
        if way < 0.3:
            return self.extended("copy (select * from d_ro order by id limit 3) to stdout")
        data = [codec.copy_data(b"1\tx\t2024-01-01\n"), codec.copy_data(b"2\ty\t"),
                codec.copy_data(b"2024-01-02\n")]
        if self.chance(0.2):
            data[1] = codec.copy_data(b"rubbish\n")
        data.append(codec.copy_fail("no") if self.chance(0.15) else COPY_DONE)
        sql = "copy {t}copy from stdin"
        if way < 0.8:  # nobody is to use it again: without data behind it a server gives up
            begin = self.extended(sql)
            self.forget_unnamed()
            behind = self.run_ops("s1", self.names["s1"]) if "s1" in self.names else []
            return begin + data + behind + [SYNC, codec.close("S", ""), SYNC]
        self.forget_unnamed()
        return [query(self.sql(sql))] + data

    def query_ops(self):
        """Without a Sync before it."""
        self.forget_unnamed()
        text = self.rng.choice(["select 1", "", "select 1/0", "select 1; select 2", "show TimeZone",
                                "insert into {t}t (n) values (9)", "select count(*) from {t}t",
                                "set TimeZone = 'Asia/Tokyo'"] + ["reset TimeZone"] * self.profile.resets)
        out = [query(self.sql(text))]
        return out + [codec.call(177, [], [b"1", b"2"])] if self.chance(0.1) else out

    def long_ops(self):
        size = self.rng.choice(LONG)
        if self.chance(0.5):
            return self.prepared_ops("", Statement("select length($1), $1", ("text",))) + [
                codec.bind("", "", [], [b"v" * self.rng.choice(LONG + TOO_LONG)]), codec.execute("")]
        name = self.rng.choice(["", "s1"])
        if not name or self.profile.session:
            name = name and "long"  # of that name there is nothing else: nobody keeps the text
            size = self.rng.choice(LONG + TOO_LONG)
        # Without a name it is closed behind that, too: its text may be too long to be kept.
        close = [codec.close("S", name)]
        return close + self.prepared_ops(name, Statement(f"select '{'l' * size}'")) + [
            codec.bind("", name), codec.execute("")] + close * (not name)


def batch_end(rng):
    """What stands behind a batch: nothing, too."""
    return rng.choices([[SYNC], [SYNC, SYNC], [FLUSH], [], [SYNC, FLUSH]], [12, 1, 1, 1, 1])[0]
