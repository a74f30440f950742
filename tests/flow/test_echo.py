# SPDX-License-Identifier: MIT
"""A fourth protocol over the same pools: tests/echo registers codec, driver and relay from outside.

A frame is four bytes of length and so many bytes; the server sends it back. Carpool's own answers have
the length's highest bit set.
"""

import contextlib
import random
import socket
import struct
import threading
import time

import pytest
from harness.base import LOOPBACK, SLOW, free_port, wait_for
from harness.carpool import Carpool, merge

ERROR = 0x80000000


class EchoServer:
    """Counts who is connected; can die, come back at the same port, and fall silent."""

    def __init__(self):
        self.port, self.lock = free_port(), threading.Lock()
        self.accepted = self.peak = self.frames = 0
        self.conns, self.silent, self.door = set(), False, None
        self.start()

    def url(self):
        return f"echo://{LOOPBACK}:{self.port}"

    def start(self):
        self.door = socket.create_server((LOOPBACK, self.port), backlog=64)
        threading.Thread(target=self._accept, args=(self.door,), daemon=True).start()

    def kill(self):
        """As kill -9 does: the door and every connection at once."""
        door, self.door = self.door, None
        if door:
            with contextlib.suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)  # wakes accept()
            door.close()
        with self.lock:
            for conn in self.conns:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)

    def connected(self):
        with self.lock:
            return len(self.conns)

    def _accept(self, door):
        while True:
            try:
                conn, _ = door.accept()
            except OSError:
                return
            with self.lock:
                self.accepted += 1
                self.conns.add(conn)
                self.peak = max(self.peak, len(self.conns))
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        try:
            while data := conn.recv(65536):
                if not self.silent:
                    conn.sendall(data)
        except OSError:
            pass
        finally:
            with self.lock:
                self.conns.discard(conn)
                conn.close()


class Client:
    def __init__(self, port, timeout=20):
        self.sock = socket.create_connection((LOOPBACK, port), timeout=timeout * SLOW)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, payload):
        self.sock.sendall(struct.pack(">I", len(payload)) + payload)

    def receive(self):
        """(payload, None) or (None, what carpool says)."""
        head = struct.unpack(">I", self._exactly(4))[0]
        payload = self._exactly(head & ~ERROR)
        return (None, payload.decode()) if head & ERROR else (payload, None)

    def echo(self, payload):
        self.send(payload)
        return self.receive()

    def cause(self, payload=b"hello"):
        """The cause of a frame that has to fail."""
        back, said = self.echo(payload)
        assert back is None, "a frame came back that had to fail"
        assert said.startswith("carpool: ")
        return said.split(": ")[1]

    def _exactly(self, n):
        parts = []
        while n:
            part = self.sock.recv(min(n, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            n -= len(part)
        return b"".join(parts)


@pytest.fixture
def echo_server():
    server = EchoServer()
    yield server
    server.kill()


@pytest.fixture
def parrot(request, binary, echo_server):
    """parrot(**pool keys): carpool-echo in front of the echo server."""
    program = binary.with_name("carpool-echo")
    if not program.exists():
        pytest.skip(f"{program} was not built")
    request.node.carpools = made = []

    def make(workers=1, **over):
        pool = merge({"name": "parrot", "kind": "echo", "listen": [f"{LOOPBACK}:{free_port()}"],
                      "upstream": echo_server.url(), "size": {"min": 0, "max": 3}}, over)
        made.append(Carpool(program, {"workers": workers, "pools": [pool]}))
        return made[-1]

    yield make
    try:
        for daemon in made:
            if not getattr(request.node, "failed_already", False):
                daemon.stop()
    finally:
        for daemon in made:
            daemon.close()


def in_threads(n, work):
    """work(i) in n threads; the first exception is raised here."""
    failed = []

    def run(i):
        try:
            work(i)
        except BaseException as e:  # noqa: BLE001 (it is raised again)
            failed.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "a client hangs"
    if failed:
        raise failed[0]


def test_many_clients_share_three_servers(parrot, echo_server, workers):
    daemon = parrot(workers)

    def rider(i):
        dice = random.Random(i)
        with Client(daemon.port("parrot")) as client:
            for turn in range(20):
                frame = f"{i}:{turn}:".encode() + dice.randbytes(dice.randrange(3000))
                assert client.echo(frame) == (frame, None)

    in_threads(24, rider)
    assert echo_server.peak <= 3
    assert echo_server.accepted <= 3
    assert daemon.all_errors("parrot") == {}
    assert daemon.servers("parrot") <= 3


def test_frames_of_any_size_and_cut(parrot, workers):
    daemon = parrot(workers)
    with Client(daemon.port("parrot")) as client:
        for n in (0, 1, 4071, 4072, 65536, 1 << 20):
            frame = random.Random(n).randbytes(n)
            assert client.echo(frame) == (frame, None)
        for byte in struct.pack(">I", 3) + b"abc":
            client.sock.sendall(bytes([byte]))
            time.sleep(0.001)
        assert client.receive() == (b"abc", None)


def test_frames_sent_ahead_come_back_in_order(parrot):
    daemon = parrot()
    with Client(daemon.port("parrot")) as client:
        frames = [b"%d" % i * (i % 50) for i in range(300)]
        client.sock.sendall(b"".join(struct.pack(">I", len(f)) + f for f in frames))
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.receive() for _ in frames] == [(f, None) for f in frames]
        assert client.sock.recv(1) == b""


def test_a_frame_too_large_is_refused(parrot):
    daemon = parrot()
    with Client(daemon.port("parrot")) as client:
        client.sock.sendall(struct.pack(">I", 1 << 24))
        assert client.receive()[1].startswith("carpool: too_large")
        assert client.sock.recv(1) == b""
    assert daemon.saw("too_large", "parrot")


def test_server_dies_and_comes_back(parrot, echo_server, workers):
    """Clients stay connected, hear the cause, and are served again without doing anything."""
    daemon = parrot(workers, breaker={"open": "100ms..300ms"})
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(daemon.port("parrot"))) for _ in range(6)]
        for client in clients:
            assert client.echo(b"before") == (b"before", None)
        echo_server.kill()
        seen = {client.cause() for client in clients for _ in range(3)}
        assert seen <= {"upstream_closed", "dial_failed", "breaker_open"}
        assert "dial_failed" in seen or "breaker_open" in seen
        echo_server.start()
        for client in clients:
            wait_for(lambda c=client: c.echo(b"after") == (b"after", None), 10, "service to resume")
        assert echo_server.connected() <= 3
    assert daemon.saw(next(iter(seen)), "parrot")


def test_server_lost_in_the_middle_of_a_frame(parrot, echo_server):
    daemon = parrot()
    echo_server.silent = True
    with Client(daemon.port("parrot")) as client:
        client.send(b"x" * 1000)
        wait_for(lambda: echo_server.connected() == 1, 5, "the frame's server")
        wait_for(lambda: daemon.servers("parrot", "busy") == 1, 5, "the lease")
        echo_server.kill()
        assert client.receive()[1].startswith("carpool: upstream_closed")
        echo_server.silent = False
        echo_server.start()
        wait_for(lambda: client.echo(b"after") == (b"after", None), 10, "service to resume")


def test_silent_server_costs_its_deadline(parrot, echo_server):
    daemon = parrot(size={"min": 1, "max": 1, "acquire_timeout": "500ms"}, timeouts={"request": "3s"})
    echo_server.silent = True
    with Client(daemon.port("parrot")) as first, Client(daemon.port("parrot")) as second:
        first.send(b"anybody there?")
        wait_for(lambda: daemon.servers("parrot", "busy") == 1, 5, "the lease")
        assert second.cause() == "acquire_timeout"
        assert first.receive()[1].startswith("carpool: request_timeout")
        echo_server.silent = False
        assert first.echo(b"now?") == (b"now?", None)
        assert second.echo(b"now?") == (b"now?", None)
    assert daemon.saw("acquire_timeout", "parrot") and daemon.saw("request_timeout", "parrot")


def test_dirty_server_is_not_reused(parrot, echo_server):
    """A client that leaves in the middle of a frame takes its server along."""
    daemon = parrot(size={"max": 1})
    with Client(daemon.port("parrot")) as client:
        client.sock.sendall(struct.pack(">I", 100) + b"half")
        wait_for(lambda: daemon.servers("parrot", "busy") == 1, 5, "the lease")
    with Client(daemon.port("parrot")) as client:
        assert client.echo(b"whole") == (b"whole", None)
    assert echo_server.accepted == 2
    assert echo_server.peak == 1


def verdicts(daemon, outcome):
    return daemon.metric("carpool_recycle_verdicts_total", pool="parrot", phase="idle",
                         outcome=outcome)


def test_pool_verbs_know_nothing_of_protocols(parrot, echo_server):
    daemon = parrot(size={"min": 2, "max": 2})
    wait_for(lambda: daemon.servers("parrot", "idle") == 2, 5, "min to be warmed")
    assert daemon.request("POST", "/pools/parrot/recycle").status < 300
    wait_for(lambda: echo_server.accepted >= 4, 5, "new servers")
    wait_for(lambda: daemon.servers("parrot", "idle") == 2, 5, "both to be back")
    assert echo_server.peak <= 2
    wait_for(lambda: verdicts(daemon, "drop_recycled") == 2, what="both to be counted")


def test_idle_servers_are_checked(parrot, echo_server):
    """An empty frame proves a server well; one that does not answer it is replaced."""
    daemon = parrot(size={"min": 1, "max": 1}, check={"idle": "1s", "timeout": "300ms"})
    wait_for(lambda: verdicts(daemon, "keep") >= 1, 10, "a check that went well")
    echo_server.silent = True
    wait_for(lambda: verdicts(daemon, "drop_timeout") >= 1, 10, "a check without an answer")
    echo_server.silent = False
    with Client(daemon.port("parrot")) as client:
        assert client.echo(b"well") == (b"well", None)
    assert echo_server.peak == 1
