# SPDX-License-Identifier: MIT
"""Small things every part of the harness needs: waiting, ports, folders, child processes, TLS.

Nothing here sleeps to let something happen: `wait_for` polls a condition that can be observed, and
says what it was waiting for when the time is up.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Sanitizers make the daemon, and two busy cores make everything, slow: one factor for all bounds.
SLOW = float(os.environ.get("CARPOOL_TEST_SLOW", "1"))

# Waiting costs nothing where what is waited for comes: only who measures has a reason to be in a hurry.
PATIENCE = 4 * SLOW


def wait_for(cond, timeout=10.0, what="a condition", interval=0.02, ignore=()):
    """Poll `cond` until it returns something true, and return that.

    `timeout` is in seconds, on a machine with nothing else to do; on a busy one it takes PATIENCE.
    Exceptions of the types in `ignore` count as "not yet".
    """
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    last = None
    while True:
        try:
            last = cond()
            if last:
                return last
        except ignore as e:
            last = e
        if time.monotonic() >= end:
            raise AssertionError(f"after {timeout:g} s still waiting for {what}; last: {last!r}")
        time.sleep(interval)


async def wait_for_async(cond, timeout=10.0, what="a condition", interval=0.02):
    """`wait_for` for tests that run clients in the same event loop; `cond` runs in a thread."""
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    while True:
        last = await asyncio.to_thread(cond)
        if last:
            return last
        if time.monotonic() >= end:
            raise AssertionError(f"after {timeout:g} s still waiting for {what}; last: {last!r}")
        await asyncio.sleep(interval)


@contextlib.contextmanager
def within(seconds):
    """A bound on what is done inside: nobody waited for another, longer deadline."""
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    assert took < (seconds + 4) * SLOW, f"took {took:.1f} s"


@contextlib.contextmanager
def at_deadline(seconds):
    """What is waited for inside ends at this deadline: not before it, and not at a longer one."""
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    assert 0.9 * seconds <= took < seconds + 3 * SLOW, f"took {took:.2f} s, not {seconds:g} s"


FIRST_PORT, LAST_PORT = 15000, 31000


def _walk_of_ports():
    """All in an order of chance, round and round. Test processes that run side by side (pytest -n) have a
    part of the ports each."""
    part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    parts = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    size = (LAST_PORT - FIRST_PORT) // parts
    ports = [FIRST_PORT + part * size + i for i in range(size)]
    random.shuffle(ports)
    return itertools.cycle(ports)


_ports, _ports_lock = _walk_of_ports(), threading.Lock()


def free_port():
    """A TCP port nobody listens on, outside the range the kernel gives to outgoing connections.

    Nothing reserves it, so a server that is killed can come back to it, and a test may leave it to
    nobody: for thousands of calls no other caller of this process gets it.
    """
    with _ports_lock:
        for port in itertools.islice(_ports, 200):
            if all(_can_bind(family, host, port) for family, host in
                   ((socket.AF_INET, LOOPBACK), (socket.AF_INET6, "::1"))):
                return port
    raise RuntimeError("no free port found on the loopback addresses")


def _can_bind(family, host, port):
    try:
        s = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return True  # no such family here
    with s:
        try:
            s.bind((host, port))
            return True
        except OSError as e:
            return e.errno == 99  # EADDRNOTAVAIL: the family is switched off


def can_connect(host, port):
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        return True
    return False


def temp_folder(name):
    """A short path (Unix socket addresses end at 107 bytes) that unprivileged servers may enter."""
    path = Path(tempfile.mkdtemp(prefix=f"cp-{name}-", dir="/tmp"))
    path.chmod(0o755)
    return path


class Runas:
    """The account servers run under: PostgreSQL refuses to be root, the others do not need to be."""

    def __init__(self):
        self.kwargs = {}
        self.uid = os.getuid()
        self.gid = os.getgid()
        if self.uid == 0:
            for name in ("postgres", "nobody"):
                with contextlib.suppress(KeyError):
                    entry = pwd.getpwnam(name)
                    self.uid, self.gid = entry.pw_uid, entry.pw_gid
                    self.kwargs = {"user": self.uid, "group": self.gid, "extra_groups": []}
                    return

    def own(self, path):
        """Give a file or a folder with all it holds to the account."""
        if not self.kwargs:
            return
        os.chown(path, self.uid, self.gid)
        if os.path.isdir(path):
            for folder, folders, files in os.walk(path):
                for entry in folders + files:
                    os.chown(os.path.join(folder, entry), self.uid, self.gid, follow_symlinks=False)


RUNAS = Runas()


def clean_env(**extra):
    """The environment without PG* variables and with messages in English."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    env["LC_ALL"] = "C.UTF-8"
    env.update(extra)
    return env


def run(args, timeout=60, **kwargs):
    """Run a helper command to its end; its output belongs to the error when it fails."""
    done = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=timeout,
                          stderr=subprocess.STDOUT, env=clean_env(), text=True, **kwargs)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def die_with_parent(signo):
    """For `preexec_fn`: whatever happens to the tests, even kill -9, no server is left behind."""
    def tell():
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signo))
    return tell


class Child:
    """A server process in its own session, with its output in a file, ended by its own pid."""

    def __init__(self, args, log, **kwargs):
        self.args = [str(a) for a in args]
        self.log = Path(log)
        with open(self.log, "ab") as out:
            self.proc = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                         env=clean_env(), start_new_session=True,
                                         preexec_fn=die_with_parent(signal.SIGQUIT), **kwargs)

    @property
    def pid(self):
        return self.proc.pid

    def alive(self):
        return self.proc.poll() is None

    def check(self):
        if not self.alive():
            raise RuntimeError(f"{self.args[0]} ended with {self.proc.returncode}:\n{self.tail()}")
        return True

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def family(self):
        """The process and its children, parents first."""
        children = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    stat = Path(f"/proc/{entry}/stat").read_text()
                    children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop(0)
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def signal_family(self, signo):
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signo)

    def kill9(self):
        """End it and its children without a word, and wait until they are gone."""
        pids = self.family()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.proc.wait(10)
        wait_for(lambda: not any(_is_running(p) for p in pids), 10, "killed processes to vanish")

    def stop(self, signo=signal.SIGTERM, timeout=15):
        if not self.alive():
            return
        self.proc.send_signal(signo)
        try:
            self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill9()


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Authority:
    """A throwaway certificate authority with one certificate for `localhost` (and no address).

    `other_ca` is a second authority that signed nothing here, for tests of distrust.
    """

    def __init__(self):
        self.folder = temp_folder("ca")
        self.ca, self.ca_key = self._authority("ca", "carpool flow test CA")
        self.other_ca, self.other_key = self._authority("other", "a stranger's CA")
        self.cert, self.key = self._leaf("localhost")

    def _authority(self, name, common_name):
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        conf = self.folder / f"{name}.cnf"
        conf.write_text("[req]\ndistinguished_name=dn\nx509_extensions=v3\nprompt=no\n"
                        f"[dn]\nCN={common_name}\n[v3]\nbasicConstraints=critical,CA:TRUE\n"
                        "keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n")
        run(["openssl", "req", "-x509", "-new", "-newkey", "ec", "-pkeyopt",
             "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-config", conf,
             "-keyout", key, "-out", cert])
        return cert, key

    def fresh(self):
        """Another certificate and key for `localhost`: for tests of renewal."""
        return self._leaf("localhost", "renewed")

    def client(self, name, known=True):
        """Certificate and key of a client; of this authority, or of the stranger's."""
        return self._leaf(name, f"client-{name}-{known}", "clientAuth", known)

    def _leaf(self, host, name=None, usage="serverAuth", known=True):
        name = name or host
        ca, ca_key = (self.ca, self.ca_key) if known else (self.other_ca, self.other_key)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, ext = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        ext.write_text(f"subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n"
                       f"extendedKeyUsage={usage}\n")
        run(["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key,
             "-out", request, "-subj", f"/CN={host}"])
        run(["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key,
             "-CAcreateserial", "-days", "30", "-extfile", ext, "-out", cert])
        return cert, key

    def give(self, folder):
        """Copy certificate and key to a server's own folder, readable by its account alone."""
        cert, key = Path(folder) / "server.pem", Path(folder) / "server.key"
        shutil.copy(self.cert, cert)
        shutil.copy(self.key, key)
        for path in (cert, key):
            path.chmod(0o600)
            RUNAS.own(path)
        return cert, key

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Loop:
    """An asyncio loop in a thread of its own, for the small servers of this package."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, coro, timeout=10):
        return asyncio.run_coroutine_threadsafe(coro, self.loop).result(timeout * PATIENCE)

    def close(self):
        async def cancel_all():
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            self.call(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)
        self.loop.close()


class Peak:
    """Samples a number in a thread while a `with` block runs; `value` is the largest seen."""

    def __init__(self, sample, every=0.01):
        self.sample, self.every = sample, every
        self.value, self.samples, self.error = 0, 0, None
        self._end = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._end.is_set():
            try:
                self.value = max(self.value, self.sample())
                self.samples += 1
            except Exception as e:  # the server may be down on purpose: remember, go on
                self.error = e
            self._end.wait(self.every)

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(60)
