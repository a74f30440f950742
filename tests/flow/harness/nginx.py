# SPDX-License-Identifier: MIT
"""nginx as a well-behaved HTTP origin, or an existing one named by the environment.

    /echo       200 with the request's method, path, some headers and the connection's number
    /big/N      a file of N bytes (made by `big()`)
    /sized/N    the same, with `limit_conn`: at the bound the origin answers 503 and logs it
    /slow/N     /sized at 4 KiB a second
    /status/N   an empty answer with that status (204, 304, 404, 500, 503)
    /nginx      stub_status: what the server counts itself
    everything else is a short answer

`limit_conn` has no say where nginx answers by `return`, and counts connections that have a request in
work; `connections()` and the access log's connection numbers tell of idle ones too.
"""

import contextlib
import http.client
import re
import signal
import ssl
from pathlib import Path

from .base import LOOPBACK, PATIENCE, RUNAS, Child, Peak, free_port, temp_folder
from .life import Mortal

CONF = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log notice;
events {{ worker_connections 2048; }}
http {{
    log_format flow '$connection $connection_requests $status $body_bytes_sent "$request" '
                    '"$http_via" $ssl_protocol';
    access_log {folder}/access.log flow;
    client_body_temp_path {folder}/t1;
    proxy_temp_path {folder}/t2;
    fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4;
    scgi_temp_path {folder}/t5;
    default_type text/plain;
    keepalive_timeout {keepalive};
    keepalive_requests 1000000;
    limit_conn_zone $server_name zone=all:1m;
    limit_conn_log_level error;
    server {{
        server_name origin;
        listen {host}:{port} backlog=1024;
        listen unix:{folder}/http.sock;
        {tls}
        location = /nginx {{ stub_status; access_log off; }}
        location = /echo {{
            return 200 "$request_method $request_uri host=$http_host via=$http_via xff=$http_x_forwarded_for conn=$connection\\n";
        }}
        location /big/ {{ alias {folder}/big/; }}
        location /slow/ {{ alias {folder}/big/; limit_rate 4k; {limit} }}
        location /sized/ {{ alias {folder}/big/; {limit} }}
        location = /status/204 {{ return 204; }}
        location = /status/304 {{ return 304; }}
        location = /status/404 {{ return 404; }}
        location = /status/500 {{ return 500; }}
        location = /status/503 {{ return 503; }}
        location / {{ return 200 "ok\\n"; }}
    }}
}}
"""

TLS = """listen {host}:{tls_port} ssl backlog=1024;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;"""


class Nginx(Mortal):
    """`limit` is the bound of `limit_conn` (None: no bound)."""

    name, polite, at_the_end = "http", signal.SIGQUIT, signal.SIGTERM

    def __init__(self, authority=None, limit=None, keepalive="60s", address=None, tls_address=None,
                 fault=None, folder=None):
        self.fault = fault
        self.folder = Path(folder) if folder else None
        self.socket = self.folder / "http.sock" if folder else None
        self.ca = None
        if address:
            self.host, self.port = address
            self.tls_port = tls_address[1] if tls_address else None
        else:
            self._prepare(authority, limit, keepalive)
        self.start()

    def _prepare(self, authority, limit, keepalive):
        self.host, self.port, self.tls_port = LOOPBACK, free_port(), None
        self.folder = temp_folder("ng")
        self.socket = self.folder / "http.sock"
        (self.folder / "big").mkdir()
        tls = ""
        if authority:
            self.tls_port, self.ca = free_port(), authority.ca
            cert, key = authority.give(self.folder)
            tls = TLS.format(host=self.host, tls_port=self.tls_port, cert=cert, key=key)
        self.conf = self.folder / "nginx.conf"
        self.conf.write_text(CONF.format(
            folder=self.folder, host=self.host, port=self.port, keepalive=keepalive, tls=tls,
            limit=f"limit_conn all {limit};" if limit else ""))
        self.log = self.folder / "stderr.log"
        RUNAS.own(self.folder)

    # -- life and death

    def _spawn(self):
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()  # nginx refuses to start over a socket left by kill -9
        return Child(["nginx", "-c", self.conf, "-e", self.folder / "error.log"], self.log, cwd="/",
                     **RUNAS.kwargs)

    def _answers(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/nginx")
        return None

    # -- addresses and contents

    def url(self, tls=False, host=None, port=None):
        """What goes into `upstream:`; the certificate is for `localhost` only."""
        if tls:
            return f"https://{host or 'localhost'}:{port or self.tls_port}"
        return f"http://{host or self.host}:{port or self.port}"

    def big(self, n, of="big"):
        """A path that answers with n bytes; the bytes are `pattern(n)`."""
        path = self.folder / "big" / str(n)
        if not path.exists():
            path.write_bytes(pattern(n))
            path.chmod(0o644)
        return f"/{of}/{n}"

    # -- what the server says

    def get(self, path, tls=False):
        """The body of a request straight to this server."""
        if tls:
            context = ssl.create_default_context(cafile=self.ca)
            conn = http.client.HTTPSConnection("localhost", self.tls_port, timeout=5 * PATIENCE,
                                               context=context)
        else:
            conn = http.client.HTTPConnection(self.host, self.port, timeout=5 * PATIENCE)
        with contextlib.closing(conn):
            conn.request("GET", path)
            return conn.getresponse().read()

    def counts(self):
        """(open connections without this question's own, accepted, requests) by stub_status."""
        text = self.get("/nginx").decode()
        accepted, _, requests = map(int, re.search(r"\n\s*(\d+) (\d+) (\d+)", text).groups())
        return int(re.search(r"Active connections: (\d+)", text).group(1)) - 1, accepted, requests

    def connections(self):
        return self.counts()[0]

    def peak(self, every=0.01):
        return Peak(self.connections, every)

    def mark(self):
        return len(self.access_text()), len(self.error_text())

    def access_text(self):
        if self.folder is None:
            return self.fault("logs", self.name)
        return (self.folder / "access.log").read_text(errors="replace")

    def error_text(self):
        if self.folder is None:
            return self.fault("logs", self.name)
        return (self.folder / "error.log").read_text(errors="replace")

    def requests(self, mark=(0, 0)):
        """The access log as dictionaries: connection, nth, status, bytes, request, via."""
        out = []
        for line in self.access_text()[mark[0]:].splitlines():
            m = re.match(r'(\d+) (\d+) (\d+) (\d+) "([^"]*)" "([^"]*)" (\S+)', line)
            if m:
                keys = ("connection", "nth", "status", "bytes", "request", "via", "tls")
                row = dict(zip(keys, m.groups()))
                out.append({k: int(v) if k in keys[:4] else v for k, v in row.items()})
        return out

    def refusals(self, mark=(0, 0)):
        """How often `limit_conn` had to refuse."""
        return len(re.findall("limiting connections by zone", self.error_text()[mark[1]:]))


def pattern(n):
    """n bytes that show displacement: the numbers of the lines."""
    lines = (n // 8) + 1
    return b"".join(b"%07d\n" % (i % 10_000_000) for i in range(lines))[:n]
