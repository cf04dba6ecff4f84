"""When all metadata is lost: what pieces tell of themselves (docs/formats/segments.md, kit.md "Headers of version 2")."""

import urllib.parse
from dataclasses import dataclass

import kit
import rootkey
import volumes
from blake3 import blake3
from fields import Damaged, versioned
from namespace import Segment
from pieces import Pieces, load
from segments import Source, packed_object, read_header, segment_bytes

NAME_BYTES_MAX = 150
HERE, LATER, UNKNOWN = 0, 1, 2


class StoreKeys:
    """Keys of all volumes of a store, by its root key."""

    def __init__(self, root):
        self.root = root

    def volume_root(self, header):
        return rootkey.derive("abide 2026 volume root v1", rootkey.volume_key(self.root, header.volume))

    def wrapping(self, header, path):
        return rootkey.volume_key(self.root, header.volume)

    def fragment(self, header):
        return rootkey.open_fragment(self.root, header.volume, header.segment, header.fragment)


class VolumeKeys:
    """Keys of one end-to-end volume, by its root: each file has its own. The volume's kit, if a copy is in the folders, leads to roots
    that this one replaced; headers of their time name their keys."""

    def __init__(self, root, folders=()):
        self.root = root
        roots = [root, *kit.older_roots(root, folders)]
        self.roots = {volumes.public_key(one): one for one in roots}

    def volume_root(self, header):
        return self.roots.get(header.owner, self.root)

    def wrapping(self, header, path):
        file = volumes.at(volumes.key_of(self.volume_root(header), "folders"), path)
        return rootkey.derive("abide 2026 folder contents v1", file)

    def fragment(self, header):
        return None


@dataclass
class Found:
    """The bytes of one write, an object in a pack, or an upload."""

    volume: int
    name: str
    written: int
    id: str
    read: object
    part: tuple = None  # upload and number


def headers(pieces):
    """The headers of all segments that have a piece here."""
    for records in pieces.places.values():
        for folder, log, at, piece in records:
            loaded = load(folder, log, at, piece)
            try:
                if loaded:
                    yield read_header(loaded.header)
                    break
            except Damaged:
                continue


def segment_of(header, wrapped):
    return Segment(header.segment, header.k, header.m, header.length, blake3(header.roots), wrapped)


def origin(keys, header):
    """What a header says of where its segment belongs, in the form of version 2; nothing if it doesn't open."""
    if header.owner:
        root = keys.volume_root(header)
        if header.owner != volumes.public_key(root):
            return None
        try:
            return kit.open_envelope(root, header.binding(), header.fragment)
        except Damaged:
            return None
    plain = keys.fragment(header)
    if plain is None:
        return None
    fields = versioned(plain, b"AbFr", "fragment")
    if fields.u8() == 0:
        write, offset, path = fields.raw(16), fields.u64(), fields.str()
        return "whole", path, write, offset, UNKNOWN, None
    slots = [(fields.u32(), fields.u32(), fields.raw(48), fields.str(), None) for _ in range(fields.u32())]
    fields.end()
    return "pack", slots


def whole(keys, pieces, path, parts):
    """The bytes of a write's segments, which lie one behind the other."""
    at, end = 0, UNKNOWN
    for offset, end, header in sorted(parts, key=lambda part: part[0]):
        if offset != at:
            raise Damaged(f"the bytes from {at} to {offset} are not here")
        segment = segment_of(header, header.wrapped)
        key = rootkey.unwrapped_by(keys.wrapping(header, path), segment.id, 0, segment.wrapped)
        for part in segment_bytes(Source(header.volume, segment, pieces.of([segment.id])[segment.id], False), key):
            at += len(part)
            yield part
    if end == LATER:
        raise Damaged(f"the bytes from {at} on are not here")


def in_pack(keys, pieces, header, number, slot):
    offset, length, wrapped, path, _ = slot
    segment = segment_of(header, wrapped)
    key = rootkey.unwrapped_by(keys.wrapping(header, path), segment.id, 1 + number, wrapped)
    yield packed_object(Source(header.volume, segment, pieces.of([segment.id])[segment.id], True), key, offset, length)


def writes(keys, pieces, tell):
    """Everything that headers tell, write by write."""
    found = {}
    for header in headers(pieces):
        says = origin(keys, header)
        if says is None:
            tell(f"what the header of segment {header.segment.hex()} says doesn't open")
        elif says[0] == "whole":
            _, path, write, offset, end, part = says
            found.setdefault((header.volume, write, path, part), []).append((offset, end, header))
        else:
            for number, slot in enumerate(says[1]):
                read = in_pack(keys, pieces, header, number, slot)
                yield Found(header.volume, slot[3], header.written, f"{header.segment.hex()[:8]}.{number}", read, slot[4])
    for (volume, write, path, part), parts in found.items():
        written = max(header.written for _, _, header in parts)
        yield Found(volume, path, written, write.hex()[:8], whole(keys, pieces, path, parts), part)


def objects(keys, pieces, tell):
    """The same with the parts of each upload put together. A part may have been sent again: the last one counts."""
    uploads = {}
    for found in writes(keys, pieces, tell):
        if found.part is None:
            yield found
            continue
        upload, number = found.part
        parts = uploads.setdefault((found.volume, found.name, upload), {})
        if number not in parts or parts[number].written <= found.written:
            parts[number] = found
    for (volume, name, upload), parts in uploads.items():
        read = (data for number in sorted(parts) for data in parts[number].read)
        yield Found(volume, name, max(part.written for part in parts.values()), upload.hex()[:8], read)


def rescue(folders, keys, target, tell):
    """Writes all that can be read into `target`: volume/NAME@TIME-ID, names percent-encoded."""
    good = 0
    for found in objects(keys, Pieces(folders).remember(), tell):
        name = urllib.parse.quote(found.name, safe=" ")[:NAME_BYTES_MAX]
        path = target / str(found.volume) / f"{name}@{found.written}-{found.id}"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{found.id}.part")
        try:
            with half.open("wb") as out:
                out.writelines(found.read)
            half.replace(path)
            good += 1
        except Damaged as error:
            tell(f"{found.name!r} of volume {found.volume}, written {found.written}: {error}")
        finally:
            half.unlink(missing_ok=True)
    print(f"{good} files are in {target}")
