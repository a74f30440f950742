/* SPDX-License-Identifier: MIT */
/* Postgres clients, at every tick and without every allocation. */
#include <stdio.h>
#include <string.h>

#include "pools/postgres.h"
#include "proxy/front/postgres.h"
#include "proxy/wire/scram.h"
#include "tests/unit/relays/play.h"
#include "tests/unit/relays/postgres_peer.h"

/* ---- what clients say and do ---- */

#define STARTUP "\0\0\0\x1e\0\3\0\0user\0app\0database\0db\0\0"
#define STARTUP_NAMED "\0\0\0\x34\0\3\0\0user\0app\0database\0db\0application_name\0mine\0\0"
/* Lengths are in hand: the body and 4. */
#define M(type, len, body) type "\0\0\0" len body
#define Q_(len, text) M("Q", len, text "\0")
#define SYNC M("S", "\4", "")
#define SELECT_A Q_("\x13", "SELECT 'for-a'")
#define SELECT_B Q_("\x13", "SELECT 'for-b'")
#define ROW_A "T D:for-a C:SELECT 1"
#define ROW_B "T D:for-b C:SELECT 1"
#define WELCOME "R0 S S S K Z:I"
#define LOGS_IN(who) COMES(who), SAYS(who, STARTUP, 1), HEARS(who, WELCOME)

static uint8_t first_bare[] = "n=,r=abcdefgh";

static void say_sasl(unsigned who, const char *head, size_t head_n, struct span text)
{
    uint8_t m[512] = {'p', 0, 0, (uint8_t)((4 + head_n + text.n) >> 8),
                      (uint8_t)(4 + head_n + text.n)};
    memcpy(m + PG_HEADER, head, head_n);
    memcpy(m + PG_HEADER + head_n, text.p, text.n);
    play_say(who, span_of(m, PG_HEADER + head_n + text.n));
}

static bool scram_begin(unsigned who)
{
    static const char head[] = "SCRAM-SHA-256\0\0\0\0\x10";
    char text[32];
    int n = snprintf(text, sizeof text, "n,,%s", first_bare);
    say_sasl(who, head, sizeof head - 1, span_of(text, (size_t)n));
    return true;
}

/* RFC 5802: the proof of "secret", from the server's first message. */
static bool make_proof(struct span server_first, const char *without, size_t without_n, char *out,
                       size_t cap, size_t *n)
{
    uint8_t salt[64], salted[32], key[32], stored[32], signature[32];
    size_t salt_n;
    char auth[512];
    const uint8_t *s = memmem(server_first.p, server_first.n, ",s=", 3);
    const uint8_t *i = memmem(server_first.p, server_first.n, ",i=", 3);
    if (!s || !i)
        return false;
    uint32_t times = 0;
    for (const uint8_t *d = i + 3; d < server_first.p + server_first.n; d++)
        times = times * 10 + *d - '0';
    size_t auth_n =
        (size_t)snprintf(auth, sizeof auth, "%s,%.*s,%.*s", first_bare, (int)server_first.n,
                         (const char *)server_first.p, (int)without_n, without);
    bool ok =
        crypto_base64_decode(span_of(s + 3, (size_t)(i - s) - 3), salt, sizeof salt, &salt_n) &&
        crypto_pbkdf2(SPAN_LIT("secret"), span_of(salt, salt_n), times, salted) &&
        crypto_hmac_sha256(span_of(salted, 32), SPAN_LIT("Client Key"), key) &&
        crypto_sha256(span_of(key, 32), stored) &&
        crypto_hmac_sha256(span_of(stored, 32), span_of(auth, auth_n), signature);
    for (size_t k = 0; k < sizeof key; k++)
        key[k] ^= signature[k];
    return ok && crypto_base64_encode(span_of(key, 32), out, cap, n);
}

static bool scram_end(unsigned who)
{
    uint8_t type;
    struct span body, heard = play_heard(who);
    char text[512], proof[64];
    size_t proof_n;
    if (postgres_take(heard, &type, &body) - 1 >= SIZE_MAX - 1 || type != 'R')
        return false;
    struct span first = span_skip(body, 4);
    const uint8_t *comma = memchr(first.p, ',', first.n);
    int n = snprintf(text, sizeof text, "c=biws,%.*s", (int)(comma ? comma - first.p : 0),
                     (const char *)first.p);
    if (!make_proof(first, text, (size_t)n, proof, sizeof proof, &proof_n))
        return true; /* something else than a challenge came */
    n += snprintf(text + n, sizeof text - (size_t)n, ",p=%.*s", (int)proof_n, proof);
    play_hears_all(who);
    say_sasl(who, "", 0, span_of(text, (size_t)n));
    return true;
}

/* Another connection cancels what the first client does. */
static bool cancel_a(unsigned who)
{
    uint8_t type, packet[16] = {0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e};
    struct span body, got = play_got(0);
    size_t used;
    while ((used = postgres_take(got, &type, &body)) > 0 && used != SIZE_MAX) {
        got = span_skip(got, used);
        if (type != 'K')
            continue;
        memcpy(packet + 8, body.p, 8);
        play_say(who, span_of(packet, sizeof packet));
        return true;
    }
    return true;
}

/* ---- scripts ---- */

static const struct step login[] = {
    COMES('a'),
    SAYS('a', STARTUP, 1),
    HEARS('a', "R10"),
    DOES('a', scram_begin, 0),
    DOES('a', scram_end, 0),
    HEARS('a', "R12 " WELCOME),
    SAYS('a', SELECT_A, 1),
    HEARS('a', ROW_A " Z:I"),
    COMES('b'),
    SAYS('b', STARTUP, 0),
    HEARS('b', "R10"),
    LEAVES('b'),
    SAYS('a', M("X", "\4", ""), 0),
};

static const struct step queries[] = {
    LOGS_IN('a'),
    LOGS_IN('b'),
    SAYS('a', SELECT_A, 1),
    SAYS('b', Q_("\xa", "BEGIN"), 1),
    HEARS('a', ROW_A " Z:I"),
    HEARS('b', "C:BEGIN Z:T"),
    SAYS('b', SELECT_B, 1),
    SAYS('a', SELECT_A Q_("\5", "") SELECT_A, 3),
    HEARS('b', ROW_B " Z:T"),
    SAYS('b', Q_("\x9", "FAIL"), 1),
    HEARS('b', "E:42601 Z:E"),
    HEARS('a', ROW_A " Z:I I Z:I " ROW_A " Z:I"),
    SAYS('b', SELECT_B Q_("\xd", "ROLLBACK"), 2),
    HEARS('b', "E:25P02 Z:E C:ROLLBACK Z:I"),
    SAYS('b', Q_("\xa", "BEGIN") SELECT_B Q_("\xb", "COMMIT"), 3),
    HEARS('b', "C:BEGIN Z:T " ROW_B " Z:T C:COMMIT Z:I"),
    SAYS('a', Q_("\x9", "FAIL"), 1),
    HEARS('a', "E:42601 Z:I"),
};

#define PARSE_A M("P", "\x17", "s\0SELECT 'for-a'\0\0\0")
#define PARSE_B M("P", "\x17", "s\0SELECT 'for-b'\0\0\0")
#define PARSE_UNNAMED M("P", "\x16", "\0SELECT 'for-a'\0\0\0")
#define DESCRIBE_S M("D", "\7", "Ss\0")
#define BIND_S M("B", "\xd", "\0s\0\0\0\0\0\0\0")
#define BIND_UNNAMED M("B", "\xc", "\0\0\0\0\0\0\0\0")
#define EXECUTE M("E", "\x9", "\0\0\0\0\0")
#define CLOSE_S M("C", "\7", "Ss\0")

/* The same text under the same name on one server, or another text; each has its own. */
static const struct step batches[] = {
    LOGS_IN('a'),
    LOGS_IN('b'),
    SAYS('a', PARSE_A DESCRIBE_S SYNC, 1),
    HEARS('a', "1 t T Z:I"),
    SAYS('b', PARSE_B BIND_S EXECUTE SYNC, 1),
    SAYS('a', BIND_S EXECUTE SYNC, 1),
    HEARS('b', "1 2 "
               "D:for-b C:SELECT 1 Z:I"),
    HEARS('a', "2 D:for-a C:SELECT 1 Z:I"),
    SAYS('a', PARSE_UNNAMED BIND_UNNAMED EXECUTE BIND_S EXECUTE SYNC, 1),
    HEARS('a', "1 2 D:for-a C:SELECT 1 2 D:for-a C:SELECT 1 Z:I"),
    SAYS('b', M("P", "\xf", "x\0FAIL x\0\0\0") BIND_S EXECUTE SYNC, 1),
    HEARS('b', "E:42601 Z:I"),
    SAYS('b', Q_("\xa", "BEGIN") BIND_S EXECUTE SYNC, 2),
    HEARS('b', "C:BEGIN Z:T 2 D:for-b C:SELECT 1 Z:T"),
    SAYS('b', CLOSE_S SYNC Q_("\xb", "COMMIT"), 2),
    SAYS('a', CLOSE_S SYNC, 1),
    HEARS('b', "3 Z:T C:COMMIT Z:I"),
    HEARS('a', "3 Z:I"),
};

static const struct step copy[] = {
    LOGS_IN('a'),
    LOGS_IN('b'),
    SAYS('a', Q_("\xc", "COPY IN"), 0),
    HEARS('a', "G"),
    SAYS('b', SELECT_B, 1),
    SAYS('a', M("d", "\x9", "1234\n") M("d", "\x9", "56"), 0),
    HEARS('b', ROW_B " Z:I"),
    SAYS('a', "78\n", 0),
    SAYS('a', M("c", "\4", ""), 1),
    HEARS('a', "C:COPY 1 Z:I"),
    SAYS('a', Q_("\xc", "COPY IN") M("f", "\6", "x\0"), 1),
    HEARS('a', "G E:57014 Z:I"),
};

static const struct step cancels[] = {
    LOGS_IN('a'),
    SAYS('a', Q_("\xa", "SLEEP"), 1),
    PASS(10),
    COMES('c'),
    DOES('c', cancel_a, 0),
    HEARS('a', "E:57014 Z:I"),
    SAYS('a', Q_("\xa", "SLEEP"), 1),
    HEARS('a', "T D:slept C:SELECT 1 Z:I"),
    COMES('d'),
    DOES('d', cancel_a, 0),
    PASS(5), /* it comes to nothing */
    SAYS('a', SELECT_A Q_("\xa", "SLEEP"), 2),
    HEARS('a', ROW_A " Z:I T D:slept C:SELECT 1 Z:I"),
};

/* What differs from the server's own is set before, and read behind. */
static const struct step settings[] = {
    COMES('a'),
    SAYS('a', STARTUP_NAMED, 1),
    HEARS('a', WELCOME),
    LOGS_IN('b'),
    SAYS('a', SELECT_A, 1),
    HEARS('a', ROW_A " Z:I"),
    SAYS('b', SELECT_B, 1),
    HEARS('b', ROW_B " Z:I"),
    SAYS('a', Q_("\x18", "SET search_path = x"), 1),
    HEARS('a', "C:SET Z:I"),
    SAYS('b', Q_("\xd", "LISTEN x"), 1),
    SAYS('a', SELECT_A, 1),
    HEARS('b', "C:LISTEN Z:I"),
    HEARS('a', ROW_A " Z:I"),
    SAYS('b', SELECT_B, 1),
    HEARS('b', ROW_B " Z:I"),
};

/* More than one worker should have: the last ones are handed over. */
static const struct step crowd[] = {
    LOGS_IN('a'),
    COMES('b'),
    COMES('c'),
    COMES('d'),
    COMES('e'),
    COMES('f'),
    SAYS('f', STARTUP, 1),
    COMES('g'),
    SAYS('g', STARTUP, 1),
    HEARS('f', WELCOME),
    HEARS('g', WELCOME),
    SAYS('g', Q_("\x13", "SELECT 'for-g'"), 1),
    LEAVES('f'),
    HEARS('g', "T D:for-g C:SELECT 1 Z:I"),
};

static const struct step passwords[] = {
    COMES('a'),
    SAYS('a', STARTUP, 1),
    HEARS('a', "R3"),
    COMES('b'),
    SAYS('b', STARTUP, 1),
    HEARS('b', "R3"),
    SAYS('a', M("p", "\xb", "secret\0") SELECT_A, 1),
    SAYS('b', M("p", "\xa", "wrong\0"), 0),
    HEARS('a', WELCOME " " ROW_A " Z:I"),
    HEARS('b', "E:28P01"),
};

/* Whom only the database knows. */
static const struct step lookups[] = {
    COMES('a'),
    SAYS('a', STARTUP, 1),
    COMES('b'),
    SAYS('b', STARTUP, 1),
    HEARS('a', "R3"),
    SAYS('a', M("p", "\xb", "secret\0"), 0),
    HEARS('a', WELCOME),
    HEARS('b', "R3"),
    SAYS('b', M("p", "\xb", "secret\0"), 0),
    SAYS('a', SELECT_A, 1),
    HEARS('a', ROW_A " Z:I"),
    HEARS('b', WELCOME),
};

/* A server from the first statement to the client's end. */
static const struct step whole_session[] = {
    LOGS_IN('a'),
    LOGS_IN('b'),
    SAYS('a', SELECT_A, 1),
    HEARS('a', ROW_A " Z:I"),
    SAYS('b', SELECT_B, 0),
    SAYS('a', PARSE_A BIND_S EXECUTE SYNC, 1),
    HEARS('a', "1 2 D:for-a C:SELECT 1 Z:I"),
    SAYS('a', M("X", "\4", ""), 0),
    HEARS('b', ROW_B " Z:I"),
};

/* One too many comes, while another waits for the only server. */
static const struct step guests[] = {
    LOGS_IN('a'),
    LOGS_IN('b'),
    COMES('c'),
    SAYS('c', STARTUP, 0),
    HEARS('c', "E:53300"),
    SAYS('a', Q_("\xa", "SLEEP"), 1),
    PASS(5),
    SAYS('b', SELECT_B, 1),
    HEARS('a', "T D:slept C:SELECT 1 Z:I"),
    HEARS('b', ROW_B " Z:I"),
};

static void two_clients(struct depot_plan *plan)
{
    plan->front.limits.clients = 2;
    plan->pool.size.max = 1;
}

static void one_server(struct depot_plan *plan)
{
    plan->pool.size.max = 1;
}

static struct listen_conf scram_door, password_door;
static struct user_conf user;

static void ask_for_scram(struct depot_plan *plan)
{
    plan->front.listens = &scram_door;
    plan->front.auth.users = &user;
    plan->front.auth.n_users = 1;
}

static void ask_for_passwords(struct depot_plan *plan)
{
    ask_for_scram(plan);
    plan->front.listens = &password_door;
}

static void ask_the_database(struct depot_plan *plan)
{
    plan->front.listens = &password_door;
    plan->front.auth.query = "SELECT 'who'";
    plan->front.auth.query_ttl_ms = 1000;
}

static void keep_servers(struct depot_plan *plan)
{
    plan->front.mode = FRONT_SESSION;
    plan->pool.size.max = 1;
}

static void wait_for_upstream(struct depot_plan *plan)
{
    plan->pool.on_down = ON_DOWN_WAIT;
}

static const struct step proof[] = {
    LOGS_IN('a'),
    SAYS('a', SELECT_A, 1), /* trials: these close breakers */
    HEARS('a', ROW_A " Z:I"),
    SAYS('a', SELECT_A, 1),
    HEARS('a', ROW_A " Z:I"),
    SAYS('a', SELECT_A, 1),
    HEARS('a', ROW_A " Z:I"),
    SAYS('a', PARSE_A BIND_S EXECUTE SYNC, 1),
    HEARS('a', "1 2 D:for-a C:SELECT 1 Z:I"),
};

static const struct step proof_by_scram[] = {
    COMES('a'),
    SAYS('a', STARTUP, 1),
    HEARS('a', "R10"),
    DOES('a', scram_begin, 0),
    DOES('a', scram_end, 0),
    HEARS('a', "R12 " WELCOME),
    SAYS('a', SELECT_A, 1),
    HEARS('a', ROW_A " Z:I"),
};

static const struct step proof_by_password[] = {
    COMES('a'),          SAYS('a', STARTUP, 1),
    HEARS('a', "R3"),    SAYS('a', M("p", "\xb", "secret\0"), 0),
    HEARS('a', WELCOME),
};

static const struct script with_scram = {SCRIPT(proof_by_scram)};
static const struct script with_password = {SCRIPT(proof_by_password)};

static const struct script scripts[] = {
    {SCRIPT(login), .conf = ask_for_scram, .proof = &with_scram},
    {SCRIPT(queries)},
    {SCRIPT(batches), .conf = one_server},
    {SCRIPT(copy), .conf = wait_for_upstream},
    {SCRIPT(cancels), .workers = 2, .elsewhere = "c"},
    {SCRIPT_AS("batches_elsewhere", batches), .conf = one_server, .workers = 2, .elsewhere = "b"},
    {SCRIPT_AS("bytes", proof), .chop = 10},
    {SCRIPT(settings)},
    {SCRIPT(crowd), .workers = 2},
    {SCRIPT(guests), .conf = two_clients},
    {SCRIPT(passwords), .conf = ask_for_passwords, .proof = &with_password},
    {SCRIPT(lookups), .conf = ask_the_database, .proof = &with_password},
    {SCRIPT(whole_session), .conf = keep_servers},
    {SCRIPT_AS("trials", proof), .on_trial = true},
    {SCRIPT_AS("trials_of_two", proof), .on_trial = true, .conf = depot_two_endpoints},
    {SCRIPT_AS("batches_in_pieces", batches), .chop = 11},
};

static const struct endpoint_conf endpoint = {.label = "peer:1",
                                              .host = "127.0.0.1",
                                              .port = 1,
                                              .literal = true,
                                              .user = "app",
                                              .password = "secret",
                                              .database = "db"};

/* ---- costs ---- */

#define SELECTS_A SAYS('a', SELECT_A, 1), HEARS('a', ROW_A " Z:I")
#define SELECTS_B SAYS('b', SELECT_B, 1), HEARS('b', ROW_B " Z:I")
#define RUNS_S SAYS('a', BIND_S EXECUTE SYNC, 1), HEARS('a', "2 D:for-a C:SELECT 1 Z:I")

/* Each: a read and a write of ours on either side. */
static const struct step exchanges[] = {
    LOGS_IN('a'),
    LOGS_IN('b'),
    SELECTS_A,
    SELECTS_B,
    SAYS('a', PARSE_A SYNC, 1),
    HEARS('a', "1 Z:I"),
    RUNS_S,
    COUNTS,
    SELECTS_A,
    COSTS(2, 2, 0, 0),
    COUNTS,
    SELECTS_B,
    SELECTS_B,
    SELECTS_A,
    COSTS(6, 6, 0, 0),
    COUNTS,
    RUNS_S,
    COSTS(2, 2, 0, 0),
    COUNTS,
    SAYS('b', Q_("\xa", "BEGIN"), 1),
    HEARS('b', "C:BEGIN Z:T"),
    SAYS('b', SELECT_B, 1),
    HEARS('b', ROW_B " Z:T"),
    SAYS('b', Q_("\xb", "COMMIT"), 1),
    HEARS('b', "C:COMMIT Z:I"),
    COSTS(6, 6, 0, 0),
};

#define COMES_AND_SELECTS(who)                                                                     \
    LOGS_IN(who), SAYS(who, Q_("\x13", "SELECT 'for-x'"), 1), HEARS(who, "T D:for-x C:SELECT 1 Z:I")

static const struct step idle[] = {
    COMES_AND_SELECTS('a'), COMES_AND_SELECTS('b'), COUNTS,          COMES_AND_SELECTS('c'),
    COMES_AND_SELECTS('d'), COMES_AND_SELECTS('e'), HOLDS(3 * 1024),
};

static const struct script costs[] = {
    {SCRIPT(exchanges), .conf = one_server},
    {SCRIPT(idle), .conf = one_server},
};

static struct protocol make_protocol(void)
{
    struct protocol p = {
        .name = "postgres",
        .plan = depot_plan(),
        .serve = postgres_serve,
        .answers = postgres_answers,
        .show = postgres_show,
        .is_within = postgres_is_within,
        .garbage = "@@ what is this @@",
        .scripts = scripts,
        .n_scripts = ARRAY_LEN(scripts),
        .costs = costs,
        .n_costs = ARRAY_LEN(costs),
        .proof = {SCRIPT(proof)},
    };
    p.plan.relay = &postgres_relay;
    p.plan.driver = &postgres_driver;
    p.plan.born = postgres_born;
    p.plan.pool.endpoints = &endpoint;
    p.plan.pool.size.statements = 100;
    p.plan.front.kind = FRONT_POSTGRES;
    p.plan.front.kind_name = "postgres";
    scram_door = password_door = p.plan.front.listens[0];
    scram_door.auth = AUTH_SCRAM;
    password_door.auth = AUTH_PASSWORD;
    user = (struct user_conf){"app", postgres_verifier()};
    return p;
}

int main(void)
{
    struct protocol p = make_protocol();
    return play_all(&p);
}
