# SPDX-License-Identifier: MIT
"""Redis when all is well: many clients share few servers, and each hears its own answers in order."""

import asyncio
import random
import shutil
import ssl
import subprocess
import threading

import pytest
import redis
import redis.asyncio
from harness.base import LOOPBACK, wait_for
from harness.redis_fixtures import _frail_rd, cache, client, fake, frail_rd, key, rd  # noqa: F401
from harness.rediswire import Resp, RespError, encode, redis_pool

MIB = 1 << 20


def py(daemon, **more):
    return redis.Redis(host=LOOPBACK, port=daemon.port("cache"), **more)


# -- one client


def test_round_trips(cache, key, workers):
    daemon = cache(workers=workers)
    with py(daemon) as r:
        assert r.ping()
        assert r.set(key, b"\x00\r\n$5\r\nbinary")
        assert r.get(key) == b"\x00\r\n$5\r\nbinary"
        assert r.incr(key + "n") == 1
        assert r.rpush(key + "l", *range(100)) == 100
        assert [int(x) for x in r.lrange(key + "l", 0, -1)] == list(range(100))
        assert r.get("no such key") is None
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            r.incr(key + "l")
        assert r.eval("return {KEYS[1], ARGV[1]}", 1, "a", "b") == [b"a", b"b"]
        assert r.delete(key, key + "n", key + "l") == 3


def test_redis_cli(cache, key):
    daemon = cache()
    text = f"set {key} 'two words'\nget {key}\nstrlen {key}\nnonsense\nquit\n"
    done = subprocess.run(["redis-cli", "-h", LOOPBACK, "-p", str(daemon.port("cache")), "--no-raw"],
                          input=text, text=True, capture_output=True, timeout=20)
    assert done.stdout.splitlines()[:3] == ["OK", '"two words"', "(integer) 9"]
    assert "ERR unknown command 'nonsense'" in done.stdout


def test_inline_commands(cache, client, key):
    c = client(cache())
    c.write(f'SET {key} "a\\x41\\n"\r\n\r\n  \r\nGET {key}\nPING\r\n'.encode())
    assert [c.read() for _ in range(3)] == ["OK", b"aA\n", "PONG"]


def test_commands_without_an_answer(cache, client):
    c = client(cache())
    c.write(b"*0\r\n*-1\r\n\r\n" + encode("PING", "x"))
    assert c.read() == b"x"


def test_byte_at_a_time(cache, rd, gate, key):
    """Both ways: the client's bytes one by one, the server's through a gate that trickles."""
    slow = gate(rd.host, rd.port)
    slow.trickle()
    daemon = cache(f"redis://{slow.host}:{slow.port}/0")
    with Resp(daemon.port("cache")) as c:
        data = (encode("SET", key, "x" * 50) + encode("GET", key) + encode("ECHO", "hey")
                + encode("MULTI") + encode("APPEND", key, "y") + encode("EXEC")
                + f"STRLEN {key}\r\n".encode())
        for i in range(len(data)):
            c.write(data[i:i + 1])
        assert [c.read() for _ in range(7)] == ["OK", b"x" * 50, b"hey", "OK", "QUEUED", [51], 51]


@pytest.mark.parametrize("size", [1000, 100_000, 200_000, 10 * MIB])
def test_big_values(cache, client, key, size):
    """What is too big to travel between other clients' commands goes over a server of its own."""
    c = client(cache())
    value = random.Random(size).randbytes(size)
    assert c.cmd("SET", key, value) == "OK"
    assert c.cmd("STRLEN", key) == size
    assert c.cmd("GET", key) == value
    assert c.cmd("MGET", key, key) == [value, value]
    assert c.cmd("DEL", key) == 1


def test_a_big_pipeline(cache, client, key):
    """More requests, and more bytes, than carpool takes at once; read only when all are sent."""
    c = client(cache())
    n, value = 5000, b"v" * 400
    sender = threading.Thread(target=lambda: c.write(b"".join(
        encode("SET", f"{key}:{i}", value) + encode("STRLEN", f"{key}:{i}") for i in range(n))))
    sender.start()
    for _ in range(n):
        assert c.read() == "OK"
        assert c.read() == 400
    sender.join()


@pytest.mark.parametrize("word", ["PING", "ECHO", "EVAL"])
def test_a_big_pipeline_through_small_buffers(cache, client, word):
    """Answers, of carpool or of the server, go out before more is read, and nothing gets stuck."""
    c = client(cache(limits={"buffer": "16KiB"}))
    n, value = 3000, b"v" * 700
    one = encode("EVAL", "return ARGV[1]", 0, value) if word == "EVAL" else encode(word, value)
    sender = threading.Thread(target=lambda: c.write(one * n))
    sender.start()
    for _ in range(n):
        assert c.read() == value
    sender.join()


# -- what carpool answers itself


def test_local_answers_keep_their_place(cache, client, key):
    """PING, SELECT, CLIENT behind requests that are still under way."""
    c = client(cache())
    c.write(b"".join([encode("SET", key, "1"), encode("PING"), encode("GET", key),
                      encode("CLIENT", "SETNAME", "me"), encode("SELECT", "0"),
                      encode("INCR", key), encode("CLIENT", "GETNAME"), encode("ECHO", "e")]))
    assert [c.read() for _ in range(8)] == ["OK", "PONG", b"1", "OK", "OK", 2, b"me", b"e"]


def test_hello_and_select(cache, client):
    c = client(cache())
    assert str(c.cmd("HELLO", "3")).startswith("NOPROTO")
    hello = c.cmd("HELLO", "2")
    assert dict(zip(hello[::2], hello[1::2]))[b"proto"] == 2
    assert c.cmd("SELECT", "0") == "OK"
    assert c.cmd("SELECT", "1").cause == "unsupported"
    assert c.cmd("QUIT") == "OK"
    assert c.rest() == b""


def test_database_of_the_upstream(cache, client, rd, key):
    c = client(cache(rd.url(db=5)))
    assert c.cmd("SELECT", "5") == "OK"
    assert c.cmd("SET", key, "five") == "OK"
    with redis.Redis(host=rd.host, port=rd.port, db=5) as direct:
        assert direct.get(key) == b"five"


@pytest.mark.parametrize("words", [
    ["SHUTDOWN", "NOSAVE"], ["DEBUG", "SLEEP", "0"], ["CONFIG", "SET", "save", ""], ["MONITOR"],
    ["REPLICAOF", "NO", "ONE"], ["CLIENT", "KILL", "ID", "1"], ["client", "Pause", "1"],
    ["ACL", "SETUSER", "x"], ["SAVE"], ["WAIT", "0", "0"], ["MODULE", "LOAD", "x"],
    ["CLUSTER", "RESET"]])
def test_dangerous_commands_are_refused(cache, client, words):
    daemon = cache()
    c = client(daemon)
    assert c.cmd(*words).cause == "denied"
    assert c.cmd("PING") == "PONG"
    assert c.cmd("CONFIG", "GET", "maxmemory")[0] == b"maxmemory"
    daemon.saw("denied", "cache")


def test_unknown_commands_get_the_servers_words(cache, client):
    c = client(cache())
    assert str(c.cmd("NOSUCH", "x")).startswith("ERR unknown command 'NOSUCH'")
    assert str(c.cmd("CLIENT", "NOSUCH")).startswith("ERR unknown subcommand 'NOSUCH'")
    assert c.cmd("PING") == "PONG"


def test_client_reply_off(cache, client, key):
    c = client(cache())
    c.write(encode("CLIENT", "REPLY", "OFF") + encode("SET", key, "a") + encode("GET", key)
            + encode("PING") + encode("CLIENT", "REPLY", "ON"))
    assert c.read() == "OK"
    c.write(encode("CLIENT", "REPLY", "SKIP") + encode("SET", key, "b") + encode("GET", key))
    assert c.read() == b"b"


# -- bad clients


@pytest.mark.parametrize("data, answer", [
    (b"*1\r\n$+4\r\nPING\r\n", b"-ERR Protocol error: invalid bulk length (carpool: client_protocol)\r\n"),
    (b"*x\r\n", b"-ERR Protocol error: invalid multibulk length (carpool: client_protocol)\r\n"),
    (b"*1\r\n+PING\r\n", b"-ERR Protocol error: expected '$', got '+' (carpool: client_protocol)\r\n"),
    (b'SET k "unbalanced\r\n', b"-ERR Protocol error: unbalanced quotes in request (carpool: client_protocol)\r\n"),
    (b"x" * 70000, b"-ERR Protocol error: too big inline request (carpool: client_protocol)\r\n"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"-ERR Protocol error: neither RESP nor an inline "
     b"request (TLS on a plain port?) (carpool: client_protocol)\r\n"),
])
def test_garbage(cache, client, data, answer, key):
    daemon = cache()
    good = client(daemon)
    assert good.cmd("SET", key, "1") == "OK"
    bad = client(daemon)
    bad.write(encode("GET", key) + data)
    assert bad.read() == b"1", "what came before is answered first"
    assert bad.rest() == answer
    assert good.cmd("GET", key) == b"1", "nobody else is harmed"
    daemon.saw("client_protocol", "cache")


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
                                  b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                  encode("post", "/")])
def test_other_protocols_are_not_answered(cache, client, data):
    daemon = cache()
    c = client(daemon)
    c.write(data)
    assert c.rest() == b""
    daemon.saw("client_protocol", "cache")


def test_half_close_still_gets_answers(cache, client, key):
    """printf ... | nc: the client has said all it wants, and listens."""
    c = client(cache())
    c.write(encode("SET", key, "1") + encode("GET", key))
    c.sock.shutdown(1)
    assert c.rest() == b"+OK\r\n$1\r\n1\r\n"


# -- many clients


def test_many_clients_few_servers(carpool, servers, workers):
    """100 clients over at most 4 servers; Redis itself enforces the bound and counts refusals."""
    server = servers.redis(maxclients=4)
    daemon = carpool(redis_pool(server.url(), size={"min": 1, "max": 4}), workers=workers)

    async def rider(n):
        c = redis.asyncio.Redis(host=LOOPBACK, port=daemon.port("cache"),
                                single_connection_client=True)
        async with c:
            for turn in range(30):
                assert await c.incr(f"rider:{n}") == turn + 1
                assert int(await c.get(f"rider:{n}")) == turn + 1

    async def all_riders():
        await asyncio.gather(*(rider(n) for n in range(100)))

    before = server.accepted()
    with server.peak() as peak:
        asyncio.run(all_riders())
    assert 1 <= peak.value <= 4
    assert server.accepted() - before <= 4
    assert server.refusals() == 0
    assert daemon.all_errors("cache") == {}
    servers.forget(server)


def test_order_of_pipelines_under_concurrency(cache, key, workers):
    """Pipelines of many clients over the same servers: everybody gets exactly its own answers."""
    daemon = cache(workers=workers, size={"max": 2})
    wrong = []

    def rider(n):
        rng = random.Random(n)
        with Resp(daemon.port("cache")) as c:
            for _ in range(20):
                data, want = [], []
                for i in range(rng.randrange(1, 60)):
                    mark = f"{n}:{rng.randrange(10**9)}"
                    kind = rng.randrange(5)
                    if kind == 0:
                        data.append(encode("PING", mark))
                        want.append(mark.encode())
                    elif kind == 1:
                        data.append(encode("SET", f"{key}:{n}", mark) + encode("GET", f"{key}:{n}"))
                        want += ["OK", mark.encode()]
                    elif kind == 2:
                        data.append(encode("EVAL", "return ARGV[1]", 0, mark))
                        want.append(mark.encode())
                    elif kind == 3:
                        data.append(encode("MULTI") + encode("ECHO", mark) + encode("EXEC"))
                        want += ["OK", "QUEUED", [mark.encode()]]
                    else:
                        data.append(encode("NOSUCH" if i % 7 == 0 else "STRLEN", mark))
                        want.append(None if i % 7 == 0 else 0)
                c.write(b"".join(data))
                for expected in want:
                    got = c.read()
                    if got != expected and not (expected is None and isinstance(got, RespError)):
                        wrong.append((n, got, expected))
                        return

    threads = [threading.Thread(target=rider, args=(n,)) for n in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads)
    assert wrong == []


def test_transactions_in_one_piece_share(cache, client, rd, key):
    """A whole MULTI ... EXEC in one write is atomic wherever it goes: no server is reserved for it."""
    daemon = cache(size={"max": 1})
    held = client(daemon)
    assert held.cmd("SET", key, "0") == "OK"
    c = client(daemon)
    before = rd.commands().get("reset", 0)
    for i in range(1, 6):
        c.write(encode("MULTI") + encode("INCR", key) + encode("GET", key) + encode("EXEC"))
        assert [c.read() for _ in range(4)] == ["OK", "QUEUED", "QUEUED", [i, str(i).encode()]]
    assert rd.commands().get("reset", 0) == before
    assert daemon.metric("carpool_dials_total", pool="cache") == 1


def test_too_many_clients(cache, client):
    daemon = cache(limits={"clients": 2})
    a, b = client(daemon), client(daemon)
    assert a.cmd("PING") == b.cmd("PING") == "PONG"
    refused = client(daemon)
    refused.write(encode("PING"))
    assert refused.read().cause == "too_many_clients"
    assert refused.rest() == b""
    a.close()

    def once_more():
        with Resp(daemon.port("cache")) as c:
            return c.cmd("PING") == "PONG"
    wait_for(once_more, 5, "room for another", ignore=(EOFError, OSError))
    daemon.saw("too_many_clients", "cache")


# -- other ways in and out


def test_unix_socket_upstream(carpool, servers, client, key):
    server = servers.redis(local=True)
    daemon = carpool(redis_pool(f"redis+unix://{server.socket}"))
    c = client(daemon)
    assert c.cmd("SET", key, "u") == "OK"
    assert c.cmd("GET", key) == b"u"
    servers.forget(server)


def test_name_with_an_address_nobody_listens_on(carpool, servers, client):
    """localhost is ::1 first; the server listens on 127.0.0.1 only."""
    server = servers.redis(local=True)
    daemon = carpool(redis_pool(server.url(host="localhost")))
    assert client(daemon).cmd("SET", "a", "b") == "OK"
    assert daemon.metric("carpool_dial_failures_total", pool="cache") == 0
    servers.forget(server)


def test_tls_upstream(carpool, servers, client, key):
    server = servers.redis(local=True, tls=True, requirepass="secret")
    daemon = carpool(redis_pool(server.url(tls=True, host="localhost", sslrootcert=server.ca)))
    c = client(daemon)
    value = random.Random(1).randbytes(3 * MIB)
    assert c.cmd("SET", key, value) == "OK"
    assert c.cmd("GET", key) == value
    c.write(encode("MULTI") + encode("GET", key))
    assert c.read() == "OK"
    assert c.read() == "QUEUED"
    assert c.cmd("EXEC") == [value]
    with redis.Redis(host=server.host, port=server.port, password="secret") as direct:
        assert all(e["name"] in ("carpool", "harness", "") for e in direct.client_list())
    servers.forget(server)


def test_tls_upstream_is_verified(carpool, servers, client):
    """A certificate for another name, and one of a strange authority."""
    server = servers.redis(local=True, tls=True)
    wrong_name = carpool(redis_pool(server.url(tls=True, sslrootcert=server.ca)))
    stranger = carpool(redis_pool(server.url(tls=True, host="localhost",
                                             sslrootcert=servers.authority.other_ca)))
    for daemon in (wrong_name, stranger):
        error = client(daemon).cmd("GET", "a")
        assert error.cause in ("tls_failed", "dial_failed", "breaker_open"), error
        wait_for(lambda d=daemon: d.log_lines("dial_failed", "cause=tls_failed"), 5, "the cause")
        assert daemon.logged("certificate")
    servers.forget(server)


def test_tls_door(carpool, servers, rd, key):
    authority = servers.authority
    daemon = carpool(redis_pool(rd.url(), tls={"cert": str(authority.cert),
                                               "key": str(authority.key)}))
    context = ssl.create_default_context(cafile=str(authority.ca))

    def wrap(sock):
        return context.wrap_socket(sock, server_hostname="localhost")
    with Resp(daemon.port("cache"), wrap=wrap) as c:
        value = random.Random(2).randbytes(3 * MIB)
        assert c.cmd("SET", key, value) == "OK"
        assert c.cmd("GET", key) == value
        c.write(encode("PING") * 100)
        assert [c.read() for _ in range(100)] == ["PONG"] * 100
    with Resp(daemon.port("cache")) as plain:
        plain.write(encode("PING") * 3)
        assert b"PONG" not in plain.rest()
    daemon.saw("tls_failed", "cache")


@pytest.mark.skipif(not shutil.which("redis-benchmark"), reason="redis-tools is not installed")
def test_benchmark_tool(cache):
    """It pipelines, and it uses CONFIG GET first."""
    daemon = cache()
    done = subprocess.run(["redis-benchmark", "-h", LOOPBACK, "-p", str(daemon.port("cache")), "-c",
                           "20", "-n", "2000", "-P", "8", "-t", "set,get,incr,lpush,mset", "--csv"],
                          text=True, capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout.count("\n") >= 6, done
    assert daemon.all_errors("cache") == {}
