/* SPDX-License-Identifier: MIT */
#pragma once
/* `/metrics`: Prometheus' text exposition, version 0.0.4. docs/admin.md lists the families. */
#include "admin/figures.h"
#include "admin/text.h"

#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

void metrics_write(struct text *out, const struct figures *f);

/* A label's value between its quotes: backslash, quote and line end escaped. */
void metrics_escape(struct text *out, const char *value);
