# SPDX-License-Identifier: MIT
"""TLS towards PostgreSQL: each sslmode against servers that want it, take it, or have none; certificates
of both sides; files that are replaced."""

import shutil

import psycopg
import pytest
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
