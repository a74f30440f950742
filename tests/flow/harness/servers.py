# SPDX-License-Identifier: MIT
"""Where the tests' servers come from.

By default every server is started here, on a free loopback port, from the distribution's packages,
under an unprivileged account, and is gone afterwards. When these variables are set, existing servers
are used instead (compose services, for example):

    CARPOOL_TEST_POSTGRES=host:port        a PostgreSQL whose pg_hba.conf admits all roles by SCRAM,
                                           that logs connections and disconnections
    CARPOOL_TEST_POSTGRES_ADMIN=user:pw    its superuser (default: postgres:postgres); the harness
                                           makes the roles and the database it needs
    CARPOOL_TEST_REDIS=host:port           a Redis that takes CONFIG SET
    CARPOOL_TEST_HTTP=host:port            an nginx with the configuration of nginx.py
    CARPOOL_TEST_HTTP_FOLDER=folder        the folder of that configuration as it is seen here: logs,
                                           the Unix socket, and where `big()` puts files
    CARPOOL_TEST_HTTPS=host:port           its TLS port
    CARPOOL_TEST_CA=file                   the authority that signed the servers' certificates
    CARPOOL_TEST_FAULT=command             how to harm them, and what they logged:
                                           command VERB SERVER, SERVER one of postgres redis http,
                                           VERB one of
        start        start it, or do nothing when it runs; return once it was started
        stop         stop it politely
        kill         end it at once (SIGKILL)
        pause        stop its processes; connections stay open
        resume       let them go on
        disconnect   cut it off the network;  connect  undo that
        logs         print on stdout all it has logged so far

Tests that need more than an address (a certificate, a file in the server's folder) say so by asking
for the attribute they need: `ca` or `socket_dir` is None for a server from the environment, and the
`local_*` fixtures always start a server here.
"""

import os
import shlex
import subprocess

from .base import Authority
from .nginx import Nginx
from .origin import Origin
from .postgres import Postgres, Template
from .redis_server import Redis
from .relays import BlackHole, Gate

__all__ = ["Authority", "BlackHole", "Gate", "Nginx", "Origin", "Postgres", "Redis", "Servers"]


def _address(variable):
    text = os.environ.get(variable)
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def fault(verb, server):
    """Ask the outside world to do something to a server; returns what it printed."""
    command = os.environ.get("CARPOOL_TEST_FAULT")
    if not command:
        raise RuntimeError(f"CARPOOL_TEST_FAULT is not set: cannot {verb} {server}")
    done = subprocess.run([*shlex.split(command), verb, server], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{command} {verb} {server}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


class Servers:
    """Makes servers, remembers them, and ends them all in `close()`."""

    def __init__(self):
        self._authority = self._template = None
        self._made = []
        self._given = {}  # those of the environment, by name: there is one of each

    @property
    def authority(self):
        if self._authority is None:
            self._authority = Authority()
        return self._authority

    def _keep(self, server):
        self._made.append(server)
        return server

    def _give(self, name, make):
        if name not in self._given:
            self._given[name] = self._keep(make())
            self._given[name].ca = os.environ.get("CARPOOL_TEST_CA")
        return self._given[name]

    def postgres(self, local=False, **options):
        address = None if local or options else _address("CARPOOL_TEST_POSTGRES")
        if address:
            admin = os.environ.get("CARPOOL_TEST_POSTGRES_ADMIN", "postgres:postgres")
            return self._give("postgres", lambda: Postgres(
                address=address, admin=tuple(admin.split(":", 1)), fault=fault))
        if self._template is None:
            self._template = Template()
        return self._keep(Postgres(self._template, self.authority, **options))

    def redis(self, local=False, **options):
        address = None if local or options else _address("CARPOOL_TEST_REDIS")
        if address:
            return self._give("redis", lambda: Redis(address=address, fault=fault))
        return self._keep(Redis(self.authority, **options))

    def nginx(self, local=False, **options):
        address = None if local or options else _address("CARPOOL_TEST_HTTP")
        if address:
            return self._give("http", lambda: Nginx(
                address=address, tls_address=_address("CARPOOL_TEST_HTTPS"), fault=fault,
                folder=os.environ.get("CARPOOL_TEST_HTTP_FOLDER")))
        return self._keep(Nginx(self.authority, **options))

    def origin(self):
        return self._keep(Origin())

    def gate(self, *where, **path):
        return self._keep(Gate(*where, **path))

    def black_hole(self):
        return self._keep(BlackHole())

    def forget(self, server):
        """Close one server before its time."""
        self._made.remove(server)
        self._given = {name: one for name, one in self._given.items() if one is not server}
        server.close()

    def close(self):
        for server in reversed(self._made):
            server.close()
        self._made.clear()
        for shared in (self._template, self._authority):
            if shared:
                shared.close()
