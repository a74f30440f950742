# SPDX-License-Identifier: MIT
"""Who may come in, and how carpool proves itself to the server: SCRAM and TLS on both sides."""

import socket
import ssl

import psycopg
import pytest
from harness import pgwire
from harness.base import wait_for
from harness.carpool import PASSWORD, postgres_pool
from harness.pgwire import PgError

SCRAM = {"auth": {"method": "scram"}}


# -- clients prove who they are

@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_scram_towards_clients(orders, workers, sslmode):
    daemon = orders(workers, **SCRAM)
    with daemon.connect(password=PASSWORD, sslmode=sslmode) as conn:
        assert conn.execute("select current_user").fetchone() == ("app",)
        assert conn.pgconn.used_password


def refusal(daemon, **who):
    with pytest.raises(PgError) as e:
        daemon.wire(**who)
    assert e.value.fields["S"] == "FATAL"
    return e.value


def test_wrong_password_and_unknown_user_look_alike(orders):
    """What a stranger is told does not say which names exist."""
    daemon = orders(**SCRAM)
    known = refusal(daemon, user="app", password="wrong")
    unknown = refusal(daemon, user="nosuchuser", password="wrong")
    assert known.code == unknown.code == "28P01"
    assert "auth_failed" in known.fields["M"]
    assert known.fields["M"].replace("'app'", "*") == unknown.fields["M"].replace("'nosuchuser'", "*")
    wait_for(lambda: daemon.errors("auth_failed") == 2, what="both to be counted")
    assert daemon.saw("auth_failed")
    assert "wrong" not in daemon.log_text()


def challenge(daemon, user):
    """The server's first SCRAM message for a user: (salt, iterations)."""
    wire = daemon.wire(login=False)
    wire.send(pgwire.startup(user))
    assert wire.receive()[1][:4] == b"\0\0\0\x0a"
    first = pgwire.Scram("x").first()
    wire.send(pgwire.message("p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
    kind, body = wire.receive()
    assert (kind, body[:4]) == ("R", b"\0\0\0\x0b")
    wire.abort()
    parts = dict(p.split("=", 1) for p in body[4:].decode().split(","))
    return parts["s"], parts["i"]


def test_salts_of_unknown_users_are_stable(orders):
    """A salt that changed at each try would tell that the user does not exist."""
    daemon = orders(**SCRAM)
    for user in ("app", "nosuchuser"):
        assert challenge(daemon, user) == challenge(daemon, user)
    assert challenge(daemon, "nosuchuser")[0] != challenge(daemon, "othernobody")[0]
    assert challenge(daemon, "app")[1] == challenge(daemon, "nosuchuser")[1]
    assert len(challenge(daemon, "app")[0]) == len(challenge(daemon, "nosuchuser")[0])


def test_broken_login_messages(orders):
    daemon = orders(**SCRAM)
    nothing = pgwire.message("p", b"SCRAM-SHA-256\0\xff\xff\xff\xff")  # no first words: allowed, but then?
    broken = [(nothing + pgwire.message("p", b"what?"), "08P01", "SASLInitialResponse"),
              (pgwire.message("p", b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,"), "08P01", "SASLInitialResponse"),
              (pgwire.message("p", b"MD5\0\0\0\0\0"), "08P01", "not offered"),
              (pgwire.message("p", b""), "08P01", "SASLInitialResponse"),
              (pgwire.query("select 1"), "08P01", "unknown message"),
              (b"p\0\0\0\x02", "08P01", "impossible length"),
              (b"p\x7f\xff\xff\xff" + b"x" * 100, "54000", "message too large"),
              (pgwire.message("p", b"SCRAM-SHA-256\0\0\0\0\x06y,,n=,"), "08P01", "user and nonce expected")]
    for message, code, sentence in broken:
        wire = daemon.wire(login=False)
        wire.send(pgwire.startup())
        wire.receive()
        wire.send(message)
        error = wire.farewell()
        assert error and (error.fields["S"], error.code) == ("FATAL", code), message
        assert sentence in error.fields["M"], message
    assert daemon.connect(password=PASSWORD).execute("select 1").fetchone() == (1,)


def test_trust_asks_no_password(orders):
    with orders().connect() as conn:
        assert not conn.pgconn.needs_password
        assert conn.execute("select current_user").fetchone() == ("app",)


# -- TLS towards clients

@pytest.fixture
def tls_orders(orders, servers):
    ca = servers.authority

    def make(tls=(), **over):
        return orders(tls={"cert": str(ca.cert), "key": str(ca.key), **dict(tls)}, **over)
    return make, str(ca.ca)


def test_tls_towards_clients(tls_orders):
    make, ca = tls_orders
    daemon = make(**SCRAM)
    with daemon.connect(host="localhost", sslmode="verify-full", sslrootcert=ca,
                        password=PASSWORD) as conn:
        assert conn.pgconn.ssl_in_use
        assert len(conn.execute("select repeat('x', 5000000)").fetchone()[0]) == 5_000_000
        with conn.cursor() as cur, cur.copy("copy (select generate_series(1, 100000)) to stdout") as c:
            assert len(b"".join(c)) == 588_895
        assert conn.execute("select length(%s)", ("y" * 5_000_000,)).fetchone() == (5_000_000,)


def test_plaintext_slipped_in_front_of_tls_is_refused(tls_orders):
    """Bytes sent behind SSLRequest must not be taken as if they had come through TLS."""
    make, _ = tls_orders
    daemon = make()
    wire = daemon.wire(login=False)
    wire.send(pgwire.untyped(pgwire.SSL_REQUEST) + pgwire.startup() + pgwire.query("select 1"))
    wire.sock.shutdown(socket.SHUT_WR)
    said = b""
    try:
        while data := wire.sock.recv(65536):
            said += data
    except ConnectionError:
        pass
    assert b"D\0\0\0" not in said and b"Z\0\0\0" not in said


def test_garbage_instead_of_a_handshake(tls_orders):
    make, _ = tls_orders
    daemon = make()
    wire = daemon.wire(login=False)
    wire.send(pgwire.untyped(pgwire.SSL_REQUEST))
    assert wire.read(1) == b"S"
    wire.send(b"this is no ClientHello" * 10)
    assert wire.eof()
    assert daemon.saw("tls_failed")


def test_tls_only_door(tls_orders):
    make, _ = tls_orders
    daemon = make(tls={"required": True})
    with pytest.raises(psycopg.OperationalError):
        daemon.connect(sslmode="disable")
    assert daemon.connect(sslmode="require").execute("select 1").fetchone() == (1,)


def test_requests_for_encryption_are_answered(orders):
    daemon = orders()
    wire = daemon.wire(login=False)
    wire.send(pgwire.untyped(pgwire.GSS_REQUEST))
    assert wire.read(1) == b"N"
    wire.send(pgwire.untyped(pgwire.SSL_REQUEST))
    assert wire.read(1) == b"N"
    wire.login()
    assert wire.run("select 1")[0] == [["1"]]
    twice = daemon.wire(login=False)
    twice.send(pgwire.untyped(pgwire.SSL_REQUEST))
    assert twice.read(1) == b"N"
    twice.send(pgwire.untyped(pgwire.SSL_REQUEST))
    assert twice.eof(), "each may be asked once"


# -- carpool proves itself to the server

def test_scram_towards_the_server(orders, pg):
    mark = pg.mark()
    daemon = orders()
    with daemon.connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    assert 'identity="app" method=scram-sha-256' in pg.log_since(mark)


def test_tls_towards_the_server(orders, local_pg, workers):
    """verify-full with a name; large transfers pass the TLS of the server's side both ways."""
    url = local_pg.url("tlsonly", host="localhost", sslmode="verify-full",
                       sslrootcert=str(local_pg.ca))
    daemon = orders(workers, upstream=url)
    with daemon.connect(user="tlsonly") as conn:
        row = conn.execute("select ssl, version from pg_stat_ssl where pid = pg_backend_pid()")
        assert row.fetchone() in ((True, "TLSv1.3"), (True, "TLSv1.2"))
        assert len(conn.execute("select repeat('x', 20000000)").fetchone()[0]) == 20_000_000
        assert conn.execute("select length(%s)", ("y" * 5_000_000,)).fetchone() == (5_000_000,)
        assert conn.execute("select count(*) from generate_series(1, 10)").fetchone() == (10,)


FAST_FAIL = {"timeouts": {"outage_wait": "500ms", "connect": "2s"}}


@pytest.mark.parametrize("host,ca", [("127.0.0.1", "ca"), ("localhost", "other_ca")],
                         ids=["wrong name", "unknown authority"])
def test_server_that_cannot_be_trusted(orders, local_pg, servers, host, ca):
    url = local_pg.url("tlsonly", host=host, sslmode="verify-full",
                       sslrootcert=str(getattr(servers.authority, ca)))
    daemon = orders(upstream=url, **FAST_FAIL)
    mark = local_pg.mark()
    assert daemon.first_error(user="tlsonly").code == "08001"
    assert daemon.saw("tls_failed")
    assert local_pg.logins("tlsonly", mark) == 0, "the password must not go to a stranger"


def test_upstream_refuses_the_password(orders, pg):
    daemon = orders(upstream=pg.url(password="wrong"), **FAST_FAIL)
    assert daemon.first_error().code == "08001"
    assert daemon.saw("upstream_auth")
    assert "wrong" not in daemon.log_text()


def test_unknown_database_of_the_server(orders, pg):
    daemon = orders(upstream=pg.url(db="nosuchdb"), **FAST_FAIL)
    assert daemon.first_error(database="nosuchdb").code == "3D000"
    wait_for(lambda: daemon.log_lines("nosuchdb", "does not exist"), what="the log to say so")


def test_direct_tls_garbage_does_not_crash(orders):
    """A client that speaks TLS at once to a door without TLS."""
    daemon = orders()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, OSError)):
        with socket.create_connection(("127.0.0.1", daemon.port()), timeout=10) as sock:
            context.wrap_socket(sock)
    with daemon.wire() as wire:
        assert wire.run("select 1")[0] == [["1"]]


def test_users_are_told_apart(carpool, pg):
    """A second pool with its own user: its password opens only its own door."""
    daemon = carpool(postgres_pool(pg.url(), name="orders", **SCRAM),
                     postgres_pool(pg.url("bounded", password=PASSWORD), name="reports", **SCRAM))
    pg.set_bound(3)
    with daemon.connect("reports", user="bounded", password=PASSWORD) as conn:
        assert conn.execute("select current_user").fetchone() == ("bounded",)
    assert refusal(daemon, user="bounded", password=PASSWORD).code == "28P01"
