# SPDX-License-Identifier: MIT
"""Redis at carpool's own limits, and what an operator does: full queues, pause, recycle, drain."""

import threading
import time

from harness.base import wait_for
from harness.load import RedisLoad
from harness.redis_fixtures import cache, client, fake, key, rd  # noqa: F401
from harness.rediswire import Resp, encode, redis_pool, through
from harness.relays import TO_SERVER


def test_busy_pool(cache, client, key):
    daemon = cache(size={"max": 1, "acquire_timeout": "2s", "waiters": 1})
    a, b, c = client(daemon), client(daemon), client(daemon)
    a.send("BLPOP", key, 0)
    assert a.silent(0.2)
    b.write(encode("GET", key) + encode("GET", key))
    wait_for(lambda: daemon.waiting("cache") == 1, 5, "b to wait")
    assert c.cmd("GET", key).cause == "queue_full"
    assert [b.read().cause for _ in range(2)] == ["acquire_timeout"] * 2
    daemon.saw("acquire_timeout", "cache")
    daemon.saw("queue_full", "cache")


def test_paused(cache, client, key):
    daemon = cache(size={"acquire_timeout": "2s"})
    c = client(daemon)
    assert c.cmd("SET", key, "1") == "OK"
    daemon.cli("pause", "cache")
    assert c.cmd("GET", key).cause == "paused"
    c.send("GET", key)
    daemon.cli("resume", "cache")
    assert c.read() == b"1"
    daemon.saw("paused", "cache")


def test_recycle_replaces_all_servers(cache, rd, key, workers):
    daemon = cache(workers=workers)
    load = RedisLoad(daemon, 10, key)
    load.progress()
    before = {e["id"] for e in rd.clients() if e["name"] == "carpool"}
    daemon.cli("recycle", "cache")
    load.progress(20)
    wait_for(lambda: not before & {e["id"] for e in rd.clients()}, 10, "the old ones to go")
    load.stop()
    assert load.causes == set()


def test_drain_under_load(cache, key, workers):
    """SIGTERM: what was asked is answered, then connections end; no reply is lost or cut."""
    daemon = cache(workers=workers)
    wrong, ended = [], []

    def rider(n):
        c = Resp(daemon.port("cache"))
        turn, asked = 0, False
        try:
            while True:
                turn += 1
                asked = False
                c.send("INCR", f"{key}:{n}")
                asked = True
                if c.read() != turn:
                    wrong.append((n, turn))
                    return
        except (EOFError, OSError) as e:
            if isinstance(e, EOFError) and "b''" not in str(e):
                wrong.append((n, turn, e))
            ended.append((n, turn, asked))
        finally:
            c.close()
    threads = [threading.Thread(target=rider, args=(n,)) for n in range(10)]
    for t in threads:
        t.start()
    time.sleep(0.3)
    idle = Resp(daemon.port("cache"))
    assert idle.cmd("PING") == "PONG"
    daemon.stop()
    for t in threads:
        t.join(60)
    assert wrong == [] and len(ended) == 10
    assert idle.rest() == b""
    idle.close()


def test_drain_lets_transactions_finish(cache, client, key):
    daemon = cache()
    c, sub = client(daemon), client(daemon)
    sub.send("SUBSCRIBE", key)
    assert sub.read()[2] == 1
    assert c.cmd("MULTI") == "OK"
    assert c.cmd("SET", key, "1") == "QUEUED"
    daemon.signal(15)
    assert sub.rest() == b"", "nothing of a subscriber's is under way"
    assert c.cmd("EXEC") == ["OK"]
    assert c.rest() == b""
    daemon.ended()


def test_drain_deadline(carpool, rd, key):
    """A client that blocks for ever does not keep carpool alive."""
    daemon = carpool(redis_pool(rd.url()), drain={"deadline": "300ms"})
    with Resp(daemon.port("cache")) as c:
        c.send("BLPOP", key, 0)
        assert c.silent(0.2)
        daemon.signal(15)
        assert c.rest() == b""
    daemon.ended()


def test_many_servers_of_commands(cache, client, rd, gate, key):
    """A gate that stops taking bytes: clients' pipelines are bounded, and all is done when it goes on."""
    slow = gate(rd.host, rd.port)
    daemon = cache(through(slow), size={"max": 1}, timeouts={"request": "60s"})
    clients = [client(daemon) for _ in range(4)]
    assert all(c.cmd("STRLEN", "x") == 0 for c in clients)
    slow.pause(TO_SERVER)
    n, value = 400, b"v" * 10_000
    senders = [threading.Thread(target=c.write, args=(encode("SET", f"{key}{i}", value) * n,))
               for i, c in enumerate(clients)]
    for t in senders:
        t.start()
    time.sleep(0.5)
    slow.resume()
    for c in clients:
        assert [c.read() for _ in range(n)] == ["OK"] * n
    for t in senders:
        t.join(60)
    assert daemon.all_errors("cache") == {}
