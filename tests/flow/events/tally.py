# SPDX-License-Identifier: MIT
"""The rows that clients wrote. A group is what one transaction writes: it is there once, or not at all."""

import threading

YES, NO, MAYBE = "confirmed", "refused", "unknown"

TABLE = "create table ev_log (grp text, n int, note text); grant all on ev_log to public;"


class Tally:
    def __init__(self):
        self.groups, self.lock = {}, threading.Lock()

    def sent(self, group):
        """One row more of a group is on its way; until somebody says what became of it, that is unknown."""
        with self.lock:
            size, fate, why = self.groups.get(group, (0, MAYBE, ""))
            self.groups[group] = size + 1, fate, why
            return size

    def settle(self, group, fate, why=""):
        with self.lock:
            self.groups[group] = self.groups.get(group, (0,))[0], fate, why

    def wrong(self, rows):
        """What is wrong with the [(group, rows, different rows)] of the table."""
        found = {group: (count, distinct) for group, count, distinct in rows}
        for group, (count, distinct) in found.items():
            size, fate, why = self.groups.get(group, (0, NO, "never sent"))
            if count != distinct:
                yield f"{group}: {count - distinct} rows more than once"
            if fate == NO:
                yield f"{group}: {count} rows of what was refused: {why}"
            elif count != size:
                yield f"{group}: {count} of {size} rows"
        for group, (size, fate, _) in self.groups.items():
            if fate == YES and size and group not in found:
                yield f"{group}: {size} rows were confirmed, and are not there"
