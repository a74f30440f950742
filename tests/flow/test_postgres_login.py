# SPDX-License-Identifier: MIT
"""From connected to logged in, byte by byte: encryption requests, direct TLS, protocol versions and
their cancel keys, bounds of the first packets."""

import asyncio
import socket
import ssl
import struct
import threading

import asyncpg
import pytest
from harness import pgwire
from harness.base import LOOPBACK, wait_for
from harness.carpool import PASSWORD
from harness.pgwire import Eof, PgError

VERSION_3_2 = 3 << 16 | 2


@pytest.fixture
def tls_orders(orders, servers):
    ca = servers.authority

    def make(**over):
        return orders(tls={"cert": str(ca.cert), "key": str(ca.key)}, **over)
    return make


def encrypt(wire, *alpn):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    wire.sock = context.wrap_socket(wire.sock)
    return wire


def asks_for_tls(wire):
    wire.send(pgwire.untyped(pgwire.SSL_REQUEST))
    assert wire.read(1) == b"S"
    return wire


def says_nothing_more(wire):
    """Closed, and what came before that was no session."""
    try:
        while True:
            kind, body = wire.receive()
            assert kind == "E", (kind, body)
    except (Eof, OSError):
        return True


# -- direct TLS

def test_direct_tls(tls_orders, workers):
    """TLS from the first byte, as libpq 17 does with sslnegotiation=direct."""
    daemon = tls_orders(workers=workers)
    wire = encrypt(daemon.wire(login=False), "postgresql")
    assert wire.sock.selected_alpn_protocol() == "postgresql"
    wire.login()
    assert wire.run("select 1")[0] == [["1"]]
    assert len(wire.run("select repeat('x', 1000000)")[0][0][0]) == 1_000_000
    wire.close()


def test_asyncpg_direct_tls(tls_orders):
    async def talk(daemon):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["postgresql"])
        conn = await asyncpg.connect(host=LOOPBACK, port=daemon.port(), user="app",
                                     database="orders", ssl=context, direct_tls=True,
                                     statement_cache_size=0)
        try:
            return await conn.fetchval("select 1")
        finally:
            await conn.close()
    assert asyncio.run(talk(tls_orders())) == 1


def test_direct_tls_must_name_the_protocol(tls_orders):
    """Else a browser's request, sent to this port, would be taken for a client (ALPACA)."""
    daemon = tls_orders()
    wire = encrypt(daemon.wire(login=False))
    wire.send(pgwire.startup())
    assert says_nothing_more(wire)
    with pytest.raises(ssl.SSLError):
        encrypt(daemon.wire(login=False), "http/1.1", "h2")
    assert daemon.logged("ALPN")
    with daemon.wire() as other:
        assert other.run("select 1")[0] == [["1"]]


def test_alpn_after_sslrequest_is_optional_but_not_wrong(tls_orders):
    daemon = tls_orders()
    for names in ((), ("postgresql",), ("h2", "postgresql")):
        with encrypt(asks_for_tls(daemon.wire(login=False)), *names) as wire:
            wire.login()
            assert wire.run("select 1")[0] == [["1"]]
    with pytest.raises(ssl.SSLError):
        encrypt(asks_for_tls(daemon.wire(login=False)), "http/1.1")


def test_direct_tls_at_a_door_without_it(orders):
    daemon = orders()
    with pytest.raises((ssl.SSLError, OSError)):
        encrypt(daemon.wire(login=False), "postgresql")
    wait_for(lambda: daemon.log_lines("unsupported", "no TLS"), 5, "the reason in the log")


def test_no_second_tls_inside_tls(tls_orders):
    daemon = tls_orders()
    for request in (pgwire.SSL_REQUEST, pgwire.GSS_REQUEST):
        for begin in (lambda w: encrypt(asks_for_tls(w)), lambda w: encrypt(w, "postgresql")):
            wire = begin(daemon.wire(login=False))
            wire.send(pgwire.untyped(request))
            assert pgwire.fields(wire.receive()[1])["C"] == "08P01"
            assert wire.eof()


# -- SSLRequest, GSSENCRequest

def test_nothing_in_clear_after_yes(tls_orders):
    """Once 'S' was said, a startup packet in clear is no startup packet."""
    wire = asks_for_tls(tls_orders().wire(login=False))
    wire.send(pgwire.startup(), pgwire.query("select 1"))
    try:
        said = wire.sock.recv(1 << 16)
    except ConnectionError:
        said = b""
    assert not said.startswith((b"R", b"E")), "answered in clear"
    assert wire.eof()


@pytest.mark.parametrize("request_", [pgwire.SSL_REQUEST, pgwire.GSS_REQUEST])
def test_nothing_rides_behind_a_request(orders, tls_orders, request_):
    for daemon in (orders(), tls_orders()):
        wire = daemon.wire(login=False)
        wire.send(pgwire.untyped(request_) + pgwire.startup())
        kind, body = wire.receive()
        assert kind == "E" and pgwire.fields(body)["C"] == "08P01"
        assert says_nothing_more(wire)


@pytest.mark.parametrize("first,second,fine", [
    (pgwire.GSS_REQUEST, pgwire.SSL_REQUEST, True), (pgwire.SSL_REQUEST, pgwire.GSS_REQUEST, True),
    (pgwire.GSS_REQUEST, pgwire.GSS_REQUEST, False), (pgwire.SSL_REQUEST, pgwire.SSL_REQUEST, False)])
def test_each_request_once(orders, first, second, fine):
    wire = orders().wire(login=False)
    wire.send(pgwire.untyped(first))
    assert wire.read(1) == b"N"
    wire.send(pgwire.untyped(second))
    if fine:
        assert wire.read(1) == b"N"
        wire.login()
        assert wire.run("select 1")[0] == [["1"]]
    else:
        assert pgwire.fields(wire.receive()[1])["C"] == "08P01"
        assert wire.eof()


# -- versions

def welcome(daemon, version, **more):
    wire = daemon.wire(login=False)
    wire.send(pgwire.startup(version=version, **more))
    messages = dict(wire.until("Z"))
    pid, = struct.unpack("!I", messages["K"][:4])
    wire.key = pid, messages["K"][4:]
    return wire, messages.get("v")


def test_versions(orders):
    """3.2 gets its long key and no negotiation; newer ones are told 3.2."""
    daemon = orders()
    for version, told, key in ((3 << 16, None, 4), (VERSION_3_2, None, 16),
                               (3 << 16 | 9999, VERSION_3_2, 16)):
        wire, negotiated = welcome(daemon, version)
        assert len(wire.key[1]) == key, hex(version)
        assert negotiated == (told and struct.pack("!II", told, 0))
        assert wire.run("select 1")[0] == [["1"]]
        wire.close()


@pytest.mark.parametrize("version", [3 << 16, VERSION_3_2])
def test_unknown_protocol_options(orders, version):
    wire, negotiated = welcome(orders(), version, **{"_pq_.one": "1", "_pq_.two": "x"})
    assert negotiated == struct.pack("!II", version, 2) + b"_pq_.one\0_pq_.two\0"
    assert wire.run("select 1")[0] == [["1"]]


@pytest.mark.parametrize("version", [2 << 16, 4 << 16])
def test_other_protocols_are_refused(orders, version):
    wire = orders().wire(login=False)
    wire.send(pgwire.startup(version=version))
    assert pgwire.fields(wire.receive()[1])["C"] == "0A000"
    assert wire.eof()


def test_long_keys_cancel(orders, pg, workers):
    """The whole key must be right, not only what would be the old short one."""
    daemon = orders(workers)
    wire, _ = welcome(daemon, VERSION_3_2)
    pid, key = wire.key
    wire.send(pgwire.query("select pg_sleep(60) /* long keys */"))
    wait_for(lambda: pg.active("%long keys%"), 10, "the query to run")
    for wrong in (key[:4], key[:-1], key[:-1] + bytes([key[-1] ^ 1]), key + b"\0", bytes(16)):
        wire.key = pid, wrong
        assert wire.cancel()
    assert wire.quiet(0.3), "a wrong key cancelled it"
    wire.key = pid, key
    assert wire.cancel()
    assert wire.results()[2].code == "57014"


# -- options

BLANKS = [" ", "\t", "\n", "\v", "\f", "\r", " \t \n "]
OPTIONS = [
    "-c my.x=1", "-cmy.x=1", "--my.x=1", "-c my.x=1 -cwork_mem=7MB --lock-timeout=3s", "-c work-mem=7MB",
    "-c my.x=1 -c my.x=2", "--my.x=", "--my.x=a=b", "--my.x=-c", "-c --my.x=1",
    *(f"{blank}-c{blank}my.x=1{blank}-cwork_mem=7MB{blank}--lock_timeout=3s{blank}" for blank in BLANKS),
    *(f"-c my.x=1\\{blank} --work_mem=7MB" for blank in BLANKS),
    *(f"-c my.x=1\\\\{blank}--work_mem=7MB" for blank in BLANKS),
    "-c my.x=1\\\\\\ --work_mem=7MB", "-c my.x=1\\", "-c my.x=1\\\\", "\\-\\c \\m\\y.x\\=\\1", "-c my.x=1 \\",
    "-c my.x=" + "x" * 3000, "", " ", "--", "-c my.x=1 --", "-- -c my.x=1", "-", "-c", "-c my.x", "--my.x",
    "-c =1", "--=1", "-c my.x=1 more", "my.x=1", "-c \\", "-c work_mem=lots", "-c nosuchsetting=1", "-z",
]


def test_options_as_the_server_reads_them(orders, pg):
    """The same settings, or refused as well."""
    daemon = orders()

    def outcome(make, options):
        try:
            with make(options=options) as wire:
                wire.send(pgwire.query("select coalesce(current_setting('my.x', true), ''),"
                                       " current_setting('work_mem'), current_setting('lock_timeout')"))
                said = dict(wire.until("Z", "E"))
                return pgwire.row(said["D"]) if "D" in said else pgwire.fields(said["E"])["S"]
        except PgError as e:
            return e.fields["S"]

    def direct(**more):
        return pgwire.Wire(pg.host, pg.port, password=PASSWORD, **more)
    with daemon.wire() as first:
        first.run("select 1")
    different = [(options, want, got) for options in OPTIONS
                 if (want := outcome(direct, options)) != (got := outcome(daemon.wire, options))]
    assert not different
    assert outcome(direct, OPTIONS[3]) == ["1", "7MB", "3s"], "the table asks for something"


# -- bounds

def padded(size):
    """A startup packet of exactly so many bytes."""
    packet = pgwire.startup(application_name="")
    return pgwire.startup(application_name="x" * (size - len(packet)))


def test_startup_packets_up_to_ten_thousand_bytes(orders):
    daemon = orders()
    wire = daemon.wire(login=False)
    wire.send(padded(10001))
    assert says_nothing_more(wire)
    wire = daemon.wire(login=False)
    wire.send(padded(10000))
    kind, body = wire.receive()  # read and understood; a name of that length is another matter
    assert kind == "R" or pgwire.fields(body)["C"] in ("08P01", "54000")


@pytest.mark.parametrize("packet", [
    b"\0\0\0\0", b"\0\0\0\3", b"\0\0\0\4", b"\0\0\0\7abc", b"\x7f\xff\xff\xff\0\3\0\0",
    b"\xff\xff\xff\xff\0\3\0\0"])
def test_startup_lengths_that_cannot_be(orders, packet):
    daemon = orders()
    wire = daemon.wire(login=False)
    wire.send(packet)
    assert says_nothing_more(wire)
    assert daemon.saw("client_protocol")


@pytest.mark.parametrize("head", [
    b"p\0\0\0\3", b"p\0\0\0\0", b"p\0\1\0\5", b"p\x7f\xff\xff\xff", b"Q\0\0\0\x08abc\0"])
def test_login_messages_that_cannot_be(orders, head):
    """Lengths are judged before anything is waited for or reserved."""
    daemon = orders(auth={"method": "scram"})
    wire = daemon.wire(login=False)
    wire.send(pgwire.startup())
    wire.receive()
    before = daemon.rss()
    wire.send(head)
    kind, body = wire.receive()
    assert kind == "E" and pgwire.fields(body)["S"] == "FATAL"
    assert pgwire.fields(body)["C"] in ("08P01", "54000")
    assert wire.eof()
    assert daemon.rss() - before < 4 << 20


def segments(sock):
    """TCP segments with data that have arrived: tcpi_data_segs_in of Linux' struct tcp_info."""
    return struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 152)[0]


def test_the_welcome_is_one_piece(orders):
    """What SCRAM says last and everything up to ReadyForQuery leave together."""
    daemon = orders(auth={"method": "scram"})
    daemon.wire(password=PASSWORD).close()  # the first waits for a server: its parameters
    wire = daemon.wire(login=False)
    scram = pgwire.Scram(PASSWORD)
    wire.send(pgwire.startup())
    wire.receive()
    first = scram.first()
    wire.send(pgwire.message("p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first))
    challenge = wire.receive()[1][4:]
    before = segments(wire.sock)
    wire.send(pgwire.message("p", scram.final(challenge)))
    wire.until("Z")
    assert segments(wire.sock) - before == 1


def test_many_logins_at_once(orders, workers):
    """Logins of all kinds side by side on one door; nobody gets another's answer."""
    daemon = orders(workers, auth={"method": "password"})
    wrong = []

    def one(i):
        try:
            with daemon.wire(password=None, login=False) as wire:
                wire.send(pgwire.startup("app" if i % 3 else "nobody"))
                assert wire.receive()[1] == struct.pack("!I", 3)
                wire.send(pgwire.message("p", pgwire.cstr(PASSWORD if i % 2 else "wrong")))
                kind, _ = wire.receive()
                if (kind == "R") != bool(i % 3 and i % 2):
                    wrong.append(i)
        except (PgError, Eof, OSError) as e:
            wrong.append((i, repr(e)))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_silence_at_a_tls_door_is_bounded(tls_orders):
    daemon = tls_orders(timeouts={"client_login": "300ms"})
    for begin in (b"", b"\x16", b"\x16\x03\x01\x02\x00", pgwire.untyped(pgwire.SSL_REQUEST)):
        sock = socket.create_connection((LOOPBACK, daemon.port()), timeout=10)
        sock.sendall(begin)
        while sock.recv(1 << 16):
            pass
    assert daemon.saw("client_timeout")


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("name", [b"Gr\xf6\xdfe", "Gr\u00f6\u00dfe".encode(), b"\xff" * 200, b"a\tb"],
                         ids=["latin1", "utf8", "long", "tab"])
def test_names_of_applications_in_any_encoding(orders, pg, mode, name):
    """A server takes any bytes in a startup packet, and cleans them; so it is here, and the same is told."""
    body = b"user\0app\0database\0orders\0application_name\0" + name + b"\0\0"
    packet = pgwire.untyped(pgwire.VERSION_3_0, body)
    daemon, heard = orders(mode=mode, size={"max": 1}), []
    for wire in (pgwire.Wire(pg.host, pg.port, login=False), daemon.wire(login=False)):
        with wire:
            wire.hear_welcome(packet, password=PASSWORD)
            told = wire.parameters["application_name"]
            shown = wire.run("show application_name")
            assert shown[2] is None, shown[2]
            heard.append((told[:40], shown[0][0][0][:40], told == shown[0][0][0]))
    assert heard[0] == heard[1]
