# SPDX-License-Identifier: MIT
"""TLS towards PostgreSQL: each sslmode against servers that want it, take it, or have none; certificates
of both sides; files that are replaced. TLS towards clients that have much to say, or to hear."""

import contextlib
import select
import shutil
import struct
import threading

import psycopg
import pytest
from harness import pgwire
from harness.base import LOOPBACK, RUNAS, wait_for
from harness.postgres import HBA, PASSWORD

OWN_HBA = """
hostnossl all certain all            reject
hostssl   all certain all            cert
hostssl   all plain   all            reject
hostnossl all plain   all            scram-sha-256
"""


@pytest.fixture(scope="module")
def _tls_pg(servers):
    server = servers.postgres(local=True)
    for role in ("plain", "certain"):
        server.query(f"create role {role} login password '{PASSWORD}'")
    shutil.copy(servers.authority.ca, server.data / "clients.pem")
    RUNAS.own(server.data / "clients.pem")
    (server.data / "pg_hba.conf").write_text(OWN_HBA + HBA)
    server.query("alter system set ssl_ca_file = 'clients.pem'")
    server.query("select pg_reload_conf()")
    wait_for(lambda: server.value("show ssl_ca_file") == "clients.pem", what="its settings")
    return server


@pytest.fixture
def tls_pg(_tls_pg):
    yield _tls_pg
    set_ssl(_tls_pg, True)


def set_ssl(server, on):
    """New connections see it once the postmaster has."""
    word = "on" if on else "off"
    server.query(f"alter system set ssl = {word}")
    server.query("select pg_reload_conf()")

    def done():
        try:
            with psycopg.connect(server.dsn(sslmode="require", connect_timeout=5)):
                return on
        except psycopg.OperationalError:
            return not on
    wait_for(done, what=f"ssl = {word}")


@pytest.fixture
def served(orders, tls_pg):
    """served(user, options of the URL): "tls", "clear", or the cause of the refusal."""
    def ask(user, **options):
        daemon = orders(upstream=tls_pg.url(user, **options), timeouts={"outage_wait": "20s"})
        try:
            try:
                with daemon.connect(user=user) as conn:
                    ssl = conn.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
                    return "tls" if ssl.fetchone()[0] else "clear"
            except psycopg.Error as e:
                assert e.sqlstate in (None, "08001"), e  # None: psycopg's word for a refused login
                causes = [c for c in ("tls_failed", "upstream_auth") if f"carpool: {c}" in str(e)]
                assert causes, e
                return causes[0]
        finally:
            daemon.stop()
    return ask


# What libpq's documentation promises of each mode, by what the server does.
MODES = {
    #          wants TLS        takes both  wants none       has none
    "disable": ("upstream_auth", "clear", "clear", "clear"),
    "allow": ("tls", "clear", "clear", "clear"),
    "prefer": ("tls", "tls", "clear", "clear"),
    "require": ("tls", "tls", "upstream_auth", "tls_failed"),
    "verify-ca": ("tls", "tls", "upstream_auth", "tls_failed"),
    "verify-full": ("tls", "tls", "upstream_auth", "tls_failed"),
}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode(served, tls_pg, mode):
    where = {"sslmode": mode}
    if mode.startswith("verify"):
        where |= {"sslrootcert": str(tls_pg.ca), "host": "localhost"}
    got = [served(user, **where) for user in ("tlsonly", "app", "plain")]
    set_ssl(tls_pg, False)
    assert (*got, served("app", **where)) == MODES[mode]


@pytest.mark.parametrize("mode,host,ca,outcome", [
    ("require", LOOPBACK, None, "tls"),
    ("verify-ca", LOOPBACK, "ca", "tls"),
    ("verify-ca", "localhost", "other_ca", "tls_failed"),
    ("verify-ca", "localhost", None, "tls_failed"),
    ("verify-full", "localhost", "ca", "tls"),
    ("verify-full", LOOPBACK, "ca", "tls_failed"),
    ("verify-full", "localhost", "other_ca", "tls_failed"),
    ("verify-full", "localhost", None, "tls_failed"),
])
def test_whose_certificate_will_do(served, servers, tls_pg, mode, host, ca, outcome):
    """Without sslrootcert the system's authorities count, and ours is none of them."""
    root = {"sslrootcert": str(getattr(servers.authority, ca))} if ca else {}
    mark = tls_pg.mark()
    assert served("app", sslmode=mode, host=host, **root) == outcome
    assert (tls_pg.logins("app", mark) > 0) is (outcome == "tls"), "no password for strangers"


def test_own_certificate(served, servers):
    cert, key = servers.authority.client("certain")
    stranger, its_key = servers.authority.client("certain", known=False)
    both = {"sslmode": "require"}
    assert served("certain", sslcert=str(cert), sslkey=str(key), **both) == "tls"
    assert served("certain", **both) == "upstream_auth"
    assert served("certain", sslcert=str(stranger), sslkey=str(its_key), **both) != "tls"
    other, other_key = servers.authority.client("somebody-else")
    assert served("certain", sslcert=str(other), sslkey=str(other_key), **both) == "upstream_auth"


def test_authorities_are_read_again(orders, servers, tls_pg, tmp_path):
    """The file is replaced: what is open stays, what is dialed from the reload on goes by the new one."""
    root = tmp_path / "root.pem"
    shutil.copy(servers.authority.other_ca, root)
    daemon = orders(upstream=tls_pg.url(host="localhost", sslmode="verify-full", sslrootcert=str(root)),
                    size={"max": 1})
    assert "tls_failed" in daemon.first_error().fields["M"]
    shutil.copy(servers.authority.ca, root)
    daemon.reload()
    wait_for(lambda: daemon.connect().close() is None, 20, "the new authority to count",
             ignore=psycopg.Error)
    with daemon.connect() as conn:
        pid = conn.execute("select pg_backend_pid()").fetchone()
        shutil.copy(servers.authority.other_ca, root)
        daemon.reload()
        assert conn.execute("select pg_backend_pid()").fetchone() == pid
        daemon.cli("recycle", "orders")
        with pytest.raises(psycopg.Error, match="tls_failed"):
            conn.execute("select 1")


def test_the_server_renews_its_certificate(orders, servers, tls_pg):
    """By the same authority: nobody has to tell carpool."""
    daemon = orders(upstream=tls_pg.url(host="localhost", sslmode="verify-full",
                                        sslrootcert=str(tls_pg.ca)), size={"max": 1})
    kept = [(path, path.read_bytes()) for path in (tls_pg.data / "server.pem", tls_pg.data / "server.key")]
    try:
        with daemon.connect() as conn:
            pid = conn.execute("select pg_backend_pid()").fetchone()
            for (path, _), fresh in zip(kept, servers.authority.fresh()):
                path.write_bytes(fresh.read_bytes())
            tls_pg.query("select pg_reload_conf()")
            assert conn.execute("select pg_backend_pid()").fetchone() == pid
            daemon.cli("recycle", "orders")
            assert conn.execute("select pg_backend_pid()").fetchone() != pid
    finally:
        for path, text in kept:
            path.write_bytes(text)
        tls_pg.query("select pg_reload_conf()")


@pytest.mark.parametrize("first", ["wrong password", "stranger's certificate", "down"])
def test_another_host_may_be_well(orders, pg, tls_pg, servers, first):
    """One of two hosts refuses for good: that is no reason to refuse clients."""
    options = {"host": "localhost", "sslmode": "verify-full"}
    if first == "wrong password":
        url = tls_pg.url(password="wrong")
    elif first == "down":
        url = f"postgres://app:x@{LOOPBACK}:1/orders"
    else:
        url = tls_pg.url(**options, sslrootcert=str(servers.authority.other_ca))
    daemon = orders(upstream=[url, pg.url()], on_down="fail", retry={"attempts": 3})
    for _ in range(3):
        with daemon.connect() as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        daemon.cli("recycle", "orders")
    assert not daemon.all_errors().get("outage")


# -- towards clients

MEGABYTE = 1 << 20


@pytest.fixture
def door(orders, servers):
    """door(workers, **over): a pool whose clients must use TLS."""
    ca = servers.authority

    def make(workers=1, **over):
        return orders(workers, tls={"cert": str(ca.cert), "key": str(ca.key), "required": True}, **over)
    return make


def test_large_messages_over_tls(door, workers):
    """A parameter and a row far larger than a TLS record, and than what is kept of either."""
    daemon = door(workers, size={"max": 1})
    with daemon.connect(sslmode="require") as conn:
        for size in (MEGABYTE, 20 * MEGABYTE):
            text = "0123456789abcdef" * (size // 16)
            got, = conn.execute("select %s::text", (text,)).fetchone()
            assert got == text, size
        assert conn.execute("select 1").fetchone() == (1,)
    assert daemon.all_errors() == {}


def test_pipelines_and_copy_over_tls(door, table, workers):
    daemon = door(workers, size={"max": 2})
    with daemon.connect(sslmode="require") as conn, daemon.connect(sslmode="require") as other:
        with conn.pipeline(), other.pipeline():
            sent = [(c, n, c.execute("select %s::int, repeat('x', %s)", (n, 7 * n)))
                    for n in range(300) for c in (conn, other)]
        assert all(cursor.fetchone() == (n, "x" * 7 * n) for _, n, cursor in sent)
        lines = [(n, f"note {n} " + "y" * (n % 300)) for n in range(20_000)]
        with conn.cursor() as cursor, cursor.copy(f"copy {table} (n, note) from stdin") as copy:
            for line in lines:
                copy.write_row(line)
        with other.cursor() as cursor, cursor.copy(f"copy (select n, note from {table} order by n)"
                                                   " to stdout") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == lines
    assert daemon.all_errors() == {}


def test_who_waits_for_the_socket_has_what_came(door, workers):
    """libpq reads once when asked to: a record that it takes in part leaves bytes in it that the socket
    does not tell of. Its own servers' are short enough."""
    daemon = door(workers, size={"max": 1})
    with daemon.connect(sslmode="require", autocommit=True) as conn:
        raw = conn.pgconn
        raw.nonblocking = 1
        for rows in range(1, 100):
            raw.send_query(f"select repeat('x', 3000) from generate_series(1, {rows})".encode())
            results = []
            while True:
                unsent = raw.flush()
                while raw.is_busy():
                    readable, _, _ = select.select([raw.socket], [raw.socket] if unsent else [], [], 10)
                    assert readable, f"{rows} rows have not arrived"
                    raw.consume_input()
                result = raw.get_result()
                if result is None:
                    break
                results.append(result)
            assert [r.ntuples for r in results] == [rows]


def test_a_cancel_over_tls(door, pg, workers):
    daemon = door(workers, size={"min": 1, "max": 1})
    with daemon.wire(tls=True) as wire:
        for _ in range(3):
            wire.send(pgwire.query("select pg_sleep(61)"))
            wait_for(lambda: pg.asleep("%pg_sleep(61)%"), what="the statement")
            assert wire.cancel()
            assert wire.results()[2].code == "57014"
        assert wire.run("select 1")[0] == [["1"]]


class Torrent(threading.Thread):
    """A client over TLS that gets, or sends, more than anybody waits for; `moved` counts bytes, `over` says
    that it came to an end. `stop()` leaves in the middle."""

    def __init__(self, daemon, table, direction):
        super().__init__(daemon=True)
        self.wire, self.moved, self.over, self._end = daemon.wire(tls=True), 0, False, False
        if direction == "to the client":
            self._step = self._hear
            self.wire.send(pgwire.query("select repeat('x', 1000000) from generate_series(1, 200000)"))
        else:
            self._step = self._say
            self.piece = struct.pack("!cI", b"d", 4 + 30_002) + b"1\t" + b"y" * 29_999 + b"\n"
            # What comes in is thrown away row by row.
            self.wire.send(pgwire.query(f"copy {table} (n, note) from stdin where n > 1"))
            assert self.wire.until("G")
        self.start()

    def _hear(self):
        return len(self.wire.sock.recv(MEGABYTE))

    def _say(self):
        self.wire.sock.sendall(self.piece * 30)
        return len(self.piece) * 30

    def run(self):
        with contextlib.suppress(OSError):
            while not self._end and (n := self._step()):
                self.moved += n
        self.over = not self._end

    def stop(self):
        self._end = True
        self.join(60)
        assert not self.is_alive()
        self.wire.abort()


@pytest.mark.parametrize("direction", ["to the client", "to the server"])
def test_a_torrent_over_tls_leaves_others_their_turn(door, pg, table, direction):
    """However much of it there is to be read, another client's queries are answered meanwhile."""
    daemon = door(size={"min": 3, "max": 3})
    with daemon.wire(tls=True) as other:
        torrents = [Torrent(daemon, table, direction) for _ in range(2)]
        try:
            for n in range(20):
                before = [t.moved for t in torrents]
                for m in range(5):
                    assert other.run(f"select {n}, {m}")[0] == [[str(n), str(m)]]
                wait_for(lambda: all(t.moved > b for t, b in zip(torrents, before)), 30,
                         "the torrents to go on, too")
            assert not any(t.over for t in torrents), "it was to be more than anybody waits for"
        finally:
            for torrent in torrents:
                torrent.stop()
    wait_for(lambda: not pg.active("%repeat(%") and not pg.active("copy%"), what="the server to be told")
