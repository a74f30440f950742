# SPDX-License-Identifier: MIT
"""Fixtures of the HTTP tests, imported by the files that use them.

    nginx        a healthy one for the whole run
    frail_nginx  one that tests may kill and stop; it is well again afterwards
    tls_nginx    one with TLS, started here where the other one, from the environment, has none
    origin       misbehaves by path (harness/origin.py), one for the whole run
    raw          a RawOrigin of the test's own
    web          web(upstream=..., workers=1, **pool keys): carpool with one pool `web`; default: origin
    stale        stale(n, **pool keys): carpool with n idle servers of `raw`, and the origin's ends of them
"""

import pytest

from .base import wait_for
from .httpwire import Http, RawOrigin, http_pool, reply
from .httpwire import request as asked


@pytest.fixture(scope="session")
def nginx(servers):
    return servers.nginx()


@pytest.fixture(scope="session")
def _frail_nginx(servers, nginx):
    return nginx if nginx.fault else servers.nginx()


@pytest.fixture
def frail_nginx(_frail_nginx):
    yield _frail_nginx
    _frail_nginx.start()


@pytest.fixture(scope="session")
def tls_nginx(servers, nginx):
    return nginx if nginx.tls_port else servers.nginx(local=True)


@pytest.fixture(scope="session")
def _origin(servers):
    return servers.origin()


@pytest.fixture
def origin(_origin):
    _origin.requests.clear()
    return _origin


@pytest.fixture
def raw():
    made = RawOrigin()
    yield made
    made.close()


@pytest.fixture
def web(carpool, request):
    def make(upstream=None, workers=1, env=None, **over):
        if upstream is None:
            upstream = request.getfixturevalue("origin").url()
        return carpool(http_pool(upstream, **over), workers=workers, env=env)
    return make


@pytest.fixture
def stale(carpool, raw):
    """They were used before; the origin promises to keep them for long, so that they count as fresh. `top`:
    keys beside the pools."""
    def make(n=1, top=None, **over):
        daemon = carpool(http_pool(raw.url(), **{"size": {"min": 0, "max": max(n, 2)}, **over}), **top or {})
        clients = [Http(daemon.port("web")) for _ in range(n)]
        ends = []
        for c in clients:
            c.send(asked("GET", "/warm"))
            ends.append(raw.accept())
            ends[-1].request()
        for c, end in zip(clients, ends):
            end.send(reply(b"warm", "Keep-Alive: timeout=600"))
            assert c.response().body == b"warm"
            c.close()
        wait_for(lambda: daemon.servers("web", "idle") == n, what="idle servers")
        return daemon, ends
    return make
