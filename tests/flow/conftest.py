# SPDX-License-Identifier: MIT
"""Fixtures of the flow tests: servers that live as long as the run, a carpool that lives one test.

    pg            a healthy PostgreSQL, never harmed            (harness/postgres.py)
    frail_pg      one that tests may kill, freeze and restart; it is well again afterwards
    local_pg      one started here even when servers come from the environment (TLS, Unix socket)
    table         a fresh table `(id serial, n int, note text)` in pg; frail_table in frail_pg
    carpool       makes daemons: carpool(pool, pool, ..., workers=2, log=...)
    workers       1 and 2, for tests that are cheap enough to run twice
"""

import faulthandler
import itertools
import signal

import pytest
from harness.base import SLOW, wait_for
from harness.carpool import Carpool, find_binary, postgres_pool
from harness.servers import Servers

TEST_SECONDS = 180  # no test takes longer; waiting inside tests is bounded more tightly

_numbers = itertools.count(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: measures time or takes default ports; nothing beside it")
    config.addinivalue_line("markers", "figure: promises a figure; run with the release build, too")


def pytest_collection_finish(session):
    """Without a binary only the harness' own tests make sense: say so once, clearly."""
    needing = [item for item in session.items if "binary" in getattr(item, "fixturenames", ())]
    if needing and find_binary() is None and not session.config.option.collectonly:
        raise pytest.UsageError(
            f"{len(needing)} tests need the daemon, and there is none: run `./dev build asan`, or "
            "set CARPOOL_BIN to an existing binary")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """Each test has a limit of time of its own."""
    def late(_signo, _frame):
        faulthandler.dump_traceback()
        pytest.fail(f"the test took more than {TEST_SECONDS * SLOW:g} s")  # no OSError: nobody suppresses it

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, TEST_SECONDS * SLOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what the daemons of the test had to say."""
    report = (yield).get_result()
    item.failed_already = getattr(item, "failed_already", False) or report.failed
    if report.failed:
        for i, daemon in enumerate(getattr(item, "carpools", [])):
            report.sections.append((f"carpool {i + 1}", daemon.report()))


@pytest.fixture(scope="session")
def servers():
    made = Servers()
    yield made
    made.close()


@pytest.fixture(scope="session")
def binary():
    return find_binary()


@pytest.fixture
def carpool(request, binary):
    """carpool(*pools, **top-level keys) → Carpool; `text=`, `args=`, `env=`, `start=` go to Carpool."""
    request.node.carpools = made = []
    pg = request.getfixturevalue("pg") if "pg" in request.fixturenames else None

    def make(*pools, text=None, args=(), env=None, start=True, **top):
        daemon = Carpool(binary, {"workers": 1, **top, "pools": list(pools)}, text, args, env,
                         start=False)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    try:
        for daemon in made:
            if daemon.proc is not None and not getattr(request.node, "failed_already", False):
                daemon.stop()
    finally:
        for daemon in made:
            daemon.close()
        if pg:
            pg.clear()


@pytest.fixture(params=[1, 2], ids=["1worker", "2workers"])
def workers(request):
    return request.param


@pytest.fixture(scope="session")
def pg(servers):
    return servers.postgres()


@pytest.fixture(scope="session")
def local_pg(servers, pg):
    return servers.postgres(local=True) if pg.fault else pg


@pytest.fixture(scope="session")
def _frail_pg(servers, pg):
    return pg if pg.fault else servers.postgres()


@pytest.fixture
def frail_pg(_frail_pg):
    yield _frail_pg
    _frail_pg.thaw() if _frail_pg.fault or _frail_pg.child.alive() else None
    _frail_pg.start()
    _frail_pg.clear()


@pytest.fixture
def bounded(pg):
    """bounded(n): the role's limit is n, and nobody of an earlier test is still connected."""
    def limit(n, server=pg):
        server.set_bound(n)
        wait_for(lambda: server.connections("bounded") == 0, 10, "old sessions to end")
        return server.url("bounded")
    return limit


def _table(server):
    name = f"t{next(_numbers)}"
    server.query(f"create table {name} (id serial, n int, note text)", db="orders")
    server.query(f"grant all on {name}, {name}_id_seq to public", db="orders")
    return name


@pytest.fixture
def table(pg):
    return _table(pg)


@pytest.fixture
def frail_table(frail_pg):
    return _table(frail_pg)


@pytest.fixture
def orders(carpool, pg):
    """orders(**pool keys): the common case, one pool named `orders` in front of pg."""
    def make(workers=1, upstream=None, **over):
        return carpool(postgres_pool(upstream or pg.url(), **over), workers=workers)
    return make


@pytest.fixture
def one(carpool, pg):
    """A pool of one server, with more settings for it if asked."""
    def make(**over):
        size = {"min": 0, "max": 1, "acquire_timeout": "3s", **over.pop("size", {})}
        return carpool(postgres_pool(pg.url(), size=size, **over))
    return make


@pytest.fixture(params=["transaction", "statement"])
def shared(request, one):
    """`one`, or a file's own, in both modes in which clients share servers."""
    return lambda **over: one(**{"mode": request.param, **over})


@pytest.fixture
def gate(servers):
    """gate(host, port): a relay that can be told to misbehave; gone after the test."""
    made = []

    def make(*where, **path):
        made.append(servers.gate(*where, **path))
        return made[-1]
    yield make
    for one in made:
        servers.forget(one)


@pytest.fixture
def through_gate(orders, pg, gate):
    """A daemon whose servers pass a relay that can cut them; (daemon, relay)."""
    def make(workers=1, **over):
        relay = gate(pg.host, pg.port)
        url = pg.url(host=relay.host, port=relay.port)
        return orders(workers, upstream=url, **over), relay
    return make


@pytest.fixture
def black_hole(servers):
    hole = servers.black_hole()
    yield hole
    servers.forget(hole)
