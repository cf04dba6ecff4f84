"""Real clients do real jobs while two of six drives, drawn by a printed seed, are deleted half-way.

boto3, awscli, s5cmd, rclone and restic each store a tree or big files, the drives vanish in the
middle of it, and every byte is compared afterwards. CLIENT_GB sets the size of the big files.
"""

import os
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.jobs import Jobs, installed  # noqa: E402
from support.store import Store, seed, wait_for  # noqa: E402

BIG_BYTES = int(float(os.environ.get("CLIENT_GB", "2")) * 1e9)


def main():
    value = seed()
    chance = random.Random(value)
    names = installed()
    work = Path(tempfile.mkdtemp(prefix="abide-clients-"))
    try:
        with Store(drives=6) as store:
            jobs = Jobs(store, work, chance, BIG_BYTES)
            running = {name: getattr(jobs, name)() for name in names}
            for job in running.values():
                next(job)
            victims = chance.sample(store.drives, 2)
            print(f"drives that vanish: {[v.name for v in victims]}", flush=True)
            stored = lambda: sum(f.stat().st_blocks * 512 for d in store.drives for f in d.rglob("*") if f.is_file())

            def vanish():
                start = stored()
                # Half-way: when each of the jobs had time to write a part of its data.
                wait_for("data arrives", lambda: stored() - start > BIG_BYTES // 2, 600)
                for victim in victims:
                    shutil.rmtree(victim, ignore_errors=True)
                    shutil.rmtree(victim, ignore_errors=True)
                    print(f"deleted {victim.name}", flush=True)

            vandal = threading.Thread(target=vanish, daemon=True)
            vandal.start()
            for name, job in running.items():
                began = time.monotonic()
                count = next(job)
                print(f"{name}: {count} files right, {time.monotonic() - began:.1f} s", flush=True)
            vandal.join(timeout=600)
            assert not vandal.is_alive() and not any(victim.exists() and any(victim.iterdir()) for victim in victims)
            status = store.status()
            down = [drive for drive in status["drives"] if drive["state"] != "up"]
            assert len(down) == 2, f"status shows {len(down)} drives down: {status['drives']}"
            fresh = [store.base / "d7", store.base / "d8"]
            for path in fresh:
                store.run("drive", "add", path)
            wait_for("everything is repaired", lambda: store.status()["repair"]["pieces"] == 0
                     and store.status()["spare_losses"] >= 2, 900)
            for name in names:
                verified = store.run("verify", name, check=False)
                assert verified.returncode == 0, verified.stdout + verified.stderr
            print("repaired on two new drives; verify is clean")
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
