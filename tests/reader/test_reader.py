"""A store is filled by a real client and stopped; then each object is read by tests/reader/reader.py, in
a process that sees copies of four of its six folders and the 24 words, and nothing else.

Which four is drawn by the printed seed. Afterwards bytes of the copies are flipped: never may wrong bytes come out.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.store import Store, contents, seed  # noqa: E402

READER = Path(__file__).with_name("reader.py")
sys.path.insert(0, str(READER.parent))
import fields  # noqa: E402
import journal  # noqa: E402
import pieces  # noqa: E402
import rootkey  # noqa: E402
import rows  # noqa: E402

MIB = 1 << 20
DRIVES, KEPT = 6, 4

SIZES = {
    "empty": 0, "one": 1, "small": 100, "inline-most": 4096, "packed-least": 4097, "packed": 5 * 1024,
    "packed-cells": 200_000, "packed-most": MIB, "segment-least": MIB + 1, "stripes": 10 * MIB,
    "stripes-odd": 10 * MIB + 12_345, "two-segments": 70 * MIB + 1,
}
ODD = [
    "ünï/côdé/ключ/鍵", "a//b", "/", "//", "folder/", "spaces and\ttabs", "100%?#&+=", "new\nline", "..", "../up",
    "deep/" * 150 + "x", "k" * 1024, "\U0001f680", "list", "a", "a/b", "a/b/c",
]


def ok(what):
    print(f"ok  {what}", flush=True)


class Filled:
    """What was stored, so that the reader's answers can be compared."""

    def __init__(self, client, number):
        self.client, self.seed = client, number
        self.objects, self.versions = {}, {}
        client.create_bucket(Bucket="shapes")
        client.create_bucket(Bucket="others")
        self.shapes()
        self.uploads()
        self.copies()
        self.replaced()
        self.versioned()

    def put(self, key, size, bucket="shapes", salt=""):
        data = contents(f"{bucket}/{key}{salt}", size, self.seed)
        answer = self.client.put_object(
            Bucket=bucket, Key=key, Body=data, ContentType="text/x-test", Metadata={"long": "x" * 600})
        self.objects[bucket, key] = data
        return answer.get("VersionId"), data

    def shapes(self):
        for name, size in SIZES.items():
            self.put(name, size)
        for number, key in enumerate(ODD):
            self.put(key, 10 + 700 * number)

    def upload(self, key, sizes):
        upload = self.client.create_multipart_upload(Bucket="shapes", Key=key)["UploadId"]
        names = {"Bucket": "shapes", "Key": key, "UploadId": upload}
        parts, data = [], b""
        for number, size in enumerate(sizes, 1):
            part = contents(f"{key}/{number}", size, self.seed)
            done = self.client.upload_part(**names, PartNumber=number, Body=part)
            parts.append({"PartNumber": number, "ETag": done["ETag"]})
            data += part
        self.client.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})
        self.objects["shapes", key] = data

    def uploads(self):
        self.upload("upload/segments-only", [5 * MIB, 6 * MIB, 5 * MIB + 7])
        self.upload("upload/packed-end", [5 * MIB, 20_000])
        self.upload("upload/inline-end", [5 * MIB, 5 * MIB, 99])
        self.upload("upload/long-manifest", [5 * MIB] * 6 + [10_000])
        self.upload("upload/one-small", [300])
        begun = self.client.create_multipart_upload(Bucket="shapes", Key="upload/under-way")["UploadId"]
        self.client.upload_part(
            Bucket="shapes", Key="upload/under-way", UploadId=begun, PartNumber=1, Body=b"x" * 50_000)

    def copies(self):
        for source in ("small", "packed", "stripes", "upload/packed-end"):
            for bucket in ("shapes", "others"):
                key = f"copy-of/{source}"
                self.client.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": "shapes", "Key": source})
                self.objects[bucket, key] = self.objects["shapes", source]

    def replaced(self):
        """Churn: what was replaced or deleted must not come back."""
        for number in range(60):
            self.put(f"churn/{number % 20}", 1000 + number * 3000, salt=f"#{number}")
        for number in range(0, 20, 2):
            self.client.delete_object(Bucket="shapes", Key=f"churn/{number}")
            del self.objects["shapes", f"churn/{number}"]

    def versioned(self):
        self.client.create_bucket(Bucket="versioned")
        self.put("v/null-first", 77, "versioned")
        null = self.objects["versioned", "v/null-first"]
        self.client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
        self.versions["v/null-first"] = [("null", null)]
        for number, size in enumerate([30, 6000, 2 * MIB, 0]):
            self.versions["v/null-first"].insert(0, self.put("v/null-first", size, "versioned", f"#{number}"))
        kept = self.put("v/deleted", 9000, "versioned")
        self.client.delete_object(Bucket="versioned", Key="v/deleted")
        del self.objects["versioned", "v/deleted"]
        self.versions["v/deleted"] = [kept]

    def grown(self, drives):
        """The journal grows until one of its files is rewritten without its dead values."""
        rule = {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "ExposeHeaders": ["x" * 9000]}
        for number in range(1000):
            rules = [{**rule, "ID": f"{number}.{place}"} for place in range(95)]
            self.client.put_bucket_cors(Bucket="others", CORSConfiguration={"CORSRules": rules})
            logs = [log for drive in drives for log in drive.glob("meta/1/log-*")]
            # What is being written still has its name for a moment only.
            if any(int.from_bytes(log.read_bytes()[12:16], "little") for log in logs if log.suffix != ".new"):
                break
        else:
            raise AssertionError("the journal is never cleaned")
        self.put("after-cleaning", 4000)
        ok(f"the journal was cleaned after {number} large settings")

    def keys(self, bucket):
        return sorted((key for name, key in self.objects if name == bucket), key=str.encode)


class Reader:
    """The reader, in an empty folder with the copies and the words beside it."""

    def __init__(self, base, words):
        self.base, self.folders = base, []
        self.words = base / "words"
        self.words.write_text(words)

    def start(self, *words):
        return subprocess.Popen(
            [sys.executable, "-I", READER, "--words", self.words, *self.folders, *words],
            cwd=self.base, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *words, fails=False):
        process = self.start(*words)
        out, error = process.communicate(timeout=600)
        assert (process.returncode != 0) == fails, f"{words}: {process.returncode}\n{error.decode()}"
        assert b"Traceback" not in error, error.decode()
        return error.decode() if fails else out

    def get(self, bucket, key, *more):
        """The object, and half of one never."""
        self.run("get", bucket, key, *more, "-o", self.base / "out")
        return (self.base / "out").read_bytes()


def everything(reader, filled):
    for (bucket, key), data in filled.objects.items():
        assert reader.get(bucket, key) == data, f"{bucket}/{key!r} differs"
    ok(f"{len(filled.objects)} objects of all shapes are byte-exact")
    count = 0
    for key, versions in filled.versions.items():
        for version, data in versions:
            assert reader.get("versioned", key, "--version", version) == data, f"{key} {version} differs"
            count += 1
    said = reader.run("get", "versioned", "v/deleted", fails=True)
    assert "deleted" in said, said
    ok(f"{count} versions are, a deleted key is gone")


def listings(reader, filled):
    assert sorted(reader.run("list").decode().split()) == ["others", "shapes", "versioned"]
    for bucket in ("shapes", "others", "versioned"):
        wanted = "".join(f"{len(filled.objects[bucket, key])} {key}\n" for key in filled.keys(bucket))
        lines = reader.run("list", bucket).decode()
        # Keys may hold tabs and line ends themselves, so only the three fields before are taken out.
        shown = "".join(
            part if "\t" not in part or part.count("\t") < 3 else " ".join((part.split("\t", 3)[0], part.split("\t", 3)[3]))
            for part in lines.splitlines(keepends=True))
        assert shown == wanted, f"{bucket}:\n{shown}\n--- is not\n{wanted}"
    versions = reader.run("versions", "versioned").decode().splitlines()
    assert len(versions) == sum(map(len, filled.versions.values())) + 1, versions
    said = reader.run("get", "shapes", "upload/under-way", fails=True)
    assert "no key" in said, said
    ok("listings are what was stored")


def refusals(reader, store, base):
    other = base / "other-words"
    other.write_text("abandon " * 23 + "art")
    done = subprocess.run(
        [sys.executable, READER, "--words", other, *reader.folders, "list"], capture_output=True, text=True)
    assert done.returncode and "another store" in done.stderr, done.stderr
    typo = base / "typo"
    typo.write_text(reader.words.read_text().replace(" ", " abandom ", 1).rsplit(" ", 1)[0])
    done = subprocess.run(
        [sys.executable, READER, "--words", typo, *reader.folders, "list"], capture_output=True, text=True)
    assert done.returncode and "word 2" in done.stderr, done.stderr
    key = next(store.home.glob("*.key"))
    done = subprocess.run([sys.executable, READER, "--key", key, *reader.folders, "list"], capture_output=True, text=True)
    assert done.returncode == 0 and "shapes" in done.stdout, done.stderr
    ok("the key file serves as well; wrong words are refused")


def flip(folder, chance):
    """Flips a bit each 5000 bytes of a folder's pieces."""
    count = 0
    for path in sorted((folder / "pieces").iterdir()):
        with path.open("r+b") as file:
            for at in range(chance.randrange(5000), path.stat().st_size, 5000):
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([byte[0] ^ 1 << chance.randrange(8)]))
                count += 1
    return count


def forge(folder, chance):
    """Changes a cell of each piece together with its checksums."""
    count = 0
    for place, log, at, piece in list(pieces.Pieces([folder]).records()):
        loaded = pieces.load(place, log, at, piece)
        if not loaded or not loaded.body:
            continue
        number = chance.randrange(len(loaded.table) // 8)
        start = number * loaded.cell_bytes
        cell = bytearray(pieces.read_at(loaded.path, loaded.offset + start, min(loaded.cell_bytes, loaded.body - start)))
        cell[chance.randrange(len(cell))] ^= 1 << chance.randrange(8)
        with loaded.path.open("r+b") as file:
            file.seek(loaded.offset + start)
            file.write(cell)
        table = bytearray(loaded.table)
        table[8 * number : 8 * number + 8] = fields.crc64(cell).to_bytes(8, "little")
        head = bytearray(pieces.read_at(log, at, 128))
        head[104:112] = fields.crc64(loaded.header + table).to_bytes(8, "little")
        head[120:128] = fields.crc64(head[:120]).to_bytes(8, "little")
        with log.open("r+b") as file:
            file.seek(at)
            file.write(head + loaded.header + table)
        count += 1
    return count


HARMED = ("packed", "packed-cells", "packed-most", "segment-least", "stripes-odd", "upload/packed-end")


def harmed(reader, filled, harm, chance):
    """Two of six folders are harmed: all is read. Then two more: right bytes or none."""
    order = chance.sample(reader.folders, 4)
    count = sum(harm(folder, chance) for folder in order[:2])
    assert count, "there was nothing to harm"
    for key in HARMED:
        assert reader.get("shapes", key) == filled.objects["shapes", key], f"{key}: wrong bytes came out"
    for folder in order[2:]:
        harm(folder, chance)
    refused = 0
    for key in HARMED:
        process = reader.start("get", "shapes", key)
        out, error = process.communicate(timeout=600)
        assert b"Traceback" not in error, error.decode()
        data = filled.objects["shapes", key]
        if process.returncode:
            # What was given out before the trouble was right.
            assert data.startswith(out) and len(out) < len(data), f"{key}: wrong bytes came out"
            refused += 1
        else:
            assert out == data, f"{key}: wrong bytes came out"
    ok(f"{harm.__name__}: {count} changes in two of six folders cost nothing; in four, "
       f"{refused} of {len(HARMED)} objects are refused and none is wrong")


def torn_metadata(reader, filled):
    """A byte of the journal is flipped on one mirror; then all but that mirror are taken away."""
    mirrors = [folder for folder in reader.folders if (folder / "meta/1/members").exists()]
    log = max((mirrors[0] / "meta/1").glob("log-*"), key=lambda path: path.stat().st_size)
    data = bytearray(log.read_bytes())
    data[len(data) // 3] ^= 4
    log.write_bytes(data)
    if len(mirrors) > 1:
        assert reader.get("shapes", "small") == filled.objects["shapes", "small"]
    for folder in mirrors[1:]:
        shutil.rmtree(folder / "meta")
    said = reader.run("get", "shapes", "small", fails=True)
    assert "damaged" in said, said
    assert b"shapes" in reader.run("--rough", "list"), "damage is not passed over where that was asked for"
    shutil.rmtree(mirrors[0] / "meta")
    said = reader.run("list", fails=True)
    assert "metadata" in said, said
    ok(f"a flipped byte of the journal is read from another mirror ({len(mirrors)} of 3 were at hand) or refused")


def every_byte(reader):
    """Every row, event, footer and record is as docs/formats says, also those that no object needs."""
    root = rootkey.from_words(reader.words.read_text())
    drives = [journal.read_drive(folder) for folder in reader.folders]
    tables, kinds = {}, set()

    class Shard(journal.Shard):
        def event(self, data):
            kinds.add(rows.check_event(data))

    for number in (0, 1):
        shard = Shard(drives, number, rootkey.metadata_key(root))
        tables.update(rows.check_rows(shard.rows, number == 0))
    missing = set("bovwcdpgsukj" "DVBMAHUPCRKL") - set(tables)
    assert not missing, f"there is no row in tables {missing}"
    assert {1, 2, 3, 6, 8, 9} <= kinds, f"there are events {kinds} only"
    sealed = records = 0
    for folder in reader.folders:
        assert fields.crc64((folder / "pieces/store").read_bytes()[:24]) == pieces.u64((folder / "pieces/store").read_bytes(), 24)
        for log in sorted((folder / "pieces").glob("log-*")):
            told = pieces.footer(log, log.stat().st_size)
            found = pieces.scanned(log)
            if told is not None:
                assert told == found, f"{log}: the footer tells other records than there are"
                sealed += 1
            for kind, piece, at in found:
                loaded = pieces.load(log.parent, log, at, piece)
                if kind in (pieces.PUT, pieces.LARGE) and loaded.body:
                    first = min(loaded.cell_bytes, loaded.body)
                    assert loaded.cell(0, first) is not None, f"{log}: a cell at {at} doesn't fit its checksum"
                if kind == pieces.LARGE:
                    check_lead(loaded, piece)
                records += 1
    assert sealed and records
    ok(f"{sum(tables.values())} rows of {len(tables)} tables, {records} records and {sealed} footers are as they are described")


def check_lead(piece, number):
    """The first block of a large piece's run."""
    lead = pieces.read_at(piece.path, piece.offset - pieces.BLOCK, pieces.BLOCK)
    assert lead[:5] == b"ABpx\x01" and lead[7:24] == number
    assert [pieces.u32(lead, at) for at in (24, 28, 32, 36)] == [
        piece.cell_bytes, piece.body, len(piece.header), len(piece.table)]
    assert pieces.u64(lead, 40) == fields.crc64(lead[64:]) and pieces.u64(lead, 56) == fields.crc64(lead[:56])
    meta = piece.header + piece.table
    assert lead[5] == (len(meta) <= 4032) and (not lead[5] or lead[64 : 64 + len(meta)] == meta)


def rescued(reader, filled):
    """Without any metadata: what was written is found again, by the pieces alone."""
    for folder in reader.folders:
        shutil.rmtree(folder / "meta", ignore_errors=True)
    said = reader.run("list", fails=True)
    assert "metadata" in said, said
    reader.run("rescue", reader.base / "rescued")
    found = {path.read_bytes() for path in (reader.base / "rescued").rglob("*") if path.is_file()}
    wanted = {key: data for (bucket, key), data in filled.objects.items()
              if (len(data) > 4096 or key.startswith("upload/")) and not key.startswith("copy-of/")}
    missing = [key for key, data in wanted.items() if data not in found]
    assert not missing, f"not rescued: {missing}"
    names = {path.name.split("@")[0] for path in (reader.base / "rescued").rglob("*")}
    assert names >= {"stripes", "packed", "upload%2Finline-end", "upload%2Fone-small"}, names
    ok(f"without metadata {len(wanted)} objects of more than 4 KiB are found by what their pieces say")
    shutil.rmtree(reader.base / "rescued")


def outdated(reader, filled, store):
    """A mirror that was away while things changed doesn't pass for the store."""
    mirror = next(drive for drive in store.drives if (drive / "meta/1/members").exists())
    store.start([drive for drive in store.drives if drive != mirror])
    filled.client = store.boto3()
    filled.put("since", 3000)
    store.stop()
    reader.folders = copies_of(store, store.drives, reader.base, "outdated")
    assert reader.get("shapes", "since") == filled.objects["shapes", "since"]
    for folder in reader.folders:
        if folder.name != mirror.name:
            shutil.rmtree(folder / "meta", ignore_errors=True)
    said = reader.run("list", "shapes", fails=True)
    assert "newest metadata" in said, said
    before = reader.run("--rough", "list", "shapes").decode()
    assert "stripes" in before and "since" not in before, before
    shutil.rmtree(reader.base / "outdated")
    ok("a mirror that missed changes is refused, or shown as what it is where that was asked for")


def copies_of(store, kept, base, name):
    target = base / name
    for drive in kept:
        shutil.copytree(drive, target / drive.name)
    return [target / drive.name for drive in kept]


def main():
    number = seed()
    chance = random.Random(number)
    with tempfile.TemporaryDirectory() as folder, Store(drives=DRIVES) as store:
        base = Path(folder)
        words = next(line for line in store.log.read_text().splitlines() if len(line.split()) == 24)
        filled = Filled(store.boto3(), number)
        # A power cut: no log has its last footer, no file of the journal is closed.
        store.kill()
        kept = sorted(chance.sample(store.drives, KEPT))
        print(f"of {DRIVES} folders these are kept: {', '.join(drive.name for drive in kept)}", flush=True)
        reader = Reader(base, words)
        reader.folders = copies_of(store, kept, base, "cut")
        assert reader.get("shapes", "stripes") == filled.objects["shapes", "stripes"]
        listings(reader, filled)
        ok("a store that lost power is read as it lies")
        shutil.rmtree(base / "cut")
        outdated(reader, filled, store)
        store.start()
        filled.client = store.boto3()
        filled.grown(store.drives)
        store.stop()
        reader.folders = copies_of(store, kept, base, "kept")
        copies_of(store, store.drives, base, "all")
        for drive in store.drives:
            shutil.rmtree(drive)
        began = time.monotonic()
        everything(reader, filled)
        listings(reader, filled)
        print(f"    ({time.monotonic() - began:.0f} s)", flush=True)
        refusals(reader, store, base)
        every_byte(reader)
        torn_metadata(reader, filled)
        for harm in (flip, forge):
            reader.folders = [shutil.copytree(base / "all" / drive.name, base / harm.__name__ / drive.name)
                              for drive in store.drives]
            harmed(reader, filled, harm, chance)
            shutil.rmtree(base / harm.__name__)
        reader.folders = [base / "all" / drive.name for drive in kept]
        rescued(reader, filled)
    print("the reader that knows docs/formats alone reads it all")


if __name__ == "__main__":
    main()
