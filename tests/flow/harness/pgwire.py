# SPDX-License-Identifier: MIT
"""PostgreSQL's protocol by hand: for tests that need to say things no driver says.

Messages are `(type, body)` pairs; `type` is one character. Nothing is hidden: `send` writes exactly the
bytes given, `receive` reads exactly one message.
"""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
import time

from .base import PATIENCE

TIMEOUT = 10 * PATIENCE
SSL_REQUEST, GSS_REQUEST, CANCEL = 80877103, 80877104, 80877102
VERSION_3_0 = 196608


def message(kind, body=b""):
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def untyped(code, body=b""):
    """A start-up packet: length, code, body."""
    return struct.pack("!II", len(body) + 8, code) + body


def cstr(text):
    return text.encode() + b"\0"


def startup(user="app", database="orders", version=VERSION_3_0, **more):
    fields = {"user": user, "database": database, **more}
    return untyped(version, b"".join(cstr(k) + cstr(v) for k, v in fields.items()) + b"\0")


def query(sql):
    return message("Q", cstr(sql))


def parse(sql, name="", types=()):
    return message("P", cstr(name) + cstr(sql) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(name="", portal="", values=()):
    body = cstr(portal) + cstr(name) + struct.pack("!HH", 0, len(values))
    for value in values:
        raw = value if isinstance(value, bytes) else value.encode()
        body += struct.pack("!I", len(raw)) + raw
    return message("B", body + struct.pack("!H", 0))


def describe(what="P", name=""):
    return message("D", what.encode() + cstr(name))


def execute(portal="", rows=0):
    return message("E", cstr(portal) + struct.pack("!I", rows))


def close(what="S", name=""):
    return message("C", what.encode() + cstr(name))


def call(oid, *args):
    """FunctionCall with text arguments, text result."""
    body = struct.pack("!IHH", oid, 0, len(args))
    for arg in args:
        raw = arg.encode()
        body += struct.pack("!I", len(raw)) + raw
    return message("F", body + struct.pack("!H", 0))


SYNC, FLUSH, TERMINATE = message("S"), message("H"), message("X")

# What a server says to whoever logs in, for servers that a test plays itself.
WELCOME = (message("R", b"\0\0\0\0") + message("S", b"server_version\x0015.0\0")
           + message("K", b"\0\0\0\1\0\0\0\1") + message("Z", b"I"))


def fields(body):
    """The fields of an ErrorResponse or NoticeResponse."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


def row(body):
    """The columns of a DataRow, as text."""
    count, at, out = struct.unpack_from("!H", body)[0], 2, []
    for _ in range(count):
        size = struct.unpack_from("!i", body, at)[0]
        at += 4
        out.append(None if size < 0 else body[at:at + size].decode())
        at += max(size, 0)
    return out


class Eof(Exception):
    """The other side closed the connection."""


class PgError(Exception):
    def __init__(self, body):
        self.fields = fields(body)
        self.code = self.fields.get("C")
        super().__init__(f"{self.fields.get('S')} {self.code}: {self.fields.get('M')}")


class Wire:
    """One raw connection. `login=False` leaves it silent after connect(), or after the TLS handshake
    that `tls=True` asks for."""

    def __init__(self, host, port, user="app", password=None, database="orders", login=True,
                 timeout=TIMEOUT, trickle=False, path=None, tls=False, **parameters):
        if path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(str(path))
        else:
            self.sock = socket.create_connection((host, port), timeout=timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = (host, port)
        self.trickle = trickle
        self.buffer = b""
        self.parameters, self.key = {}, None
        if tls:
            self.secure()
        if login:
            self.login(user, password, database, **parameters)

    # -- bytes

    def send(self, *messages):
        data = b"".join(messages)
        if not self.trickle:
            self.sock.sendall(data)
            return self
        for i in range(len(data)):
            self.sock.sendall(data[i:i + 1])
        return self

    def read(self, n):
        while len(self.buffer) < n:
            data = self.sock.recv(65536)
            if not data:
                raise Eof(f"end of file, {len(self.buffer)} bytes of {n} read")
            self.buffer += data
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def receive(self):
        kind, size = struct.unpack("!cI", self.read(5))
        return kind.decode(), self.read(size - 4)

    def until(self, *kinds):
        """Messages up to and including the first of one of these types."""
        out = []
        while True:
            out.append(self.receive())
            if out[-1][0] in kinds:
                return out

    def quiet(self, seconds):
        """Nothing arrives for that long (an absence has to be waited for)."""
        if self.buffer:
            return False
        timeout = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self.buffer = self.sock.recv(65536)
            return False
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(timeout)

    def eof(self, timeout=TIMEOUT):
        """True when the peer closes within the time; what it says before that is thrown away."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.sock.settimeout(max(0.05, end - time.monotonic()))
            try:
                if not self.sock.recv(65536):
                    return True
            except ConnectionError:
                return True
            except TimeoutError:
                return False
        return False

    def farewell(self):
        """The error that is the peer's last word before it closes; None: it closes without one."""
        error = None
        try:
            while True:
                kind, body = self.receive()
                error = PgError(body) if kind == "E" else None
        except (Eof, ConnectionError):
            assert not self.buffer, "half a message"
            return error

    def close(self, polite=True):
        if polite:
            try:
                self.sock.sendall(TERMINATE)
            except OSError:
                pass
        self.sock.close()

    def abort(self):
        """Leave with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- conversations

    def secure(self):
        """Into TLS by SSLRequest; who the peer is, is not looked at."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.send(untyped(SSL_REQUEST))
        assert self.read(1) == b"S"
        self.sock = context.wrap_socket(self.sock)
        return self

    def login(self, user="app", password=None, database="orders", **parameters):
        return self.hear_welcome(startup(user, database, **parameters), user, password)

    def hear_welcome(self, packet, user="app", password=None):
        """Log in by a startup packet of one's own."""
        self.send(packet)
        while True:
            kind, body = self.receive()
            if kind == "E":
                raise PgError(body)
            if kind == "R":
                self._authenticate(body, user, password)
            elif kind == "S":
                name, value = body.split(b"\0")[:2]
                self.parameters[name.decode()] = value.decode()
            elif kind == "K":
                self.key = struct.unpack("!I", body[:4])[0], body[4:]
            elif kind == "Z":
                return self

    def _authenticate(self, body, user, password):
        code = struct.unpack("!I", body[:4])[0]
        if code == 10:
            assert b"SCRAM-SHA-256" in body[4:].split(b"\0")
            self.scram = Scram(password)
            first = self.scram.first()
            self.send(message("p", cstr("SCRAM-SHA-256") + struct.pack("!I", len(first)) + first))
        elif code == 11:
            self.send(message("p", self.scram.final(body[4:])))
        elif code == 12:
            assert self.scram.server_is_genuine(body[4:]), "wrong server signature"
        elif code == 3:
            self.send(message("p", cstr(password)))
        elif code == 5:
            inner = hashlib.md5((password + user).encode()).hexdigest()
            self.send(message("p", cstr("md5" + hashlib.md5(inner.encode() + body[4:8]).hexdigest())))
        elif code != 0:
            raise AssertionError(f"authentication request {code} is not expected")

    def run(self, sql):
        """Simple query: (rows, tags, error or None, transaction status)."""
        self.send(query(sql))
        return self.results()

    def results(self):
        rows, tags, error = [], [], None
        for kind, body in self.until("Z"):
            if kind == "D":
                rows.append(row(body))
            elif kind == "C":
                tags.append(body[:-1].decode())
            elif kind == "E":
                error = PgError(body)
        return rows, tags, error, body.decode()

    def cancel(self):
        """CancelRequest for this connection over a new one; waits until the peer closed that."""
        pid, secret = self.key
        other = Wire(*self.address, login=False, tls=isinstance(self.sock, ssl.SSLSocket))
        with other.sock:
            other.send(untyped(CANCEL, struct.pack("!I", pid) + secret))
            return other.sock.recv(1) == b""


class Scram:
    """The client's half of SCRAM-SHA-256 (RFC 5802, 7677)."""

    def __init__(self, password):
        self.password = (password or "").encode()
        self.nonce = base64.b64encode(os.urandom(18)).decode()

    def first(self):
        self.bare = f"n=,r={self.nonce}"
        return ("n,," + self.bare).encode()

    def final(self, challenge):
        parts = dict(p.split("=", 1) for p in challenge.decode().split(","))
        assert parts["r"].startswith(self.nonce)
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(parts["s"]),
                                     int(parts["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={parts['r']}"
        auth = f"{self.bare},{challenge.decode()},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), auth, "sha256")
        self.expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), auth, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def server_is_genuine(self, final):
        return final == b"v=" + base64.b64encode(self.expected)
