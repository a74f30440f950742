# SPDX-License-Identifier: MIT
"""What a session may expect to find on whichever server it gets: a set of values where an answer was lost."""

SHOWN = ("application_name", "timezone", "work_mem", "search_path", "role")
DEFAULTS = {"timezone": "UTC", "work_mem": "4MB", "search_path": '"$user", public', "role": "none"}


def own_value(name, client, pick):
    """A value that no other client uses."""
    return {"application_name": f"c{client}v{pick}", "timezone": f"Etc/GMT-{client + 1}",
            "work_mem": f"{1101 + 10 * client + pick}kB", "search_path": f"ev_{client}, public",
            "role": f"ev_role_{client}"}[name]


class Session:
    def __init__(self, client, number, came_with):
        self.client, self.name = client, f"c{client}s{number}"
        self.came_with = {**DEFAULTS, **came_with}
        self.settings = {name: {value} for name, value in self.came_with.items()}
        self.before = None  # the settings outside of the transaction that is open
        self.statements = {}  # name: the text it surely has
        self.channels = set()
        self.temp = {False}  # whether there is a temporary table
        self.targeted = False  # somebody has sent a cancel for it
        self.has_lost = False  # its last exchange has lost a server
        self.marks = 0

    def mark(self):
        self.marks += 1
        return f"{self.name}m{self.marks}"

    # -- settings

    def set(self, name, value, surely=True):
        self.settings[name] = {value} if surely else self.settings[name] | {value}

    def reset(self, name, surely=True):
        self.set(name, self.came_with[name], surely)

    def discard(self, surely=True):
        for name in SHOWN:
            self.reset(name, surely)
        self.temp = {False} if surely else self.temp | {False}
        self.statements.clear()

    def begin(self):
        self.before = {name: set(values) for name, values in self.settings.items()}

    def end(self, fate):
        """COMMIT or ROLLBACK: 'confirmed', 'refused' (nothing of it holds) or 'unknown'."""
        if fate == "refused":
            self.settings = self.before
        elif fate == "unknown":
            self.settings = {n: v | self.before[n] for n, v in self.settings.items()}
        self.before = None

    def lost(self):
        """Its server is gone, with all that was only there."""
        self.temp = self.temp | {False}

    def wrong(self, values, temp, shared):
        """What is wrong with the settings that were found, and with a temporary table; `shared`: such a table
        is left to whoever comes next."""
        for name, value in zip(SHOWN, values):
            if value not in self.settings[name]:
                yield f"{name} is {value!r}, not {sorted(self.settings[name])}"
            else:
                self.settings[name] = {value}
        if not shared and (temp is not None) not in self.temp:
            yield f"temporary table: {temp}, expected {self.temp}"
