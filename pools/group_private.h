/* SPDX-License-Identifier: MIT */
#pragma once
/* What group.c and group_judge.c share. For these two only. */
#include "pools/group.h"

/* All with the group's mutex held. */

/* Reads what the member's workers count; true: it has changed since it was read last. */
bool group_look(struct group_member *m);
/* Who is to have how many, who has too many, who is to be told. */
void group_judge(struct group *g, uint64_t now);
/* By the latest judgement: may this one take a slot that is free? */
bool group_deserves(const struct group *g, const struct group_member *m);
