"""Everything is read with the root key's 24 words alone, with real nodes, when half of the machines are gone for ever.

Eight nodes, code 4+4. Objects of all sizes, uploads in parts, versions, deletes. Then four nodes die with their disks, a
majority of those that keep the metadata among them: S3 answers nobody any more. `abide rescue` gets the words and the address
of one node that is left, no local state, and must give back every byte of what was there, and nothing that was deleted.

RESCUE_MB (60) is how much is stored.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.cluster import Cluster  # noqa: E402
from support.folders import compare, files  # noqa: E402
from support.store import ABIDE, contents, seed, wait_for  # noqa: E402

STORED = int(float(os.environ.get("RESCUE_MB", "60")) * 1e6)
NODES = 8
LOST = 4
# Copies of a kit beside its maker's: with code 4+4 data survives the loss of four nodes, so must its kits.
COPIES = 5
PART = 5 << 20


def words_of(node):
    """The 24 words that the first start printed."""
    found = re.search(r"^((?:[a-z]+ ){23}[a-z]+)$", node.log.read_text(), re.MULTILINE)
    assert found, "the first start printed no 24 words"
    return found.group(1)


def fill(client, folder, value):
    """Objects of all kinds; what must come back is in `folder`."""
    chance = random.Random(value)
    client.create_bucket(Bucket="photos")
    client.create_bucket(Bucket="notes")

    def put(bucket, key, size):
        data = contents(f"{bucket}/{key}", size, value)
        client.put_object(Bucket=bucket, Key=key, Body=data)
        keep(bucket, key, data)

    def keep(bucket, key, data):
        path = folder / bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def forget(bucket, key):
        client.delete_object(Bucket=bucket, Key=key)
        (folder / bucket / key).unlink()

    for number in range(60):
        put("notes", f"tiny/{number % 7}/{number}", chance.randrange(0, 4096))
    for number in range(40):
        put("photos", f"small/{number}", chance.randrange(5000, 300_000))
    left = STORED
    number = 0
    while left > 0:
        size = chance.randrange(1_000_000, 9_000_000)
        put("photos", f"2026/{number:03}.raw", size)
        left -= size
        number += 1
    upload = client.create_multipart_upload(Bucket="photos", Key="film.mov")
    parts, whole = [], b""
    for part, size in enumerate([PART, PART + 12345, 777], 1):
        data = contents(f"film/{part}", size, value)
        done = client.upload_part(
            Bucket="photos", Key="film.mov", UploadId=upload["UploadId"], PartNumber=part, Body=data
        )
        parts.append({"PartNumber": part, "ETag": done["ETag"]})
        whole += data
    client.complete_multipart_upload(
        Bucket="photos", Key="film.mov", UploadId=upload["UploadId"], MultipartUpload={"Parts": parts}
    )
    keep("photos", "film.mov", whole)
    # What was replaced or deleted doesn't come back.
    for key, size in [("tiny/1/1", 2000), ("tiny/2/2", 100_000)]:
        put("notes", key, size)
    forget("notes", "tiny/3/3")
    forget("photos", "small/3")
    forget("photos", "2026/001.raw")
    client.put_bucket_versioning(Bucket="notes", VersioningConfiguration={"Status": "Enabled"})
    put("notes", "tiny/4/4", 3000)
    forget("notes", "tiny/5/5")


def kits_are_fresh(cluster):
    """Whether the kits that the nodes keep have all that was written, with all their copies."""
    kits = {}
    for node in cluster.nodes:
        for kit in node.json("kit", "status"):
            kits[kit["bucket"]] = kit
    return {"photos", "notes", None} <= set(kits) and all(
        holder["fresh"] for kit in kits.values() for holder in kit["holders"]
    ) and all(len(kit["holders"]) == COPIES for kit in kits.values()) and kits


def reads_go_on(node, wanted):
    """With most voters away S3 gives every byte by kits, says so, and refuses writes with a time to wait."""
    client = node.boto3(read_timeout=60)
    began = time.monotonic()
    first = client.get_object(Bucket="photos", Key="film.mov")
    said = first["ResponseMetadata"]["HTTPHeaders"].get("x-abide-read-by-kit", "")
    assert first["Body"].read() == (wanted / "photos" / "film.mov").read_bytes()
    assert "nobody leads" in said, f"the answer doesn't say what it was read by: {said!r}"
    print(f"first read {time.monotonic() - began:.1f} s after the directors died: {said}", flush=True)
    for bucket in ["photos", "notes"]:
        keys = set()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", []):
                keys.add(item["Key"])
                got = client.get_object(Bucket=bucket, Key=item["Key"])
                data = (wanted / bucket / item["Key"]).read_bytes()
                assert got["Body"].read() == data, f"{item['Key']} has other bytes"
                assert item["Size"] == len(data) and got["ETag"] == item["ETag"]
        stored = files(wanted / bucket)
        assert keys == stored, f"listed otherwise: {sorted(keys ^ stored)[:10]}"
    # Buckets may have metadata shards of their own, one of which may still be led.
    refused = 0
    for bucket in ["photos", "notes"]:
        try:
            version = client.put_object(Bucket=bucket, Key="refused", Body=b"x").get("VersionId", "null")
            client.delete_object(Bucket=bucket, Key="refused", VersionId=version)
        except client.exceptions.ClientError as error:
            answer = error.response["ResponseMetadata"]
            assert answer["HTTPStatusCode"] == 503 and "retry-after" in answer["HTTPHeaders"], error.response
            refused += 1
    assert refused, "a write was taken with nobody to lead it"
    status = node.status()
    assert status["health"] == "red" and any("reads go on" in why for why in status["reasons"]), status["reasons"]


def writes_work_again(cluster, node):
    """Everything returns to normal by itself."""
    client = node.boto3()

    def put():
        try:
            done = client.put_object(Bucket="notes", Key="back", Body=b"again")
        except client.exceptions.ClientError:
            return False
        return "x-abide-read-by-kit" not in done["ResponseMetadata"]["HTTPHeaders"]

    began = time.monotonic()
    wait_for("writes work again, and no answer is by a kit", put, 90)
    print(f"writes work again {time.monotonic() - began:.1f} s after the directors came back", flush=True)
    for version in client.list_object_versions(Bucket="notes", Prefix="back")["Versions"]:
        client.delete_object(Bucket="notes", Key="back", VersionId=version["VersionId"])
    cluster.wait_until_whole()
    wait_for("all kits are fresh on all their holders", lambda: kits_are_fresh(cluster), 60)


def rescue(words, address, out, *more):
    # No home, no key file, nothing of this machine.
    environment = {"PATH": os.environ["PATH"], "ABIDE_HOME": "/nonexistent"}
    command = [ABIDE, "rescue", "--words", "--from", address, "--json", *map(str, [out] if out else []), *more]
    return subprocess.run(command, input=words + "\n", capture_output=True, text=True, env=environment, timeout=300)


def main():
    value = seed()
    chance = random.Random(value)
    base = Path(tempfile.mkdtemp(prefix="abide-rescue-"))
    wanted = base / "wanted"
    with Cluster(NODES, 1) as cluster:
        words = words_of(cluster.nodes[0])
        first = cluster.nodes[0]
        first.run("policy", "default", "4+4")
        cluster.wait_until_whole()
        client = first.boto3()
        fill(client, wanted, value)
        cluster.wait_until_whole()
        kits = wait_for("all kits are fresh on all their holders", lambda: kits_are_fresh(cluster), 60)
        count = sum(1 for path in wanted.rglob("*") if path.is_file())
        print(f"{count} objects; kits: {[(kit['bucket'], kit['objects'], kit['bytes']) for kit in kits.values()]}", flush=True)

        # The first node has the root key; it dies with most of those that vote.
        rows = first.status()["nodes"]
        voters = [node for node in cluster.nodes if (cluster.row(rows, node) or {}).get("voter")]
        others = [node for node in cluster.nodes if node not in voters]
        lost = ([first] + [node for node in voters if node is not first] + others)[:LOST]
        left = [node for node in cluster.nodes if node not in lost]
        for node in lost:
            node.kill()
        reads_go_on(left[0], wanted)
        for node in lost:
            node.start(seconds=120)
        writes_work_again(cluster, left[0])
        for node in lost:
            node.kill()
            shutil.rmtree(node.base)
        print(f"{[node.name for node in lost]} are gone with their disks, {len(voters)} voted", flush=True)

        address = chance.choice(left).cluster_address
        seen = rescue(words, address, None)
        assert seen.returncode == 0, seen.stderr + seen.stdout
        out = base / "back"
        began = time.monotonic()
        done = rescue(words, address, out)
        took = time.monotonic() - began
        assert done.returncode == 0, done.stderr + done.stdout
        answer = json.loads(done.stdout)
        same = compare(wanted, out)
        size = sum(path.stat().st_size for path in wanted.rglob("*") if path.is_file())
        print(
            f"rescued {same} objects, {size / 1e6:.0f} MB, from {len(answer['nodes'])} nodes in {took:.1f} s "
            f"({size / 1e6 / took:.0f} MB/s)", flush=True,
        )
        # A second time only looks: everything is there. A file that was lost comes again.
        (out / "photos" / "film.mov").unlink()
        again = json.loads(rescue(words, address, out).stdout)["restored"]
        assert again["there_before"] == same - 1, again
        compare(wanted, out)

        wrong = words.split()
        wrong[0], wrong[1] = wrong[1], wrong[0]
        refused = rescue(" ".join(wrong), address, None)
        assert refused.returncode != 0 and "checksum" in refused.stderr, refused.stderr
        stranger = "abandon " * 23 + "art"
        refused = rescue(stranger, address, None)
        assert refused.returncode != 0 and "no node can be asked" in refused.stderr, refused.stderr

        # One node more is gone: what can't be read is said exactly, and the rest comes.
        last = next(node for node in left if node.cluster_address != address)
        last.kill()
        less = rescue(words, address, base / "less")
        answer = json.loads(less.stdout)
        lacks = [object for volume in answer["volumes"] for object in volume["incomplete"]]
        assert less.returncode != 0 and lacks, "three pieces are left of four that are needed"
        assert all("3 pieces were found, 4 are needed" in object["lacks"] for object in lacks), lacks[:3]
        tiny = sum(1 for path in (base / "less" / "notes").rglob("*") if path.is_file())
        print(f"with three nodes left: {len(lacks)} objects are told as lost, {tiny} notes come from the kit", flush=True)
        assert tiny > 40
    shutil.rmtree(base)
    print("every byte was read with the words alone", flush=True)


if __name__ == "__main__":
    main()
