/* SPDX-License-Identifier: MIT */
#include "admin/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin/text.h"

#define CONNECT_MS 3000L

struct client {
    CURL *curl;
    char *where, *base; /* base: what paths are put behind */
    bool is_unix;
    struct curl_slist *fields;
};

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct text *body = arg;
    text_put(body, span_of(p, size * n));
    return body->failed ? 0 : size * n;
}

static bool add_token(struct client *c, const char *token)
{
    char *line = NULL;
    if (asprintf(&line, "Authorization: Bearer %s", token) < 0)
        return false;
    c->fields = curl_slist_append(NULL, line);
    explicit_bzero(line, strlen(line));
    free(line);
    return c->fields != NULL;
}

static bool is_url(const char *where)
{
    return strncmp(where, "http://", 7) == 0;
}

/* "http://127.0.0.1:9601/" and "http://127.0.0.1:9601" are the same. */
static char *base_of(const char *where)
{
    char *base = strdup(is_url(where) ? where : "http://localhost");
    size_t n = base ? strlen(base) : 0;
    while (n && base[n - 1] == '/')
        base[--n] = '\0';
    return base;
}

struct client *client_new(const char *where, const char *token, unsigned timeout_ms)
{
    struct client *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->is_unix = !is_url(where);
    c->where = strdup(where);
    c->base = base_of(where);
    c->curl = curl_easy_init();
    if (!c->where || !c->base || !c->curl || (token && !add_token(c, token))) {
        client_free(c);
        return NULL;
    }
    curl_easy_setopt(c->curl, CURLOPT_PROXY, "");
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
    if (c->is_unix)
        curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, where);
    if (c->fields)
        curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, c->fields);
    return c;
}

void client_free(struct client *c)
{
    if (!c)
        return;
    if (c->curl)
        curl_easy_cleanup(c->curl);
    curl_slist_free_all(c->fields);
    free(c->where);
    free(c->base);
    free(c);
}

static void explain(const struct client *c, CURLcode code, char *why, size_t cap)
{
    long sys = 0;
    curl_easy_getinfo(c->curl, CURLINFO_OS_ERRNO, &sys);
    if (code == CURLE_OPERATION_TIMEDOUT)
        snprintf(why, cap, "%s: carpool did not answer in time", c->where);
    else if (c->is_unix && access(c->where, W_OK) != 0 && errno == EACCES)
        snprintf(why, cap, "%s: this user may not use the admin socket (try as carpool's user)",
                 c->where);
    else if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
        snprintf(why, cap,
                 "carpool is not running, or its admin address is another: %s: %s (use --socket)",
                 c->where, sys ? strerror((int)sys) : curl_easy_strerror(code));
    else
        snprintf(why, cap, "%s: %s", c->where, curl_easy_strerror(code));
}

bool client_ask(struct client *c, const char *method, const char *path, struct client_answer *out,
                char *why, size_t cap)
{
    char *url = NULL;
    struct text body = {0};
    *out = (struct client_answer){.where = c->where};
    if (asprintf(&url, "%s%s", c->base, path) < 0) {
        snprintf(why, cap, "out of memory");
        return false;
    }
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    if (strcmp(method, "POST") == 0) {
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, "");
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE, 0L);
    } else {
        curl_easy_setopt(c->curl, CURLOPT_HTTPGET, 1L);
    }
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &body);
    CURLcode code = curl_easy_perform(c->curl);
    free(url);
    text_put(&body, span_of("", 1));
    if (code != CURLE_OK || body.failed) {
        explain(c, code == CURLE_OK ? CURLE_OUT_OF_MEMORY : code, why, cap);
        text_fini(&body);
        return false;
    }
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &out->status);
    out->body = body.p;
    out->n = body.n - 1;
    return true;
}
