"""The ratchet over ceph/s3-tests against a five-node cluster with one node down.

    S3TESTS=/path/to/clone ratchet.py [OPTIONS OF tests/s3tests/run]

Which node is down is drawn from the printed seed: the first node is one of them, as any other.
RATCHET_FAULT is `kill` (default) or `hang`.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.cluster import Cluster  # noqa: E402
from support.store import ABIDE, ROOT, seed, wait_for  # noqa: E402


def main():
    assert os.environ.get("S3TESTS"), "set S3TESTS to a clone of ceph/s3-tests"
    chance = random.Random(seed())
    with Cluster(nodes=5) as cluster:
        cluster.wait_until_whole()
        victim, asked = chance.sample(cluster.nodes, 2)
        {"kill": victim.kill, "hang": victim.hang}[os.environ.get("RATCHET_FAULT", "kill")]()
        wait_for(f"{victim.name} counts as down", lambda: cluster.standing(asked).get(victim.name) in ("down", "gone"))
        print(f"{victim.name} is down, {asked.name} is asked", flush=True)
        more = {"S3TESTS_ENDPOINT": f"{asked.host}:{asked.port}", "S3TESTS_HOME": str(asked.home), "ABIDE": ABIDE}
        done = subprocess.run([ROOT / "tests/s3tests/run", *sys.argv[1:]], env={**os.environ, **more})
    sys.exit(done.returncode)


main()
