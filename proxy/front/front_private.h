/* SPDX-License-Identifier: MIT */
#pragma once
/* What session.c and front.c share. For this folder only. */
#include "proxy/front/front.h"

void session_init(struct session *s);
void session_after(struct deferred *d);
void front_maybe_quiet(struct front *f);
void route_maybe_empty(struct route *r);
