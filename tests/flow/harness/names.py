# SPDX-License-Identifier: MIT
"""Names of hosts that a test can move, for the daemon alone: it gets an /etc/hosts of its own.

    hosts = Hosts()
    hosts.set(db=["127.0.0.2"])     what the daemon finds from now on; `set()`: the name is unknown
    daemon.prefix = hosts.prefix    before it starts

The C library reads the file at each look-up. The file is put in its place by a mount that only the
daemon sees, which takes rights that not everybody has: `Hosts.missing()` says what is in the way.
"""

import os
import shutil
import subprocess

from .base import temp_folder

MOUNT = ('mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/nsswitch.conf && shift 2 && exec "$@"')


class Hosts:
    def __init__(self):
        self.folder = temp_folder("names")
        self.file, order = self.folder / "hosts", self.folder / "nsswitch.conf"
        order.write_text("hosts: files\n")
        self.file.touch()
        self.set()
        self.prefix = ["unshare", "-m", "sh", "-c", MOUNT, "sh", self.file, order]

    def set(self, **names):
        """In one write, so that nobody reads half of it."""
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address} {name}" for name, addresses in names.items() for address in addresses]
        text = "".join(line + "\n" for line in lines).encode()
        fd = os.open(self.file, os.O_WRONLY)
        os.pwrite(fd, text.ljust(2048, b"\n"), 0)
        os.close(fd)

    def missing(self):
        """Why names cannot be moved here; None if they can."""
        self.set(**{"carpool-probe": ["127.0.0.77"]})
        try:
            done = subprocess.run([*self.prefix, "getent", "ahosts", "carpool-probe"],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        except OSError as e:
            return str(e)
        finally:
            self.set()
        if done.returncode:
            return f"no /etc/hosts of one's own: {done.stderr.strip()}"
        return None if "127.0.0.77" in done.stdout else "the resolver does not read /etc/hosts"

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)
