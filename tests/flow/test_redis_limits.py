# SPDX-License-Identifier: MIT
"""Redis at carpool's own limits, and what an operator does: full queues, pause, recycle, drain."""

import contextlib
import signal
import threading
import time

import redis
from harness.base import LOOPBACK, can_connect, wait_for
from harness.load import RedisLoad, RedisPyLoad, WatchLoad, redis_py, stayed
from harness.redis_fixtures import _frail_rd, cache, client, fake, frail_rd, key, rd  # noqa: F401
from harness.rediswire import Resp, encode, redis_pool, through
from harness.relays import TO_CLIENT, TO_SERVER


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


def test_bounds_are_reloaded_under_load(cache, frail_rd, key, workers):
    """max 4 → 1 → 4 while clients work, most of them in transactions that need a server of their own: no
    error, and the server sees it obeyed."""
    frail_rd.set_maxclients(4)
    daemon = cache(frail_rd.url(), workers=workers, size={"max": 4, "acquire_timeout": "60s"},
                   timeouts={"request": "60s"})
    refused = frail_rd.refusals()
    loads = [RedisLoad(daemon, 4, key), RedisPyLoad(daemon, 4, key), WatchLoad(daemon, 8, key)]

    def all_progress():
        for load in loads:
            load.progress()
    wait_for(lambda: len(frail_rd.clients()) == 4, 20, "the pool to grow")
    all_progress()
    daemon.change("cache", size={"max": 1})
    daemon.reload()
    wait_for(lambda: len(frail_rd.clients()) == 1, 20, "the pool to shrink")
    with frail_rd.peak() as peak:
        all_progress()
    assert peak.value == 1 and peak.error is None
    frail_rd.set_maxclients(1)
    all_progress()
    frail_rd.set_maxclients(4)
    daemon.change("cache", size={"max": 4})
    daemon.reload()
    wait_for(lambda: len(frail_rd.clients()) == 4, 20, "the pool to grow again")
    all_progress()
    for load in loads:
        load.stop()
        assert load.causes == set()
    assert frail_rd.refusals() == refused and daemon.all_errors("cache") == {}
    stayed(daemon, "cache", 16)


def count_by_hand(daemon, name, pipeline, replies):
    """INCR after INCR, so many at a time, until the connection ends: cleanly, and behind a whole reply."""
    with Resp(daemon.port("cache")) as c:
        with contextlib.suppress(ConnectionError):
            while True:
                c.write(encode("INCR", name) * pipeline)
                for _ in range(pipeline):
                    try:
                        replies.append(c.read())
                    except EOFError as e:
                        assert "b''" in str(e), e
                        return


def count_by_redis_py(daemon, name, _pipeline, replies):
    with redis_py(daemon) as c, contextlib.suppress(redis.ConnectionError):
        while True:
            replies.append(c.incr(name))


def test_drain_under_load(carpool, rd, gate, key, workers):
    """SIGTERM: what was asked is answered, then connections end. No reply is lost or cut: each counter on
    the server stands where its client was told that it stands."""
    way = gate(rd.host, rd.port)
    daemon = carpool(redis_pool(through(way), timeouts={"request": "60s"}), workers=workers,
                     drain={"deadline": "60s"})
    # redis-py keeps nothing of a pipeline that is cut: it asks one by one.
    how = [(count_by_hand, 1)] * 6 + [(count_by_hand, 20)] * 6 + [(count_by_redis_py, 1)] * 6
    told, wrong = [[] for _ in how], []

    def rider(n, count, pipeline):
        try:
            count(daemon, f"{key}:{n}", pipeline, told[n])
        except Exception as e:
            wrong.append((n, e))
    threads = [threading.Thread(target=rider, args=(n, *what), daemon=True) for n, what in enumerate(how)]
    for t in threads:
        t.start()
    wait_for(lambda: wrong or all(len(t) > 40 for t in told), 20, "all of them to be at work")
    idle = Resp(daemon.port("cache"))
    assert idle.cmd("PING") == "PONG"

    def executed(n):
        return int(rd.admin().get(f"{key}:{n}"))
    way.pause(TO_CLIENT)
    wait_for(lambda: any(executed(n) > len(t) for n, t in enumerate(told)), what="replies to be on their way")
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: not can_connect(LOOPBACK, daemon.port("cache")), what="the door to close")
    way.resume()
    daemon.ended()
    for t in threads:
        t.join(60)
    assert wrong == [] and not any(t.is_alive() for t in threads)
    for n, heard in enumerate(told):
        assert heard == list(range(1, len(heard) + 1)), n
        assert executed(n) == len(heard), f"client {n}"
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
