"""A store that heals and grows by itself, with real nodes at four sites under load.

    heal.py [site] [join]

  site    eight nodes at four sites; one site is cut off for good. No client error; everything that is stored
          has its full redundancy again by itself; bytes read for each byte rebuilt, and how requests fared
          meanwhile beside an idle time, are printed.
  join    a ninth node joins under load: bytes moved, printed beside the least that is possible.

HEAL_MB (200) is how much is stored. Needs network namespaces; without them nothing is run, and that is said.
"""

import os
import random
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.cluster import Cluster  # noqa: E402
from support.machines import enter, machines  # noqa: E402
from support.probes import Probes  # noqa: E402
from support.store import body, contents, seed, wait_for  # noqa: E402

STORED = int(float(os.environ.get("HEAL_MB", "200")) * 1e6)
OBJECT = 3_000_000
NODES = 8
# Seconds that a node may be away before its pieces are rebuilt.
AWAY = 10
HEALED_MAX = float(os.environ.get("HEAL_MAX", "400"))
# Of the code 4+2, the default for eight nodes: pieces that are read for those of a segment that are rebuilt.
DATA_PIECES = 4


class Some:
    """Deals some nodes to the probes."""

    def __init__(self, nodes, chance):
        self.nodes, self.chance = nodes, chance

    def node(self):
        return Dealt(self.chance.choice(self.nodes))


class Dealt:
    def __init__(self, node):
        self.place = node

    def __enter__(self):
        return self.place

    def __exit__(self, *_):
        return False


def site_of(number):
    return f"s{(number - 1) // 2 + 1}"


def options(number):
    return ["--label", f"site={site_of(number)}", "--repair-after", str(AWAY)]


def figure(nodes, name):
    """The sum of a metric over nodes."""
    total = 0.0
    for node in nodes:
        with urllib.request.urlopen(f"{node.endpoint}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        total += sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)
    return total


def p99(times):
    times = sorted(times)
    return times[int(len(times) * 0.99)] if times else 0.0


def busy(probes, seconds):
    """How long each request took within so many seconds."""
    before = [len(probe.times) for probe in probes.all]
    ends = time.monotonic() + seconds

    def over():
        probes.check()
        return time.monotonic() >= ends

    wait_for("requests were measured", over, seconds + 30)
    return [took for probe, start in zip(probes.all, before) for took in probe.times[start:]]


def fill(client, value):
    count = STORED // OBJECT
    for number in range(count):
        client.put_object(Bucket="heal", Key=f"stored/{number}", Body=contents(number, OBJECT, value))
    return count


def compare(client, count, value):
    for number in range(count):
        assert body(client, "heal", f"stored/{number}") == contents(number, OBJECT, value), f"stored/{number} has other bytes"


def begin(cluster, value):
    cluster.wait_until_whole()
    client = cluster.nodes[0].boto3()
    client.create_bucket(Bucket="heal")
    count = fill(client, value)
    cluster.wait_until_whole()
    status = cluster.nodes[0].status()
    print(f"{count} objects, {STORED / 1e6:.0f} MB; {status['policy']}; survives: {status.get('survives')}", flush=True)
    return count


def site(places):
    value = seed()
    chance = random.Random(value)
    with Cluster(NODES, 1, options, machines=places[:NODES]) as cluster:
        count = begin(cluster, value)
        # Not the first node's: it has the root key, and the clients ask there how things are.
        lost_site = chance.choice(["s2", "s3", "s4"])
        lost = [node for number, node in enumerate(cluster.nodes, 1) if site_of(number) == lost_site]
        left = [node for node in cluster.nodes if node not in lost]
        with Probes(3, "heal", Some(left, chance), value) as probes:
            idle = busy(probes, 15)
            each = [figure([node], "abide_repair_read_bytes_total") for node in left]
            read, made = sum(each), figure(left, "abide_repaired_bytes_total")
            began = time.monotonic()
            for node in lost:
                node.machine.cut()
            print(f"site {lost_site} is cut off for good", flush=True)
            during = []

            def healed():
                during.extend(busy(probes, 2))
                try:
                    status = left[0].status()
                except Exception:  # noqa: BLE001: nobody leads for a moment
                    return False
                drives = status["drives"]
                gone = [drive for drive in drives if drive["state"] in ("lost", "gone")]
                away = [drive for drive in drives if drive["state"] == "down"]
                return len(gone) == len(lost) and not away and status["repair"]["pieces"] == 0 and status["spare_losses"] >= 2

            wait_for("all that is stored has its full redundancy again", healed, HEALED_MAX)
            took = time.monotonic() - began
        probes.check()
        read, made = (figure(left, "abide_repair_read_bytes_total") - read,
                      figure(left, "abide_repaired_bytes_total") - made)
        hands = sum(figure([node], "abide_repair_read_bytes_total") > before for node, before in zip(left, each))
        for node in left:
            compare(node.boto3(), count, value)
        done, what = probes.longest
        print(f"{hands} of {len(left)} nodes rebuilt pieces", flush=True)
        assert hands > len(left) / 2, "repair is not spread over nodes"
        print(f"full redundancy after {took:.0f} s ({AWAY} s of them waited); {made / 1e6:.1f} MB of pieces rebuilt")
        print(f"{read / max(made, 1):.2f} bytes read for each byte rebuilt; {DATA_PIECES} if each segment lacked one piece")
        print(f"p99 {p99(idle) * 1e3:.0f} ms idle, {p99(during) * 1e3:.0f} ms meanwhile; "
              f"{probes.count} requests without an error, the longest {done:.2f} s ({what})")
        assert made > 0 and read <= 1.2 * DATA_PIECES * made, "more was read than rebuilding takes"


def join(places):
    value = seed()
    chance = random.Random(value)
    with Cluster(NODES, 1, options, machines=places[:NODES]) as cluster:
        count = begin(cluster, value)
        nodes = list(cluster.nodes)
        with Probes(2, "heal", Some(nodes, chance), value) as probes:
            before = figure(nodes, "abide_repaired_bytes_total")
            # What is above the fair share of a drive must move: of what is stored then, and of what was deleted or overwritten
            # and is kept for a while. What comes later comes to all alike.
            held = [drive["used"] for drive in nodes[0].status()["drives"]]
            least = sum(max(0.0, used - sum(held) / (NODES + 1)) for used in held)
            new = cluster.add(places[NODES], ["--label", "site=s5", "--repair-after", str(AWAY)])
            print("a ninth node joins", flush=True)

            def has_its_share():
                probes.check()
                return share(nodes[0], new, count) >= 0.8 / (NODES + 1)

            wait_for("the new node has its share of what was stored", has_its_share, HEALED_MAX)
            wait_for("that has arrived", lambda: arrived(nodes[0], probes), HEALED_MAX)
            moved = figure(cluster.nodes, "abide_repaired_bytes_total") - before
        probes.check()
        print(f"the new node holds {share(nodes[0], new, count):.1%} of the pieces of what was stored, {1 / (NODES + 1):.1%} is fair")
        for node in (nodes[0], new):
            compare(node.boto3(), count, value)
        print(f"{moved / 1e6:.1f} MB moved; the least is {least / 1e6:.1f} MB: {moved / least:.2f} ×")
        print(f"{probes.count} requests without an error, the longest {probes.longest[0]:.2f} s")
        assert moved <= 1.2 * least, "more was moved than a fifth beyond the least"


def pieces(asked, count):
    """How many pieces of what was stored each drive holds, or is to hold."""
    held = {}
    for number in range(count):
        manifest = asked.json("inspect", "manifest", f"heal/stored/{number}")
        for drive in (drive for segment in manifest["segments"] for drive in segment["drives"]):
            held[drive] = held.get(drive, 0) + 1
    return held


def share(asked, new, count):
    """Which part of the pieces of what was stored lies on the new node."""
    own = {drive["id"] for drive in new.status()["drives"] if drive["path"].startswith(f"{new.base}/")}
    held = pieces(asked, count)
    return sum(many for drive, many in held.items() if drive in own) / sum(held.values())


def arrived(asked, probes):
    """Whether nothing is on its way, for a while."""
    for _ in range(5):
        busy(probes, 2)
        if asked.status()["repair"]["pieces"] > 0:
            return False
    return True


def main():
    parts = sys.argv[1:] or ["site", "join"]
    assert set(parts) <= {"site", "join"}, "there are site and join"
    if not enter():
        return
    places = machines(NODES + 1)
    try:
        for part in parts:
            print(f"-- {part}", flush=True)
            {"site": site, "join": join}[part](places)
            for place in places:
                place.join()
    finally:
        for place in places:
            place.end()


if __name__ == "__main__":
    main()
