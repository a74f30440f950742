# SPDX-License-Identifier: MIT
"""Several databases, and several users, behind one listener: a pool for each, made when it is needed,
gone when nobody needs it."""

import asyncio
import re
import socket

import psycopg
import pytest
from harness import pgwire
from harness.base import free_port, wait_for, wait_for_async
from harness.carpool import postgres_pool
from harness.nomem import NoMemory

DATABASES = ("shop", "stock", "odd name/50%")
USERS = ("alice", "bob")


@pytest.fixture(scope="module")
def world(pg):
    """Databases and users of their own; each user's password is `of NAME`."""
    for name in USERS:
        pg.query(f"drop role if exists {name}")
        pg.query(f"create role {name} login password 'of {name}'")
    for name in DATABASES:
        pg.query(f'drop database if exists "{name}" (force)')
        pg.query(f'create database "{name}"')
    yield pg
    for name in DATABASES:
        pg.query(f'drop database "{name}" (force)')
    for name in USERS:
        pg.query(f"drop role {name}")


@pytest.fixture
def several(orders, world):
    """several(databases, **over): a pool named `orders` in front of them."""
    def make(databases, workers=1, **over):
        return orders(workers, databases=databases, **over)
    return make


def where(daemon, db, **more):
    with daemon.connect(db=db, **more) as conn:
        return conn.execute("select current_database(), current_user").fetchone()


def pools(daemon):
    return set(daemon.pools())


def refused(daemon, **who):
    """The error a client meets, at login or at its first query."""
    e = daemon.first_error(**who)
    return e.code, str(e)


def test_a_pool_for_each_database(several, workers):
    daemon = several(["shop", "stock"], workers, size={"max": 1})
    assert pools(daemon) == {"orders", "orders:shop", "orders:stock"}
    for db in ("shop", "stock", "shop"):
        assert where(daemon, db) == (db, "app")
    assert daemon.servers("orders:shop") == daemon.servers("orders:stock") == 1
    assert daemon.servers("orders") == 0, "the listener's own pool has no work"


def test_listed_databases_are_warm_before_ready(several):
    daemon = several(["shop", "stock"], size={"min": 1, "max": 2})
    assert daemon.servers("orders:shop", "idle") == daemon.servers("orders:stock", "idle") == 1


def test_only_what_is_listed_is_served(several):
    daemon = several(["shop"])
    code, text = refused(daemon, database="stock")
    assert code == "3D000" and "stock" in text
    wait_for(lambda: daemon.errors("no_route") == 1, what="it to be counted")


def test_a_database_may_be_called_otherwise(several):
    daemon = several({"front": {"database": "shop"}})
    assert where(daemon, "front") == ("shop", "app")
    assert refused(daemon, database="shop")[0] == "3D000"


def test_each_database_has_its_own_bounds(several, world):
    daemon = several({"shop": {"size": {"max": 1}}, "stock": None}, size={"max": 2})
    assert daemon.pools()["orders:shop"]["servers"]["max"] == 1
    assert daemon.pools()["orders:stock"]["servers"]["max"] == 2

    async def rider(db):
        conn = await daemon.connect_async(db=db)
        pid = (await (await conn.execute("select pg_backend_pid(), pg_sleep(0.05)")).fetchone())[0]
        await conn.close()
        return db, pid

    async def main():
        return set(await asyncio.gather(*(rider(db) for db in ("shop", "stock") * 8)))
    seen = asyncio.run(main())
    assert len([1 for db, _ in seen if db == "shop"]) == 1
    assert len([1 for db, _ in seen if db == "stock"]) <= 2
    assert daemon.all_errors() == {}


def test_any_database_on_demand(several, workers):
    """Pools come with their first client and go with their last server."""
    daemon = several({"*": None}, workers, size={"min": 1, "max": 3, "idle_timeout": "3s"})
    assert pools(daemon) == {"orders"}
    for db in DATABASES:
        assert where(daemon, db) == (db, "app")
    assert pools(daemon) == {"orders", "orders:shop", "orders:stock", "orders:odd=20name=2F50=25"}
    wait_for(lambda: pools(daemon) == {"orders"}, 20, "unused pools to go")
    assert where(daemon, "shop") == ("shop", "app"), "and they come again"


def test_a_pool_stays_while_it_has_clients(several):
    daemon = several({"*": None}, size={"max": 3, "idle_timeout": "100ms"})
    with daemon.connect(db="shop") as conn:
        conn.execute("select 1")
        where(daemon, "stock")
        wait_for(lambda: pools(daemon) == {"orders", "orders:shop"}, 20, "the other one to go")
        wait_for(lambda: daemon.servers("orders:shop") == 0, what="its server to go")
        assert conn.execute("select current_database()").fetchone() == ("shop",)


def test_a_crowd_makes_one_pool(several, workers):
    """However many clients come at once for a pool that is not there: one pool, no error."""
    daemon = several({"*": None}, workers)

    async def rider(n):
        db = DATABASES[n % 2]
        conn = await daemon.connect_async(db=db)
        row = await (await conn.execute("select current_database()")).fetchone()
        await conn.close()
        assert row == (db,)

    async def main():
        await asyncio.gather(*(rider(n) for n in range(60)))
    asyncio.run(main())
    assert pools(daemon) == {"orders", "orders:shop", "orders:stock"}
    wait_for(lambda: len(daemon.log_lines(" pool_made ")) == 2, what="both in the log")
    for db in ("shop", "stock"):
        assert daemon.pools()[f"orders:{db}"]["servers"]["max"] == 3
        assert daemon.all_errors(f"orders:{db}") == {}


def test_a_database_that_is_not_there(several):
    """The server says so at once, to the client that asked; the pool made for it goes again."""
    daemon = several({"*": None})
    code, text = refused(daemon, database="nowhere")
    assert code == "3D000" and "database 'nowhere' does not exist" in text
    assert where(daemon, "shop") == ("shop", "app")
    wait_for(lambda: "orders:nowhere" not in pools(daemon), 20, "its pool to go")


def test_pools_on_demand_are_bounded(several):
    daemon = several({"*": None}, limits={"pools": 2}, size={"max": 3, "idle_timeout": "100ms"})
    with daemon.connect(db="shop") as one, daemon.connect(db="stock") as two:
        code, text = refused(daemon, database="orders")
        assert code == "53300" and "limits.pools" in text
        one.execute("select 1")
        two.execute("select 1")
    wait_for(lambda: pools(daemon) == {"orders"}, 20, "both to go")
    assert where(daemon, "orders") == ("orders", "app")


def test_cancels_find_their_session(several, world, workers):
    """The key belongs to the listener, wherever the client has gone."""
    daemon = several({"*": None}, workers)
    for db in ("shop", "stock"):
        with daemon.wire(database=db) as wire:
            wire.send(pgwire.query("select pg_sleep(61)"))
            wait_for(lambda: world.active("select pg_sleep(61)%"), what="the query")
            assert wire.cancel()
            assert wire.results()[2].code == "57014"
            assert wire.run("select 1")[2] is None


def test_prepared_statements_stay_in_their_database(several, world):
    for db in ("shop", "stock"):
        world.query("drop table if exists what", db=db)
        world.query(f"create table what as select '{db}'::text as name", db=db)
        world.query("grant select on what to public", db=db)
    daemon = several({"*": None}, size={"max": 1})
    conns = {db: daemon.connect(db=db) for db in ("shop", "stock")}
    for _ in range(3):
        for db, conn in conns.items():
            assert conn.execute("select name from what", prepare=True).fetchone() == (db,)
    for conn in conns.values():
        conn.close()


def test_verbs_for_the_whole_and_for_one(several):
    daemon = several({"shop": None, "*": None}, timeouts={"outage_wait": "1s"},
                     size={"max": 2, "acquire_timeout": "1s"})
    with daemon.connect(db="shop") as shop:
        shop.execute("select 1")
        daemon.cli("pause", "orders")
        for db in ("shop", "stock"):  # the second has no pool yet
            code, text = refused(daemon, database=db)
            assert code == "53300" and "paused" in text, db
        daemon.cli("resume", "orders")
        assert where(daemon, "stock") == ("stock", "app")
        daemon.cli("pause", "orders:stock")
        assert shop.execute("select 1").fetchone() == (1,)
        assert refused(daemon, database="stock")[0] == "53300"
        daemon.cli("resume", "orders:stock")
        pid = shop.execute("select pg_backend_pid()").fetchone()
        daemon.cli("recycle", "orders")
        wait_for(lambda: shop.execute("select pg_backend_pid()").fetchone() != pid,
                 what="another server")
        assert len(daemon.get("/clients?pool=orders").json["clients"]) == 1


@pytest.mark.parametrize("order, over", [("pause", "resume"), ("drain", "resume"), ("breaker", "auto")])
def test_orders_for_one_outlive_its_last_server(several, order, over):
    daemon = several({"*": None}, timeouts={"outage_wait": "500ms"},
                     size={"max": 2, "acquire_timeout": "500ms", "idle_timeout": "200ms"})
    for db in ("stock", "shop"):  # they go in the order in which they came
        assert where(daemon, db) == (db, "app")
    daemon.cli(order, "orders:stock", *(["open"] if order == "breaker" else []))
    wait_for(lambda: "orders:shop" not in pools(daemon), 20, "the other one to go")
    wait_for(lambda: daemon.servers("orders:stock") == 0, 20, "its servers to go")
    assert where(daemon, "shop") == ("shop", "app")
    wait_for(lambda: "orders:shop" not in pools(daemon), 20, "the other one to go once more")
    assert refused(daemon, database="stock")[0] in ("53300", "57P01", "08001")
    daemon.cli(*(["breaker", "orders:stock", "auto"] if over == "auto" else [over, "orders:stock"]))
    assert where(daemon, "stock") == ("stock", "app")
    wait_for(lambda: pools(daemon) == {"orders"}, 20, "it to go as well")


def test_databases_come_and_go_with_reloads(several):
    daemon = several({"shop": {}, "stock": {}})
    with daemon.connect(db="shop") as shop, daemon.connect(db="stock") as stock:
        shop.execute("select 1")
        stock.execute("select 1")
        daemon.change(databases={"shop": {"size": {"max": 1}}, "orders": {}})
        daemon.reload()
        wait_for(lambda: pools(daemon) == {"orders", "orders:shop", "orders:stock", "orders:orders"},
                 what="the new pool")
        assert daemon.pools()["orders:shop"]["servers"]["max"] == 1
        assert where(daemon, "orders") == ("orders", "app")
        assert shop.execute("select 1").fetchone() == (1,), "the others go on"
        daemon.change(databases=None)
        daemon.change(databases=["shop"])
        daemon.reload()
        with pytest.raises(psycopg.OperationalError):
            stock.execute("select 1")
        assert shop.execute("select 1").fetchone() == (1,)
        wait_for(lambda: pools(daemon) == {"orders", "orders:shop"}, 20, "what is gone to be gone")
        assert refused(daemon, database="stock")[0] == "3D000"


def test_a_database_listed_again_while_it_goes(several, workers):
    """Its pool comes when the old one is gone, without a client, and has its servers."""
    daemon = several(["shop", "stock"], workers, size={"min": 1, "max": 2})

    def load(*names):
        daemon.change(databases=None)
        daemon.change(databases=list(names))
        daemon.reload()
    with daemon.wire(database="stock") as wire:
        assert wire.run("begin")[3] == "T"
        load("shop")
        load("shop", "stock")
        wire.send(pgwire.query("commit"))
        assert wire.farewell().code == "57P01"
    wait_for(lambda: daemon.logged("pool_removed", "orders:stock"), 20, "the old one to go")
    wait_for(lambda: daemon.servers("orders:stock", "idle") == 1, 20, "the new one to be warm")
    assert where(daemon, "stock") == ("stock", "app")


def test_the_whole_is_removed_by_a_reload(several, pg):
    daemon = several({"shop": None, "*": None}, workers=2)
    other = {**daemon.pool_config(), "name": "other", "databases": None}
    with daemon.connect(db="shop") as shop, daemon.connect(db="stock") as stock:
        shop.execute("select 1")
        stock.execute("select 1")
        port = daemon.port()
        other["listen"] = ["127.0.0.1:%d" % free_port()]
        daemon.write({**daemon.config, "pools": [other]})
        daemon.reload()
        for conn in (shop, stock):
            with pytest.raises(psycopg.OperationalError):
                conn.execute("select 1")
    wait_for(lambda: pools(daemon) == {"other"}, 20, "all of them to go")
    with pytest.raises(ConnectionRefusedError):
        pgwire.Wire("127.0.0.1", port)


# ---- as the client itself ----


@pytest.fixture
def themselves(carpool, world):
    """Servers are logged in to as each client's own user."""
    def make(workers=1, env=None, **over):
        url = re.sub("//.*@", "//", world.url())
        return carpool(postgres_pool(url, login_as="client", **over), workers=workers, env=env)
    return make


def test_clients_log_in_as_themselves(themselves, workers):
    """method: password, and nobody is named: the server alone judges."""
    daemon = themselves(workers, databases=["shop", "stock"], auth={"method": "password"})
    for user in USERS:
        for db in ("shop", "stock"):
            assert where(daemon, db, user=user, password=f"of {user}") == (db, user)
    assert pools(daemon) == {"orders"} | {f"orders:{db}:{user}" for user in USERS
                                          for db in ("shop", "stock")}


def test_a_wrong_password_is_the_servers_no(themselves, world):
    daemon = themselves(databases=["shop"], auth={"method": "password"})
    with daemon.connect(db="shop", user="alice", password="of alice") as conn:
        conn.execute("select 1")  # there is a server that a right password has opened
        for user, password in (("alice", "wrong"), ("nobody", "any")):
            code, text = refused(daemon, database="shop", user=user, password=password)
            assert code == "28P01" and "password authentication failed" in text
        assert conn.execute("select current_user").fetchone() == ("alice",)
    with daemon.connect(db="shop", user="alice", password="of alice") as conn:
        assert conn.execute("select current_user").fetchone() == ("alice",)


def test_wrong_passwords_are_slowed_down(themselves):
    daemon = themselves(databases=["shop"], auth={"method": "password", "failures": 3})
    codes = [refused(daemon, database="shop", user="alice", password=f"wrong {n}")[0]
             for n in range(5)]
    assert codes == ["28P01"] * 3 + ["53400"] * 2


def test_passwords_from_the_users_file(themselves, tmp_path):
    """The client proves itself by SCRAM; carpool knows what to show the server."""
    users = tmp_path / "users"
    users.write_text('"alice" "of alice"\n"bob" "not his"\n')
    daemon = themselves(databases=["shop"], auth={"method": "scram", "users_file": str(users)})
    assert where(daemon, "shop", user="alice", password="of alice") == ("shop", "alice")
    assert refused(daemon, database="shop", user="alice", password="no")[0] == "28P01"
    code, text = refused(daemon, database="shop", user="bob", password="not his")
    assert code == "28P01" and "'bob'" in text, "the server has another one"


def test_clients_of_one_user_share(themselves):
    daemon = themselves(databases=["shop"], auth={"method": "password"}, size={"max": 1})
    pids = set()
    for _ in range(3):
        with daemon.connect(db="shop", user="alice", password="of alice") as conn:
            pids.add(conn.execute("select pg_backend_pid()").fetchone())
    assert len(pids) == 1
    assert daemon.servers("orders:shop:alice") == 1


def test_one_database_is_enough(themselves):
    """login_as: client without databases: the upstream's own."""
    daemon = themselves(auth={"method": "password"})
    assert where(daemon, "orders", user="bob", password="of bob") == ("orders", "bob")
    assert refused(daemon, database="shop", user="bob", password="of bob")[0] == "3D000"


# ---- the hard moments ----


def test_clients_that_leave_while_their_pool_is_made(several, workers):
    daemon = several({"*": None}, workers)
    for n in range(30):
        with socket.create_connection(("127.0.0.1", daemon.port())) as raw:
            raw.sendall(pgwire.startup(user="app", database=DATABASES[n % 2]))
    assert where(daemon, "shop") == ("shop", "app")
    wait_for(lambda: daemon.pools()["orders:shop"]["clients"] == 0, what="all of them to be gone")


def test_a_stop_while_pools_are_made(several, workers):
    """No login hangs, nothing leaks (the fixture looks)."""
    daemon = several({"*": None}, workers)
    raws = []
    for n in range(20):
        raws.append(socket.create_connection(("127.0.0.1", daemon.port())))
        raws[-1].sendall(pgwire.startup(user="app", database=f"none{n}"))
    daemon.stop()
    for raw in raws:
        raw.settimeout(10)
        while True:
            try:
                if not raw.recv(4096):
                    break
            except ConnectionResetError:
                break
        raw.close()


def test_any_allocation_of_a_new_pool_may_fail(themselves, tmp_path):
    """Each wrong password is a pool of its own: made, refused by the server, gone."""
    nomem = NoMemory(tmp_path)
    daemon = themselves(2, databases=["shop"], env=nomem.env,
                        auth={"method": "password", "failures": 0}, limits={"pools": 1000})
    seen = set()
    for n in range(1, 200):
        nomem.fail(n)
        try:
            daemon.wire(user="alice", password=f"wrong {n}", database="shop").close()
        except pgwire.PgError as e:
            seen.add(e.code)
        except (pgwire.Eof, OSError):
            pass
        if not nomem.failed:
            break
    assert n > 5, "there was something to fail"
    nomem.fail(0)
    assert seen <= {"28P01", "XX000", "08001", "53200"}
    wait_for(lambda: pools(daemon) == {"orders"}, 20, "what failed to be cleared away")
    assert where(daemon, "shop", user="alice", password="of alice") == ("shop", "alice")
    wait_for(lambda: pools(daemon) == {"orders", "orders:shop:alice"}, 20, "the others to go")


# ---- the bound over all of them ----


def test_one_bound_over_all_databases(orders, bounded, world, workers):
    """The server counts: never more than size.total, and every database is served."""
    url = bounded(4)
    daemon = orders(workers, upstream=url, databases={"*": {}},
                    size={"max": 3, "total": 4, "acquire_timeout": "30s"})
    mark = world.mark()

    async def rider(n):
        db = ("shop", "stock", "orders")[n % 3]
        conn = await daemon.connect_async(user="bounded", db=db)
        for _ in range(3):
            row = await (await conn.execute("select current_database(), pg_sleep(0.002)")).fetchone()
            assert row[0] == db
        await conn.close()

    async def main():
        await asyncio.gather(*(rider(n) for n in range(45)))
    with world.peak("bounded") as peak:
        asyncio.run(main())
    assert peak.value <= 4
    assert world.refusals(mark) == 0
    for db in ("shop", "stock", "orders"):
        assert daemon.all_errors(f"orders:{db}") == {}


def test_who_comes_late_gets_a_fair_share(orders, bounded, world):
    """A database that has all the servers gives of them to one that has none."""
    daemon = orders(upstream=bounded(4), databases=["shop", "stock"],
                    size={"max": 4, "total": 4, "acquire_timeout": "30s"})

    async def main():
        go_on = True

        async def busy(db):
            conn = await daemon.connect_async(user="bounded", db=db)
            while go_on:
                await conn.execute("select pg_sleep(0.01)")
            await conn.close()
        crowd = [asyncio.create_task(busy("shop")) for _ in range(12)]
        await wait_for_async(lambda: daemon.servers("orders:shop") == 4, what="all for one")
        crowd += [asyncio.create_task(busy("stock")) for _ in range(12)]
        await wait_for_async(lambda: daemon.servers("orders:shop") == 2
                             and daemon.servers("orders:stock") == 2, what="equal shares")
        go_on = False
        await asyncio.gather(*crowd)
    asyncio.run(main())
    assert daemon.all_errors("orders:shop") == daemon.all_errors("orders:stock") == {}


def test_who_wants_little_gets_it_and_others_share_the_rest(orders, bounded, world, workers):
    """Seven servers, and one of three databases has work for one of them: equal shares would leave it more
    than it takes, and the others less than there is."""
    daemon = orders(workers, upstream=bounded(7), databases=["shop", "stock", "orders"],
                    size={"max": 7, "total": 7, "acquire_timeout": "60s"})
    mark = world.mark()
    done = {"shop": 0, "stock": 0, "orders": 0}

    def split():
        return {db: daemon.servers(f"orders:{db}") for db in done}

    async def main():
        go_on = True

        async def busy(db):
            conn = await daemon.connect_async(user="bounded", db=db)
            while go_on:
                await conn.execute("select pg_sleep(0.01)")
                done[db] += 1
            await conn.close()

        async def everybody_is_served():
            before = dict(done)
            await wait_for_async(lambda: all(done[db] >= before[db] + 20 for db in done), 30,
                                 "all to be served")
        crowd = [asyncio.create_task(busy("shop")) for _ in range(12)]
        await wait_for_async(lambda: split()["shop"] == 7, what="all for one")
        crowd += [asyncio.create_task(busy("orders"))]
        await wait_for_async(lambda: split() == {"shop": 6, "stock": 0, "orders": 1}, what="one for orders")
        crowd += [asyncio.create_task(busy("stock")) for _ in range(12)]
        await wait_for_async(lambda: split() == {"shop": 3, "stock": 3, "orders": 1}, what="fair shares")
        await everybody_is_served()
        go_on = False
        await asyncio.gather(*crowd)
    asyncio.run(main())
    assert world.refusals(mark) == 0
    assert [daemon.all_errors(f"orders:{db}") for db in done] == [{}] * 3
