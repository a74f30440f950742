# SPDX-License-Identifier: MIT
"""Each way to prove who one is, with real clients: password, md5, SCRAM with channel binding, peer,
client certificates; and what failures cost."""

import asyncio
import base64
import ctypes
import hashlib
import hmac
import math
import os
import pwd
import socket
import struct
import subprocess
import time

import asyncpg
import psycopg
import pytest
from harness import pgwire
from harness.base import LOOPBACK, RUNAS, free_port, run, wait_for
from harness.carpool import PASSWORD, postgres_pool
from harness.pgwire import PgError, Wire

CLEARTEXT, MD5, SASL = 3, 5, 10


def md5_secret(user, password):
    return "md5" + hashlib.md5((password + user).encode()).hexdigest()


def scram_secret(password):
    """A verifier as the server keeps it."""
    salt = b"sixteen bytes ok"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 4096)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return "SCRAM-SHA-256$4096:{}${}:{}".format(
        *(base64.b64encode(x).decode() for x in (salt, stored, server)))


@pytest.fixture
def door(orders, tmp_path):
    """door(method, {user: secret}): a pool whose clients log in that way."""
    def make(method, users=None, workers=1, auth=(), **over):
        auth = {"method": method, **dict(auth)}
        if users is not None:
            (tmp_path / "users").write_text("".join(
                f'"{user}" "{secret}"\n' for user, secret in users.items()))
            auth["users_file"] = str(tmp_path / "users")
        return orders(workers, auth=auth, **over)
    return make


def asked(wire, user="app"):
    """What a client of this name is asked for."""
    wire.send(pgwire.startup(user))
    kind, body = wire.receive()
    assert kind == "R", pgwire.fields(body)
    return struct.unpack("!I", body[:4])[0]


def refusal(daemon, **who):
    with pytest.raises(psycopg.OperationalError) as e:
        daemon.connect(**who)
    return str(e.value)


def works(daemon, **who):
    with daemon.connect(**who) as conn:
        return conn.execute("select current_user").fetchone() == ("app",)


async def asyncpg_works(daemon, user, password):
    conn = await asyncpg.connect(host=LOOPBACK, port=daemon.port(), user=user, password=password,
                                 database="orders", statement_cache_size=0, ssl=False)
    try:
        return await conn.fetchval("select current_user") == "app"
    finally:
        await conn.close()


# -- password and md5

KINDS = {"plain": "s3cret", "hash": md5_secret("hash", "s3cret"), "kept": scram_secret("s3cret")}


@pytest.mark.parametrize("method", ["password", "md5"])
def test_every_kind_of_secret_serves(door, method, workers):
    daemon = door(method, KINDS, workers)
    for user in KINDS:
        assert works(daemon, user=user, password="s3cret"), user
        assert asyncio.run(asyncpg_works(daemon, user, "s3cret")), user
        assert "authentication failed" in refusal(daemon, user=user, password="wrong")
    assert "authentication failed" in refusal(daemon, user="nobody", password="s3cret")
    assert daemon.saw("auth_failed")
    assert "s3cret" not in daemon.log_text()


def test_what_the_client_is_asked_for(door):
    """md5 becomes SCRAM where a verifier is all there is; strangers are asked like hashed users."""
    daemon = door("md5", KINDS)
    for user, kind in (("plain", MD5), ("hash", MD5), ("kept", SASL), ("nobody", MD5)):
        with daemon.wire(login=False) as wire:
            assert asked(wire, user) == kind
    daemon = door("password", KINDS)
    for user in (*KINDS, "nobody"):
        with daemon.wire(login=False) as wire:
            assert asked(wire, user) == CLEARTEXT


def test_strangers_are_asked_like_the_others(door):
    with door("md5", {"kept": KINDS["kept"]}).wire(login=False) as wire:
        assert asked(wire, "nobody") == SASL


def test_an_md5_answer_serves_once(door):
    """The salt is fresh each time: an overheard answer opens nothing."""
    daemon, salts = door("md5", KINDS), set()
    for _ in range(3):
        with daemon.wire(login=False) as wire:
            wire.send(pgwire.startup("plain"))
            salts.add(wire.receive()[1][4:8])
    assert len(salts) == 3


def test_words_behind_the_password_are_kept(door):
    """The comparison happens elsewhere; what the client sends meanwhile is not lost."""
    daemon = door("password", KINDS)
    for _ in range(30):  # each has its chance to be read while the comparison is under way
        with daemon.wire(login=False) as wire:
            assert asked(wire, "kept") == CLEARTEXT
            wire.send(pgwire.message("p", b"s3cret\0"))
            wire.trickle = True
            wire.send(pgwire.query("select 41"), pgwire.query("select 42"))
            assert [k for k, _ in wire.until("Z")][0] == "R"
            assert wire.results()[0] == [["41"]]
            assert wire.results()[0] == [["42"]]


def test_clients_that_leave_while_their_password_is_compared(door):
    daemon = door("password", KINDS)
    for _ in range(20):
        wire = daemon.wire(login=False)
        assert asked(wire, "plain") == CLEARTEXT
        wire.send(pgwire.message("p", b"s3cret\0"))
        wire.abort()
    assert works(daemon, user="plain", password="s3cret")


@pytest.mark.parametrize("body", [b"", b"\0", b"s3cret", b"s3\0cret\0", b"x" * 70000 + b"\0"],
                         ids=["nothing", "empty", "no end", "two", "too long"])
def test_malformed_passwords(door, body):
    daemon = door("password", KINDS)
    wire = daemon.wire(login=False)
    asked(wire, "plain")
    wire.send(pgwire.message("p", body))
    kind, said = wire.receive()
    assert kind == "E" and pgwire.fields(said)["C"] in ("08P01", "54000")
    assert wire.eof()
    assert works(daemon, user="plain", password="s3cret")


def test_long_password(door):
    """Up to 64 KiB it is compared, not refused."""
    daemon = door("password", KINDS)
    wire = daemon.wire(login=False)
    asked(wire, "plain")
    wire.send(pgwire.message("p", b"x" * 60000 + b"\0"))
    kind, said = wire.receive()
    assert kind == "E" and pgwire.fields(said)["C"] == "28P01"


def far_address():
    """An address of this machine that is not loopback, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return None


def test_passwords_do_not_cross_a_network_in_clear(carpool, pg, servers):
    far, ca = far_address(), servers.authority
    if far is None or far.startswith("127."):
        pytest.skip("this machine has no other address")
    port = free_port()
    daemon = carpool(postgres_pool(
        pg.url(), listen=[f"*:{port}"], auth={"method": "password"},
        tls={"cert": str(ca.cert), "key": str(ca.key)}))
    with pytest.raises(PgError) as e:
        Wire(far, port, password=PASSWORD)
    assert e.value.code == "42501" and "TLS" in e.value.fields["M"]
    assert works(daemon, host=far, port=port, password=PASSWORD, sslmode="require")
    assert works(daemon, host=LOOPBACK, port=port, password=PASSWORD, sslmode="disable")


def processor_seconds(daemon):
    """What the daemon has used so far: other work on the machine does not count."""
    clock = ctypes.c_int()
    assert ctypes.CDLL(None).clock_getcpuclockid(daemon.pid, ctypes.byref(clock)) == 0
    return time.clock_gettime(clock.value)


def refused_times(daemon, user, times):
    """Wrong passwords, in full exchanges."""
    for _ in range(times):
        with pytest.raises(PgError) as e:
            daemon.wire(user=user, password="wrong")
        assert e.value.code == "28P01"


@pytest.mark.parametrize("method, known", [("password", KINDS), ("md5", ("plain", "hash")),
                                           ("scram", ("plain", "kept"))], ids=["password", "md5", "scram"])
def test_unknown_users_cost_what_known_ones_cost(door, method, known):
    """Neither the user's existence nor the kind of secret shows in the work of a refusal. (A verifier behind
    an md5 door does by itself: it is asked for by SCRAM.)"""
    daemon = door(method, {user: KINDS[user] for user in known}, auth={"failures": 0})
    least = {user: math.inf for user in (*known, "nobody")}
    for _ in range(5):
        for user in least:
            begun = processor_seconds(daemon)
            refused_times(daemon, user, 20)
            least[user] = min(least[user], processor_seconds(daemon) - begun)
    assert max(least.values()) < 2 * min(least.values()), least


# -- channel binding

@pytest.fixture
def tls_door(door, servers):
    ca = servers.authority

    def make(method, *args, tls=(), **over):
        return door(method, *args, tls={"cert": str(ca.cert), "key": str(ca.key), **dict(tls)},
                    **over)
    return make


def test_channel_binding(tls_door, servers):
    """libpq insists on a proof that is bound to the certificate it sees."""
    daemon = tls_door("scram")
    assert works(daemon, host="localhost", sslmode="verify-full", channel_binding="require",
                 sslrootcert=str(servers.authority.ca), password=PASSWORD)
    assert "authentication failed" in refusal(daemon, sslmode="require", channel_binding="require",
                                              password="wrong")
    assert works(daemon, sslmode="require", channel_binding="disable", password=PASSWORD)
    assert "channel binding" in refusal(daemon, sslmode="disable", channel_binding="require",
                                        password=PASSWORD)
    assert works(daemon, sslmode="disable", password=PASSWORD)


def mechanisms(wire, user="app"):
    wire.send(pgwire.startup(user))
    kind, body = wire.receive()
    assert (kind, body[:4]) == ("R", b"\0\0\0\x0a")
    return body[4:].rstrip(b"\0").split(b"\0")


def sasl_initial(mechanism, data):
    return pgwire.message("p", pgwire.cstr(mechanism) + struct.pack("!I", len(data)) + data)


def test_binding_is_offered_over_tls_only(tls_door):
    daemon = tls_door("scram")
    with daemon.wire(login=False) as wire:
        assert mechanisms(wire) == [b"SCRAM-SHA-256"]
    with daemon.wire(login=False, tls=True) as wire:
        assert mechanisms(wire) == [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]


@pytest.mark.parametrize("mechanism,data", [
    ("SCRAM-SHA-256", b"y,,n=,r=abcdef"),  # somebody took our offer out of the list
    ("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abcdef"),
    ("SCRAM-SHA-256-PLUS", b"n,,n=,r=abcdef"),
    ("SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=abcdef"),
], ids=["downgrade", "binding without PLUS", "PLUS without binding", "another binding"])
def test_downgrades_are_refused(tls_door, mechanism, data):
    wire = tls_door("scram").wire(login=False, tls=True)
    mechanisms(wire)
    wire.send(sasl_initial(mechanism, data))
    kind, said = wire.receive()
    assert kind == "E" and pgwire.fields(said)["C"] == "08P01"


def bound_final(scram, challenge, cbind):
    """The client's last message, bound to a certificate's hash."""
    parts = dict(p.split("=", 1) for p in challenge.decode().split(","))
    salted = hashlib.pbkdf2_hmac("sha256", scram.password, base64.b64decode(parts["s"]),
                                 int(parts["i"]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    c = base64.b64encode(b"p=tls-server-end-point,," + cbind).decode()
    auth = f"{scram.bare},{challenge.decode()},c={c},r={parts['r']}".encode()
    signature = hmac.digest(hashlib.sha256(key).digest(), auth, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode()
    return f"c={c},r={parts['r']},p={proof}".encode()


@pytest.mark.parametrize("genuine", [True, False])
def test_a_proof_for_another_certificate_is_refused(tls_door, genuine):
    """Somebody in the middle shows a certificate of his own and passes the proof on: it must fail,
    though user and password are right."""
    wire = tls_door("scram").wire(login=False, tls=True)
    mechanisms(wire)
    cert = wire.sock.getpeercert(binary_form=True)
    cbind = hashlib.sha256(cert if genuine else cert + b"!").digest()
    scram = pgwire.Scram(PASSWORD)
    scram.first()
    wire.send(sasl_initial("SCRAM-SHA-256-PLUS",
                           b"p=tls-server-end-point,," + scram.bare.encode()))
    kind, body = wire.receive()
    assert (kind, body[:4]) == ("R", b"\0\0\0\x0b")
    wire.send(pgwire.message("p", bound_final(scram, body[4:], cbind)))
    kind, body = wire.receive()
    assert kind == ("R" if genuine else "E")


# -- peer

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def peer_door(carpool, pg):
    def make(workers=1, **auth):
        config = postgres_pool(pg.url(), auth={"method": "peer", **auth})
        daemon = carpool(config, start=False, workers=workers)
        path = daemon.folder / ".s.PGSQL.6432"
        daemon.write({"workers": workers, "pools": [{**config, "listen": [
            {"unix": str(path), "mode": "0666"}, *config["listen"]]}]})
        return daemon.start(), dict(host=str(daemon.folder), port=6432)
    return make


def test_peer(peer_door, workers, tmp_path):
    (tmp_path / "users").write_text(f'"app" "{PASSWORD}"\n"other" "x"\n"{ME}" "x"\n')
    daemon, where = peer_door(workers, map={ME: "app", "nobody": "other"},
                              users_file=str(tmp_path / "users"))
    assert works(daemon, **where)
    assert "peer authentication failed" in refusal(daemon, user="other", **where)
    assert "peer authentication failed" in refusal(daemon, user=ME, **where)
    assert works(daemon, password=PASSWORD), "its TCP address asks for SCRAM"
    assert "authentication failed" in refusal(daemon, password="wrong")


@pytest.mark.skipif(ME == "app", reason="this account has the user's name")
def test_peer_wants_the_same_name_without_a_map(peer_door):
    _, where = peer_door()
    with pytest.raises(PgError) as e:
        Wire(None, None, path=f"{where['host']}/.s.PGSQL.{where['port']}")
    assert e.value.code == "28000"


@pytest.mark.skipif(not RUNAS.kwargs, reason="only root can be somebody else")
def test_peer_is_the_process_not_the_claim(peer_door):
    """Another account of this machine claims to be app; psql of the right one gets in."""
    name = pwd.getpwuid(RUNAS.uid).pw_name
    daemon, where = peer_door(map={name: "app"})
    assert "peer authentication failed" in refusal(daemon, **where)
    done = subprocess.run(
        ["psql", "-XAtq", "-d", daemon.dsn(**where), "-c", "select current_user"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, cwd="/",
        **RUNAS.kwargs)
    assert done.stdout == "app\n", done.stderr


# -- client certificates

@pytest.fixture(scope="module")
def identity(servers, tmp_path_factory):
    """identity(common name, alternative names, ca=...): files of a client's certificate and key."""
    folder, authority, made = tmp_path_factory.mktemp("clients"), servers.authority, {}
    other = folder / "other.key"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "3", "-keyout", other, "-out", folder / "other.pem",
         "-subj", "/CN=a stranger's CA"])

    def make(name, also="", known=True):
        key = (name, also, known)
        if key in made:
            return made[key]
        base = folder / str(len(made))
        ca, ca_key = ((authority.ca, authority.ca_key) if known
                      else (folder / "other.pem", other))
        ext = base.with_suffix(".ext")
        ext.write_text("basicConstraints=CA:FALSE\n" + (f"subjectAltName={also}\n" if also else ""))
        run(["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout",
             base.with_suffix(".key"), "-out", base.with_suffix(".csr"), "-subj", f"/O=shop/CN={name}"])
        run(["openssl", "x509", "-req", "-in", base.with_suffix(".csr"), "-CA", ca, "-CAkey", ca_key,
             "-set_serial", str(1000 + len(made)), "-days", "3", "-extfile", ext, "-out",
             base.with_suffix(".pem")])
        base.with_suffix(".key").chmod(0o600)
        made[key] = dict(sslmode="require", sslcert=str(base.with_suffix(".pem")),
                         sslkey=str(base.with_suffix(".key")))
        return made[key]
    return make


@pytest.fixture
def cert_door(tls_door, servers):
    def make(**auth):
        return tls_door("cert", tls={"ca": str(servers.authority.ca)}, auth=auth)
    return make


def test_certificates_name_the_user(cert_door, identity):
    daemon = cert_door()
    assert works(daemon, **identity("app"))
    assert works(daemon, **identity("somebody", "DNS:app"))
    assert "certificate authentication failed" in refusal(daemon, **identity("somebody"))
    assert "certificate authentication failed" in refusal(daemon, user="somebody",
                                                          **identity("somebody")), "no such user"
    assert daemon.saw("auth_failed")


def test_certificates_by_a_map(cert_door, identity):
    daemon = cert_door(map={"web.shop": "app", "spiffe://shop/report": ["other", "app"]})
    assert works(daemon, **identity("web.shop"))
    assert works(daemon, **identity("x", "URI:spiffe://shop/report"))
    assert "certificate authentication failed" in refusal(daemon, **identity("app")), "not mapped"
    assert "certificate authentication failed" in refusal(daemon, **identity("x", "URI:spiffe://shop"))


def test_certificates_of_strangers(cert_door, identity):
    daemon = cert_door()
    refusal(daemon, **identity("app", known=False))
    refusal(daemon, sslmode="require")
    assert daemon.saw("tls_failed")
    assert "client certificate" in refusal(daemon, sslmode="disable")
    assert works(daemon, **identity("app"))


# -- salts

def salt(daemon, user):
    with daemon.wire(login=False) as wire:
        mechanisms(wire, user)
        wire.send(sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abcdef"))
        kind, body = wire.receive()
        assert (kind, body[:4]) == ("R", b"\0\0\0\x0b")
        return dict(p.split("=", 1) for p in body[4:].decode().split(","))["s"]


def test_salts_outlive_reloads_and_restarts(door):
    """As those of real users do whose verifiers are kept in a file; a salt that changed now and then
    would tell who is real."""
    users = ("plain", "kept", "nobody", "other")
    daemon = door("scram", {name: KINDS[name] for name in ("plain", "kept")})
    before = [salt(daemon, user) for user in users]
    assert len(set(before)) == len(users)
    assert {len(s) for s in before} == {24}
    daemon.reload()
    assert [salt(daemon, user) for user in users] == before
    daemon.stop()
    daemon.start()
    assert [salt(daemon, user) for user in users] == before


# -- failures

def test_failures_from_one_place_are_limited(door):
    daemon = door("scram", {"app": PASSWORD, "other": "another one"}, auth={"failures": 3})
    for _ in range(3):
        assert "authentication failed" in refusal(daemon, password="wrong")
    with pytest.raises(PgError) as e:
        daemon.wire(password=PASSWORD)
    assert e.value.code == "53400" and "rate_limited" in e.value.fields["M"]
    assert daemon.saw("rate_limited")
    wait_for(lambda: daemon.errors("auth_failed") == 3, what="the failures to be counted")
    assert works(daemon, user="other", password="another one"), "a neighbour's mistakes are his own"


def test_unknown_users_are_limited_too(door):
    daemon = door("md5", KINDS, auth={"failures": 2})
    for _ in range(2):
        assert "authentication failed" in refusal(daemon, user="nobody", password="x")
    assert "rate_limited" in refusal(daemon, user="nobody", password="x")


def test_the_limit_passes(door):
    daemon = door("scram", auth={"failures": 60})  # one more each second

    def code():
        try:
            daemon.wire(password="wrong").close()
        except PgError as e:
            return e.code
        return None
    assert wait_for(lambda: code() == "53400", 30, "the limit", interval=0)
    assert wait_for(lambda: code() == "28P01", 10, "another try to be heard")
    wait_for(lambda: daemon.wire(password=PASSWORD), 10, "the right password to be heard",
             ignore=(PgError,)).close()


def test_right_passwords_are_never_counted(door):
    daemon = door("scram", auth={"failures": 2})
    for _ in range(10):
        daemon.wire(password=PASSWORD).close()
