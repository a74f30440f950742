/* SPDX-License-Identifier: MIT */
/*
 * Every command of Redis up to 8 and of Valkey, by class. The rule is the first that fits of:
 * blocking; subscribe family; transaction; connection (by hand); admin (refused unless it only
 * reads); readonly; write; publish; and by hand what has no flag. A unit test checks the order,
 * since lookups are a binary search.
 */
#include "proxy/wire/redis_table.h"

/* clang-format off */
#define ROW(n, c, i, f, w) {n, REDIS_##c, REDIS_ID_##i, f, REDIS_WHY_##w}
#define R(n)        ROW(n, READ, OTHER, REDIS_ROW_RETRY | REDIS_ROW_MULTI, NONE)
#define RA(n)       ROW(n, READ, OTHER, REDIS_ROW_RETRY | REDIS_ROW_MULTI | REDIS_ROW_SWEEPING, \
                        NONE)
#define RV(n)       ROW(n, READ, OTHER, REDIS_ROW_RETRY | REDIS_ROW_MULTI | REDIS_ROW_STREAM, NONE)
#define W(n)        ROW(n, WRITE, OTHER, REDIS_ROW_MULTI, NONE)
#define WA(n)       ROW(n, WRITE, OTHER, REDIS_ROW_MULTI | REDIS_ROW_SWEEPING, NONE)
#define WV(n)       ROW(n, WRITE, OTHER, REDIS_ROW_MULTI | REDIS_ROW_STREAM, NONE)
#define S(n)        ROW(n, WRITE, OTHER, REDIS_ROW_MULTI | REDIS_ROW_SCRIPT, NONE)
#define SR(n)       ROW(n, READ, OTHER, REDIS_ROW_RETRY | REDIS_ROW_MULTI | REDIS_ROW_SCRIPT, NONE)
#define B(n)        ROW(n, BLOCKING, OTHER, REDIS_ROW_MULTI, NONE) /* does not block inside MULTI */
#define P(n, id)    ROW(n, SUBSCRIBING, id, 0, NONE)
#define T(n, id)    ROW(n, TRANSACTION, id, REDIS_ROW_MULTI, NONE)
#define K(n, id)    ROW(n, STICKY, id, 0, NONE)
#define L(n, id)    ROW(n, LOCAL, id, 0, NONE)
#define X(n, id, w) ROW(n, REFUSED, id, 0, w)
/* A container called without subcommand: the server complains, or, COMMAND, answers. */
#define C(n)        ROW(n, READ, OTHER, REDIS_ROW_RETRY | REDIS_ROW_MULTI | REDIS_ROW_CONTAINER, \
                        NONE)
#define O(n)        ROW(n, READ, OTHER, REDIS_ROW_RETRY | REDIS_ROW_MULTI | REDIS_ROW_CONTAINER | \
                                        REDIS_ROW_OPEN, NONE)

const struct redis_row redis_rows[] = {
    C("acl"), R("acl|cat"), X("acl|deluser", OTHER, USERS), X("acl|dryrun", OTHER, USERS),
    R("acl|genpass"), X("acl|getuser", OTHER, USERS), R("acl|help"), X("acl|list", OTHER, USERS),
    X("acl|load", OTHER, USERS), X("acl|log", OTHER, USERS), X("acl|save", OTHER, USERS),
    X("acl|setuser", OTHER, USERS), X("acl|users", OTHER, USERS), R("acl|whoami"),
    W("append"), K("asking", OTHER), L("auth", AUTH),
    X("bgrewriteaof", OTHER, ADMIN), X("bgsave", OTHER, ADMIN), R("bitcount"), W("bitfield"),
    R("bitfield_ro"), W("bitop"), R("bitpos"), B("blmove"), B("blmovem"), B("blmpop"), B("blpop"),
    B("brpop"), B("brpoplpush"), B("bzmpop"), B("bzpopmax"), B("bzpopmin"),
    C("client"), K("client|caching", OTHER), L("client|capa", CLIENT_CAPA),
    L("client|getname", CLIENT_GETNAME), L("client|getredir", CLIENT_GETREDIR), R("client|help"),
    L("client|id", CLIENT_ID), K("client|import-source", OTHER), L("client|info", CLIENT_INFO),
    X("client|kill", OTHER, POOL_CLIENTS), X("client|list", OTHER, POOL_CLIENTS),
    K("client|no-evict", OTHER), K("client|no-touch", OTHER),
    X("client|pause", OTHER, POOL_CLIENTS), L("client|reply", CLIENT_REPLY),
    L("client|setinfo", CLIENT_SETINFO), L("client|setname", CLIENT_SETNAME),
    K("client|tracking", CLIENT_TRACKING), L("client|trackinginfo", CLIENT_TRACKINGINFO),
    X("client|unblock", OTHER, POOL_CLIENTS), X("client|unpause", OTHER, POOL_CLIENTS),
    C("cluster"), X("cluster|addslots", OTHER, CLUSTER), X("cluster|addslotsrange", OTHER, CLUSTER),
    X("cluster|bumpepoch", OTHER, CLUSTER), X("cluster|cancelslotmigrations", OTHER, CLUSTER),
    X("cluster|count-failure-reports", OTHER, CLUSTER), R("cluster|countkeysinslot"),
    X("cluster|delslots", OTHER, CLUSTER), X("cluster|delslotsrange", OTHER, CLUSTER),
    X("cluster|failover", OTHER, CLUSTER), X("cluster|flushslots", OTHER, CLUSTER),
    X("cluster|forget", OTHER, CLUSTER), R("cluster|getkeysinslot"),
    X("cluster|getslotmigrations", OTHER, CLUSTER), R("cluster|help"), R("cluster|info"),
    R("cluster|keyslot"), R("cluster|links"), X("cluster|meet", OTHER, CLUSTER),
    X("cluster|migrateslots", OTHER, CLUSTER), X("cluster|migration", OTHER, CLUSTER),
    R("cluster|myid"), R("cluster|myshardid"), R("cluster|nodes"),
    X("cluster|replicas", OTHER, CLUSTER), X("cluster|replicate", OTHER, CLUSTER),
    X("cluster|reset", OTHER, CLUSTER), X("cluster|saveconfig", OTHER, CLUSTER),
    X("cluster|set-config-epoch", OTHER, CLUSTER), X("cluster|setslot", OTHER, CLUSTER),
    R("cluster|shards"), X("cluster|slaves", OTHER, CLUSTER), R("cluster|slot-stats"),
    R("cluster|slots"), X("cluster|syncslots", OTHER, CLUSTER),
    O("command"),
    C("commandlog"), R("commandlog|get"), R("commandlog|help"), R("commandlog|len"),
    X("commandlog|reset", OTHER, ADMIN),
    R("command|count"), R("command|docs"), R("command|getkeys"), R("command|getkeysandflags"),
    R("command|help"), R("command|info"), R("command|list"),
    C("config"), R("config|get"), R("config|help"), X("config|resetstat", OTHER, ADMIN),
    X("config|rewrite", OTHER, ADMIN), X("config|set", OTHER, ADMIN),
    W("copy"),
    R("dbsize"), X("debug", OTHER, DEBUG), W("decr"), W("decrby"), W("del"), W("delex"),
    W("delifeq"), R("digest"), T("discard", DISCARD), R("dump"),
    L("echo", ECHO), S("eval"), SR("eval_ro"), S("evalsha"), SR("evalsha_ro"), T("exec", EXEC),
    R("exists"), W("expire"), W("expireat"), R("expiretime"),
    X("failover", OTHER, REPLICATION), S("fcall"), SR("fcall_ro"), WA("flushall"), WA("flushdb"),
    C("function"), W("function|delete"), R("function|dump"), W("function|flush"),
    R("function|help"), X("function|kill", OTHER, ADMIN), R("function|list"), W("function|load"),
    W("function|restore"), R("function|stats"),
    W("geoadd"), R("geodist"), R("geohash"), R("geopos"), W("georadius"), R("georadius_ro"),
    W("georadiusbymember"), R("georadiusbymember_ro"), R("geosearch"), W("geosearchstore"),
    R("get"), R("getbit"), W("getdel"), W("getex"), R("getrange"), W("getset"),
    W("hdel"), L("hello", HELLO), R("hexists"), W("hexpire"), W("hexpireat"), R("hexpiretime"),
    R("hget"), R("hgetall"), W("hgetdel"), W("hgetex"), W("hincrby"), W("hincrbyfloat"), R("hkeys"),
    R("hlen"), R("hmget"), W("hmset"), X("hotkeys", OTHER, ADMIN), W("hpersist"), W("hpexpire"),
    W("hpexpireat"), R("hpexpiretime"), R("hpttl"), R("hrandfield"), R("hscan"), W("hset"),
    W("hsetex"), W("hsetnx"), R("hstrlen"), R("httl"), R("hvals"),
    W("incr"), W("incrby"), W("incrbyfloat"), W("increx"), R("info"),
    RA("keys"),
    R("lastsave"),
    C("latency"), R("latency|doctor"), R("latency|graph"), R("latency|help"),
    R("latency|histogram"), R("latency|history"), R("latency|latest"),
    X("latency|reset", OTHER, ADMIN),
    R("lcs"), R("lindex"), W("linsert"), R("llen"), W("lmove"), W("lmovem"), W("lmpop"),
    R("lolwut"), W("lpop"), R("lpos"), W("lpush"), W("lpushx"), R("lrange"), W("lrem"), W("lset"),
    W("ltrim"),
    C("memory"), R("memory|doctor"), R("memory|help"), R("memory|malloc-stats"),
    X("memory|purge", OTHER, ADMIN), R("memory|stats"), R("memory|usage"),
    R("mget"), X("migrate", OTHER, MIGRATE),
    C("module"), R("module|help"), R("module|list"), X("module|load", OTHER, ADMIN),
    X("module|loadex", OTHER, ADMIN), X("module|unload", OTHER, ADMIN),
    X("monitor", OTHER, TRAFFIC), W("move"), W("mset"), W("msetex"), W("msetnx"), T("multi", MULTI),
    O("object"), R("object|encoding"), R("object|freq"), R("object|help"), R("object|idletime"),
    R("object|refcount"),
    W("persist"), W("pexpire"), W("pexpireat"), R("pexpiretime"), W("pfadd"), R("pfcount"),
    X("pfdebug", OTHER, DEBUG), W("pfmerge"), X("pfselftest", OTHER, DEBUG), L("ping", PING),
    W("psetex"), P("psubscribe", PSUBSCRIBE), X("psync", OTHER, REPLICATION), R("pttl"),
    W("publish"),
    O("pubsub"), R("pubsub|channels"), R("pubsub|help"), R("pubsub|numpat"), R("pubsub|numsub"),
    R("pubsub|shardchannels"), R("pubsub|shardnumsub"),
    P("punsubscribe", PUNSUBSCRIBE),
    L("quit", QUIT),
    R("randomkey"), K("readonly", OTHER), K("readwrite", OTHER), W("rename"), W("renamenx"),
    X("replconf", OTHER, REPLICATION), X("replicaof", OTHER, REPLICATION), L("reset", RESET),
    W("restore"), W("restore-asking"), R("role"), W("rpop"), W("rpoplpush"), W("rpush"),
    W("rpushx"),
    W("sadd"), X("save", OTHER, ADMIN), R("scan"), R("scard"),
    C("script"), X("script|debug", OTHER, DEBUG), R("script|exists"),
    X("script|flush", OTHER, ADMIN), R("script|help"), X("script|kill", OTHER, ADMIN),
    R("script|load"), R("script|show"),
    R("sdiff"), W("sdiffstore"), L("select", SELECT), W("set"), W("setbit"), W("setex"), W("setnx"),
    W("setrange"), X("shutdown", OTHER, ADMIN), R("sinter"), R("sintercard"), W("sinterstore"),
    R("sismember"), X("slaveof", OTHER, REPLICATION),
    C("slowlog"), R("slowlog|get"), R("slowlog|help"), R("slowlog|len"),
    X("slowlog|reset", OTHER, ADMIN),
    R("smembers"), R("smismember"), W("smove"), W("sort"), R("sort_ro"), W("spop"), W("spublish"),
    R("srandmember"), W("srem"), R("sscan"), P("ssubscribe", SSUBSCRIBE), R("strlen"),
    P("subscribe", SUBSCRIBE), R("substr"), R("sunion"), W("sunionstore"),
    P("sunsubscribe", SUNSUBSCRIBE), WA("swapdb"), X("sync", OTHER, REPLICATION),
    R("time"), R("touch"), R("ttl"), R("type"),
    W("unlink"), P("unsubscribe", UNSUBSCRIBE), T("unwatch", UNWATCH),
    W("vadd"), R("vcard"), R("vdim"), R("vemb"), R("vgetattr"), R("vinfo"), R("vismember"),
    R("vlinks"), R("vrandmember"), R("vrange"), W("vrem"), W("vsetattr"), R("vsim"),
    X("wait", WAIT, SYNC_WAIT), X("waitaof", WAIT, SYNC_WAIT), T("watch", WATCH),
    W("xack"), W("xackdel"), W("xadd"), W("xautoclaim"), W("xcfgset"), W("xclaim"), W("xdel"),
    W("xdelex"),
    O("xgroup"), W("xgroup|create"), W("xgroup|createconsumer"), W("xgroup|delconsumer"),
    W("xgroup|destroy"), R("xgroup|help"), W("xgroup|setid"),
    O("xinfo"), R("xinfo|consumers"), R("xinfo|groups"), R("xinfo|help"), R("xinfo|stream"),
    R("xlen"), R("xpending"), R("xrange"), RV("xread"), WV("xreadgroup"), R("xrevrange"),
    W("xsetid"), W("xtrim"),
    W("zadd"), R("zcard"), R("zcount"), R("zdiff"), W("zdiffstore"), W("zincrby"), R("zinter"),
    R("zintercard"), W("zinterstore"), R("zlexcount"), W("zmpop"), R("zmscore"), W("zpopmax"),
    W("zpopmin"), R("zrandmember"), R("zrange"), R("zrangebylex"), R("zrangebyscore"),
    W("zrangestore"), R("zrank"), W("zrem"), W("zremrangebylex"), W("zremrangebyrank"),
    W("zremrangebyscore"), R("zrevrange"), R("zrevrangebylex"), R("zrevrangebyscore"),
    R("zrevrank"), R("zscan"), R("zscore"), R("zunion"), W("zunionstore"),
};
/* clang-format on */

const size_t redis_rows_n = ARRAY_LEN(redis_rows);

const char *const redis_reasons[REDIS_WHY_COUNT] = {
    [REDIS_WHY_ADMIN] = "it changes or stops the server for everybody; ask the server directly",
    [REDIS_WHY_CLUSTER] = "it administers the cluster; ask the server directly",
    [REDIS_WHY_DEBUG] = "it is a debugging command",
    [REDIS_WHY_MIGRATE] = "it moves keys to another server and blocks meanwhile",
    [REDIS_WHY_POOL_CLIENTS] = "it concerns the pool's connections, not those of clients",
    [REDIS_WHY_REPLICATION] = "it belongs to replication; ask the server directly",
    [REDIS_WHY_SYNC_WAIT] =
        "it waits for the writes of one connection, and they went over several; use mode: session",
    [REDIS_WHY_TRAFFIC] = "it shows the traffic of all clients of the server",
    [REDIS_WHY_USERS] = "it administers users; ask the server directly",
};
