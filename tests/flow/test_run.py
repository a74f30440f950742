# SPDX-License-Identifier: MIT
"""Without a file: URLs on the command line or in CARPOOL_POOLS, everything else by default.

Default ports may be taken on the machine the tests run on, so most tests move them to a loopback
address of their own with CARPOOL_LISTEN.
"""

import http.client
import random
import socket
import subprocess
import time

import psycopg
import pytest
from harness.base import LOOPBACK, SLOW, can_connect, free_port, wait_for
from harness.carpool import PASSWORD
from harness.pgwire import Wire

pytestmark = pytest.mark.alone  # default ports


@pytest.fixture
def host():
    """A loopback address nobody else listens on."""
    return f"127.{random.randint(64, 250)}.{random.randint(1, 250)}.{random.randint(1, 250)}"


@pytest.fixture
def fileless(carpool):
    """fileless(*urls, **environment): a daemon started without -c."""
    def make(*urls, start=True, **env):
        daemon = carpool(start=False)
        daemon.source = list(urls)
        daemon.env = {"CARPOOL_ADMIN_SOCKET": str(daemon.socket), **env}
        return daemon.start() if start else daemon
    return make


def says(host, port, sql="select 1"):
    with Wire(host, port) as wire:
        return wire.run(sql)[0]


def test_urls_on_the_command_line(fileless, pg, host):
    """Each URL is a pool with every default; carpool says where it listens and where that goes."""
    daemon = fileless(pg.url(), pg.url(), f"redis://{LOOPBACK}:{free_port()}",
                      f"http://{LOOPBACK}:{free_port()}", start=False, CARPOOL_LISTEN=host)
    daemon.start(wait=False)  # two upstreams are not there: it would be ready after ten seconds
    wait_for(lambda: daemon.get("/live").status == 200, what="/live",
             ignore=(OSError, http.client.HTTPException))
    assert set(daemon.pools()) == {"postgres", "postgres2", "redis", "http"}
    for pool, port in (("postgres", 6432), ("postgres2", 6433), ("redis", 6380), ("http", 8081)):
        assert can_connect(host, port), pool
        line = daemon.log_lines("listening", f"pool={pool} ", f"address={host}:{port} ")
        assert line and "upstream=" in line[0]
    assert daemon.logged("pool=postgres ", f"upstream={pg.host}:{pg.port}")
    assert says(host, 6432) == says(host, 6433) == [["1"]]
    assert PASSWORD not in daemon.log_text()
    assert "CARPOOL_POOLS" in daemon.log_text(), "a warning: argv is visible to everyone"
    pool = daemon.stats()["pools"][0]
    assert (pool["name"], pool["mode"]) == ("postgres", "transaction")
    assert (pool["servers"]["min"], pool["servers"]["max"]) == (1, 20)


def test_urls_in_the_environment(fileless, pg, host):
    daemon = fileless(CARPOOL_POOLS=f"  {pg.url()}\n\t{pg.url('bounded')} ", CARPOOL_LISTEN=host,
                      CARPOOL_WORKERS="2", CARPOOL_LOG_FORMAT="json", CARPOOL_LOG_LEVEL="debug")
    pg.set_bound(3)
    assert says(host, 6432, "select current_user") == [["app"]]
    with Wire(host, 6433, user="bounded") as wire:
        assert wire.run("select current_user")[0] == [["bounded"]]
    assert daemon.metric("carpool_workers") == 2
    assert daemon.logged('"event":"client_closed"')
    argv = open(f"/proc/{daemon.pid}/cmdline", "rb").read()
    assert PASSWORD.encode() not in argv and b"postgres" not in argv
    daemon.cli("reload")
    assert says(host, 6432) == [["1"]]


def test_admin_over_tcp_by_the_environment(fileless, pg, host):
    port = free_port()
    fileless(CARPOOL_POOLS=pg.url(), CARPOOL_LISTEN=host, CARPOOL_ADMIN_HTTP=f"{LOOPBACK}:{port}")
    conn = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    conn.request("GET", "/ready")
    assert conn.getresponse().status == 200
    conn.close()


def test_several_hosts(fileless, pg, host):
    other = host.rpartition(".")[0] + ".251"
    fileless(CARPOOL_POOLS=pg.url(), CARPOOL_LISTEN=f"{host} {other}")
    assert says(host, 6432) == says(other, 6432) == [["1"]]


def test_default_addresses(fileless, pg):
    """127.0.0.1 and ::1, from 6432 upwards."""
    hosts = [LOOPBACK]
    if socket.has_ipv6 and can_bind("::1"):
        hosts.append("::1")
    if any(can_connect(h, 6432) for h in hosts):
        pytest.skip("somebody listens on port 6432 of this machine")
    fileless(pg.url())
    for host in hosts:
        assert says(host, 6432) == [["1"]], host


def can_bind(host):
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind((host, 0))
            return True
    except OSError:
        return False


def test_an_address_in_use_is_an_error(fileless, pg, host):
    """Nothing is served half: the second carpool says what is taken, and ends."""
    fileless(CARPOOL_POOLS=pg.url(), CARPOOL_LISTEN=host)
    second = fileless(start=False, CARPOOL_POOLS=pg.url(), CARPOOL_LISTEN=host)
    second.start(wait=False)
    assert second.wait() != 0
    assert f"{host}:6432" in second.err.read_text()
    second.proc = None


def test_every_host_needs_a_password(fileless, pg, host):
    """On an address that is not loopback the door asks for the pool's own user and password."""
    daemon = fileless(start=False, CARPOOL_POOLS=pg.url(), CARPOOL_LISTEN="0.0.0.0")
    if can_connect(LOOPBACK, 6432):
        pytest.skip("somebody listens on port 6432 of this machine")
    daemon.start()
    with pytest.raises(psycopg.OperationalError, match="auth_failed"):
        psycopg.connect(host=LOOPBACK, port=6432, user="app", password="wrong", dbname="orders")
    with psycopg.connect(host=LOOPBACK, port=6432, user="app", password=PASSWORD,
                         dbname="orders") as conn:
        assert conn.execute("select 1").fetchone() == (1,)


BAD = {"no pools": ([], {}, "CARPOOL_POOLS"),
       "scheme": (["oracle://x"], {}, "oracle"),
       "port": (["postgres://app@db:99999/orders"], {}, "port"),
       "parameter": (["postgres://app@db/orders?sslmoed=require"], {}, "sslmoed"),
       "listen": (["redis://db"], {"CARPOOL_LISTEN": "127.0.0.1:99"}, "CARPOOL_LISTEN"),
       "variable": (["redis://db"], {"CARPOOL_WORKERS": "many"}, "CARPOOL_WORKERS"),
       "file and URL": (["-c", "x.yaml", "redis://db"], {}, "not both")}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_said(binary, carpool, what):
    args, env, word = BAD[what]
    daemon = carpool(start=False)
    daemon.env = env
    for verb in ("run", "check"):
        done = subprocess.run([binary, verb, *args], env=daemon.environment(), capture_output=True,
                              text=True, timeout=20, stdin=subprocess.DEVNULL, cwd=daemon.folder)
        assert done.returncode in (1, 2), (verb, done.stderr)
        assert word in done.stderr, (verb, done.stderr)
        assert "Sanitizer" not in done.stderr


def test_ready_waits_for_min_to_be_warm(fileless, pg, gate, host):
    """Ready: listeners bound and `min` warmed once. Upstreams that come later are waited for, and after
    that an outage does not take readiness away."""
    relay = gate(pg.host, pg.port)
    relay.hang()
    daemon = fileless(start=False, CARPOOL_POOLS=pg.url(host=relay.host, port=relay.port),
                      CARPOOL_LISTEN=host)
    begun = time.monotonic()
    daemon.start(wait=False)
    answer = wait_for(lambda: daemon.get("/ready"), ignore=(OSError, http.client.HTTPException))
    wait_for(lambda: daemon.get("/live").status == 200, what="/live")
    if time.monotonic() - begun < 9:  # after ten seconds it would be ready anyway
        assert answer.status == 503 and "postgres" in answer.text
        assert daemon.metric("carpool_ready") == 0
        done = daemon.cli("health", check=False)
        assert done.returncode == 1
    relay.hang(False)
    relay.cut()
    wait_for(lambda: daemon.get("/ready").status == 200, 20, "/ready")
    assert time.monotonic() - begun < 9 * SLOW
    assert daemon.metric("carpool_ready") == 1
    relay.hang()
    relay.cut()
    assert daemon.get("/ready").status == 200
