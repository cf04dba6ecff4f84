"""Real clients do real jobs while two of six drives, drawn by a printed seed, are deleted half-way.

boto3, awscli, s5cmd, rclone and restic each store a tree or big files, the drives vanish in the
middle of it, and every byte is compared afterwards. CLIENT_GB sets the size of the big files.
"""

import filecmp
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.store import ROOT, Store, seed, wait_for  # noqa: E402

BIG_BYTES = int(float(os.environ.get("CLIENT_GB", "2")) * 1e9)


def source_tree(target):
    """A real source tree: this project's sources and Python's standard library."""
    shutil.copytree(ROOT / "crates", target / "crates", ignore=shutil.ignore_patterns("target"))
    library = Path(os.__file__).parent
    shutil.copytree(
        library, target / "lib", symlinks=False,
        ignore=shutil.ignore_patterns("site-packages", "__pycache__", "test", "config-*", "*.so", "*.a"),
    )
    (target / "empty").write_bytes(b"")
    (target / "name with spaces & ümläut #?%.txt").write_text("odd name")


def big_file(path, size, chance):
    with path.open("wb") as out:
        while out.tell() < size:
            out.write(chance.randbytes(min(1 << 24, size - out.tell())))


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_tree(left, right):
    files = sorted(p.relative_to(left) for p in left.rglob("*") if p.is_file())
    back = sorted(p.relative_to(right) for p in right.rglob("*") if p.is_file())
    assert files == back, f"{len(files)} files went in, {len(back)} came out: {set(files) ^ set(back)}"
    _, differ, errors = filecmp.cmpfiles(left, right, [str(f) for f in files], shallow=False)
    assert not differ and not errors, f"files differ: {differ[:5]} {errors[:5]}"
    return len(files)


class Jobs:
    def __init__(self, store, work, chance):
        self.store, self.work = store, work
        self.environment = store.client_environment()
        self.endpoint = store.endpoint
        self.tree = work / "tree"
        self.tree.mkdir()
        source_tree(self.tree)
        self.big = [work / f"big{n}" for n in range(2)]
        for path in self.big:
            big_file(path, BIG_BYTES // 2, chance)

    def call(self, *words, **more):
        done = subprocess.run(
            [str(word) for word in words], env={**self.environment, **more}, capture_output=True, text=True,
            timeout=1500,
        )
        assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def back(self, name):
        path = self.work / f"back-{name}"
        path.mkdir()
        return path

    def awscli(self):
        self.call("aws", "s3", "mb", "s3://awscli")
        yield
        self.call("aws", "s3", "sync", "--only-show-errors", self.tree, "s3://awscli/tree")
        self.call("aws", "s3", "cp", "--only-show-errors", self.big[0], "s3://awscli/big")
        back = self.back("awscli")
        self.call("aws", "s3", "sync", "--only-show-errors", "s3://awscli/tree", back)
        self.call("aws", "s3", "cp", "--only-show-errors", "s3://awscli/big", self.work / "awscli-big")
        assert digest(self.big[0]) == digest(self.work / "awscli-big")
        (self.work / "awscli-big").unlink()
        yield same_tree(self.tree, back)

    def s5cmd(self):
        s5cmd = ["s5cmd", "--endpoint-url", self.endpoint]
        self.call(*s5cmd, "mb", "s3://s5cmd")
        yield
        self.call(*s5cmd, "cp", f"{self.tree}/", "s3://s5cmd/tree/")
        self.call(*s5cmd, "cp", self.big[1], "s3://s5cmd/big")
        back = self.back("s5cmd")
        self.call(*s5cmd, "cp", "s3://s5cmd/tree/*", f"{back}/")
        self.call(*s5cmd, "cp", "s3://s5cmd/big", self.work / "s5cmd-big")
        assert digest(self.big[1]) == digest(self.work / "s5cmd-big")
        (self.work / "s5cmd-big").unlink()
        yield same_tree(self.tree, back)

    def rclone(self):
        aws = self.store.aws()
        settings = {
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_CONFIG_A_TYPE": "s3",
            "RCLONE_CONFIG_A_PROVIDER": "Other",
            "RCLONE_CONFIG_A_ENDPOINT": self.endpoint,
            "RCLONE_CONFIG_A_REGION": aws["AWS_REGION"],
            "RCLONE_CONFIG_A_ACCESS_KEY_ID": aws["AWS_ACCESS_KEY_ID"],
            "RCLONE_CONFIG_A_SECRET_ACCESS_KEY": aws["AWS_SECRET_ACCESS_KEY"],
        }
        self.call("rclone", "mkdir", "a:rclone", **settings)
        yield
        self.call("rclone", "copy", self.tree, "a:rclone/tree", **settings)
        self.call("rclone", "copyto", self.big[0], "a:rclone/big", **settings)
        self.call("rclone", "copyto", "a:rclone/big", "a:rclone/copy of big", **settings)
        self.call("rclone", "check", "--download", self.tree, "a:rclone/tree", **settings)
        back = self.back("rclone")
        self.call("rclone", "copy", "a:rclone/tree", back, **settings)
        self.call("rclone", "copyto", "a:rclone/copy of big", self.work / "rclone-big", **settings)
        assert digest(self.big[0]) == digest(self.work / "rclone-big")
        (self.work / "rclone-big").unlink()
        yield same_tree(self.tree, back)

    def restic(self):
        settings = {
            "RESTIC_REPOSITORY": f"s3:{self.endpoint}/restic", "RESTIC_PASSWORD": "test",
            "RESTIC_CACHE_DIR": str(self.work / "restic-cache"),
        }
        self.call("restic", "init", **settings)
        yield
        self.call("restic", "backup", "--quiet", self.tree, **settings)
        self.call("restic", "check", "--read-data", **settings)
        back = self.back("restic")
        self.call("restic", "restore", "latest", "--target", back, **settings)
        yield same_tree(self.tree, back / self.tree.relative_to("/"))

    def boto3(self):
        client = self.store.boto3()
        client.create_bucket(Bucket="boto3")
        yield
        files = sorted(p for p in self.tree.rglob("*") if p.is_file())
        for path in files:
            client.put_object(Bucket="boto3", Key=str(path.relative_to(self.tree)), Body=path.read_bytes())
        client.upload_file(str(self.big[1]), "boto3", "big")
        for path in files:
            found = client.get_object(Bucket="boto3", Key=str(path.relative_to(self.tree)))["Body"].read()
            assert found == path.read_bytes(), path
        client.download_file("boto3", "big", str(self.work / "boto3-big"))
        assert digest(self.big[1]) == digest(self.work / "boto3-big")
        (self.work / "boto3-big").unlink()
        listed = sum(len(p.get("Contents", [])) for p in client.get_paginator("list_objects_v2").paginate(Bucket="boto3"))
        assert listed == len(files) + 1, f"{listed} listed, {len(files) + 1} stored"
        yield len(files)


def main():
    value = seed()
    chance = random.Random(value)
    names = [name for name in ["boto3", "awscli", "s5cmd", "rclone", "restic"] if shutil.which(name) or name == "boto3"]
    missing = {"boto3", "awscli", "s5cmd", "rclone", "restic"} - set(names)
    if shutil.which("aws"):
        names, missing = sorted(set(names) | {"awscli"}), missing - {"awscli"}
    assert not missing, f"not installed: {missing}"
    work = Path(tempfile.mkdtemp(prefix="abide-clients-"))
    try:
        with Store(drives=6) as store:
            jobs = Jobs(store, work, chance)
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
