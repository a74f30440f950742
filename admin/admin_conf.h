/* SPDX-License-Identifier: MIT */
#pragma once
/* admin's settings. They are declared in core, where the neighbour that fills them can see them. */
#include "proxy/core/admin_conf.h"
