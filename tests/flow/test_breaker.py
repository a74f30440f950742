# SPDX-License-Identifier: MIT
"""The service breakers of two endpoints: the sick one is left alone, the other one serves, and trials
happen where the sickness was. What happened stands in the log, a line for each step.

(What one endpoint does is in test_postgres_breaker.py, test_redis_faults.py and test_http_errors.py.)
"""

import http.server
import re
import threading
import time

import pytest
from harness.base import LOOPBACK, SLOW, free_port, wait_for
from harness.carpool import postgres_pool
from harness.httpwire import Http, http_pool
from harness.pgwire import message
from harness.quack import SIMPLE, Quack
from harness.rediswire import FakeRedis, Resp, RespError, redis_pool

OPEN_S = 0.5
BREAKER = {"consecutive": 3, "failure_ratio": "0%", "open": "500ms..500ms"}


class Web:
    """An HTTP origin; while it is `ill` it answers 503."""

    def __init__(self, port=0):
        self.ill, self.asked = False, 0
        origin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                origin.asked += 1
                self.send_response(503 if origin.ill else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self):
        return f"http://{LOOPBACK}:{self.port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Cache(FakeRedis):
    """A Redis; while it is `ill` it says that it is loading."""

    def __init__(self):
        self.ill, self.asked = False, 0
        super().__init__(self._reply)

    def _reply(self, _words, _conn):
        self.asked += 1
        return b"-LOADING Redis is loading the dataset in memory\r\n" if self.ill else b"+OK\r\n"


class Orders(Quack):
    """A PostgreSQL; while it is `ill` it talks nonsense."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "ill":
            self.answer = message("~", b"what?") if value else SIMPLE


def ask_http(wire):
    return wire.get("/").status == 200


def ask_redis(wire):
    return not isinstance(wire.cmd("GET", "x"), RespError)


def ask_postgres(wire):
    return wire.run("select 1")[2] is None


KINDS = {
    "postgres": ("orders", Orders, postgres_pool, ask_postgres, lambda daemon: daemon.wire(),
                 "upstream_protocol"),
    "redis": ("cache", Cache, redis_pool, ask_redis, lambda daemon: Resp(daemon.port("cache")),
              "it answers that it cannot serve now"),
    "http": ("web", Web, http_pool, ask_http, lambda daemon: Http(daemon.port("web")), "it answers with 5xx"),
}


def steps(daemon, endpoint):
    """What the log says of the service of an endpoint: [(from, to, rule)]."""
    lines = daemon.log_lines(" breaker ", "breaker=service", f"endpoint={endpoint} ")
    return [re.search(r"to=(\S+) from=(\S+) rule=(\S+)", line).groups() for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_the_sick_endpoint_is_tried_and_the_other_serves(kind, carpool, workers):
    name, make, pool, exchange, connect, sickness = KINDS[kind]
    first, second = make(), make()
    daemon = carpool(pool([{"url": first.url(), "priority": 1}, {"url": second.url(), "priority": 2}],
                          breaker=BREAKER, retry={"attempts": 1}), workers=workers)
    labels = [f"{LOOPBACK}:{one.port}" for one in (first, second)]

    def ask():
        """(who was asked, did it go well)"""
        before = first.asked, second.asked
        well = exchange(wire)
        asked = first.asked - before[0], second.asked - before[1]
        assert sum(asked) == 1, "one exchange, one server, once"
        return (first if asked[0] else second), well

    wire = connect(daemon)
    try:
        assert ask() == (first, True)
        first.ill = True
        for _ in range(3):
            assert ask() == (first, False)
        begun, tried, served = time.monotonic(), 0, 0
        while time.monotonic() - begun < 4 * OPEN_S or tried < 2:
            who, well = ask()
            assert well == (who is second)
            served, tried = served + (who is second), tried + (who is first)
            assert time.monotonic() - begun < 60 * SLOW, "trials"
        assert tried <= (time.monotonic() - begun) / OPEN_S + 1, "one trial each time it may be tried"
        assert served > tried
        first.ill = False
        wait_for(lambda: ask() == (first, True), 20, "a trial that goes well", 0.001)
        wait_for(lambda: ask() and daemon.metric("carpool_breaker_state", pool=name, breaker="service",
                                                 state="closed") == 1, 20, "the breaker to close", 0.001)
    finally:
        wire.close()
        first.close()
        second.close()
    wait_for(lambda: ("half_open", "closed") in [(b, a) for a, b, _ in steps(daemon, labels[0])], what="the log")
    assert steps(daemon, labels[1]) == []
    trials = [("half_open", "open", "time_over"), ("open", "half_open", "trial_failed")] * tried
    assert steps(daemon, labels[0]) == [("open", "closed", "consecutive_failures"), *trials,
                                        ("half_open", "open", "time_over"),
                                        ("closed", "half_open", "trials_passed")]
    opened = daemon.log_lines(" warn breaker ", " to=open ")
    assert len(opened) == 1 + tried and len(daemon.log_lines(" info breaker ")) == tried + 2
    assert all(f'reason="{sickness}"' in line for line in opened)
    held = [int(re.search(r"held_ms=(\d+)", line)[1]) for line in daemon.log_lines(" to=half_open ")]
    assert all(OPEN_S * 1000 <= ms < (OPEN_S + 10 * SLOW) * 1000 for ms in held), held
    if kind != "postgres":  # there the broken ones are gone already
        assert daemon.metric("carpool_recycle_verdicts_total", pool=name, phase="return",
                             outcome="drop_breaker") >= 1


def test_the_door_says_when_it_opens_and_closes(carpool, workers):
    """An upstream that is down, and its return: each step once, with what was the matter and how long."""
    port = free_port()
    label = f"{LOOPBACK}:{port}"
    daemon = carpool(http_pool(f"http://{label}", breaker={**BREAKER, "open": "300ms..300ms"}), workers=workers)
    with Http(daemon.port("web")) as wire:
        assert wire.get("/").status in (502, 503)
        wait_for(lambda: wire.get("/").status == 503 and daemon.log_lines(" breaker ", " to=half_open "), 20,
                 "the door to open and to be tried")
        late = Web(port)
        try:
            wait_for(lambda: wire.get("/").status == 200, 20, "service", 0.05)
            wait_for(lambda: daemon.log_lines(" breaker ", " to=closed "), what="the last line")
        finally:
            late.close()
    lines = daemon.log_lines(" breaker ")
    assert all(f"pool=web breaker=door endpoint={label} " in line for line in lines)
    said = [re.search(r"to=(\S+) from=(\S+) rule=(\S+)", line).groups() for line in lines]
    trials = [("half_open", "open", "time_over"), ("open", "half_open", "trial_failed")]
    assert said == [("open", "closed", "consecutive_failures"), *trials * (len(said) // 2 - 1),
                    ("half_open", "open", "time_over"), ("closed", "half_open", "trials_passed")]
    dial = re.search(r'reason=".*"', daemon.log_lines(" dial_failed ")[-1])[0]
    assert label in dial
    assert all(" warn " in line and " cause=dial_failed " in line and dial in line for line in lines
               if " to=open " in line)
    # An operator's word is a step like others.
    daemon.cli("breaker", "web", "open")
    wait_for(lambda: len(daemon.log_lines(" breaker ", "from=closed", "to=forced_open", "rule=operator")) == 2,
             what="door and service")
