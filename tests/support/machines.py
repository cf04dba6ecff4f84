"""Machines with cables that can be pulled: network namespaces on one bridge.

The test runs in namespaces of its own (`enter`), so nothing of it is seen outside and all of it is
gone with the process, drives of a size of their own (`Room`) as well. Needs root, or a kernel that lets anybody make namespaces; `ip`, `unshare`, `nsenter`.
"""

import os
import shutil
import subprocess
import sys

from support.store import wait_for

INSIDE = "ABIDE_TEST_NETWORK"
BRIDGE = "cables"


def _ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True)


def _unshare():
    return ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def enter():
    """Goes on in a network of its own; false, with a line that says so, where that can't be had."""
    if os.environ.get(INSIDE):
        return True
    probe = "ip link add probe type bridge && ip link add pa type veth peer name pb && mount -t tmpfs tmpfs /tmp"
    missing = [name for name in ("ip", "unshare", "nsenter") if not shutil.which(name)]
    if missing or subprocess.run([*_unshare(), "sh", "-c", probe], capture_output=True).returncode != 0:
        print(f"no network namespaces here (missing: {missing or 'the right'}), so no node is cut off", flush=True)
        return False
    sys.stdout.flush()
    os.execvpe("unshare", [*_unshare(), sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})


class Machine:
    """A network namespace with one cable to the bridge."""

    def __init__(self, number):
        self.address = f"10.77.0.{number}"
        self.cable = f"cable{number}"
        # The namespace lives as long as this process, whatever happens to the node in it.
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = os.stat("/proc/self/ns/net").st_ino
        there = f"/proc/{self.holder.pid}/ns/net"
        wait_for("the machine's network is there", lambda: os.stat(there).st_ino != own)
        self.within = ["nsenter", f"--net={there}"]
        _ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.holder.pid)
        _ip("link", "set", self.cable, "master", BRIDGE, "up")
        for words in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                      ["link", "set", "lo", "up"]):
            subprocess.run([*self.within, "ip", *words], check=True)

    def cut(self):
        """Pulls the cable out of the bridge: packets vanish both ways, and nobody is told."""
        _ip("link", "set", self.cable, "nomaster")

    def join(self):
        _ip("link", "set", self.cable, "master", BRIDGE)

    def end(self):
        self.holder.kill()
        self.holder.wait()


class Room:
    """A folder that holds so many bytes and no more."""

    def __init__(self, folder, size):
        self.folder, self.size = folder, size
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)

    def shrink(self):
        """It is full from now on."""
        found = os.statvfs(self.folder)
        self._resize((found.f_blocks - found.f_bfree) * found.f_frsize + (64 << 10))

    def widen(self):
        self._resize(self.size)

    def _resize(self, size):
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)


def machines(count):
    """`count` machines; this process reaches all of them."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", "10.77.0.254/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    return [Machine(number) for number in range(1, count + 1)]
