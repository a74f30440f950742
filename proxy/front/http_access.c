/* SPDX-License-Identifier: MIT */
/* The access log of HTTP: a line for each request, whether a server had it or not. */
#include "proxy/front/http.h"

void hr_access(struct hr_session *s, enum cause cause)
{
    bool asked = s->server || s->state == HR_WAITING;
    if (s->logged)
        return;
    s->logged = true; /* until the exchange is over: hr_end() */
    session_access(&s->base, &(struct access_line){
                                 .server = s->server ? &s->server->base : NULL,
                                 .waiter = asked ? &s->waiter : NULL,
                                 .cause = cause,
                             });
}
