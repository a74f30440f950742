/* SPDX-License-Identifier: MIT */
/*
 * The book of names; belongs to the dialer's thread, but for what workers ask of a name: its
 * version, and under its mutex the addresses.
 *
 *              name_get, or the ttl is over while it is in use
 *     at rest ------------------------------------------------> looking
 *        ^  \__ nobody uses it: dropped after NAME_KEEP_MS          |
 *        |________ answered: perhaps a new version _________________|
 *        |________ failed: the answer of before counts on __________|
 */
#include "pools/name_dial.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "pools/dialer.h"

struct name {
    struct snapshot refs; /* one of the book, one of a lookup under way, one of each place */
    char *host;
    uint64_t ttl_ms;
    /* the dialer's thread */
    struct list node; /* unlinked: the dialer has stopped */
    struct dialer *dialer;
    struct list waits;
    struct timer timer; /* at rest: the ttl; looking: the patience of who waits */
    uv_getaddrinfo_t request;
    bool looking, impatient;
    bool failing;
    uint64_t good_until_ms, used_ms;
    /* any thread */
    pthread_mutex_t mutex;
    struct addresses *addresses; /* NULL: no answer yet */
    _Atomic unsigned version;    /* from 1 on, with the first answer */
};

/* ---- addresses ---- */

static bool address_set(union address *to, const struct sockaddr *from)
{
    memset(to, 0, sizeof *to);
    if (from->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)from;
        to->v4.sin_family = AF_INET;
        to->v4.sin_addr = in->sin_addr;
    } else if (from->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)from;
        to->v6.sin6_family = AF_INET6;
        to->v6.sin6_addr = in->sin6_addr;
        to->v6.sin6_scope_id = in->sin6_scope_id;
    }
    return to->any.sa_family != 0;
}

static bool has(const struct addresses *a, const union address *one)
{
    for (unsigned i = 0; i < a->n; i++)
        if (memcmp(&a->v[i], one, sizeof *one) == 0)
            return true;
    return false;
}

static void free_addresses(struct snapshot *snap)
{
    free(OWNER(snap, struct addresses, snap));
}

struct addresses *addresses_of(const struct addrinfo *found)
{
    size_t n = 0;
    for (const struct addrinfo *a = found; a && n < NAME_ADDRESSES_MAX; a = a->ai_next)
        n++;
    struct addresses *as = calloc(1, sizeof *as + n * sizeof as->v[0]);
    if (!as)
        return NULL;
    atomic_store(&as->snap.refs, 1);
    as->snap.free = free_addresses;
    as->all = true;
    for (const struct addrinfo *a = found; a; a = a->ai_next) {
        union address one;
        if (!address_set(&one, a->ai_addr) || has(as, &one))
            continue;
        if (as->n == n) {
            as->all = false;
            break;
        }
        as->v[as->n++] = one;
    }
    if (as->n)
        return as;
    free(as);
    return NULL;
}

static void drop_addresses(struct addresses *a)
{
    struct snapshot *snap = a ? &a->snap : NULL;
    snapshot_drop(&snap);
}

/* For people: "10.0.0.1,10.0.0.2", as far as it fits. */
static const char *addresses_text(const struct addresses *a, char *buf, size_t cap)
{
    size_t n = 0;
    buf[0] = 0;
    for (unsigned i = 0; i < a->n; i++) {
        char one[INET6_ADDRSTRLEN];
        bool v4 = a->v[i].any.sa_family == AF_INET;
        const void *ip = v4 ? (const void *)&a->v[i].v4.sin_addr : &a->v[i].v6.sin6_addr;
        inet_ntop(a->v[i].any.sa_family, ip, one, sizeof one);
        if (n + strlen(one) + 2 > cap)
            break;
        n += (size_t)snprintf(buf + n, cap - n, "%s%s", i ? "," : "", one);
    }
    return buf;
}

/* ---- entries ---- */

static void free_name(struct snapshot *refs)
{
    struct name *m = OWNER(refs, struct name, refs);
    drop_addresses(m->addresses);
    pthread_mutex_destroy(&m->mutex);
    free(m->host);
    free(m);
}

static void release(struct name *m)
{
    struct snapshot *ref = &m->refs;
    snapshot_drop(&ref);
}

/* The book forgets it. */
static void drop(struct name *m)
{
    loop_timer_stop(m->dialer->loop, &m->timer);
    list_remove(&m->node);
    release(m);
}

static void on_timer(struct timer *t);

static struct name *name_new(struct dialer *d, const char *host, uint64_t ttl_ms)
{
    struct name *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->host = strdup(host);
    if (!m->host) {
        free(m);
        return NULL;
    }
    atomic_store(&m->refs.refs, 1);
    m->refs.free = free_name;
    m->ttl_ms = ttl_ms;
    m->dialer = d;
    list_init(&m->node);
    list_init(&m->waits);
    timer_init(&m->timer, on_timer);
    pthread_mutex_init(&m->mutex, NULL);
    list_push_back(&d->names, &m->node);
    return m;
}

static struct name *find(struct dialer *d, const char *host, uint64_t ttl_ms)
{
    LIST_EACH(n, &d->names) {
        struct name *m = OWNER(n, struct name, node);
        if (m->ttl_ms == ttl_ms && strcmp(m->host, host) == 0)
            return m;
    }
    return NULL;
}

/* ---- telling who waits ---- */

static void tell(struct name *m, int failed)
{
    struct list waits, *n;
    struct snapshot *keep = m->addresses ? snapshot_take(&m->addresses->snap) : NULL;
    list_init(&waits);
    list_splice(&waits, &m->waits);
    snapshot_take(&m->refs);
    while ((n = list_first(&waits))) {
        struct name_wait *w = OWNER(n, struct name_wait, node);
        list_remove(n);
        w->done(w, m, keep ? OWNER(keep, struct addresses, snap) : NULL, failed);
    }
    snapshot_drop(&keep);
    release(m);
}

/* ---- looking ---- */

static bool same_set(const struct addresses *a, const struct addresses *b)
{
    if (a->n != b->n || a->all != b->all)
        return false;
    for (unsigned i = 0; i < a->n; i++)
        if (!has(b, &a->v[i]))
            return false;
    return true;
}

static void answered(struct name *m, struct addresses *fresh)
{
    struct loop *loop = m->dialer->loop;
    struct addresses *old = m->addresses;
    if (m->failing)
        log_write(loop->log, LOG_INFO, "name_well", "name=%s", m->host);
    m->failing = false;
    m->good_until_ms = loop_now(loop) + m->ttl_ms;
    if (old && !same_set(old, fresh)) {
        char before[256], after[256];
        log_write(loop->log, LOG_INFO, "name_changed", "name=%s addresses=%s before=%s", m->host,
                  addresses_text(fresh, after, sizeof after),
                  addresses_text(old, before, sizeof before));
    }
    pthread_mutex_lock(&m->mutex);
    m->addresses = fresh;
    pthread_mutex_unlock(&m->mutex);
    if (!old || !same_set(old, fresh))
        atomic_fetch_add(&m->version, 1);
    drop_addresses(old);
}

static void failed(struct name *m, int why)
{
    if (m->addresses && !m->failing)
        log_write(m->dialer->loop->log, LOG_WARN, "name_failed",
                  "name=%s reason=\"%s\" effect=\"the addresses of before are used\"", m->host,
                  uv_strerror(why));
    m->failing = true;
}

/* The lookup is over; whoever started it has told nobody yet. */
static void rest(struct name *m, int why)
{
    m->looking = false;
    tell(m, m->addresses ? 0 : why);
    if (m->looking)
        return;
    if (m->ttl_ms)
        loop_timer_set(m->dialer->loop, &m->timer, m->ttl_ms);
    else
        drop(m);
}

static void on_found(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct name *m = OWNER(request, struct name, request);
    struct addresses *fresh = NULL;
    loop_called(m->dialer->loop);
    bool stopped = !list_linked(&m->node);
    if (status == 0 && !stopped) {
        fresh = addresses_of(found);
        status = fresh ? 0 : UV_EAI_NONAME;
    }
    uv_freeaddrinfo(found);
    if (fresh)
        answered(m, fresh);
    else if (!stopped)
        failed(m, status);
    if (!stopped)
        rest(m, status);
    release(m);
}

static void look(struct name *m)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct loop *loop = m->dialer->loop;
    m->looking = true;
    m->impatient = false;
    snapshot_take(&m->refs);
    int bad = uv_getaddrinfo(&loop->uv, &m->request, on_found, m->host, NULL, &hints);
    if (bad == 0) {
        loop_timer_set(loop, &m->timer, NAME_PATIENCE_MS);
        return;
    }
    release(m);
    failed(m, bad);
    rest(m, bad);
}

/* Somebody holds more than the book's own reference: a server is, or was just now, there. */
static bool in_use(const struct name *m)
{
    return atomic_load(&m->refs.refs) > 1;
}

static void on_timer(struct timer *t)
{
    struct name *m = OWNER(t, struct name, timer);
    uint64_t now = loop_now(m->dialer->loop);
    if (m->looking) {
        m->impatient = true;
        if (m->addresses)
            tell(m, 0);
        return;
    }
    if (in_use(m)) {
        m->used_ms = now;
        look(m);
    } else if (now - m->used_ms >= NAME_KEEP_MS) {
        drop(m);
    } else {
        loop_timer_set(m->dialer->loop, &m->timer, m->ttl_ms);
    }
}

void name_get(struct dialer *d, const char *host, uint64_t ttl_ms, bool anew, struct name_wait *w)
{
    uint64_t now = loop_now(d->loop);
    struct name *m = find(d, host, ttl_ms);
    list_init(&w->node);
    if (!m)
        m = name_new(d, host, ttl_ms);
    if (!m) {
        w->done(w, NULL, NULL, UV_ENOMEM);
        return;
    }
    m->used_ms = now;
    if (anew)
        m->good_until_ms = 0;
    bool good = now < m->good_until_ms || (m->looking && m->impatient);
    list_push_back(&m->waits, &w->node);
    if (good && m->addresses)
        tell(m, 0);
    else if (!m->looking)
        look(m);
}

void name_cancel(struct name_wait *w)
{
    list_remove(&w->node);
}

void name_stop(struct dialer *d)
{
    struct list *n;
    while ((n = list_first(&d->names))) {
        struct name *m = OWNER(n, struct name, node);
        if (m->looking)
            uv_cancel((uv_req_t *)&m->request);
        drop(m);
    }
}

/* ---- places ---- */

void name_place(struct name_place *place, struct name *name)
{
    if (!name->ttl_ms)
        return;
    snapshot_take(&name->refs);
    *place = (struct name_place){.name = name};
}

void name_leave(struct name_place *place)
{
    if (place->name)
        release(place->name);
    place->name = NULL;
}

bool name_has_left(struct name_place *place)
{
    struct name *m = place->name;
    if (!m)
        return false;
    unsigned version = atomic_load(&m->version);
    if (version != place->seen) {
        pthread_mutex_lock(&m->mutex);
        place->left = m->addresses->all && !has(m->addresses, &place->at);
        pthread_mutex_unlock(&m->mutex);
        place->seen = version;
    }
    return place->left;
}
