# SPDX-License-Identifier: MIT
"""The SQL of the scripts. `{t}` is the client's own prefix of tables: what one client does is never seen
by another, so that the order in which clients come to their turns changes no answer. Every SELECT of
several rows is ordered; nothing depends on clocks, process ids or the sizes of files.
"""

import struct
from dataclasses import dataclass

CLIENTS = 4

SHARED = """
create table if not exists d_ro (id int primary key, txt text);
create or replace function d_say(what text) returns text language plpgsql as
    $$ begin raise notice 'said %', what; return upper(what); end $$;
create or replace function d_boom(what text) returns int language plpgsql as
    $$ begin raise exception 'boom %', what using errcode = 'P0042', hint = 'duck'; end $$;
grant select on d_ro to public;
"""

OWN = """
create table if not exists {t}t (id serial primary key, n int, note text, raw bytea,
                                 at timestamptz default '2024-02-29 12:34:56+00');
create table if not exists {t}copy (a int, b text, c date);
create table if not exists {t}later (k int unique deferrable initially deferred);
grant all on {t}t, {t}copy, {t}later, {t}t_id_seq to public;
alter table {t}t owner to app; alter table {t}copy owner to app; alter table {t}later owner to app;
"""

RESET_SHARED = """
truncate d_ro;
insert into d_ro select i, 'row ' || i from generate_series(1, 50) i;
"""

RESET_OWN = """
truncate {t}t, {t}copy, {t}later restart identity;
insert into {t}t (n, note, raw) select i, 'note ' || i, decode(md5(i::text), 'hex')
    from generate_series(1, 12) i;
"""


def prefix(n):
    return f"d{n}_"


# -- parameters

@dataclass
class Kind:
    oid: int
    text: object      # rng → bytes
    binary: object    # bytes in text → bytes, or None: only text


WORDS = ["", "a", "rider", "it's", "back\\slash", "na\u00efve \u20ac", "x" * 300, "NULL", "two\nlines",
         "\t", "%s", "$1", "a\u0301\U0001f697"]


def _word(rng):
    return rng.choice(WORDS).encode()


def _number(rng, low=-5, high=40):
    return str(rng.randrange(low, high)).encode()


KINDS = {
    "int": Kind(23, _number, lambda t: struct.pack("!i", int(t))),
    "big": Kind(20, lambda r: _number(r, -10**15, 10**15), lambda t: struct.pack("!q", int(t))),
    "text": Kind(25, _word, lambda t: t),
    "bool": Kind(16, lambda r: r.choice([b"t", b"f"]), lambda t: b"\1" if t == b"t" else b"\0"),
    "float": Kind(701, lambda r: str(r.randrange(-900, 900) / 8).encode(),
                  lambda t: struct.pack("!d", float(t))),
    "bytea": Kind(17, lambda r: b"\\x" + r.randbytes(r.randrange(20)).hex().encode(),
                  lambda t: bytes.fromhex(t[2:].decode())),
    "numeric": Kind(1700, lambda r: r.choice([b"0", b"12.50", b"-3e7", b"NaN"]), None),
    "when": Kind(1184, lambda r: b"2023-07-0%d 10:00:00+02" % r.randrange(1, 9), None),
    "ints": Kind(1007, lambda r: r.choice([b"{}", b"{1,2,NULL}", b"{{1},{2}}"]), None),
}


@dataclass
class Statement:
    sql: str
    args: tuple = ()
    weight: int = 2
    tx: bool = False      # only inside of a transaction block


EXTENDED = [Statement(*s) for s in [
    ("select $1::int4 + 1 as sum, $2::text || '!' as txt", ("int", "text"), 6),
    ("select id, n, note from {t}t where id = $1", ("int",), 8),
    ("select id, n, note, raw, at from {t}t order by id", (), 8),
    ("select * from d_ro where id <= $1 order by id", ("int",), 6),
    ("select i, repeat($2, i) from generate_series(1, least($1, 40)) i", ("int", "text"), 5),
    ("insert into {t}t (n, note) values ($1, $2) returning id, n", ("int", "text"), 8),
    ("insert into {t}t (n, note, raw) values ($1, $2, $3)", ("int", "text", "bytea"), 4),
    ("update {t}t set n = n + $1 where id < $2", ("int", "int"), 4),
    ("update {t}t set note = $2 where id = $1 returning note", ("int", "text"), 4),
    ("delete from {t}t where n = $1 returning id", ("int",), 2),
    ("select $1", ("text",), 2),
    ("select $1::timestamptz, $1::timestamptz::text", ("when",), 3),
    ("select $1::float8 / 3, $2::numeric * 2", ("float", "numeric"), 2),
    ("select $1::int8, $2::bool, $3::int4[]", ("big", "bool", "ints"), 2),
    ("select coalesce($1::text, 'nothing'), $1::text is null", ("text",), 2),
    # At Execute: of a constant it would be at Bind or not, as a plan is the statement's or this use's.
    ("select 10 / i from generate_series($1::int4, $1) i", ("int",), 3),
    ("select d_say($1)", ("text",), 2),
    ("select d_boom($1)", ("text",), 2),
    ("insert into {t}later select $1 union all select $1", ("int",), 2),
    ("insert into {t}later values ($1)", ("int",), 1),
    ("select nosuchcolumn from {t}t", (), 1),
    ("select * from nosuchtable", (), 1),
    ("selekt 1", (), 1),
    ("", (), 1),
    ("-- only a comment", (), 1),
    ("select 1; select 2", (), 1),
    ("select $1::nosuchtype", ("text",), 1),
    ("select $2::int4", ("text", "int"), 1),
    ("savepoint a", (), 1),
    ("rollback to a", (), 1),
    ("set local application_name = 'local'", (), 1),
    ("show TimeZone", (), 1),
    ("select repeat('large', 20000)", (), 1),
    ("values (1, 'a'), (2, 'b'), (3, null)", (), 3),
    ("explain (costs off) select * from d_ro where id = 3", (), 1),
    ("select current_setting('DateStyle'), date '2024-12-31'", (), 2),
    ("copy (select * from d_ro order by id limit 3) to stdout", (), 1),
    ("lock table {t}t", (), 1),
    ("declare c cursor for select i from generate_series(1, 9) i", (), 1, True),
    ("fetch 2 from c", (), 1, True),
]]

# Prepared by all clients, in pipelines.
COMMON = [("select 1",), ("select 2",), ("select $1::int4", ("int",)), ("select $1::int4 + 1", ("int",)),
          ("select $1::text, $2::int4", ("text", "int")), ("select * from d_ro where id = $1", ("int",)),
          ("select 10 / i from generate_series($1::int4, $1) i", ("int",)), ("",),
          ("select current_setting('TimeZone')",),
          ("select timestamptz '2024-01-01 00:00+00', date '2024-12-31'",), ("commit",), ("rollback",)]
PIPED_SETTINGS = [
    "set application_name = 'piped'", "set TimeZone = 'Asia/Tokyo'", "set local TimeZone = 'Europe/Rome'",
    "reset TimeZone", "reset all", "set DateStyle = 'German'", "set DateStyle to default", "show TimeZone",
    "select set_config('DateStyle', 'SQL, DMY', false)", "select set_config('TimeZone', 'UTC', true)",
    "select current_setting('TimeZone'), date '2024-12-31'", "set TimeZone = 'Nowhere/Land'",
    "reset nosuch", "set TimeZone to default", "set work_mem = '5MB'", "show work_mem",
    "set local work_mem = '6MB'", "reset work_mem",
    "set search_path = pg_catalog, public", "show search_path", "reset search_path", "discard plans",
    "set role none", "set session characteristics as transaction read write",
    "set lock_timeout = '77s'", "show lock_timeout", "set local lock_timeout = 5", "set lock_timeout to default"]

SIMPLE = [
    ("select 1", 3), ("select 1, 'two', null, 4.0", 3), ("select * from {t}t order by id", 4),
    ("select id, txt from d_ro where id < 5 order by 1", 3),
    ("insert into {t}t (n, note) values (7, 'seven') returning id", 4),
    ("update {t}t set n = n + 1", 3), ("delete from {t}t where id = 3", 2),
    ("", 2), (" ", 1), (";", 1), (";;", 1), ("-- nothing", 1), ("/* no /* thing */ */", 1),
    ("select 1; select 2; select 3", 3), ("select 1;; select 2;", 1),
    ("insert into {t}t (n) values (1); select 1/0; insert into {t}t (n) values (2)", 3),
    ("select 1; begin; insert into {t}t (n) values (3); commit; select count(*) from {t}t", 2),
    ("begin; select 1/0; commit", 1), ("begin; insert into {t}t (n) values (4); rollback", 2),
    ("insert into {t}t (n) values (5); rollback; select count(*) from {t}t", 2),
    ("select 1/0", 3), ("select nosuch", 2), ("sel", 2), ("select 'unterminated", 1),
    ("select d_say('hello'); select d_say('again')", 2), ("select d_boom('now')", 2),
    ("do $$ begin raise warning 'watch out'; end $$", 1),
    ("insert into {t}later values (1), (1)", 2), ("truncate {t}later", 1),
    ("select repeat('x', 300000)", 1), ("select i, repeat('y', 90) from generate_series(1, 700) i", 1),
    ("select 'a' where false", 1), ("select", 1), ("values (1), (2)", 1),
    ("explain (costs off) select * from {t}t where id = 3", 1),
    ("copy (select * from d_ro order by id limit 4) to stdout", 3),
    ("copy {t}copy to stdout", 1), ("copy (select i from generate_series(1, 2000) i) to stdout", 1),
    ("copy (select 1, 'a') to stdout (format csv, header)", 1),
    ("copy (select 7::int4, 'b') to stdout (format binary)", 1),
    ("copy (select 1/(3 - i) from generate_series(1, 5) i) to stdout", 2),
    ("copy (select 1) to stdout; select 2; copy (select 3) to stdout", 1),
    ("notify nobody, 'hears'", 1), ("select pg_notify('nobody', 'hears')", 1),
    ("prepare transaction 'x'", 1), ("vacuum {t}later", 1),
    ("set transaction isolation level serializable", 1),
    ("select date '2024-12-31', interval '1 day 2 hours', timestamptz '2024-01-01 00:00+00'", 3),
    ("select 'na\u00efve \u20ac'", 2), ("select 'back\\slash', E'tab\\t'", 1),
    ("select pg_advisory_xact_lock(1)", 1), ("checkpoint", 1), ("fetch all from nosuch", 1),
    ("create temp table gone (x int) on commit drop", 1), ("release a", 1), ("rollback to a", 1),
    ("savepoint a", 1), ("set local TimeZone = 'Asia/Tokyo'", 1), ("lock table {t}t", 1),
]

IN_TRANSACTION = [
    ("savepoint a", 4), ("rollback to a", 4), ("release a", 3), ("select 1/0", 2),
    ("declare c cursor for select * from d_ro order by id", 3), ("fetch 3 from c", 4),
    ("move 2 in c", 2), ("close c", 2), ("begin", 1), ("lock table {t}t in share mode", 1),
    ("set local DateStyle = 'German'", 2), ("set local application_name = 'inner'", 2),
    ("insert into {t}later values (2), (2)", 1), ("set constraints all immediate", 2),
    ("create temp table gone (x int) on commit drop; insert into gone values (1)", 1),
    ("commit and chain", 2), ("rollback and chain", 2), ("set transaction read only", 1),
]

BEGIN = ["begin", "start transaction", "begin read only", "begin isolation level repeatable read",
         "begin; insert into {t}t (n) values (40)", "BEGIN TRANSACTION", "/* x */ begin"]
END = ["commit", "rollback", "end", "abort", "COMMIT", "commit; select 1", "rollback;",
       "/* x */ commit"]

# Reported by the server, so they may change anywhere.
SETTINGS = {
    "application_name": ["rider", "", "it''s", "na\u00efve", "x" * 80],
    "TimeZone": ["UTC", "Asia/Tokyo", "Europe/Rome", "-03:30", "Nowhere/Land"],
    "DateStyle": ["ISO, MDY", "SQL, DMY", "German", "Postgres, YMD", "iso", "Nonsense"],
    "IntervalStyle": ["postgres", "iso_8601", "sql_standard", "verbose"],
    "client_encoding": ["UTF8", "LATIN1", "utf-8", "SQL_ASCII", "WIN1252", "KLINGON"],
    "standard_conforming_strings": ["on", "off"],
    "default_transaction_read_only": ["on", "off", "off"],
}

# Not reported: they are of the session's server and of no other.
HIDDEN = {"work_mem": ["5MB", "6MB"], "search_path": ["public", "pg_catalog, public"],
          "statement_timeout": ["77s", "0"], "extra_float_digits": ["0", "-3"], "bytea_output": ["escape", "hex"]}

STARTUP = [("application_name", "from startup"), ("TimeZone", "America/New_York"),
           ("DateStyle", "SQL, DMY"), ("client_encoding", "LATIN1"), ("IntervalStyle", "iso_8601"),
           ("options", "-c work_mem=7MB"), ("options", "-c application_name=opt\\ ion -c DateStyle=German,\\ DMY"),
           ("extra_float_digits", "2")]

# State that lives in the server's session.
SESSION = [
    ("create temp table tmp (x int)", 3), ("insert into tmp values (1), (2)", 3),
    ("select * from tmp order by x", 3), ("drop table tmp", 1), ("discard temp", 1),
    ("declare h cursor with hold for select * from d_ro order by id", 3), ("fetch 2 from h", 4),
    ("close h", 1), ("close all", 1),
    ("select pg_try_advisory_lock({n}, 1)", 2), ("select pg_advisory_lock({n}, 2)", 2),
    ("select pg_advisory_unlock({n}, 1)", 2), ("select pg_advisory_unlock_all()", 1),
    ("prepare q1 as select 1", 2), ("prepare q2 (int) as select $1 + 1", 3), ("execute q1", 2),
    ("execute q2(41)", 3), ("deallocate q1", 1), ("deallocate prepare q2", 1),
    ("set session characteristics as transaction isolation level serializable", 1),
    ("select pg_listening_channels() order by 1", 1), ("discard sequences", 1), ("discard plans", 1),
]
# That, too, but nothing that is known to carpool.
SEQUENCES = [("select lastval()", 1), ("select currval('{t}t_id_seq')", 2)]
# What ends one reason to keep a server, or all.
LOOSENED = [("unlisten *", 3), ("close all", 2), ("discard temp", 2), ("deallocate all", 2),
            ("select pg_advisory_unlock_all()", 2), ("discard all", 2), ("listen one; listen two", 3),
            ("begin; discard temp; unlisten *; rollback", 1), ("begin; unlisten *; listen one; commit", 1),
            ("begin; savepoint a; discard temp; rollback to a; commit", 1),
            ("begin; unlisten *; discard temp; commit", 1), ("close h; close h", 1),
            ("reset all; select 1/0", 1), ("begin; reset all; rollback", 1), ("begin; reset all; commit", 1),
            ("select pg_advisory_unlock_all();\nclose all;\nunlisten *;\nreset all;", 3)]
# What undoes a pin, and what shows names as the server knows them.
END_OF_SESSION = [("discard all", 2), ("deallocate all", 2), ("unlisten *", 1),
                  ("select name, statement, parameter_types from pg_prepared_statements order by 1", 3)]

NOTIFY = [("listen one", 3), ("listen two", 2), ("unlisten two", 1), ("notify one, 'hello {n}'", 4),
          ("notify two", 2), ("select pg_notify('one', 'fn {n}')", 2),
          ("begin; notify one, 'never {n}'; rollback", 1),
          ("begin; notify one, 'twice'; notify one, 'twice'; listen two; commit", 1)]

# Functions that FunctionCall may call: oid, kinds of arguments.
FUNCTIONS = [(177, ("int", "int")), (154, ("int", "int")), (1258, ("text", "text")),
             (871, ("text",)), (1257, ("text",)), (2077, ("text",)), (99999999, ())]
