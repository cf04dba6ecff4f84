"""docs/formats/kit.md: a kit's log, parcels, and what headers of version 2 say to the volume's owner."""

from dataclasses import dataclass, field
from pathlib import Path

import grants
import volumes
from blake3 import blake3
from fields import Damaged, Fields, crc64, versioned
from rootkey import derive

FULL = 64 << 20
HEAD = 113


@dataclass
class Kit:
    volume: int = 0
    objects: dict = field(default_factory=dict)  # path → version → Object
    groups: dict = field(default_factory=dict)
    drives: dict = field(default_factory=dict)
    nodes: dict = field(default_factory=dict)
    older: list = field(default_factory=list)
    position: tuple = (0, 0)
    number: int = 0
    chain: bytes = b""


@dataclass
class Object:
    null: bool
    marker: bool
    modified: int
    size: int
    attrs: bytes
    body: list  # of (kind, size, what)


def open_log(root, data):
    """A whole log. What a crash left at its end is passed over."""
    if data[:5] != b"AbKt\x01" or crc64(data[5 : HEAD - 8]) != int.from_bytes(data[HEAD - 8 : HEAD], "little"):
        raise Damaged("no kit")
    public = volumes.public_key(root)
    if data[9:41] != public:
        raise Damaged("the kit of another volume")
    kit = Kit(volume=int.from_bytes(data[5:9], "little"), chain=blake3(data[:HEAD]), number=-1)
    at, based = HEAD, False
    while True:
        length = int.from_bytes(data[at : at + 4], "little")
        end = at + 13 + length + 72
        if length == 0 or end > len(data) or crc64(data[at : end - 8]) != int.from_bytes(data[end - 8 : end], "little"):
            break
        kind, number = data[at + 4], int.from_bytes(data[at + 5 : at + 13], "little")
        signed = data[at : end - 72]
        body = volumes.open_bytes(volumes.key_of(root, "kit"), kit.chain, signed[13:])
        kit.chain = derive("abide 2026 kit chain v1", kit.chain, signed)
        if not volumes.is_signed(public, "abide 2026 kit v1", kit.chain, data[end - 72 : end - 8]):
            raise Damaged("a frame isn't signed")
        if number != kit.number + 1 or (kind == 3) != based:
            raise Damaged("a frame in the wrong place")
        based, kit.number, at = based or kind == 2, number, end
        Frame(body).read(kit)
    if not based:
        raise Damaged("a kit without a base")
    return kit


class Frame(Fields):
    """The changes of one frame."""

    def __init__(self, body):
        super().__init__(body, "frame")
        self.path, self.version, self.modified = b"", 0, 0
        self.codes = [(self.u16(), self.u8(), self.u8()) for _ in range(self.varint())]
        self.packs = []
        for _ in range(self.varint()):
            code, group, size = self.varint(), self.varint(), self.varint()
            self.packs.append((self.codes[code], group, size, self.raw(16), self.raw(8)))

    def varint(self):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def step(self, start):
        zigzag = self.varint()
        return (start + (zigzag >> 1 ^ -(zigzag & 1))) % (1 << 64)

    def sized(self):
        return self.raw(self.varint())

    def named(self):
        shared = self.varint()
        self.path = self.path[:shared] + self.sized()
        self.version = self.step(self.version)
        return self.path.decode(), self.version

    def read(self, kit):
        for _ in range(self.varint()):
            self.change(kit)
        self.end()

    def change(self, kit):
        head = self.u8()
        which = head & 7
        if which <= 1:
            self.put(kit, head)
        elif which == 2:
            path, version = self.named()
            kit.objects.get(path, {}).pop(version, None)
        elif which == 3:
            place, version = (self.u16(), self.u32()), self.u32()
            kit.groups[place] = version, *([self.raw(16) for _ in range(self.u8())] for _ in range(2))
        elif which == 4:
            drive = self.raw(16)
            kit.drives[drive] = self.raw(16) if self.u8() else None
        elif which == 5:
            node = self.raw(16)
            kit.nodes[node] = (self.raw(32), [grants.address(self) for _ in range(self.u8())]) if self.u8() else None
        elif which == 6:
            kit.position = self.u64(), self.u64()
        else:
            kit.older.append(self.bytes())

    def put(self, kit, head):
        path, version = self.named()
        self.modified = self.step(self.modified)
        attrs = self.sized() if head & 32 else b""
        marker, null = bool(head & 1), bool(head & 16)
        size, body = 0, []
        if not marker:
            size = self.varint()
            body = [self.segment(size)] if head & 8 else self.body(head >> 6, size)
        versions = kit.objects.setdefault(path, {})
        if null:
            for other in [other for other, known in versions.items() if known.null]:
                del versions[other]
        versions[version] = Object(null, marker, self.modified, size, attrs, body)

    def segment(self, size):
        code, group = self.codes[self.varint()], self.varint()
        return "segment", size, (code, group, self.raw(16), self.raw(32), self.raw(8))

    def body(self, kind, size):
        if kind == 0:
            return [("inline", size, self.sized())]
        if kind == 1:
            pack, slot, offset, length = (self.varint() for _ in range(4))
            return [("packed", size, (self.packs[pack], slot, offset, length, self.raw(32)))]
        if kind == 2:
            head = self.varint()
            segments = []
            for left in range(head >> 1, 0, -1):
                segment = self.segment(0)
                even = FULL if left > 1 else size - FULL * ((head >> 1) - 1)
                segments.append((segment[0], even if head & 1 else self.varint(), segment[2]))
            return segments
        spans = []
        for _ in range(self.varint()):
            kind, size = self.u8(), self.varint()
            spans += self.body(kind, size)
        return spans


def older_roots(root, folders):
    """Roots that this one replaced, by copies of the volume's kit on these drives."""
    public, sealed, found = volumes.public_key(root).hex(), [], []
    for path in (path for folder in folders for path in Path(folder).glob(f"kits/{public}-*.kit")):
        try:
            sealed += open_log(root, path.read_bytes()).older
        except Damaged:
            continue
    newer = [root]
    while newer:
        opened = [one for by in newer for text in sealed if (one := volumes.open_older(by, text)) and one not in found]
        found += opened
        newer = opened
    return found


def parcel(data):
    """Offset and bytes of a parcel, if the owner of its volume made it."""
    fields = versioned(data, b"AbKp", "parcel")
    public = fields.raw(32)
    fields.raw(40)
    offset, fixed = fields.u64(), fields.at
    part = fields.bytes()
    signature = fields.raw(64)
    fields.end()
    if not volumes.is_signed(public, "abide 2026 kit parcel v1", data[5:fixed] + blake3(part), signature):
        raise Damaged("a parcel that its volume's owner didn't make")
    return offset, part


def open_envelope(root, binding, data):
    """The origin in an envelope: ("whole", path, write, offset, end, part) or ("pack", slots)."""
    fields = versioned(data, b"AbFe", "envelope")
    base, key = grants.open_anchor(root, grants.read_anchor(fields))
    sealed = fields.bytes()
    fields.end()
    return origin(volumes.open_bytes(key, binding, sealed), base)


def origin(data, base=""):
    fields = versioned(data, b"AbFo", "origin")
    found = origin_body(fields, base)
    fields.end()
    paths = [slot[3] for slot in found[1]] if found[0] == "pack" else [found[1]]
    if base and not base.endswith("/") and any(path != base for path in paths):
        raise Damaged("a path that goes on below a file")
    return found


def origin_body(fields, base):
    if fields.u8() == 1:
        slots = [
            (fields.u32(), fields.u32(), fields.raw(48), base + fields.str(), upload_part(fields))
            for _ in range(fields.u32())]
        return "pack", slots
    write, offset, end, path = fields.raw(16), fields.u64(), fields.u8(), fields.str()
    return "whole", base + path, write, offset, end, upload_part(fields)


def upload_part(fields):
    return (fields.raw(16), fields.u16()) if fields.u8() else None
