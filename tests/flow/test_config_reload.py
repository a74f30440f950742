# SPDX-License-Identifier: MIT
"""What a reload says: what changes, what cannot, and where an address is that cannot be had."""

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.base import LOOPBACK, free_port, wait_for
from harness.carpool import postgres_pool


@pytest.fixture
def taken():
    """A port that somebody else listens on."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        sock.listen()
        yield sock.getsockname()[1]


def reloads(daemon, nth):
    """The line about the nth reload."""
    lines = wait_for(lambda: len(found := daemon.log_lines('"event":"reload"')) >= nth and found,
                     what=f"reload {nth} in the log")
    return json.loads(lines[nth - 1])


def addresses(daemon, event):
    return [json.loads(line)["address"] for line in daemon.log_lines(f'"event":"{event}"')]


def test_values_in_force_over_two_reloads(carpool, pg):
    """A change that needs a restart is not forgotten by the reload after."""
    daemon = carpool(postgres_pool(pg.url()), workers=1)
    for workers in (2, 2, 3):
        daemon.config["workers"] = workers
        daemon.write(daemon.config)
        said = daemon.reload().stdout
        assert f"workers: 1 stays in force, {workers} comes with a restart" in said
        assert daemon.get("/config").text.startswith("workers: 1\n")
    daemon.config["workers"] = 1
    daemon.write(daemon.config)
    assert "workers" not in daemon.reload().stdout


def test_reloads_at_the_heels_of_others(carpool, pg):
    """Workers take a configuration a moment after it was read. Nobody is sent away for that."""
    daemon = carpool(postgres_pool(pg.url()), workers=2)
    with ThreadPoolExecutor(4) as crowd:
        done = list(crowd.map(lambda _: daemon.cli("reload", check=False), range(60)))
    assert [d.stderr for d in done if d.returncode] == []


def test_signals_at_the_heels_of_others(carpool, pg):
    """Nobody would hear that one came too early: what was written before the last is in force in the end."""
    daemon = carpool(postgres_pool(pg.url()), workers=2)

    def hammer(end):
        while not end.is_set():
            daemon.signal(signal.SIGHUP)
            time.sleep(0.0005)
    for most in range(100, 130):
        end = threading.Event()
        thread = threading.Thread(target=hammer, args=(end,))
        thread.start()
        daemon.change(size={"max": most})
        daemon.signal(signal.SIGHUP)
        end.set()
        thread.join()
        wait_for(lambda: daemon.pools()["orders"]["servers"]["max"] == most, what="the last configuration")


def test_a_reload_says_what_changed(carpool, pg):
    other = free_port()
    daemon = carpool(postgres_pool(pg.url()), log={"format": "json"})
    address = f"{LOOPBACK}:{daemon.port()}"
    assert "nothing differs" in daemon.reload().stdout
    line = reloads(daemon, 1)
    assert line["result"] == "applied" and line["changes"] == 0 and line["reason"]
    daemon.change(size={"max": 7})
    assert "pools.orders.size.max: " in daemon.reload().stdout and "7" in reloads(daemon, 2)["reason"]
    assert addresses(daemon, "listening") == [address], "no address changed"
    daemon.change(listen=[address, f"{LOOPBACK}:{other}"])
    daemon.reload()
    wait_for(lambda: addresses(daemon, "listening") == [address, f"{LOOPBACK}:{other}"],
             what="the new address in the log")
    daemon.change(listen=[address])
    daemon.reload()
    wait_for(lambda: addresses(daemon, "unlistened") == [f"{LOOPBACK}:{other}"],
             what="the old address in the log")
    daemon.file.write_text("pools: 7")
    assert daemon.cli("reload", check=False).returncode == 1
    line = reloads(daemon, 5)
    assert line["result"] == "refused" and "pools is a list" in line["reason"]


def test_a_taken_port_at_reload(carpool, pg, taken):
    daemon = carpool(postgres_pool(pg.url()))
    daemon.change(listen=[f"{LOOPBACK}:{daemon.port()}", f"{LOOPBACK}:{taken}"])
    line, column = place(daemon, f'{LOOPBACK}:{taken}')
    done = daemon.cli("reload", check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"{daemon.file}:{line}:{column}: error: pools[0].listen (orders): " in said, said
    assert f"{LOOPBACK}:{taken}" in said and "another address" in said
    with daemon.connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def place(daemon, text):
    for number, line in enumerate(daemon.file.read_text().splitlines(), 1):
        if text in line:
            at = line.index(text)
            return number, at + (0 if line[at - 1] in "\"'" else 1)
    raise AssertionError(text)


def test_taken_ports_at_start(carpool, pg, taken):
    """All of them at once, and nothing is served half."""
    daemon = carpool(postgres_pool(pg.url(), listen=[f"{LOOPBACK}:{taken}"]),
                     postgres_pool(pg.url(), name="more", listen=["192.0.2.1:6432"]), start=False)
    daemon.start(wait=False)
    assert daemon.wait() == 1
    said = daemon.err.read_text()
    assert "pools[0].listen (orders)" in said and "stop it, or write another address" in said
    assert "pools[1].listen (more)" in said and "no such address" in said
    daemon.proc = None


def test_a_taken_admin_port(carpool, pg, taken):
    daemon = carpool(postgres_pool(pg.url()), admin={"http": f"{LOOPBACK}:{taken}"}, start=False)
    daemon.start(wait=False)
    assert daemon.wait() == 1
    said = daemon.err.read_text()
    assert f"admin.http: {LOOPBACK}:{taken} is taken" in said and "another address" in said
    daemon.proc = None


def test_an_address_cannot_move_in_one_reload(carpool, pg):
    """It still belongs to the other pool while the new configuration is tried."""
    daemon = carpool(postgres_pool(pg.url()), postgres_pool(pg.url(), name="more"))
    one, two = f"{LOOPBACK}:{daemon.port()}", f"{LOOPBACK}:{daemon.port('more')}"
    daemon.change("orders", listen=[two])
    daemon.change("more", listen=[one])
    done = daemon.cli("reload", check=False)
    assert done.returncode == 1 and "belongs to pool more" in done.stdout + done.stderr
