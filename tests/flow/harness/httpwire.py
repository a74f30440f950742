# SPDX-License-Identifier: MIT
"""HTTP on the wire: a client that sends exactly the bytes it is told, and an origin driven by the test.

    with Http(port) as c:
        c.send(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        r = c.response()             r.status, r["via"], r.all("set-cookie"), r.body, r.framing
        c.ends()                     the peer has closed, and nothing stood before that

    origin = RawOrigin()
    conn = origin.accept()           the next connection, a Peer
    conn.request()                   a whole request with its body
    conn.send(b"HTTP/1.1 200 OK\\r\\n...");  conn.close();  conn.reset()

The reader is strict: what it accepts is well framed. Everything is bounded by TIMEOUT.
"""

import contextlib
import queue
import socket
import struct
import threading

from .base import LOOPBACK, PATIENCE, free_port
from .carpool import merge

TIMEOUT = 15 * PATIENCE
NO_BREAKER = {"consecutive": 0, "failure_ratio": "0%"}


def http_pool(upstream, **over):
    """A pool named `web` of at most 3 servers on a free port; `over` is laid on it."""
    return merge({"name": "web", "kind": "http", "listen": [f"{LOOPBACK}:{free_port()}"],
                  "upstream": upstream, "size": {"min": 0, "max": 3}}, over)


class Closed(Exception):
    """The peer closed where more was needed; `seen` is what came before."""

    def __init__(self, seen):
        super().__init__(f"closed after {seen[-200:]!r}")
        self.seen = seen


class Message:
    """A request or a response, as it came."""

    def __init__(self, first, fields):
        self.first, self.fields = first, fields
        self.body, self.framing, self.chunks, self.trailers = b"", None, [], []

    @property
    def status(self):
        return int(self.first.split(" ", 2)[1])

    @property
    def method(self):
        return self.first.split(" ")[0]

    @property
    def target(self):
        return self.first.split(" ")[1]

    def all(self, name):
        return [v for k, v in self.fields if k.lower() == name.lower()]

    def __getitem__(self, name):
        values = self.all(name)
        return values[0] if values else None

    def __contains__(self, name):
        return bool(self.all(name))

    def __repr__(self):
        return f"<{self.first} {self.fields} {self.framing} {self.body[:80]!r}>"


class Peer:
    """One end of a connection."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(TIMEOUT)
        self.unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- out

    def send(self, data):
        self.sock.sendall(data)
        return self

    def trickle(self, data):
        """Byte by byte, each in a segment of its own."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            self.sock.sendall(data[i:i + 1])
        return self

    def finish(self):
        """End-of-file to the peer; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def close(self):
        self.sock.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # -- in

    def _more(self, seen=b""):
        data = self.sock.recv(65536)
        if not data:
            raise Closed(seen + self.unread)
        self.unread += data

    def until(self, mark):
        while mark not in self.unread:
            self._more()
        found, _, self.unread = self.unread.partition(mark)
        return found + mark

    def exactly(self, n):
        while len(self.unread) < n:
            self._more()
        found, self.unread = self.unread[:n], self.unread[n:]
        return found

    def rest(self):
        """Everything up to the peer's end-of-file."""
        try:
            while True:
                self._more()
        except Closed:
            found, self.unread = self.unread, b""
            return found

    def head(self):
        text = self.until(b"\r\n\r\n").decode("latin-1")
        assert "\n" not in text.replace("\r\n", ""), f"bare line feed in {text!r}"
        first, *lines = text[:-4].split("\r\n")
        fields = []
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon and name and name == name.strip(), f"bad field line {line!r}"
            fields.append((name, value.strip()))
        return Message(first, fields)

    def _chunked(self, m):
        while True:
            size = int(self.until(b"\r\n")[:-2], 16)
            if size == 0:
                break
            m.chunks.append(self.exactly(size))
            assert self.exactly(2) == b"\r\n", "a chunk does not end where it says"
        while (line := self.until(b"\r\n")) != b"\r\n":
            m.trailers.append(line)
        m.body = b"".join(m.chunks)

    def _body(self, m, bodiless, by_close):
        lengths, codings = m.all("content-length"), m.all("transfer-encoding")
        assert len(lengths) + len(codings) <= 1 or bodiless, f"ambiguous framing: {m}"
        if bodiless:
            m.framing = "none"
        elif codings:
            assert codings == ["chunked"], codings
            m.framing = "chunked"
            self._chunked(m)
        elif lengths:
            m.framing = "length"
            m.body = self.exactly(int(lengths[0]))
        elif by_close:
            m.framing = "close"
            m.body = self.rest()
        else:
            m.framing = "none"
        return m

    def response(self, to="GET"):
        """The next final response; interim ones are kept in its `interim`."""
        interim = []
        while (m := self.head()).status < 200:
            interim.append(m)
        m.interim = interim
        return self._body(m, to == "HEAD" or m.status in (204, 304), True)

    def request(self):
        return self._body(self.head(), False, False)

    def ends(self):
        """The peer closes, by end-of-file, without another byte."""
        left = self.rest()
        assert left == b"", f"unexpected bytes before the end: {left[:200]!r}"
        return True

    def closed(self):
        """Has the peer closed by now, or does it within a moment? Bytes stay unread."""
        self.sock.settimeout(1)
        try:
            return not self.unread and self.sock.recv(1, socket.MSG_PEEK) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            self.sock.settimeout(TIMEOUT)

    def silent(self, seconds=0.3):
        """Nothing comes for a while. (A negative can only be watched for a time.)"""
        assert not self.unread, self.unread
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(1)
            assert False, f"unexpected {data!r}"
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(TIMEOUT)


class Http(Peer):
    """A client."""

    def __init__(self, port, host=LOOPBACK, path=None, rcvbuf=None):
        if path:
            sock = socket.socket(socket.AF_UNIX)
            address = str(path)
        else:
            sock = socket.socket()
            address = (host, port)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.settimeout(TIMEOUT)
        sock.connect(address)
        super().__init__(sock)

    def get(self, target="/", *lines):
        return self.ask("GET", target, *lines)

    def ask(self, method, target="/", *lines, body=b"", version="1.1"):
        """Sends a request with a Host and a Content-Length if there is a body; gives the response."""
        self.send(request(method, target, *lines, body=body, version=version))
        return self.response(method)


def request(method="GET", target="/", *lines, body=b"", version="1.1", host="x"):
    head = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        head.append(f"Host: {host}")
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1") + body


def reply(body=b"", *lines, status="200 OK"):
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def refused(r, status, cause):
    """A local answer: the status, the cause in Proxy-Status and text, and when to come back."""
    assert r.status == status, r
    told = r["proxy-status"]
    assert told and told.startswith("carpool; error="), r
    assert f'details="{cause}' in told, told
    if r.framing != "none":
        assert r.body.startswith(b"carpool: " + cause.encode()), r.body
    if status in (429, 503):
        assert int(r["retry-after"]) >= 1, r
    return True


class RawOrigin:
    """Accepts connections and leaves them to the test."""

    def __init__(self):
        self.host, self.port = LOOPBACK, free_port()
        self.accepted = 0
        self.peers = []
        self._queue = queue.Queue()
        self._listen()

    def _listen(self):
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind((self.host, self.port))
        self._sock.listen(128)
        threading.Thread(target=self._run, args=(self._sock,), daemon=True).start()

    def _run(self, sock):
        while True:
            try:
                conn, _ = sock.accept()
            except OSError:
                return
            self.accepted += 1
            peer = Peer(conn)
            self.peers.append(peer)
            self._queue.put(peer)

    def url(self, scheme="http"):
        return f"{scheme}://{self.host}:{self.port}"

    def accept(self, timeout=TIMEOUT):
        return self._queue.get(timeout=timeout)

    def refuse(self):
        """No more connections; those there are live on."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def close(self):
        self.refuse()
        for peer in self.peers:
            peer.close()
