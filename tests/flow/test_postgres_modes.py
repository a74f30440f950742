# SPDX-License-Identifier: MIT
"""Modes, users and the settings of clients that follow them from server to server."""

import contextlib
import ssl
import socket

import psycopg
import pytest
from harness import pgwire
from harness.base import wait_for
from harness.carpool import PASSWORD, postgres_pool
from harness.pgwire import Eof, PgError, query


# -- session mode

def test_session_mode_ends_with_its_server(orders, pg, workers):
    """All the session had is gone: going on as if nothing had happened would be a lie."""
    daemon = orders(workers, mode="session", size={"max": 1})
    with daemon.wire() as wire:
        wire.run("set work_mem = '5MB'")
        assert pg.terminate("app") == 1
        with contextlib.suppress(OSError):
            wire.send(query("select 1"))
        kind, body = wire.receive()
        assert (kind, PgError(body).code) == ("E", "08006")
        assert "upstream_closed" in PgError(body).fields["M"]
        assert wire.eof()
    assert daemon.saw("upstream_closed")
    with daemon.wire() as wire:
        assert wire.run("show work_mem")[0] != [["5MB"]]


def test_session_mode_cleans_up_after_a_transaction(orders, table):
    """A client leaves inside a transaction, with state: ROLLBACK, then DISCARD ALL, then the next client."""
    daemon = orders(mode="session", size={"max": 1, "acquire_timeout": "20s"})
    wire = daemon.wire()
    wire.run("set search_path = pg_catalog")
    wire.run("create temp table mine (n int)")
    wire.run("begin")
    wire.run(f"insert into public.{table} (n) values (1)")
    wire.abort()
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]
        assert other.run("select to_regclass('pg_temp.mine')")[0] == [[None]]
        assert other.run("select now() = statement_timestamp()")[0] == [["t"]]


def test_session_mode_bound_is_of_clients(orders, pg):
    """Each client keeps its server: the third waits until one of two leaves, however idle they are."""
    daemon = orders(mode="session", size={"min": 2, "max": 2, "acquire_timeout": "400ms"})
    first, second = daemon.wire(), daemon.wire()
    assert first.run("select 1")[2] is second.run("select 1")[2] is None
    with daemon.wire() as third:
        error, status = third.run("select 3")[2:]
        assert (error.code, status) == ("53300", "I") and "acquire_timeout" in str(error)
        first.close()
        wait_for(lambda: third.run("select 3")[0] == [["3"]], what="the third client's turn")
    second.close()
    wait_for(lambda: pg.connections("app") <= 2, what="no more than two sessions")


# -- statement mode

def test_statement_mode(orders, workers):
    """Statements go to any server; several in one query are one transaction of the server's own."""
    daemon = orders(workers, mode="statement", size={"max": 2})
    with daemon.connect() as conn:
        assert conn.execute("select 1; select 2; select 3").fetchone() == (1,)
        assert conn.execute("select %s::int", (4,)).fetchone() == (4,)
        with conn.pipeline():
            cursors = [conn.execute("select %s::int", (i,)) for i in range(5)]
        assert [c.fetchone()[0] for c in cursors] == list(range(5))
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("select 1/0")
        assert conn.execute("select 5").fetchone() == (5,)
    assert daemon.all_errors() == {}


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_statement_mode_allows_no_transaction_blocks(orders, pg, table, extended):
    daemon = orders(mode="statement", size={"max": 1, "acquire_timeout": "20s"})
    wire = daemon.wire()
    if extended:
        wire.send(pgwire.parse("begin"), pgwire.bind(), pgwire.execute(), pgwire.SYNC)
    else:
        wire.send(query(f"begin; insert into {table} (n) values (1)"))
    messages = []
    with pytest.raises(Eof):
        while True:
            messages.append(wire.receive())
    error = PgError(messages[-1][1])
    assert (messages[-1][0], error.fields["S"], error.code) == ("E", "FATAL", "0A000")
    assert "unsupported" in error.fields["M"] and "statement mode" in error.fields["M"]
    assert daemon.saw("unsupported")
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]], "rolled back"
    wait_for(lambda: pg.query("select 1 from pg_stat_activity where usename = 'app'"
                              " and state like 'idle in%%'") == [], what="the transaction to end")


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_statement_mode_does_nothing_inside_a_block(orders, table, extended):
    """What was sent right behind BEGIN must not be done, and COMMIT least of all."""
    daemon = orders(mode="statement", size={"max": 1, "acquire_timeout": "20s"})

    def said(sql):
        return (pgwire.parse(sql), pgwire.bind(), pgwire.execute(), pgwire.SYNC) if extended else (query(sql),)
    wire = daemon.wire()
    wire.send(*said("select 7"), *said("begin"), *said(f"insert into {table} (n) values (1)"), *said("commit"))
    kinds = []
    with pytest.raises(Eof):
        while True:
            kinds.append(wire.receive()[0])
    answers = "12DCZ12C" if extended else "TDCZC"
    assert "".join(kinds) in (answers + "ZE", answers + "E")
    with daemon.wire() as other:
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]
    assert daemon.all_errors() == {"unsupported": 1}


def test_statement_mode_in_one_write(orders, table):
    """Statements, batches and a COPY that has failed, all sent at once: each waits for the one before."""
    daemon = orders(mode="statement", size={"max": 1, "acquire_timeout": "20s"})
    batch = (pgwire.bind("s"), pgwire.execute(), pgwire.SYNC)
    with daemon.wire() as wire:
        wire.send(query("select 1"), pgwire.parse("select 2", "s"), *batch, query("select 1/0"), *batch,
                  query(f"copy {table} (n) from stdin"), pgwire.message("d", b"5\n"), pgwire.message("c"),
                  query(f"copy {table} (n) from stdin"), pgwire.message("f", b"no\0"),
                  pgwire.parse(f"copy {table} (n) from stdin"), pgwire.bind(), pgwire.execute(), pgwire.SYNC,
                  pgwire.message("d", b"x\n"), pgwire.message("c"), pgwire.SYNC,
                  *batch, query(f"select count(*) from {table}"))
        said = ["".join(kind for kind, _ in wire.until("Z")) for _ in range(9)]
        assert said == ["TDCZ", "12DCZ", "EZ", "2DCZ", "GCZ", "GEZ", "12GEZ", "2DCZ", "TDCZ"]
    assert daemon.all_errors() == {}


def test_statement_mode_tells_who_forgets_its_copy(orders, table):
    """A query in the middle of COPY FROM STDIN does not wait for the end that its client will not send."""
    daemon = orders(mode="statement", size={"max": 1, "acquire_timeout": "20s"})
    with daemon.wire() as wire, daemon.wire() as other:
        wire.send(query(f"copy {table} (n) from stdin"))
        wire.until("G")
        wire.send(pgwire.message("d", b"5\n"), query("select 1"))
        assert PgError(wire.until("E")[-1][1]).code == "08P01", "the server's word"
        assert other.run(f"select count(*) from {table}")[0] == [["0"]]


# -- who may log in

def verifier(pg, user="app"):
    """The secret as the server stores it."""
    return pg.value("select rolpassword from pg_authid where rolname = %s", user)


def users(daemon, text):
    path = daemon.folder / "users"
    path.write_text(text)
    return {"users_file": str(path), "method": "scram"}


def guarded(carpool, pg, text, **over):
    daemon = carpool(start=False)
    daemon.write({"pools": [postgres_pool(pg.url(), auth=users(daemon, text), **over)]})
    return daemon.start()


def comes_in(daemon, user, password):
    try:
        with daemon.wire(user=user, password=password) as wire:
            # Whoever the client is, the server sees the pool's own user.
            assert wire.run("select current_user")[0] == [["app"]]
            return True
    except PgError as e:
        assert (e.fields["S"], e.code) == ("FATAL", "28P01")
        assert "auth_failed" in e.fields["M"]
        return False


def test_users_file_as_yaml(carpool, pg):
    daemon = guarded(carpool, pg, f"rider: s3cret\nstored: {verifier(pg)}\n'a b': 'q\"\\z'\n")
    assert comes_in(daemon, "rider", "s3cret")
    assert comes_in(daemon, "stored", PASSWORD)
    assert comes_in(daemon, "a b", 'q"\\z')
    assert not comes_in(daemon, "rider", "S3cret")
    assert not comes_in(daemon, "stored", verifier(pg)), "a verifier is no password"
    assert not comes_in(daemon, "app", PASSWORD), "with a users_file only those in it"
    wait_for(lambda: daemon.errors("auth_failed") == 3, what="all three to be counted")
    assert "s3cret" not in daemon.log_text() + daemon.get("/config").text
    assert verifier(pg) not in daemon.log_text() + daemon.get("/config").text


def test_users_file_of_pgbouncer(carpool, pg):
    text = f'; riders\n"rider" "s3cret"\n"stored" "{verifier(pg)}" "more"\n"quo""te" "a""b"\n'
    daemon = guarded(carpool, pg, text)
    assert comes_in(daemon, "rider", "s3cret")
    assert comes_in(daemon, "stored", PASSWORD)
    assert comes_in(daemon, 'quo"te', 'a"b')
    assert not comes_in(daemon, "rider", "")


def test_users_file_changes_by_reload(carpool, pg):
    daemon = guarded(carpool, pg, "old: one\n")
    with daemon.wire(user="old", password="one") as stays:
        users(daemon, "new: two\n")
        daemon.reload()
        assert comes_in(daemon, "new", "two") and not comes_in(daemon, "old", "one")
        assert stays.run("select 1")[0] == [["1"]], "who is in stays in"
        users(daemon, "new: [not, a, secret]\n")
        assert daemon.cli("reload", check=False).returncode == 1
        assert comes_in(daemon, "new", "two"), "a bad file changes nothing"


# -- what a client set travels with it

@contextlib.contextmanager
def occupied(daemon, pid):
    """Holds that one of two servers, so that the next transaction runs on the other."""
    with daemon.wire() as one, daemon.wire() as two:
        for wire in (one, two):
            wire.run("begin")
        mine, other = one, two
        if one.run("select pg_backend_pid()")[0] != [[pid]]:
            mine, other = two, one
        other.run("commit")
        assert mine.run("select pg_backend_pid()")[0] == [[pid]]
        yield
        mine.run("commit")


SETTINGS = {"application_name": ("rider", "select current_setting('application_name')"),
            "search_path": ("pg_catalog, public", "show search_path"),
            "options": ("-c work_mem=7MB --statement-timeout=77s", "show work_mem")}


@pytest.mark.parametrize("name", SETTINGS)
def test_startup_parameters_follow_the_client(orders, pg, name, workers):
    """Set at login, in force on every server the client gets, and on none that others get."""
    value, ask = SETTINGS[name]
    want = {"options": "7MB"}.get(name, value)
    daemon = orders(workers, size={"min": 2, "max": 2})
    with daemon.wire(**{name: value}) as wire, daemon.wire() as plain:
        seen = set()
        default = plain.run(ask)[0]
        assert default != [[want]]
        for _ in range(2):
            pid, got = wire.run(f"select pg_backend_pid()::text; {ask}")[0]
            assert got == [want]
            seen.add(pid[0])
            with occupied(daemon, pid[0]):
                other, got = wire.run(f"select pg_backend_pid()::text; {ask}")[0]
                assert got == [want]
                seen.add(other[0])
                assert plain.run(ask)[0] == default, "nothing of it sticks to the server"
        assert len(seen) == 2
        if name == "options":
            assert wire.run("show statement_timeout")[0] == [["77s"]]
            assert plain.run("show statement_timeout")[0] == [["0"]]
        if name == "application_name":
            assert wire.parameters["application_name"] == "rider"
    assert daemon.all_errors() == {}


def test_reported_settings_follow_the_client(orders, workers):
    """SET of what the server reports (TimeZone, DateStyle, application_name, ...): two clients with
    different wishes take turns on one server."""
    daemon = orders(workers, size={"max": 1})
    wishes = {"TimeZone": ("Asia/Tokyo", "Europe/Rome"), "DateStyle": ("SQL, DMY", "German, DMY"),
              "IntervalStyle": ("iso_8601", "sql_standard"), "application_name": ("one", "two"),
              "client_encoding": ("LATIN1", "UTF8"), "standard_conforming_strings": ("off", "on")}
    with daemon.wire() as one, daemon.wire() as two:
        for name, values in wishes.items():
            for wire, value in zip((one, two), values):
                assert wire.run(f"set {name} = '{value}'")[2] is None
        for _ in range(3):
            for i, wire in enumerate((one, two)):
                for name, values in wishes.items():
                    assert wire.run(f"show {name}")[0] == [[values[i]]], name
        with daemon.wire() as fresh:
            for name, values in wishes.items():
                assert fresh.run(f"show {name}")[0][0][0] == fresh.parameters[name], name
        # Inside a transaction, and taken back by ROLLBACK.
        one.run("begin; set TimeZone = 'UTC'")
        one.run("rollback")
        two.run("select 1")
        assert one.run("show TimeZone")[0] == [["Asia/Tokyo"]]


# -- certificates

def shown(port, ca):
    """The serial number of the certificate the door shows now."""
    context = ssl.create_default_context(cafile=ca)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(pgwire.untyped(pgwire.SSL_REQUEST))
        assert sock.recv(1) == b"S"
        with context.wrap_socket(sock, server_hostname="localhost") as tls:
            return tls.getpeercert()["serialNumber"]


def test_certificates_change_by_reload(carpool, pg, servers):
    """New files at the same paths: new clients see them, old clients stay; bad files change nothing."""
    ca = servers.authority
    daemon = carpool(start=False)
    cert, key = daemon.folder / "cert.pem", daemon.folder / "key.pem"
    cert.write_bytes(ca.cert.read_bytes())
    key.write_bytes(ca.key.read_bytes())
    daemon.write({"pools": [postgres_pool(pg.url(), tls={"cert": str(cert), "key": str(key)})]})
    daemon.start()
    with daemon.connect(sslmode="require") as stays:
        first = shown(daemon.port(), ca.ca)
        fresh_cert, fresh_key = ca.fresh()
        cert.write_bytes(fresh_cert.read_bytes())
        key.write_bytes(fresh_key.read_bytes())
        assert shown(daemon.port(), ca.ca) == first, "not before somebody says so"
        daemon.reload()
        second = shown(daemon.port(), ca.ca)
        assert second != first
        assert stays.execute("select 1").fetchone() == (1,)
        for text in ("", "no certificate\n", ca.ca.read_text()):
            cert.write_text(text)  # the last one does not belong to the key
            done = daemon.cli("reload", check=False)
            assert done.returncode == 1 and "certificate" in done.stdout + done.stderr
            assert shown(daemon.port(), ca.ca) == second
        assert stays.execute("select 2").fetchone() == (2,)


def test_the_authority_of_clients_changes_by_reload(carpool, pg, servers):
    """`tls.ca` of a door: who is in stays in, who comes is judged by the new one; a bad file changes
    nothing."""
    ca = servers.authority
    daemon = carpool(start=False)
    root = daemon.folder / "clients.pem"
    root.write_bytes(ca.ca.read_bytes())
    tls = {"cert": str(ca.cert), "key": str(ca.key), "ca": str(root)}
    daemon.write({"pools": [postgres_pool(pg.url(), tls=tls)]})
    daemon.start()
    ours, theirs = ({"sslmode": "require", "sslcert": str(cert), "sslkey": str(key)}
                    for cert, key in (ca.client("app"), ca.client("app", known=False)))

    def admitted():
        """[ours, theirs]"""
        out = []
        for who in (ours, theirs):
            try:
                daemon.connect(**who).close()
                out.append(True)
            except psycopg.OperationalError:
                out.append(False)
        return out

    with daemon.connect(**ours) as stays:
        assert admitted() == [True, False]
        root.write_bytes(ca.other_ca.read_bytes())
        assert admitted() == [True, False], "not before somebody says so"
        daemon.reload()
        assert admitted() == [False, True]
        assert stays.execute("select 1").fetchone() == (1,)
        for text in ("", "no certificate\n"):
            root.write_text(text)
            assert daemon.cli("reload", check=False).returncode == 1
            assert admitted() == [False, True]
        root.write_bytes(ca.ca.read_bytes() + ca.other_ca.read_bytes())
        daemon.reload()
        assert admitted() == [True, True], "both, while clients' certificates are renewed"
        assert stays.execute("select 2").fetchone() == (2,)
