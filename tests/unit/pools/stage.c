/* SPDX-License-Identifier: MIT */
#include "tests/unit/pools/stage.h"

struct house house;
struct pool_conf conf;
struct fake_peer peer;
struct fake_dial dials;
unsigned sockets[HOUSE_ENDPOINTS];

void staged_plan(const struct server *sv, struct fake_dial *dial, struct fake_peer *p)
{
    *dial = dials;
    *p = peer;
    sockets[sv->endpoint_at]++;
}

int stage(void **state)
{
    (void)state;
    peer = (struct fake_peer){0};
    dials = (struct fake_dial){0};
    conf = house_conf(3);
    memset(sockets, 0, sizeof sockets);
    fake_world_set(&(struct fake_world){.capacity = 1, .plan = staged_plan});
    return 0;
}

void open_house(unsigned workers)
{
    house_open(&house, workers, &conf);
    house_settle(&house);
}

void open_shared(unsigned capacity)
{
    fake_world_set(&(struct fake_world){.capacity = capacity, .plan = staged_plan});
    open_house(1);
}

void close_house(void)
{
    house_audit(&house);
    house_close(&house);
}

void ask_on(unsigned worker, struct guest *g)
{
    guest_ask(&house, worker, g, true);
    house_settle(&house);
}

void ask(struct guest *g)
{
    ask_on(0, g);
}

void ends(struct guest *g, enum outcome how)
{
    guest_end(g, how);
    house_settle(&house);
}

int fd_of(const struct guest *g)
{
    return fake_server_of(guest_server(g))->fd;
}

unsigned idle_on(unsigned worker)
{
    return (unsigned)counter_get(&pool_stats(house.pools[worker])->idle);
}
