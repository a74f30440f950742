# SPDX-License-Identifier: MIT
"""Fixtures of the HTTP tests, imported by the files that use them.

    nginx      a healthy one for the whole run
    tls_nginx  one with TLS, started here where the other one, from the environment, has none
    origin     misbehaves by path (harness/origin.py), one for the whole run
    raw        a RawOrigin of the test's own
    web        web(upstream=..., workers=1, **pool keys): carpool with one pool `web`; default: origin
"""

import pytest

from .httpwire import RawOrigin, http_pool


@pytest.fixture(scope="session")
def nginx(servers):
    return servers.nginx()


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
