"""kill -9 under load, twenty times: no acknowledged byte is lost, and `abide verify` is clean."""

import os
import random
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.store import Store, contents, seed  # noqa: E402

ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))
WRITERS = 8
SIZES = [0, 100, 4096, 4097, 70_000, 900_000, 3_000_000, 9_000_000]


class Writer(threading.Thread):
    """Writes keys of its own, one after the other, and keeps what may be there now."""

    def __init__(self, store, number, chance, allowed, stop):
        super().__init__(daemon=True)
        self.client = store.boto3()
        self.number, self.chance, self.allowed, self.stop = number, chance, allowed, stop
        self.acknowledged = 0

    def run(self):
        while not self.stop.is_set():
            key = f"w{self.number}/k{self.chance.randrange(30)}"
            before = self.allowed.get(key, {None})
            if self.chance.random() < 0.15:
                self.allowed[key] = before | {None}
                act = lambda: self.client.delete_object(Bucket="crash", Key=key)
                after = {None}
            else:
                size = self.chance.choice(SIZES)
                serial = self.chance.randrange(1 << 60)
                self.allowed[key] = before | {(serial, size)}
                act = lambda: self.client.put_object(Bucket="crash", Key=key, Body=contents(serial, size, 0))
                after = {(serial, size)}
            try:
                act()
            except Exception:  # the server was killed: either value may stand
                continue
            self.allowed[key] = after
            self.acknowledged += 1


def check(store, allowed):
    client = store.boto3()
    for key, values in sorted(allowed.items()):
        try:
            found = client.get_object(Bucket="crash", Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            assert None in values, f"{key} was acknowledged and is gone"
            allowed[key] = {None}
            continue
        fits = {v for v in values if v and v[1] == len(found) and contents(v[0], v[1], 0) == found}
        assert fits, f"{key} holds {len(found)} bytes that nobody wrote last"
        allowed[key] = fits


def main():
    chance = random.Random(seed())
    with Store(drives=6) as store:
        store.boto3().create_bucket(Bucket="crash")
        allowed, total = {}, 0
        for number in range(ROUNDS):
            stop = threading.Event()
            writers = [Writer(store, n, random.Random(chance.random()), allowed, stop) for n in range(WRITERS)]
            for writer in writers:
                writer.start()
            enough = chance.randrange(5, 120)
            while sum(writer.acknowledged for writer in writers) < enough and all(w.is_alive() for w in writers):
                stop.wait(0.002)
            store.kill()
            stop.set()
            for writer in writers:
                writer.join()
            total += sum(writer.acknowledged for writer in writers)
            store.start()
            check(store, allowed)
            print(f"kill {number + 1}: {total} acknowledged, {len(allowed)} keys right", flush=True)
        verified = store.run("verify", "crash", check=False)
        assert verified.returncode == 0, f"verify found damage:\n{verified.stdout}{verified.stderr}"
        store.stop()
        store.start()
        check(store, allowed)
    print(f"{ROUNDS} kills, {total} acknowledged writes, none lost; verify is clean")


main()
