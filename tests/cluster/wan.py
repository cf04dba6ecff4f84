"""A cluster over sites that are 100 ms apart: a site is cut off under load, and a long fat link is filled.

    WANBOX=/path/to/wanbox wan.py [site] [read]

  site    five nodes at three sites; a site without clients is cut off for a while, then another. No
          client error, no request above CLUSTER_STALL (3) seconds, every byte right at every node afterwards.
  read    three nodes at one site, a fourth at another joins: a 1 GiB object (WAN_GB) read there takes
          85 % of the 1 Gbit/s link or more, with the system's default settings (WAN_SHARE: another share).

WANBOX is a program that puts hosts into network namespaces and carries their packets with delay, rate
and cuts: `up FILE --net NAME`, `exec --net NAME HOST PROGRAM…`, `ctl --net NAME cut|join SET SET`, `ctl … quit`.
Host number n of its file has the address 198.18.0.n. Needs root. Without WANBOX nothing is run, and that is said.
"""

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.cluster import WHOLE_MAX, Cluster  # noqa: E402
from support.probes import Probes  # noqa: E402
from support.store import body, seed, wait_for  # noqa: E402

STALL_MAX = float(os.environ.get("CLUSTER_STALL", "3"))
READ_BYTES = int(float(os.environ.get("WAN_GB", str((1 << 30) / 1e9))) * 1e9)
SHARE_MIN = float(os.environ.get("WAN_SHARE", "0.85"))
LINK_BYTES = 1e9 / 8
NET = "ABIDE_TEST_WAN"

# Where the clients are.
CLIENTS = {"site": "client", "read": "w1"}
TOPOLOGIES = {
    "site": """
host client region=east
host e1 region=east
host e2 region=east
host w1 region=west
host w2 region=west
host s1 region=south
link @east @west rtt=100ms rate=1gbit
link @east @south rtt=100ms rate=1gbit
link @west @south rtt=100ms rate=1gbit
""",
    "read": """
host e1 region=east
host e2 region=east
host e3 region=east
host w1 region=west down=1gbit up=1gbit
link @east @west rtt=100ms rate=1gbit
""",
}


def wanbox(verb, *words, **more):
    command = [os.environ["WANBOX"], verb, "--net", os.environ[NET], *map(str, words)]
    return subprocess.run(command, check=True, **more)


class Host:
    """A host of the topology, for a node to run on."""

    def __init__(self, name, number, region):
        self.name, self.address, self.region = name, f"198.18.0.{number}", region
        self.within = [os.environ["WANBOX"], "exec", "--net", os.environ[NET], name]


def hosts(part):
    lines = [line.split() for line in TOPOLOGIES[part].splitlines() if line.startswith("host ")]
    found = [Host(words[1], number, words[2].split("=")[1]) for number, words in enumerate(lines, 1)]
    return [host for host in found if host.name != "client"]


class Near:
    """Deals the nodes of one site to the probes."""

    def __init__(self, nodes, chance):
        self.nodes, self.chance = nodes, chance

    @contextmanager
    def node(self):
        yield self.chance.choice(self.nodes)


def site():
    value = seed()
    chance = random.Random(value)
    places = hosts("site")
    labels = lambda number: ["--label", f"site={places[number - 1].region}"]
    with Cluster(len(places), 2, labels, machines=places) as cluster:
        cluster.wait_until_whole()
        print(f"survives: {cluster.nodes[0].status().get('survives')}", flush=True)
        near = [node for node in cluster.nodes if node.machine.region == "east"]
        near[0].boto3().create_bucket(Bucket="site")
        with Probes(3, "site", Near(near, chance), value) as probes:
            for region in chance.sample(["west", "south"], 2):
                cut_site(cluster, near, region, probes)
        probes.check()
        cluster.wait_until_whole()
        for node in cluster.nodes:
            for probe in probes.all:
                probe.compare_all(node.boto3())
        took, what = probes.longest
        print(f"{probes.count} requests without an error, the longest {took:.2f} s ({what})")
        assert took <= STALL_MAX, f"{what} took {took:.2f} s, more than {STALL_MAX} s"


def cut_site(cluster, near, region, probes):
    """Cuts a site off until the others count its nodes as down and work goes on, then joins it again."""
    far = [node.name for node in cluster.nodes if node.machine.region == region]
    busy(probes)
    wanbox("ctl", "cut", f"@{region}", "*", stdout=subprocess.DEVNULL)
    print(f"{region} is cut off", flush=True)

    def down():
        probes.check()
        seen = cluster.standing(near[0])
        return all(seen.get(name) in ("down", "gone") for name in far)

    wait_for(f"{far} count as down", down, WHOLE_MAX)
    busy(probes)
    wanbox("ctl", "join", f"@{region}", "*", stdout=subprocess.DEVNULL)
    print(f"{region} is back; whole after {cluster.wait_until_whole():.1f} s", flush=True)


def busy(probes, requests=60):
    """Waits until the probes have done some more."""
    goal = probes.count + requests

    def reached():
        probes.check()
        return probes.count >= goal

    wait_for(f"{requests} more requests", reached, 120)


def read():
    value = seed()
    places = hosts("read")
    labels = lambda number: ["--label", f"site={places[number - 1].region}"]
    with Cluster(len(places) - 1, 1, labels, machines=places) as cluster:
        client = cluster.nodes[0].boto3()
        client.create_bucket(Bucket="read")
        wrote = write_big(client, value)
        # It joins after the object was written, so every byte of it is on the other side.
        node = cluster.add(places[-1], ["--label", "site=west"])
        # What the writing left to be repaired would be on the way too.
        cluster.wait_until_whole()
        client = node.boto3()
        client.put_object(Bucket="read", Key="small", Body=b"warm")
        assert body(client, "read", "small") == b"warm"
        began, found, seconds = time.monotonic(), hashlib.sha256(), []
        for chunk in client.get_object(Bucket="read", Key="big")["Body"].iter_chunks(1 << 20):
            found.update(chunk)
            at = int(time.monotonic() - began)
            seconds += [0] * (at + 1 - len(seconds))
            seconds[at] += len(chunk)
        took = time.monotonic() - began
        print(f"Mbit/s, second by second: {[round(each * 8 / 1e6) for each in seconds]}", flush=True)
        assert found.hexdigest() == wrote, "other bytes came back than were written"
        share = READ_BYTES / took / LINK_BYTES
        print(f"{READ_BYTES / 1e9:.2f} GB in {took:.1f} s: {share:.0%} of the link")
        assert share <= 1.02, "more than the link carries: a part of the object was at the reader's site already"
        assert share >= SHARE_MIN, f"{share:.0%} of the link, less than {SHARE_MIN:.0%}"


def write_big(client, value):
    """Writes the object in parts; gives its SHA-256."""
    chance, found = random.Random(value), hashlib.sha256()
    with tempfile.TemporaryFile() as file:
        while (left := READ_BYTES - file.tell()) > 0:
            data = chance.randbytes(min(1 << 24, left))
            found.update(data)
            file.write(data)
        file.seek(0)
        client.upload_fileobj(file, "read", "big")
    return found.hexdigest()


def inside(part):
    """Runs this script on the client's host of a topology."""
    net = f"abide{os.getpid()}"
    environment = {**os.environ, NET: net}
    with tempfile.NamedTemporaryFile("w", suffix=".wan") as file:
        file.write(TOPOLOGIES[part])
        file.flush()
        box = subprocess.Popen(
            [os.environ["WANBOX"], "up", file.name, "--net", net, "--offload", "--realtime"],
            stdout=subprocess.PIPE, text=True,
        )
        try:
            for line in box.stdout:
                if line.strip() == "up":
                    break
            else:
                raise AssertionError(f"wanbox ended with {box.wait()}")
            words = [os.environ["WANBOX"], "exec", "--net", net, CLIENTS[part], sys.executable, *sys.argv[:1], part]
            done = subprocess.run(words, env=environment)
        finally:
            box.terminate()
            box.wait(timeout=30)
    assert done.returncode == 0, f"{part} failed"


def main():
    parts = sys.argv[1:] or list(TOPOLOGIES)
    assert set(parts) <= set(TOPOLOGIES), f"there are {', '.join(TOPOLOGIES)}"
    if os.environ.get(NET):
        globals()[parts[0]]()
    elif os.environ.get("WANBOX") and os.geteuid() == 0:
        for part in parts:
            print(f"-- {part}", flush=True)
            inside(part)
    else:
        print("no WANBOX, or not root: no site is cut off and no long link is filled")


main()
