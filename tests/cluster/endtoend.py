"""An end-to-end volume, with real nodes: used from a machine that is no node, with nothing but its 24 words.

Files of all sizes go in and come out, are listed, replaced, removed. A grant for a folder reads that folder and nothing else; one that
ended, one that was revoked and one that was changed open nothing. The words are replaced by others: who has the old ones is refused. S3 refuses the bucket. Whatever nodes hold is searched for names and
contents, also with the store's own root key in hand. Who watches sees each change once and in order, a grant's holder those of the folder
alone, also when the node that leads is killed. An exported kit with a changed byte is found out, and so is one that is older than what the
machine has seen. Three nodes take no data and keep all metadata: they die with their disks, and the words give back every byte, by `abide cp`,
by a gateway for S3 on the owner's machine and by a kit that was exported; then that machine and two of the six nodes with data are gone too,
and a rescue with the words alone returns every byte from the four that are left.

ENDTOEND_MB (40) is how much is stored.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

import boto3
from botocore.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.cluster import Cluster  # noqa: E402
from support.folders import compare, files  # noqa: E402
from support.store import ABIDE, seed, wait_for  # noqa: E402

STORED = int(float(os.environ.get("ENDTOEND_MB", "40")) * 1e6)
NODES = 9
# By number: they join after the first one.
DIRECTORS = (2, 3, 4)
CODE = "4+2"
READER = Path(__file__).resolve().parents[1] / "reader/reader.py"
# In every name and in all contents: what must be found nowhere.
NAME, CONTENT = "quokkaholiday", b"wombat-in-the-clear "


def data(chance, size):
    """Bytes that can be recognised wherever they are cut."""
    random_part = chance.randbytes(max(0, size // 2))
    text = CONTENT * (1 + (size - len(random_part)) // len(CONTENT))
    return (text[: size - len(random_part)] + random_part)[:size]


def fill(folder, chance):
    def put(path, size):
        path = folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data(chance, size))

    for number in range(40):
        put(f"{NAME}-notes/{number % 5}/{NAME}-{number}.txt", chance.choice([0, 1, 40, 900, 4000, 30_000, 200_000]))
    left, number = STORED, 0
    while left > 0:
        size = chance.randrange(300_000, 5_000_000)
        put(f"{NAME}-photos/2026/{NAME}-{number:03}.raw", size)
        left, number = left - size, number + 1
    put(f"{NAME}-photos/{'ü' * 20} and spaces.jpg", 70_000)
    put(f"{NAME}-photos/big.mov", 9 << 20)


class Machine:
    """A machine that isn't a node: only a home, and perhaps nothing in it."""

    def __init__(self, home):
        self.home = home

    def run(self, *words, given=None, check=True):
        environment = {"PATH": os.environ["PATH"], "ABIDE_HOME": str(self.home)}
        done = subprocess.run(
            [ABIDE, *map(str, words)], input=given, capture_output=True, text=True, env=environment, timeout=600
        )
        if check:
            assert done.returncode == 0, f"abide {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words, **more):
        return json.loads(self.run(*words, "--json", **more).stdout)

    def refused(self, *words, why="", **more):
        done = self.run(*words, check=False, **more)
        assert done.returncode == 1, f"abide {words} was not refused: {done.stdout}"
        assert why in done.stderr + done.stdout, f"{why!r} isn't said, but {done.stderr}{done.stdout}"
        return done.stderr


class Watch:
    """`abide watch` on a machine that isn't a node."""

    def __init__(self, machine, *words):
        environment = {"PATH": os.environ["PATH"], "ABIDE_HOME": str(machine.home)}
        machine.home.mkdir(parents=True, exist_ok=True)
        self.out, self.err = (machine.home / f"watch-{id(self)}.{kind}" for kind in ("out", "err"))
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen([ABIDE, "watch", *map(str, words), "--json"], stdout=out, stderr=err, env=environment)
        wait_for("it watches", lambda: b"watching" in self.err.read_bytes(), 60)

    def lines(self):
        return [json.loads(line) for line in self.out.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait(self, count):
        wait_for(f"{count} changes are told", lambda: len(self.lines()) >= count, 90)
        return self.lines()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


class Gateway:
    """`abide gateway` on a machine that isn't a node: S3 for that machine alone."""

    def __init__(self, machine, *volumes):
        environment = {"PATH": os.environ["PATH"], "ABIDE_HOME": str(machine.home)}
        self.log = open(machine.home / "gateway.log", "ab")
        self.process = subprocess.Popen(
            [ABIDE, "gateway", *volumes, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
        )
        self.exports = {}
        for line in self.process.stdout:
            if line.startswith("export "):
                name, value = line.removeprefix("export ").strip().split("=", 1)
                self.exports[name] = value
            if line.startswith("next"):
                break
        assert len(self.exports) == 4, f"the gateway didn't start: {self.process.wait()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(30) == 0, "the gateway didn't end in order"
        self.log.close()

    def boto3(self, **more):
        settings = Config(read_timeout=120, retries={"total_max_attempts": more.pop("attempts", 4)})
        return boto3.client(
            "s3", endpoint_url=self.exports["AWS_ENDPOINT_URL"], region_name=self.exports["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.exports["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.exports["AWS_SECRET_ACCESS_KEY"], config=settings,
        )

    def aws(self, *words):
        environment = {**os.environ, **self.exports}
        done = subprocess.run(["aws", *map(str, words)], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, f"aws {words}: {done.stdout}{done.stderr}"


def listed(s3, prefix, **more):
    """All keys below a prefix, and prefixes that were rolled up."""
    keys, prefixes = [], []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="family", Prefix=prefix, **more):
        keys += [item["Key"] for item in page.get("Contents", [])]
        prefixes += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
    return keys, prefixes


def same_bytes(s3, folder, prefix):
    for path in files(folder):
        got = s3.get_object(Bucket="family", Key=prefix + path)
        assert got["Body"].read() == (folder / path).read_bytes(), f"{path} has other bytes"
    return got


def by_gateway(mine, photos, own, chance):
    """S3 on the owner's machine: what `abide cp` wrote is read, what S3 writes `abide cp` reads."""
    with Gateway(mine, "family") as gateway:
        s3 = gateway.boto3()
        assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == ["family"]
        keys, _ = listed(s3, "all/", PaginationConfig={"PageSize": 7})
        assert keys == sorted(f"all/{path}" for path in files(photos)), "the listing by S3"
        assert listed(s3, "all/", Delimiter="/") == ([], [f"all/{NAME}-notes/", f"all/{NAME}-photos/"])
        same_bytes(s3, photos, "all/")
        big = (photos / f"{NAME}-photos/big.mov").read_bytes()
        part = s3.get_object(Bucket="family", Key=f"all/{NAME}-photos/big.mov", Range="bytes=1000000-1000999")
        assert part["Body"].read() == big[1_000_000:1_001_000]

        def put(key, size, **more):
            path = own / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data(chance, size))
            return s3.put_object(Bucket="family", Key=f"s3/{key}", Body=path.read_bytes(), **more)

        one = f"{NAME}/one.txt"
        tag = put(one, 70_000, ContentType="text/plain", Metadata={"mood": "fine"})["ETag"]
        head = s3.head_object(Bucket="family", Key=f"s3/{one}")
        assert (head["ContentType"], head["Metadata"], head["ETag"]) == ("text/plain", {"mood": "fine"}, tag), head
        (row,) = [item for item in s3.list_objects_v2(Bucket="family", Prefix="s3/")["Contents"]]
        assert (row["ETag"], row["Size"]) == (tag, 70_000), row
        put("empty", 0)
        for number in range(12):
            put(f"some/{number}", chance.choice([1, 5000, 300_000]))
        for refused in [{"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'}]:
            try:
                s3.put_object(Bucket="family", Key=f"s3/{one}", Body=b"no", **refused)
                raise AssertionError(f"{refused} was not looked at")
            except s3.exceptions.ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412, error
        put(one, 71_000, IfMatch=tag)
        s3.put_object_tagging(Bucket="family", Key=f"s3/{one}", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
        assert s3.get_object_tagging(Bucket="family", Key=f"s3/{one}")["TagSet"] == [{"Key": "a", "Value": "b"}]
        s3.copy_object(Bucket="family", Key="s3/copy", CopySource={"Bucket": "family", "Key": f"s3/{one}"})
        shutil.copy(own / one, own / "copy")
        # In parts: bytes that `aws` sends by itself in several.
        (own / "large").write_bytes(data(chance, 19_000_000))
        gateway.aws("s3", "cp", own / "large", "s3://family/s3/large")
        (own / "synced").mkdir()
        for number in range(5):
            (own / f"synced/{number}").write_bytes(data(chance, 9000 * number))
        gateway.aws("s3", "sync", own / "synced", "s3://family/s3/synced")
        put("gone", 9000)
        s3.delete_object(Bucket="family", Key="s3/gone")
        (own / "gone").unlink()
        same_bytes(s3, own, "s3/")
        assert set(listed(s3, "s3/")[0]) == {f"s3/{path}" for path in files(own)}
        for act, status in [
            (lambda: s3.create_bucket(Bucket="other"), 403),
            (lambda: s3.get_object(Bucket="family", Key="s3/gone"), 404),
            (lambda: s3.head_bucket(Bucket="elsewhere"), 404),
            (lambda: gateway.boto3().put_object(Bucket="family", Key="s3/folder/", Body=b""), 400),
        ]:
            try:
                act()
                raise AssertionError(f"{status} was expected")
            except s3.exceptions.ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status, error
        stranger = boto3.client(
            "s3", endpoint_url=gateway.exports["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id=gateway.exports["AWS_ACCESS_KEY_ID"], aws_secret_access_key="x" * 40,
        )
        try:
            stranger.list_objects_v2(Bucket="family")
            raise AssertionError("a wrong secret was taken")
        except s3.exceptions.ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error
    mine.run("cp", "-r", "family:/s3", own.parent / "s3-back")
    print(f"{compare(own, own.parent / 's3-back')} objects that S3 wrote are read by abide cp", flush=True)


def by_kit_file(mine, photos, base, chance):
    """A kit in a file: as sound as all copies; a byte that changed in it is found."""
    kit = base / "family.kit"
    done = mine.json("kit", "export", "family", kit)
    assert done["files"] == len(files(photos)), done
    mine.refused("kit", "export", "family", kit, why="is there already")
    checked = mine.json("kit", "verify", "family", kit)
    assert [copy["state"] for copy in checked["copies"]] == ["sound"], checked
    assert checked["listing"] == {"lacks": 0, "gone": 0}, checked
    everywhere = mine.json("kit", "verify", "family")
    found = [(copy["kind"], copy["state"]) for copy in everywhere["copies"]]
    assert found.count(("here", "sound")) == 1 and found.count(("node", "sound")) >= 3, everywhere
    held = kit.read_bytes()
    wrong = base / "wrong.kit"
    for _ in range(5):
        at = chance.randrange(len(held))
        wrong.write_bytes(held[:at] + bytes([held[at] ^ 0x10]) + held[at + 1:])
        mine.refused("kit", "verify", "family", wrong, why="take another copy")
    wrong.write_bytes(held[:-1])
    mine.refused("kit", "verify", "family", wrong, why="cut short")
    mine.refused("ls", "--kit", wrong, "family:/", why="cut short")
    wrong.write_text("a letter to my aunt, which is no kit at all\n" * 9)
    mine.refused("kit", "verify", "family", wrong, why="it is no kit")
    listed = mine.run("ls", "-r", "--kit", kit, "family:/all", "--json")
    assert {row["path"] for row in json.loads(listed.stdout)} == files(photos) and "read by the kit" in listed.stderr
    return kit


def watched(cluster, mine, other, grant, one):
    """Who watches is told what changes, in order, each once, by whoever leads."""
    inside, beside = f"family:/all/{NAME}-notes/watched", "family:/beside"
    with Watch(mine, "family:/") as all_of_it, Watch(other, "--grant", grant, ":/") as granted:
        wanted = []
        mine.run("cp", one, inside)
        mine.run("cp", one, beside)
        mine.run("cp", one, inside)
        wanted += [("put", inside), ("put", beside), ("put", inside)]
        first = all_of_it.wait(3)
        # The node that leads the volume's metadata dies: another one tells the rest.
        rows = cluster.nodes[0].status()["nodes"]
        (led,) = [node for node in cluster.nodes if 1 in cluster.row(rows, node)["leader"]]
        led.kill()
        mine.run("rm", inside)
        mine.run("rm", beside)
        wanted += [("deleted", inside), ("deleted", beside)]
        told = all_of_it.wait(5)
        assert [(row["change"], f"family:/{row['path']}") for row in told] == wanted, told
        seen = [(row["change"], row["path"]) for row in granted.wait(3)]
        assert seen == [("put", "watched"), ("put", "watched"), ("deleted", "watched")], seen
        led.start()
    with Watch(mine, "family:/", "--since", first[1]["position"]) as again:
        assert [row["path"] for row in again.wait(3)[:3]] == [row["path"] for row in told[2:]]
    mine.refused("watch", "family:/", "--since", 1 << 60, why="List anew")
    cluster.wait_until_whole()
    print(f"watched {len(told)} changes while {led.name}, which led, was killed", flush=True)


def gateway_without_directors(mine, photos, own):
    with Gateway(mine, "family") as gateway:
        s3 = gateway.boto3()
        got = same_bytes(s3, own, "s3/")
        said = got["ResponseMetadata"]["HTTPHeaders"].get("x-abide-read-by-kit", "")
        assert "nobody leads" in said, f"the answer doesn't say what it was read by: {said!r}"
        same_bytes(s3, photos, "all/")
        assert listed(s3, "all/")[0] == sorted(f"all/{path}" for path in files(photos))
        try:
            gateway.boto3(attempts=1).put_object(Bucket="family", Key="s3/refused", Body=b"x")
            raise AssertionError("a write was taken with nobody to lead it")
        except s3.exceptions.ClientError as error:
            answer = error.response["ResponseMetadata"]
            assert answer["HTTPStatusCode"] == 503 and "retry-after" in answer["HTTPHeaders"], error.response
    print(f"all of it was read by S3 as well: {said}", flush=True)


def replaced(node, address, words):
    """The volume's new words, made on a machine of the store, which keeps none of them."""
    node.run("volume", "open", "family", "--words", "--from", address, input=words + "\n")
    said = node.run("volume", "rotate", "family").stdout
    assert "nothing was changed" in said and "volume open family" in said, said
    done = node.json("volume", "rotate", "family", "--apply")
    assert done["settled"] and len(done["words"].split()) == 24 and done["words"] != words, done
    shutil.rmtree(node.home / "volumes")
    shutil.rmtree(node.home / "kits")
    return done["words"]


def by_independent_reader(nodes, words, photos, base):
    """Folders and words are enough for somebody else's program, which knows the formats' pages alone; the oldest files were written before
    the words were replaced."""
    for node in nodes:
        node.kill()
    (base / "words").write_text(words)
    drives = [drive for node in nodes for drive in node.drives]
    began = time.monotonic()
    subprocess.run(
        [sys.executable, READER, "--volume", base / "words", *drives, "rescue", base / "read"], check=True, timeout=900,
        stdout=subprocess.DEVNULL,
    )
    (volume,) = (base / "read").iterdir()
    found = {}
    for path in volume.iterdir():
        found.setdefault(path.name.rsplit("@", 1)[0], []).append(path)
    # What is empty has no pieces.
    wanted = [path for path in sorted(files(photos)) if (photos / path).stat().st_size]
    for path in wanted:
        name = urllib.parse.quote(f"all/{path}", safe=" ")[:150]
        held = (photos / path).read_bytes()
        assert any(one.read_bytes() == held for one in found.get(name, [])), f"{path} wasn't read by its pieces"
    print(f"an independent reader found {len(wanted)} files in {time.monotonic() - began:.1f} s", flush=True)


def voters(cluster):
    rows = cluster.nodes[0].status()["nodes"]
    return [node for node in cluster.nodes if (cluster.row(rows, node) or {}).get("voter")]


def search(cluster, secrets):
    """Every byte of every file that nodes hold, their logs too. How many bytes that were."""
    count = 0
    for node in cluster.nodes:
        for path in node.base.rglob("*"):
            if not path.is_file():
                continue
            try:
                held = path.read_bytes()
            except FileNotFoundError:
                continue
            count += len(held)
            for secret in secrets:
                assert secret not in held, f"{secret!r} is in {path} of {node.name}"
    return count


def opened_metadata(cluster, node):
    """What the records of a node's metadata logs say to who has the store's root key."""
    keys = list(cluster.nodes[0].home.glob("*.key"))
    assert len(keys) == 1, keys
    text = ""
    for drive in node.drives:
        for path in sorted((Path(drive) / "meta").rglob("*")):
            if path.is_file():
                done = node.run("inspect", "log", "--key-file", keys[0], path, "--json", check=False)
                text += done.stdout
    return text


def main():
    value = seed()
    chance = random.Random(value)
    base = Path(tempfile.mkdtemp(prefix="abide-endtoend-"))
    photos = base / "family"
    fill(photos, chance)
    with Cluster(NODES, 1, options=lambda number: ["--no-data"] if number in DIRECTORS else []) as cluster:
        first = cluster.nodes[0]
        directors = [cluster.nodes[number - 1] for number in DIRECTORS]
        first.run("policy", "default", CODE)
        cluster.wait_until_whole()
        wait_for("the three that take no data vote, and nobody else", lambda: voters(cluster) == directors, 60)
        made = first.json("volume", "create", "family", "--e2e", "--shares")
        words = made["words"]
        assert len(words.split()) == 24 and [len(share.split()) for share in made["shares"]] == [30] * 3, made
        assert first.json("volume", "list")[0]["mode"] == "end-to-end"
        # The node keeps nothing: the keys go to a machine that is none.
        shutil.rmtree(first.home / "volumes")
        mine, other = Machine(base / "mine"), Machine(base / "other")
        near = chance.choice(cluster.nodes).cluster_address
        mine.refused("ls", "family:/", why="no keys of a volume family are in")
        mine.run("volume", "open", "family", "--words", "--from", near, given=words + "\n")
        mine.run("key", "test", "family", given=words + "\n")
        mine.run("key", "test", "family", "--shares", given="\n".join(made["shares"][1:]) + "\n")
        stranger = "abandon " * 23 + "art"
        mine.refused("key", "test", "family", given=stranger + "\n")
        mine.refused("key", "test", "family", given=words.replace(words.split()[3], "quokka") + "\n", why="quokka")
        other.refused("volume", "open", "family", "--words", "--from", near, given=stranger + "\n", why="no node can be asked")

        began = time.monotonic()
        done = mine.json("cp", "-r", photos, "family:/all")
        took_in = time.monotonic() - began
        size = sum(path.stat().st_size for path in photos.rglob("*") if path.is_file())
        assert (done["files"], done["bytes"], done["failed"]) == (len(files(photos)), size, []), done
        listed = {row["path"]: row for row in mine.json("ls", "-r", "family:/all")}
        assert set(listed) == files(photos), "the listing"
        assert all(row["bytes"] == (photos / path).stat().st_size for path, row in listed.items())
        names = [row["path"] for row in mine.json("ls", "family:/all")]
        assert names == [f"{NAME}-notes/", f"{NAME}-photos/"], names
        began = time.monotonic()
        mine.run("cp", "-r", "family:/all", base / "back")
        took_out = time.monotonic() - began
        count = compare(photos, base / "back")
        print(
            f"{count} files, {size / 1e6:.0f} MB: in {size / 1e6 / took_in:.1f} MB/s, out {size / 1e6 / took_out:.1f} MB/s",
            flush=True,
        )

        # Replaced, removed: here and in the volume.
        one = photos / f"{NAME}-notes/1/{NAME}-1.txt"
        one.write_bytes(data(chance, 55_555))
        mine.run("cp", one, f"family:/all/{NAME}-notes/1/{NAME}-1.txt")
        gone = f"{NAME}-photos/2026/{NAME}-000.raw"
        (photos / gone).unlink()
        mine.run("rm", f"family:/all/{gone}")
        mine.refused("cp", f"family:/all/{gone}", base / "none", why="nothing is at")
        mine.run("cp", f"family:/all/{NAME}-notes/1/{NAME}-1.txt", base / "one")
        assert (base / "one").read_bytes() == one.read_bytes()

        # S3 can't serve it, and says why.
        s3 = first.boto3()
        for act in [
            lambda: s3.list_objects_v2(Bucket="family"),
            lambda: s3.put_object(Bucket="family", Key="x", Body=b"x"),
            lambda: s3.get_object(Bucket="family", Key="x"),
        ]:
            try:
                act()
                raise AssertionError("S3 served an end-to-end volume")
            except s3.exceptions.ClientError as error:
                assert "end-to-end volume" in str(error), error

        # A grant of a folder, in a file on another machine.
        line = mine.run("grant", f"family:/all/{NAME}-notes", "--read", "--until", "2d").stdout
        grant = base / "grant"
        grant.write_text(line)
        inside = {row["path"] for row in other.json("ls", "-r", "--grant", grant, ":/")}
        assert inside == files(photos / f"{NAME}-notes"), inside
        other.run("cp", "-r", "--grant", grant, ":/", base / "granted")
        compare(photos / f"{NAME}-notes", base / "granted")
        assert other.run("ls", "--grant", "-", ":/1/", given=line).stdout.count(NAME) == 8
        other.refused("cp", "--grant", grant, one, ":/1/mine.txt", why="doesn't allow to write")
        other.refused("rm", "--grant", grant, f":/1/{NAME}-1.txt", why="doesn't allow to delete")
        other.refused("cp", "--grant", grant, f":/{NAME}-photos/big.mov", base / "none", why="nothing is at")
        assert other.json("ls", "--grant", grant, ":/../") == []
        # One that is narrower, one that may write, one that ended, one that somebody changed.
        narrow = base / "narrow"
        narrow.write_text(other.run("grant", "--grant", grant, ":/2", "--read").stdout)
        compare_to = files(photos / f"{NAME}-notes" / "2")
        assert {row["path"] for row in other.json("ls", "--grant", narrow)} == compare_to
        write = base / "write"
        write.write_text(mine.run("grant", f"family:/all/{NAME}-notes", "--write").stdout)
        other.run("cp", "--grant", write, one, f":/1/{NAME}-new.txt")
        shutil.copy(one, photos / f"{NAME}-notes/1/{NAME}-new.txt")
        other.refused("ls", "--grant", write, ":/")
        ended = base / "ended"
        ended.write_text(mine.run("grant", f"family:/all/{NAME}-notes", "--read", "--until", "3s").stdout)
        other.run("ls", "--grant", ended, ":/")
        time.sleep(3.5)
        other.refused("ls", "--grant", ended, ":/", why="the grant ended at")
        changed = line.strip()
        (base / "changed").write_text(changed[:60] + ("A" if changed[60] != "A" else "B") + changed[61:])
        other.refused("ls", "--grant", base / "changed", ":/", why="mistyped")
        began = time.monotonic()
        mine.run("cp", "-r", "family:/all", base / "again")
        took_again = time.monotonic() - began
        compare(photos, base / "again")
        kit = by_kit_file(mine, photos, base, chance)
        watched(cluster, mine, other, grant, one)
        mine.refused("kit", "verify", "family", kit, why="it is an older state")
        by_gateway(mine, photos, base / "s3", chance)
        first.run("volume", "revoke", "family")
        wait_for(
            "every node knows that the grant was revoked",
            lambda: other.run("ls", "--grant", grant, ":/", check=False).returncode == 1, 20,
        )

        # A machine that had the words is lost: they are replaced by others, and it opens nothing any more. No content moves.
        lost = Machine(base / "lost")
        lost.run("volume", "open", "family", "--words", "--from", near, given=words + "\n")
        lost_grant = base / "lost-grant"
        lost_grant.write_text(lost.run("grant", "family:/all", "--read").stdout)
        held = sum(drive["used"] for drive in first.status()["drives"])
        began = time.monotonic()
        words = replaced(first, near, words)
        took = time.monotonic() - began
        grown = sum(drive["used"] for drive in first.status()["drives"]) - held
        for act in (["ls", "family:/"], ["cp", one, "family:/all/theirs"], ["cp", "-r", "family:/all", base / "none"]):
            lost.refused(*act, why="the volume's keys were replaced")
        lost.refused("volume", "rotate", "family", "--apply")
        other.refused("ls", "--grant", lost_grant, ":/")
        mine.refused("ls", "family:/all", why="the volume's keys were replaced")
        mine.run("volume", "open", "family", "--words", "--from", near, given=words + "\n")
        listed = {row["path"]: row for row in mine.json("ls", "-r", "family:/all")}
        assert set(listed) == files(photos) and not files(base / "none"), "the listing with the new words"
        mine.run("cp", "-r", "family:/all", base / "new-words")
        count = compare(photos, base / "new-words")
        assert grown < size / 20, f"{grown} bytes came to the drives"
        print(f"the words were replaced in {took:.1f} s, {count} files are read with the new ones; the drives grew by {grown} bytes", flush=True)
        late, newer = f"{NAME}-photos/newer.raw", data(chance, 600_000)
        (photos / late).write_bytes(newer)
        mine.run("cp", photos / late, f"family:/all/{late}")

        # An app that writes with a grant keeps a kit of what it may see.
        app = base / "app"
        app.write_text(mine.run("grant", f"family:/all/{NAME}-notes", "--read", "--write").stdout)
        other.run("cp", "--grant", app, one, f":/1/{NAME}-app.txt")
        shutil.copy(one, photos / f"{NAME}-notes/1/{NAME}-app.txt")
        mine.run("ls", "family:/")

        # Nobody but the owner learns anything: not from disks, nor with the store's own key.
        secrets = [NAME.encode(), CONTENT, *(" ".join(some.split()[:3]).encode() for some in (words, made["words"]))]
        searched = search(cluster, secrets)
        s3.create_bucket(Bucket="plain")
        s3.put_object(Bucket="plain", Key="numbat-in-the-open", Body=b"x" * 100)
        shown = "".join(opened_metadata(cluster, node) for node in cluster.nodes)
        assert "numbat-in-the-open" in shown or b"numbat-in-the-open".hex() in shown, "the search finds nothing at all"
        for secret in (NAME, NAME.encode().hex(), CONTENT.decode(), CONTENT.hex()):
            assert secret not in shown, secret
        print(f"searched {searched / 1e6:.0f} MB of {NODES} nodes, and {len(shown) / 1e6:.1f} MB of opened metadata", flush=True)

        # Its owner's client held a restore drill, which nobody else could.
        (drill,) = first.status()["owners_drills"]
        assert drill["bucket"] == "family" and drill["objects"] > 0 and drill["failed"] == 0, drill
        assert "restore drill of family" in first.run("status").stdout

        # Nobody is left who could lead. The words are enough.
        cluster.wait_until_whole()
        drives = first.status()["drives"]
        held = {drive["pieces"] for drive in drives if not drive["data"]}
        assert held == {0} and len(drives) == NODES, f"those that take no data hold {held} pieces"
        assert voters(cluster) == directors
        for node in directors:
            node.kill()
            shutil.rmtree(node.base)
        left = [node for node in cluster.nodes if node not in directors]
        print("the three that kept the metadata are gone with their disks", flush=True)

        # Nobody leads: who has the key goes on reading, and is told by what; nothing is written.
        began = time.monotonic()
        seen = mine.run("ls", "-r", "family:/all", "--json")
        first_listing = time.monotonic() - began
        assert {row["path"] for row in json.loads(seen.stdout)} == files(photos), "the listing by kit"
        assert "read by its kit" in seen.stderr, seen.stderr
        began = time.monotonic()
        by_kit = mine.json("cp", "-r", "family:/all", base / "by-kit")
        took_by_kit = time.monotonic() - began
        assert by_kit["read_by_kit"] and by_kit["failed"] == [], by_kit
        count = compare(photos, base / "by-kit")
        print(
            f"{count} files were read by the kit in {took_by_kit:.1f} s, with directors in {took_again:.1f} s; "
            f"the first listing took {first_listing:.1f} s",
            flush=True,
        )
        mine.refused("cp", one, "family:/all/refused", why="nobody leads the volume's metadata")
        mine.refused("rm", "family:/all/refused", why="nobody leads the volume's metadata")
        seen = other.run("ls", "-r", "--grant", app, ":/", "--json")
        assert {row["path"] for row in json.loads(seen.stdout)} == files(photos / f"{NAME}-notes"), "the grant's listing by kit"
        assert "read by its kit" in seen.stderr, seen.stderr
        assert other.json("cp", "-r", "--grant", app, ":/", base / "app-by-kit")["read_by_kit"]
        compare(photos / f"{NAME}-notes", base / "app-by-kit")
        other.refused("cp", "--grant", app, one, ":/1/refused.txt", why="nobody leads the volume's metadata")
        gateway_without_directors(mine, photos, base / "s3")
        # The kit in a file is of before the words were replaced: it says so, and is as good as it was then.
        checked = mine.json("kit", "verify", "family", kit)
        assert [copy["state"] for copy in checked["copies"]] == ["sound"], checked
        assert "before the keys of family were replaced" in checked["listing"]["not_compared"], checked
        began = time.monotonic()
        mine.run("cp", "-r", "--kit", kit, "family:/all", base / "by-file")
        took_by_file = time.monotonic() - began
        # It knows nothing of what was written with the new words.
        (base / "by-file" / late).write_bytes(newer)
        shutil.copy(one, base / f"by-file/{NAME}-notes/1/{NAME}-app.txt")
        compare(photos, base / "by-file")
        print(f"by the kit in a file, without looking for who leads: {took_by_file:.1f} s, {took_again / took_by_file:.2f} times as fast")
        # A machine with no kit of its own gets a node's.
        shutil.rmtree(mine.home / "kits")
        mine.run("cp", f"family:/all/{NAME}-photos/big.mov", base / "big")
        assert (base / "big").read_bytes() == (photos / f"{NAME}-photos/big.mov").read_bytes()
        shutil.rmtree(mine.home)
        for node in chance.sample(left, 2):
            node.kill()
            shutil.rmtree(node.base)
            left.remove(node)
        address = chance.choice(left).cluster_address
        nobody = Machine(Path("/nonexistent"))
        began = time.monotonic()
        answer = nobody.json("rescue", "--volume", "--words", "--from", address, base / "rescued", given=words + "\n")
        took = time.monotonic() - began
        (rescued,) = (base / "rescued").iterdir()
        # Empty files have no pieces, and what was removed has some still: the kit that the client brought to nodes knows both.
        assert all(volume["kit"] for volume in answer["volumes"]), answer
        count = compare(photos, rescued / "all") + compare(base / "s3", rescued / "s3")
        print(f"rescued {count} files with the words alone from {len(left)} nodes in {took:.1f} s", flush=True)
        nobody.refused("rescue", "--volume", "--words", "--from", address, given=stranger + "\n", why="no node can be asked")
        by_independent_reader(left, words, photos, base)
    shutil.rmtree(base)
    print("only who has the words can read, and nothing else is needed", flush=True)


if __name__ == "__main__":
    main()
