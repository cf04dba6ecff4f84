"""Real clients at work on a cluster while its nodes are killed, hung, slowed down, filled, cut off and restarted in turn.

    run.py [--parts spread,front,rolling] [--faults kill,hang,slow,restart,cut,full]
           [--clients boto3,awscli,s5cmd,rclone,restic] [--seconds 20] [--nodes 5] [--drives 2]

  spread    each client talks to one node, which is not the victim
  front     all clients talk to a health-checked proxy before all nodes, so a victim may be anyone's
  rolling   all nodes are restarted in the order that `abide node restart-plan` gives, below that proxy

Every byte is compared; no client may end with an error beyond its own default retries; no request may
take longer than CLUSTER_STALL (3) seconds. TEST_SEED repeats a run's draws; CLIENT_GB (0.06) sets the
size of the big files. Each of the first two parts takes --seconds, or as long as one fault of each kind takes. Two nodes have
drives in memory, which can be filled. Without namespaces nothing is cut off or full.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import machines  # noqa: E402
from support.cluster import Background, Cluster, Everyone, Front, Spread, Vandal  # noqa: E402
from support.jobs import NAMES, Jobs, installed  # noqa: E402
from support.probes import Probes  # noqa: E402
from support.store import seed  # noqa: E402

STALL_MAX = float(os.environ.get("CLUSTER_STALL", "3"))
BIG_BYTES = int(float(os.environ.get("CLIENT_GB", "0.06")) * 1e9)
PARTS = ["spread", "front", "rolling"]
FAULTS = ["kill", "hang", "slow", "restart", "cut", "full"]
# Of each of the drives that can be filled.
ROOM_BYTES = 1500 << 20
BOUND = 2


def words():
    def some(of):
        def read(text):
            unknown = set(text.split(",")) - set(of)
            if unknown:
                raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: known are {', '.join(of)}")
            return text.split(",")
        return read

    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--parts", type=some(PARTS), default=PARTS)
    found.add_argument("--faults", type=some(FAULTS), default=FAULTS)
    found.add_argument("--clients", type=some(NAMES), default=None)
    found.add_argument("--seconds", type=float, default=20)
    found.add_argument("--nodes", type=int, default=5)
    found.add_argument("--drives", type=int, default=2)
    found.add_argument("--probes", type=int, default=2, help="clients that send small requests without end")
    return found.parse_args()


class Run:
    def __init__(self, options, cluster, work, value):
        self.options, self.cluster, self.work, self.value = options, cluster, work, value
        self.chance = random.Random(value)
        self.jobs = Jobs(cluster.nodes[0], work, self.chance, BIG_BYTES, library=False)
        self.rounds = 0
        self.buckets = []

    def work_until(self, spread, done, check):
        """One client after the other does its job, drawn anew in each round, until `done()`."""
        while True:
            for name in self.chance.sample(self.options.clients, len(self.options.clients)):
                job = Background(lambda: self.one_job(name, spread))
                job.start()
                try:
                    while job.is_alive():
                        # A failure elsewhere ends the run now, not when this client gives up.
                        check()
                        job.join(0.1)
                except BaseException:
                    self.jobs.abort()
                    raise
                job.check()
                check()
                if done():
                    return

    def one_job(self, name, spread):
        self.rounds += 1
        with spread.node() as place:
            began = time.monotonic()
            jobs = self.jobs.at(place, f"-{self.rounds}")
            job = getattr(jobs, name)()
            next(job)
            self.buckets.append(jobs.bucket(name))
            count = next(job)
            print(f"{name} at {place.endpoint}: {count} files right, {time.monotonic() - began:.1f} s", flush=True)
        shutil.rmtree(jobs.work)

    def under_load(self, part, spread, disturb):
        """Runs `disturb` while probes and clients work; then compares all that the probes wrote, at every node."""
        bucket = f"probes-{part}"
        self.cluster.nodes[0].boto3().create_bucket(Bucket=bucket)
        with Probes(self.options.probes, bucket, spread, f"{self.value}/{part}") as probes:
            meanwhile = Background(disturb)
            meanwhile.start()

            def check():
                meanwhile.check()
                probes.check()

            self.work_until(spread, lambda: not meanwhile.is_alive(), check)
            meanwhile.check()
        probes.check()
        self.cluster.wait_until_whole()
        for node in self.cluster.nodes:
            for probe in probes.all:
                probe.compare_all(node.boto3())
        took, what = probes.longest
        print(f"{part}: {probes.count} small requests without an error, the longest {took:.2f} s ({what})", flush=True)
        assert probes.count > 0
        assert took <= STALL_MAX, f"{part}: {what} took {took:.2f} s, more than {STALL_MAX} s"

    def storm(self, part, spread):
        """Faults of all kinds, one after the other, while all clients work."""
        vandal = Vandal(self.cluster, spread, self.options.faults, f"{self.value}/{part}", self.options.seconds)
        self.under_load(part, spread, vandal.run)
        print(f"{part}: {len(vandal.done)} faults", flush=True)

    def spread(self):
        self.storm("spread", Spread(self.cluster, random.Random(f"{self.value}/deal")))

    def below_front(self, act):
        with Front(self.cluster) as front:
            act(Everyone(front))
        print(f"the proxy: {front.stats}", flush=True)
        longest, what = front.stats["longest_wait"], front.stats["waited_for"]
        assert front.stats["refused"] == 0, f"{front.stats['refused']} connections found no node that is well"
        assert longest <= STALL_MAX, f"{what} waited {longest} s for a byte, more than {STALL_MAX} s"

    def front(self):
        self.below_front(lambda spread: self.storm("front", spread))

    def rolling(self):
        self.below_front(lambda spread: self.under_load("rolling", spread, self.roll))

    def roll(self):
        restarted = []
        plan = self.cluster.restart_plan()
        print(f"restart-plan: {[[node.name for node in wave] for wave in plan]}", flush=True)
        for wave in plan:
            for node in wave:
                node.stop()
            for node in wave:
                node.start()
            restarted += wave
            print(f"restarted {[node.name for node in wave]}", flush=True)
            self.cluster.wait_until_whole()
        assert sorted(node.name for node in restarted) == sorted(node.name for node in self.cluster.nodes)

    def verify(self):
        """The store itself reads every piece of what the clients left."""
        for bucket in self.buckets:
            done = self.cluster.nodes[-1].run("verify", bucket, check=False)
            assert done.returncode == 0, f"verify {bucket}:\n{done.stdout}{done.stderr}"
        print(f"verify: {len(self.buckets)} buckets are clean", flush=True)


def main():
    options = words()
    options.clients = options.clients or installed()
    places = None
    if {"cut", "full"} & set(options.faults):
        if machines.enter():
            places = machines.machines(options.nodes)
        else:
            options.faults = [kind for kind in options.faults if kind not in ("cut", "full")] or ["kill"]
    value = seed()
    work = Path(tempfile.mkdtemp(prefix="abide-cluster-clients-"))
    began = time.monotonic()
    try:
        cluster = Cluster(options.nodes, options.drives, machines=places)
        if "full" in options.faults:
            for node in cluster.nodes[-BOUND:]:
                node.bound(ROOM_BYTES)
        with cluster:
            print(f"{options.nodes} nodes are up after {time.monotonic() - began:.1f} s", flush=True)
            cluster.wait_until_whole()
            run = Run(options, cluster, work, value)
            for part in options.parts:
                getattr(run, part)()
            run.verify()
            cluster.stop()
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for place in places or []:
            place.end()
    print(f"all right after {time.monotonic() - began:.0f} s")


main()
