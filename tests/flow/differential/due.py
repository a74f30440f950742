# SPDX-License-Identifier: MIT
"""Which answers a server still owes a client: one token for each message that has an answer.

Failed COPYs aside (which Syncs were read inside of one nobody can tell; such steps end in a mark,
see script.py), this is exact, whatever the server answers.
"""

ENDS = {"P": "1", "B": "2", "C": "3", "D": "Tn", "E": "CsI"}


class Due:
    def __init__(self):
        self.tokens = []
        self.copy_in = False
        self.skipping = False  # everything up to a Sync that was not sent yet is thrown away
        self.batch = False  # messages without a Sync: there may be a transaction
        self.status = "I"

    def __bool__(self):
        return bool(self.tokens)

    def sent(self, kind):
        if kind == "S" and not self.copy_in:
            self.skipping = False
            self.tokens.append(kind)
        elif kind in "QFPBDEC" and not self.skipping:
            self.batch = self.batch or kind in ENDS
            self.tokens.append(kind)

    def received(self, kind, body=b""):
        front = self.tokens[0] if self.tokens else ""
        if kind == "Z":
            self.status = body.decode()
            self.copy_in = False
            if front and front in "SQF":
                self.tokens.pop(0)
            self.batch = any(token in ENDS for token in self.tokens)
        elif kind == "G":
            self.copy_in = True
        elif kind == "E":
            self.copy_in = False
            if front and front in ENDS:
                self._skip()
        elif front and kind in ENDS.get(front, ""):
            self.copy_in = False
            self.tokens.pop(0)

    def _skip(self):
        while self.tokens and self.tokens[0] != "S":
            self.tokens.pop(0)
        self.skipping = not self.tokens

    def settle(self):
        """A mark was reached: whatever was doubtful is over."""
        self.tokens, self.copy_in, self.skipping, self.batch = [], False, False, False

    def idle(self):
        """The server may be anybody's."""
        return not self.tokens and not self.batch and self.status == "I"
