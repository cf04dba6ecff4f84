#!/usr/bin/env python3
"""Reads objects from copies of a store's drives and its root key, with no Abide.

    reader.py --words FILE | --key FILE  FOLDER…  list [BUCKET]
    reader.py --words FILE | --key FILE  FOLDER…  versions BUCKET
    reader.py --words FILE | --key FILE  FOLDER…  get BUCKET KEY [--version ID] [-o FILE]
    reader.py --words FILE | --key FILE | --volume FILE  FOLDER…  rescue TARGET

FILE holds the 24 words, or is the key file, or holds the 24 words of an end-to-end volume; `-` is the standard input. FOLDER… are drives of the store: any k
of those that hold an object's pieces, one with the metadata among them. Nothing is written to them.

--rough goes on when metadata is damaged or out of date: what is shown and read then may be older than
it should be. `rescue` needs no metadata: it writes all that the pieces themselves tell into the folder TARGET, one
file for each object, replaced and deleted ones too, but none of up to 4 KiB that was no part of an upload.

It was written from docs/formats alone. Needs Python and the package `cryptography`, for AES.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import namespace  # noqa: E402
import rescue  # noqa: E402
import rootkey  # noqa: E402
import segments  # noqa: E402
from fields import Damaged  # noqa: E402
from journal import Shard, read_drive  # noqa: E402
from pieces import Pieces  # noqa: E402

SYSTEM, VOLUMES = 0, 1
KEYS = "--words", "--key", "--key-file", "--volume"
COMMANDS = {"list": (0, 1), "versions": (1,), "get": (2,), "rescue": (1,)}


def tell(what):
    print(f"reader: {what}", file=sys.stderr)


def drives_of(folders, root):
    """Those of the folders that are drives of the root key's store; of any one without it."""
    drives = []
    for folder in folders:
        try:
            drives.append(read_drive(Path(folder)))
        except (Damaged, OSError) as error:
            tell(f"{folder} is left out: {error}")
    if not drives:
        raise Damaged("none of the folders is a drive")
    if len({drive.cluster for drive in drives}) > 1:
        raise Damaged("the folders belong to different stores")
    if root and any(drive.key_check != rootkey.check(root) for drive in drives):
        raise Damaged("this is the root key of another store")
    return drives


class Store:
    """A store, as far as these drives hold it."""

    def __init__(self, drives, root, rough=False):
        self.root, self.drives = root, drives
        metadata, heard = rootkey.metadata_key(root), tell if rough else None
        self.buckets = namespace.buckets(Shard(drives, SYSTEM, metadata, heard).rows)
        self.rows = Shard(drives, VOLUMES, metadata, heard).rows

    def volume(self, bucket):
        if bucket not in self.buckets:
            raise Damaged(f"there is no bucket {bucket!r}; there are: {', '.join(self.buckets) or 'none'}")
        return namespace.Volume(self.rows, self.buckets[bucket])

    def list(self, bucket, all_versions=False):
        """(key, version), delete markers only with all versions."""
        volume = self.volume(bucket)
        for key, place, _, current in volume.keys():
            for version in volume.versions(place, current) if all_versions else [current]:
                if all_versions or not version.marker:
                    yield key, version

    def find(self, bucket, key, wanted=None):
        volume = self.volume(bucket)
        found = volume.find(key)
        if not found:
            raise Damaged(f"there is no key {key!r} in {bucket}")
        versions = volume.versions(found[1], found[3])
        version = next((version for version in versions if wanted in (None, version.id)), None)
        if not version or version.marker:
            raise Damaged(f"{key!r} was deleted" if version else f"{key!r} has no version {wanted}")
        return volume, version

    def read(self, bucket, key, wanted=None):
        """The object's bytes, part by part."""
        volume, version = self.find(bucket, key, wanted)
        body = volume.body(version)
        folders = [drive.path for drive in self.drives]
        named = {segment.id for segment in namespace.segments_of(body)}
        pieces = Pieces(folders).of(named) if named else {}
        yield from segments.sized(segments.body_bytes(self.root, volume.number, body, pieces), version.size)


def write_out(parts, target):
    """To a file only as a whole: half an object must not look like one."""
    if target is None:
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    half = Path(f"{target}.part")
    try:
        with half.open("wb") as out:
            out.writelines(parts)
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)


def line(key, version):
    what = "deleted" if version.marker else version.size
    return f"{what}\t{version.id}\t{version.etag}\t{key}"


def taken(words, option):
    """An option's value, taken out of the words."""
    if option not in words:
        return None
    at = words.index(option)
    if at + 1 == len(words):
        raise SystemExit(f"reader: {option} wants a value")
    value = words[at + 1]
    del words[at : at + 2]
    return value


def root_key(words):
    kind, name = next(((kind, name) for kind in KEYS if (name := taken(words, kind))), (None, None))
    if not kind:
        raise SystemExit(__doc__)
    text = sys.stdin.read() if name == "-" else Path(name).read_text()
    if kind == "--volume":
        return None, lambda folders: rescue.VolumeKeys(rootkey.from_words(text), folders)
    root = rootkey.from_words(text) if kind == "--words" else rootkey.from_file(text)
    return root, lambda _: rescue.StoreKeys(root)


def main(words):
    command_at = next((at for at, word in enumerate(words) if word in COMMANDS), None)
    if command_at is None:
        raise SystemExit(__doc__)
    before, (command, *rest) = words[:command_at], words[command_at:]
    root, keys = root_key(before)
    target, wanted = taken(rest, "-o"), taken(rest, "--version")
    rough = "--rough" in before
    drives = drives_of([word for word in before if word != "--rough"], root)
    if len(rest) not in COMMANDS[command]:
        raise SystemExit(__doc__)
    if command == "rescue":
        folders = [drive.path for drive in drives]
        return rescue.rescue(folders, keys(folders), Path(rest[0]), tell)
    if root is None:
        raise SystemExit("reader: with a volume's words only `rescue` works")
    store = Store(drives, root, rough)
    if command == "get":
        write_out(store.read(*rest, wanted), target)
    elif rest:
        for key, version in store.list(rest[0], command == "versions"):
            print(line(key, version))
    else:
        print("\n".join(store.buckets))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Damaged, OSError) as error:
        raise SystemExit(f"reader: {error}") from None
