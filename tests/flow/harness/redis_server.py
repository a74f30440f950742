# SPDX-License-Identifier: MIT
"""A throwaway Redis, or an existing one named by the environment.

Redis enforces `maxclients` itself and counts refusals (`rejected_connections`). The harness keeps one
connection of its own for questions, so it raises a wanted limit by MONITORS.
"""

import contextlib
from pathlib import Path
from urllib.parse import quote, urlencode

import redis

from .base import LOOPBACK, PATIENCE, RUNAS, Child, Peak, free_port, temp_folder
from .life import Mortal

MONITORS = 1


class Redis(Mortal):
    """`acl` maps user names to passwords (each may do everything); `tls` adds `tls_port`."""

    name = "redis"

    def __init__(self, authority=None, requirepass=None, maxclients=None, acl=None, tls=False,
                 config=(), address=None, fault=None):
        self.fault = fault
        self.password = requirepass
        self.socket = self.tls_port = self.ca = None
        self._admin = None
        if address:
            self.host, self.port = address
        else:
            self._prepare(authority, maxclients, acl or {}, tls, config)
        self.start()
        if maxclients and address:
            self.set_maxclients(maxclients)

    def _prepare(self, authority, maxclients, acl, tls, config):
        self.host, self.port = LOOPBACK, free_port()
        self.folder = temp_folder("rd")
        self.socket = self.folder / "redis.sock"
        self.log = self.folder / "log"
        lines = [f"bind {LOOPBACK}", f"port {self.port}", f"unixsocket {self.socket}",
                 "unixsocketperm 777", "daemonize no", 'save ""', "appendonly no",
                 f"dir {self.folder}", "loglevel verbose", "enable-debug-command local", *config]
        if maxclients:
            lines.append(f"maxclients {maxclients + MONITORS}")
        if self.password:
            lines.append(f"requirepass {self.password}")
        lines += [f"user {name} on >{password} ~* &* +@all" for name, password in acl.items()]
        if tls:
            self.tls_port, self.ca = free_port(), authority.ca
            cert, key = authority.give(self.folder)
            lines += [f"tls-port {self.tls_port}", f"tls-cert-file {cert}", f"tls-key-file {key}",
                      f"tls-ca-cert-file {authority.ca}", "tls-auth-clients no"]
        self.conf = self.folder / "redis.conf"
        self.conf.write_text("\n".join(lines) + "\n")
        RUNAS.own(self.folder)

    # -- life and death

    def _spawn(self):
        return Child(["redis-server", self.conf], self.log, cwd="/", **RUNAS.kwargs)

    def _answers(self):
        with contextlib.suppress(redis.RedisError, OSError):
            return self.admin().ping()
        return None

    def close(self):
        if self._admin:
            self._admin.close()
        super().close()

    # -- addresses

    def url(self, user="", password=None, db=0, host=None, port=None, tls=False, **more):
        """What goes into `upstream:`."""
        password = password if password is not None else self.password
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if password else ""
        scheme, standard = ("rediss", self.tls_port) if tls else ("redis", self.port)
        tail = "?" + urlencode(more, safe="/") if more else ""
        return f"{scheme}://{login}{host or self.host}:{port or standard}/{db}{tail}"

    # -- what the server says

    def admin(self):
        """The harness' one connection."""
        if self._admin is None:
            self._admin = redis.Redis(host=self.host, port=self.port, password=self.password,
                                      socket_timeout=10 * PATIENCE, single_connection_client=True,
                                      client_name="harness", decode_responses=True)
        return self._admin

    def info(self, section="everything"):
        return self.admin().info(section)

    def set_maxclients(self, limit):
        self.admin().config_set("maxclients", limit + MONITORS)

    def connections(self):
        """Connections that exist now, without the harness' own."""
        return self.info("clients")["connected_clients"] - MONITORS

    def accepted(self):
        """Connections ever accepted (the harness' own included: use differences)."""
        return self.info("stats")["total_connections_received"]

    def refusals(self):
        """How often the server had to say `max number of clients reached`."""
        return self.info("stats")["rejected_connections"]

    def commands(self):
        """Calls by command name."""
        return {k[len("cmdstat_"):]: v["calls"] for k, v in self.info("commandstats").items()}

    def clients(self):
        """CLIENT LIST without the harness' own entry."""
        return [c for c in self.admin().client_list() if c["name"] != "harness"]

    def peak(self, every=0.005):
        return Peak(self.connections, every)

    def log_text(self):
        if self.fault:
            return self.fault("logs", self.name)
        return Path(self.log).read_text(errors="replace")
