/* SPDX-License-Identifier: MIT */
/* The access log of HTTP: a line for each request, whether a server had it or not. */
#include <stdio.h>
#include <string.h>

#include "proxy/front/http.h"

/*
 * A target comes from a client, but only bytes of RFC 3986 get here: what is odd is percent-encoded
 * by whoever asks. Should one ever come that could end the quotes, or the line, it is not shown.
 */
static void note_target(struct hr_work *w, struct span target)
{
    bool whole = target.n <= sizeof w->target;
    size_t n = whole ? target.n : sizeof w->target - 3;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = target.p[i];
        w->target[i] = c <= 0x20 || c >= 0x7f || c == '"' ? '?' : (char)c;
    }
    if (!whole)
        memcpy(w->target + n, "...", 3);
    w->target_n = (uint16_t)(whole ? n : n + 3);
}

void hr_access_begin(struct hr_session *s, const struct http_head *head)
{
    struct hr_work *w = s->work;
    if (!session_access_on(&s->base, true))
        return;
    w->asked_us = loop_usec(session_loop(&s->base));
    w->method = http_method_text(head->method);
    note_target(w, head->target);
}

static void write_line(struct hr_session *s, enum cause cause)
{
    const struct hr_work *w = s->work && s->work->asked_us ? s->work : NULL;
    const struct server *sv = s->server ? &s->server->base : NULL;
    char more[64 + HR_TARGET_MAX];
    uint64_t now = loop_usec(session_loop(&s->base)), until = sv ? sv->leased_us : now;
    snprintf(more, sizeof more, " method=%s status=%u path=\"%.*s\"", w ? w->method : "-",
             s->status, w ? w->target_n : 0, w ? w->target : "");
    session_access(&s->base, &(struct access_line){
                                 .server = sv,
                                 .cause = cause,
                                 .wait_us = w && until > w->asked_us ? until - w->asked_us : 0,
                                 .exchange_us = sv && now > until ? now - until : 0,
                                 .bytes_in = s->taken,
                                 .bytes_out = s->given - s->given_before,
                                 .more = more,
                             });
}

void hr_access(struct hr_session *s, enum cause cause)
{
    if (s->logged)
        return;
    s->logged = true; /* until the exchange is over: hr_end() */
    if (session_access_on(&s->base, cause != CAUSE_NONE))
        write_line(s, cause);
}
