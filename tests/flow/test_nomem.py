# SPDX-License-Identifier: MIT
"""The Nth allocation of a worker fails: some clients hear an error or are closed, nobody hears what is not his,
nothing is left over, and who comes afterwards is served.

(Pools and relays have the same test without a daemon, in tests/unit.)
"""

import contextlib
import itertools
import random
import shutil

import pytest
from harness import pgwire
from harness.base import wait_for
from harness.carpool import postgres_pool
from harness.http_fixtures import _origin, origin  # noqa: F401
from harness.httpwire import Closed, Http, http_pool, request
from harness.nginx import pattern
from harness.nomem import NoMemory
from harness.pgwire import SYNC, Eof, PgError, bind, execute, parse
from harness.postgres import PASSWORD
from harness.redis_fixtures import rd  # noqa: F401
from harness.rediswire import Resp, RespError, encode, redis_pool

GONE = (Eof, PgError, Closed, EOFError, OSError)
MOST = 400  # allocations; scenes ask for fewer


def postgres(daemon):
    """Logins, settings, named statements, a transaction, a big answer, a client that leaves."""
    with contextlib.suppress(*GONE), daemon.wire(application_name="a") as a:
        with daemon.wire() as b:
            a.send(parse("select 7", "seven"), bind("seven"), execute(), SYNC)
            rows, _, error, _ = a.results()
            assert error or rows == [["7"]]
            rows, _, error, _ = b.run("set work_mem = '5MB'; select 8")
            assert error or rows == [["8"]]
            a.send(bind("seven"), execute(), SYNC)
            rows, _, error, _ = a.results()
            assert error or rows == [["7"]]
            b.run("begin")
            rows, _, error, _ = b.run("select repeat('x', 300000)")
            assert error or rows == [["x" * 300000]]
            a.send(pgwire.query("select pg_sleep(20)"))
            a.abort()


def http(daemon):
    """Bodies both ways, chunked and not, a pipeline, a client that leaves."""
    with contextlib.suppress(*GONE), Http(daemon.port("web")) as a, Http(daemon.port("web")) as b:
        said = a.get("/body/100000")
        assert said.status >= 500 or said.body == pattern(100000)
        said = b.ask("POST", "/echo", body=b"b" * 50000)
        assert said.status >= 500 or b"b" * 50000 in said.body
        a.send(request("GET", "/chunked/3000") + request("GET", "/body/10"))
        for n in (3000, 10):
            said = a.response()
            assert said.status >= 500 or said.body == pattern(n)
        b.send(request("GET", "/body/5000000"))
        b.reset()


_longer = itertools.count(300, 10)


def redis(daemon):
    """A pipeline, a block, a transaction, a subscriber, a client that leaves. Each time the pipeline is longer than
    whatever the worker has in stock for requests."""
    with contextlib.suppress(*GONE), Resp(daemon.port("cache")) as a, Resp(daemon.port("cache")) as b:
        n = next(_longer)
        a.write(encode("SET", "nomem", "7") + encode("GET", "nomem") * n)
        said = [a.read() for _ in range(1 + n)]
        assert all(isinstance(s, RespError) or s == want for s, want in zip(said, ["OK"] + [b"7"] * n)), said
        b.write(encode("MULTI") + encode("GET", "nomem") + encode("EXEC"))
        said = [b.read() for _ in range(3)][2]
        assert isinstance(said, RespError) or said == [b"7"], said
        for words in ("WATCH", "nomem"), ("MULTI",), ("GET", "nomem"):
            a.cmd(*words)
        said = a.cmd("EXEC")
        assert said is None or isinstance(said, RespError) or said == [b"7"], said
        b.cmd("SUBSCRIBE", "nomem")
        said = a.cmd("ECHO", "x" * 100_000)
        assert isinstance(said, RespError) or said == b"x" * 100_000
        a.write(encode("GET", "nomem") * 300)


def half_requests(daemon, stack, n):
    """What a worker has in stock for requests is in use: who comes next needs more memory."""
    for _ in range(n):
        stack.enter_context(Http(daemon.port("web"))).send(b"GET")
    wait_for(lambda: [row["state"] for row in daemon.json("/clients")["clients"]].count("reading") == n,
             what="half a request of each")


# With the step from one N to the next, from a random one on: there are hundreds for Postgres.
SCENES = {"postgres": ("orders", postgres, 5), "redis": ("cache", redis, 1), "http": ("web", http, 1)}


@pytest.mark.parametrize("kind", SCENES)
def test_any_allocation_may_fail(carpool, tmp_path, request, kind):  # noqa: F811
    pool, scene, step = SCENES[kind]
    make, upstream = {"postgres": (postgres_pool, "pg"), "redis": (redis_pool, "rd"),
                      "http": (http_pool, "origin")}[kind]
    config = make(request.getfixturevalue(upstream).url())
    if not shutil.which("gcc"):
        pytest.skip("no compiler here for the library that lets allocations fail")
    nomem = NoMemory(tmp_path)
    daemon = carpool(config, env=nomem.env)

    def at_rest():
        figures = daemon.pools()[pool]
        servers = daemon.stats()["pools"][0]["servers"]
        return not (figures["clients"] or figures["waiting"] or figures["leases"]
                    or servers["open"] - servers["idle"])
    scene(daemon)
    wait_for(at_rest, what="the first scene to be over")
    n, failures = random.randint(1, step), 0
    print(f"from {n} on, by {step}")
    while n < MOST:
        daemon.cli("recycle", pool)
        with contextlib.ExitStack() as stack:
            if kind == "http":
                half_requests(daemon, stack, 2 * n)
            nomem.fail(n)
            scene(daemon)
        wait_for(at_rest, what=f"everything to be given back after allocation {n} failed")
        if not nomem.failed:
            break
        failures += 1
        n += step
    nomem.fail(0)
    print(f"{failures} allocations")
    assert failures > 5 and n < MOST
    if step == 1:
        assert daemon.saw("internal", pool), "the word for what is carpool's own trouble"
    scene(daemon)
    if kind == "postgres":
        with daemon.connect() as conn:
            assert conn.execute("select 1").fetchone() == (1,)
    elif kind == "redis":
        with Resp(daemon.port(pool)) as c:
            assert c.cmd("GET", "nomem") == b"7"
    else:
        with Http(daemon.port(pool)) as c:
            assert c.get("/body/3").body == pattern(3)


@pytest.mark.parametrize("method", ["trust", "password", "md5", "scram"])
def test_a_login_that_finds_no_memory_says_so(carpool, tmp_path, pg, method):
    """Nothing is wrong with what the client has sent, and it is not told that it is."""
    if not shutil.which("gcc"):
        pytest.skip("no compiler here for the library that lets allocations fail")
    nomem = NoMemory(tmp_path)
    daemon = carpool(postgres_pool(pg.url(), auth={"method": method}, timeouts={"client_login": "2s"}),
                     env=nomem.env)
    who = {"options": "-c work_mem=5MB --search_path=public", "application_name": "a"}
    if method != "trust":
        who["password"] = PASSWORD
    daemon.wire(**who).close()  # the first client of all waits for a server
    wait_for(lambda: daemon.metric("carpool_clients") == 0, what="it to be gone")
    told, silent, n = 0, 0, 1
    while n < MOST:
        nomem.fail(n)
        try:
            daemon.wire(**who).close()
        except PgError as e:
            assert e.code == "XX000" and e.fields["M"].startswith("carpool: internal: out of memory"), (n, e)
            told += 1
        except (Eof, OSError):
            silent += 1
        if not nomem.failed:
            break
        n += 1
    nomem.fail(0)
    assert 3 < n < MOST and told > silent
    assert daemon.errors("internal") >= told
    wait_for(lambda: daemon.log_lines("client_closed", "cause=internal", "out of memory"), what="the log")
    assert not daemon.log_lines("cause=client_protocol") and not daemon.log_lines("cause=too_large")
    daemon.wire(**who).close()
