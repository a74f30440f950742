# SPDX-License-Identifier: MIT
"""The proxies that are compared: carpool and the distribution's, each on a free loopback port.

Every one gets the same bound of connections to the server as far as it knows such a bound, one
thread, and no log line per request or connection. All else is left at its defaults unless said here.
"""

import contextlib
import http.client
import os
import re
import shutil
import subprocess

from harness.base import LOOPBACK, RUNAS, Child, can_connect, free_port, temp_folder, wait_for
from harness.carpool import Carpool
from harness.nginx import Nginx

# Debian keeps servers out of the PATH of ordinary users.
os.environ["PATH"] += ":/usr/sbin:/sbin"


class Unsupported(Exception):
    """This carpool cannot do the protocol (yet); the text is what it said."""


class Peer:
    """Another proxy: `config(self)` is the text of its file, `command(self)` how it is started."""

    name = program = None

    def __init__(self, server):
        self.server, self.port = server, free_port()
        self.folder = temp_folder(self.program)
        self.conf, self.log = self.folder / "conf", self.folder / "log"
        self.log.touch()
        self.conf.write_text(self.config())
        RUNAS.own(self.folder)
        self.child = Child(self.command(), self.folder / "out", cwd="/", **RUNAS.kwargs)
        try:
            wait_for(lambda: self.child.check() and can_connect(LOOPBACK, self.port), 15, self.name)
        except Exception:
            self.close()
            raise

    def command(self):
        return [self.program, *self.arguments()]

    def close(self):
        self.child.stop(timeout=5)
        shutil.rmtree(self.folder, ignore_errors=True)


class Pgbouncer(Peer):
    name = program = "pgbouncer"

    def __init__(self, server, pool, user, password, secret, database, sslmode, auth="scram-sha-256"):
        self.auth = auth
        self.pool, self.user, self.password = pool, user, password
        self.secret, self.database, self.sslmode = secret, database, sslmode
        super().__init__(server)

    @staticmethod
    def prepares():
        """Does it carry prepared statements across transactions?"""
        said = subprocess.run(["pgbouncer", "--version"], capture_output=True, text=True).stdout
        version = re.search(r"(\d+)\.(\d+)", said)
        return version is not None and tuple(map(int, version.groups())) >= (1, 21)

    def config(self):
        users = self.folder / "users"
        users.write_text(f'"{self.user}" "{self.secret}"\n')
        return (f"[databases]\n{self.database} = host={self.server.host} port={self.server.port}"
                f" dbname={self.database} user={self.user} password='{self.password}'\n"
                f"[pgbouncer]\nlisten_addr = {LOOPBACK}\nlisten_port = {self.port}\n"
                f"unix_socket_dir =\nauth_type = {self.auth}\nauth_file = {users}\n"
                f"server_tls_sslmode = {self.sslmode}\n"
                f"pool_mode = transaction\ndefault_pool_size = {self.pool}\nmax_client_conn = 15000\n"
                f"log_connections = 0\nlog_disconnections = 0\nlogfile = {self.log}\n"
                + ("max_prepared_statements = 200\n" if self.prepares() else ""))

    def arguments(self):
        return ["-q", self.conf]


class Nutcracker(Peer):
    name = program = "nutcracker"

    def __init__(self, server, pool):
        self.pool = pool
        super().__init__(server)

    def config(self):
        return (f"cache:\n  listen: {LOOPBACK}:{self.port}\n  redis: true\n  hash: fnv1a_64\n"
                f"  distribution: ketama\n  preconnect: true\n  server_connections: {self.pool}\n"
                f"  servers:\n    - {self.server.host}:{self.server.port}:1\n")

    def arguments(self):
        return ["-c", self.conf, "-a", LOOPBACK, "-s", str(free_port()), "-v", "4", "-o", self.log]


class Haproxy(Peer):
    name = program = "haproxy"

    def __init__(self, server, pool):
        self.pool = pool
        super().__init__(server)

    def config(self):
        return ("global\n  nbthread 1\n  maxconn 1000\n"
                "defaults\n  mode http\n  option forwardfor\n  http-reuse always\n"
                "  timeout connect 5s\n  timeout client 60s\n  timeout server 15s\n"
                "  timeout queue 5s\n"
                f"frontend door\n  bind {LOOPBACK}:{self.port}\n  default_backend origin\n"
                f"backend origin\n  server origin {self.server.host}:{self.server.port}"
                f" maxconn {self.pool} pool-max-conn {self.pool}\n")

    def arguments(self):
        return ["-db", "-f", self.conf]

    def command(self):
        # The harness has servers die by SIGQUIT when it is killed; this one only writes a report then.
        return ["setpriv", "--pdeathsig", "KILL", *super().command()]


class NginxProxy(Peer):
    """Its free edition has no queue for a bounded upstream, so it is not bounded, only reusing."""

    name, program = "nginx", "nginx"

    def __init__(self, server, pool):
        self.pool = pool
        super().__init__(server)

    def config(self):
        paths = "\n".join(f"  {kind}_temp_path {self.folder}/{kind};" for kind in
                          ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return (f"daemon off;\nworker_processes 1;\npid {self.folder}/pid;\n"
                "events { worker_connections 2048; }\n"
                f"http {{\n  access_log off;\n{paths}\n  keepalive_requests 1000000;\n"
                f"  upstream origin {{\n    server {self.server.host}:{self.server.port};\n"
                f"    keepalive {self.pool};\n    keepalive_requests 1000000;\n  }}\n"
                f"  server {{\n    listen {LOOPBACK}:{self.port} backlog=1024;\n    location / {{\n"
                "      proxy_pass http://origin;\n      proxy_http_version 1.1;\n"
                '      proxy_set_header Connection "";\n'
                "      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
                "      proxy_buffers 8 32k;\n      proxy_max_temp_file_size 0;\n"
                "    }\n  }\n}\n")

    def arguments(self):
        return ["-c", self.conf, "-e", self.log]


class Origin(Nginx):
    """The harness' origin without a line in a log for each request."""

    def _prepare(self, *args):
        super()._prepare(*args)
        text = self.conf.read_text()
        self.conf.write_text(text.replace(f"access_log {self.folder}/access.log flow;",
                                          "access_log off; sendfile on; tcp_nopush on;"))


class Door:
    """A carpool with one pool, as a process like those above."""

    def __init__(self, binary, pool, workers=1):
        self.name = "carpool" if workers == 1 else f"carpool, {workers} workers"
        self.port, self.workers = free_port(), workers
        self.carpool = Carpool(binary, start=False)
        self.configure(pool)

    def configure(self, pool):
        self.carpool.write({"workers": self.workers, "log": {"level": "warn"},
                            "pools": [{**pool, "listen": [f"{LOOPBACK}:{self.port}"]}]})

    def start(self):
        """Raises Unsupported when it ends instead of listening."""
        self.carpool.start(wait=False)
        try:
            wait_for(lambda: not self.carpool.alive() or can_connect(LOOPBACK, self.port), 15,
                     "carpool's listener")
        except AssertionError as e:
            self.close()
            raise Unsupported(str(e)) from None
        if not self.carpool.alive():
            said = self.carpool.log_text().strip().splitlines()[-1:] or ["without a word"]
            self.close()
            raise Unsupported(f"carpool ended: {said[0]}")
        return self

    @property
    def child(self):
        return self

    def family(self):
        return [self.carpool.pid]

    def write(self, name, text):
        """A file of its own beside the configuration; returns the path."""
        path = self.carpool.folder / name
        path.write_text(text)
        return path

    def close(self):
        with contextlib.suppress(AssertionError):
            if self.carpool.alive():
                self.carpool.stop(timeout=12)
        self.carpool.close()


def answers(port, path):
    """What an HTTP server says: (status, length of the body)."""
    conn = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    with contextlib.closing(conn):
        conn.request("GET", path)
        got = conn.getresponse()
        return got.status, len(got.read())
