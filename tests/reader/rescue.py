"""When all metadata is lost: what pieces tell of themselves (docs/formats/segments.md, "Fragment")."""

import urllib.parse
from dataclasses import dataclass

import rootkey
from blake3 import blake3
from fields import Damaged, crc64, versioned
from namespace import Segment
from pieces import Pieces, load
from segments import Source, packed_object, segment_bytes

NAME_BYTES_MAX = 150


@dataclass
class Header:
    volume: int
    segment: Segment
    pack: bool
    written: int
    fragment: bytes


@dataclass
class Found:
    """The bytes of one write, or an object in a pack."""

    volume: int
    name: str
    written: int
    id: str
    read: object


def read_header(piece):
    """What the header of a piece says of its segment."""
    fields = versioned(piece.header, b"AbPH", "piece header")
    if fields.u64() != crc64(piece.header[13:]):
        raise Damaged("piece header: checksum mismatch")
    volume, segment, _, k, m, pack = fields.u32(), fields.raw(16), fields.u8(), fields.u8(), fields.u8(), fields.u8()
    fields.u32()
    length, written = fields.u64(), fields.u64()
    fields.raw(6)
    wrapped, roots, fragment = fields.raw(48), fields.raw(32 * (k + m)), fields.bytes()
    fields.end()
    return Header(volume, Segment(segment, k, m, length, blake3(roots), wrapped), bool(pack), written, fragment)


def headers(pieces):
    """The headers of all segments that have a piece here."""
    for records in pieces.places.values():
        for folder, log, at, piece in records:
            loaded = load(folder, log, at, piece)
            try:
                if loaded:
                    yield read_header(loaded)
                    break
            except Damaged:
                continue


def whole(root, pieces, volume, parts):
    """The bytes of a write's segments, which lie one behind the other."""
    at = 0
    for offset, header in sorted(parts, key=lambda part: part[0]):
        if offset != at:
            raise Damaged(f"the bytes from {at} to {offset} are not here")
        segment = header.segment
        key = rootkey.unwrapped(root, volume, segment.id, 0, segment.wrapped)
        for part in segment_bytes(Source(volume, segment, pieces.of([segment.id])[segment.id], False), key):
            at += len(part)
            yield part


def in_pack(root, pieces, header, slot, offset, length, wrapped):
    segment = header.segment
    key = rootkey.unwrapped(root, header.volume, segment.id, 1 + slot, wrapped)
    yield packed_object(Source(header.volume, segment, pieces.of([segment.id])[segment.id], True), key, offset, length)


def objects(root, pieces, tell):
    """Everything that the fragments tell."""
    writes = {}
    for header in headers(pieces):
        segment = header.segment.id
        plain = rootkey.open_fragment(root, header.volume, segment, header.fragment)
        if plain is None:
            tell(f"the fragment of segment {segment.hex()} doesn't open")
            continue
        fields = versioned(plain, b"AbFr", "fragment")
        if fields.u8() == 0:
            write, offset, name = fields.raw(16), fields.u64(), fields.str()
            writes.setdefault((header.volume, write), []).append((offset, header, name))
            continue
        for slot in range(fields.u32()):
            offset, length, wrapped, name = fields.u32(), fields.u32(), fields.raw(48), fields.str()
            bytes_of = in_pack(root, pieces, header, slot, offset, length, wrapped)
            yield Found(header.volume, name, header.written, f"{segment.hex()[:8]}.{slot}", bytes_of)
        fields.end()
    for (volume, write), parts in writes.items():
        written, name = max((header.written, name) for _, header, name in parts)
        bytes_of = whole(root, pieces, volume, [(offset, header) for offset, header, _ in parts])
        yield Found(volume, name, written, write.hex()[:8], bytes_of)


def rescue(folders, root, target, tell):
    """Writes all that can be read into `target`: volume/NAME@TIME-ID, names percent-encoded."""
    good = 0
    for found in objects(root, Pieces(folders).remember(), tell):
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
