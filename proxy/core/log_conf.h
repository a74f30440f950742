/* SPDX-License-Identifier: MIT */
#pragma once
/* How carpool logs: the `log:` mapping of the configuration. Plain values, filled by proxy/conf. */
#include "proxy/core/log.h"

enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

struct log_conf {
    enum log_level level;   /* nothing finer than this is written */
    enum log_format format; /* of every line */
    enum log_access access; /* one line per exchange: none, failed ones, all */
};
