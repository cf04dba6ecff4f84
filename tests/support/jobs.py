"""What real clients do with a store: each stores a tree or big files, reads all of it back and compares every byte.

Each job is a generator: its first step makes the bucket, its second does the work and gives the
number of files that came back right.
"""

import copy
import filecmp
import hashlib
import os
import shutil
import subprocess

from support.store import ROOT, body

# Seconds that one command of a client may take.
CALL_MAX = 1500
NAMES = ["awscli", "boto3", "rclone", "restic", "s5cmd"]


def installed():
    """All clients, or an error that names those that are missing."""
    programs = {"awscli": "aws", "boto3": "true"}
    missing = [name for name in NAMES if not shutil.which(programs.get(name, name))]
    assert not missing, f"not installed: {missing}"
    return list(NAMES)


def source_tree(target, library):
    """A real source tree: this project's sources and, if `library`, Python's standard library."""
    shutil.copytree(ROOT / "crates", target / "crates", ignore=shutil.ignore_patterns("target"))
    if library:
        shutil.copytree(
            os.path.dirname(os.__file__), target / "lib", symlinks=False,
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
    """The jobs of all clients, with one tree and two big files of half of `big_bytes`."""

    def __init__(self, store, work, chance, big_bytes, library=True):
        self.work, self.suffix, self.running = work, "", set()
        self.tree = work / "tree"
        self.tree.mkdir()
        source_tree(self.tree, library)
        self.big = [work / f"big{n}" for n in range(2)]
        for path in self.big:
            big_file(path, big_bytes // 2, chance)
        self._use(store)

    def _use(self, store):
        self.store, self.environment, self.endpoint = store, store.client_environment(), store.endpoint

    def at(self, store, suffix):
        """The same jobs with another endpoint, on buckets and in a folder of their own."""
        other = copy.copy(self)
        other.suffix, other.work = suffix, self.work / f"jobs{suffix}"
        other.work.mkdir()
        other._use(store)
        return other

    def bucket(self, client):
        return client + self.suffix

    def call(self, *words, **more):
        words = [str(word) for word in words]
        with subprocess.Popen(
            words, env={**self.environment, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            self.running.add(process)
            try:
                out, error = process.communicate(timeout=CALL_MAX)
            finally:
                process.kill()
                self.running.discard(process)
        assert process.returncode == 0, f"{' '.join(words)}\n{out[-2000:]}\n{error[-3000:]}"
        return out

    def abort(self):
        """Ends the clients that run now."""
        for process in list(self.running):
            process.kill()

    def back(self, name):
        path = self.work / f"back-{name}"
        path.mkdir()
        return path

    def awscli(self):
        to = f"s3://{self.bucket('awscli')}"
        self.call("aws", "s3", "mb", to)
        yield
        self.call("aws", "s3", "sync", "--only-show-errors", self.tree, f"{to}/tree")
        self.call("aws", "s3", "cp", "--only-show-errors", self.big[0], f"{to}/big")
        back = self.back("awscli")
        self.call("aws", "s3", "sync", "--only-show-errors", f"{to}/tree", back)
        self.call("aws", "s3", "cp", "--only-show-errors", f"{to}/big", self.work / "awscli-big")
        assert digest(self.big[0]) == digest(self.work / "awscli-big")
        (self.work / "awscli-big").unlink()
        yield same_tree(self.tree, back)

    def s5cmd(self):
        to = f"s3://{self.bucket('s5cmd')}"
        s5cmd = ["s5cmd", "--endpoint-url", self.endpoint]
        self.call(*s5cmd, "mb", to)
        yield
        self.call(*s5cmd, "cp", f"{self.tree}/", f"{to}/tree/")
        self.call(*s5cmd, "cp", self.big[1], f"{to}/big")
        back = self.back("s5cmd")
        self.call(*s5cmd, "cp", f"{to}/tree/*", f"{back}/")
        self.call(*s5cmd, "cp", f"{to}/big", self.work / "s5cmd-big")
        assert digest(self.big[1]) == digest(self.work / "s5cmd-big")
        (self.work / "s5cmd-big").unlink()
        yield same_tree(self.tree, back)

    def rclone(self):
        to = f"a:{self.bucket('rclone')}"
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
        self.call("rclone", "mkdir", to, **settings)
        yield
        self.call("rclone", "copy", self.tree, f"{to}/tree", **settings)
        self.call("rclone", "copyto", self.big[0], f"{to}/big", **settings)
        self.call("rclone", "copyto", f"{to}/big", f"{to}/copy of big", **settings)
        self.call("rclone", "check", "--download", self.tree, f"{to}/tree", **settings)
        back = self.back("rclone")
        self.call("rclone", "copy", f"{to}/tree", back, **settings)
        self.call("rclone", "copyto", f"{to}/copy of big", self.work / "rclone-big", **settings)
        assert digest(self.big[0]) == digest(self.work / "rclone-big")
        (self.work / "rclone-big").unlink()
        yield same_tree(self.tree, back)

    def restic(self):
        settings = {
            "RESTIC_REPOSITORY": f"s3:{self.endpoint}/{self.bucket('restic')}", "RESTIC_PASSWORD": "test",
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
        bucket = self.bucket("boto3")
        client.create_bucket(Bucket=bucket)
        yield
        files = sorted(p for p in self.tree.rglob("*") if p.is_file())
        for path in files:
            client.put_object(Bucket=bucket, Key=str(path.relative_to(self.tree)), Body=path.read_bytes())
        client.upload_file(str(self.big[1]), bucket, "big")
        for path in files:
            found = body(client, bucket, str(path.relative_to(self.tree)))
            assert found == path.read_bytes(), path
        client.download_file(bucket, "big", str(self.work / "boto3-big"))
        assert digest(self.big[1]) == digest(self.work / "boto3-big")
        (self.work / "boto3-big").unlink()
        listed = sum(len(p.get("Contents", [])) for p in client.get_paginator("list_objects_v2").paginate(Bucket=bucket))
        assert listed == len(files) + 1, f"{listed} listed, {len(files) + 1} stored"
        yield len(files)
