"""docs/formats/segments.md: from pieces to an object's bytes. What comes out was opened by a key."""

import itertools
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import rootkey
from blake3 import blake3
from fields import Damaged, crc64, versioned

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "formats"))
import gf256  # noqa: E402

CELL, TAG = 65536, 16
# Ways of decoding that are tried when checksums were forged along with the bytes.
TRIES_MAX = 10_000


class Layout:
    """Where a segment's bytes lie."""

    def __init__(self, k, length, tag):
        self.k, self.length, self.tag = k, length, tag
        self.stripes = -(-length // (k * CELL))

    def cell(self, stripe):
        """Bytes of a cell of the stripe, without tag."""
        return min(CELL, -(-(self.length - stripe * self.k * CELL) // self.k))

    def stored(self, stripe):
        return self.cell(stripe) + self.tag

    def held(self, stripe):
        """The segment's bytes that the stripe holds."""
        return min(self.k * CELL, self.length - stripe * self.k * CELL)


@dataclass
class Header:
    """What a piece says of itself."""

    volume: int
    segment: bytes
    index: int
    k: int
    m: int
    pack: int
    cell: int
    length: int
    written: int
    policy: int
    group: int
    wrapped: bytes
    roots: bytes
    fragment: bytes
    owner: bytes  # none in version 1

    def binding(self):
        """What the envelope of a header of version 2 is sealed for (docs/formats/kit.md)."""
        numbers = struct.pack(
            "<I16sBBBQQHI", self.volume, self.segment, self.k, self.m, self.pack, self.length, self.written,
            self.policy, self.group)
        owner = b"\1" + self.owner if self.owner else b"\0"
        return rootkey.derive("abide 2026 header binding v1", numbers, self.wrapped, self.roots, owner)


def read_header(data):
    """The header of a piece, version 1 or 2."""
    fields = versioned(data, b"AbPH", "piece header", newest=2)
    if fields.u64() != crc64(data[13:]):
        raise Damaged("piece header: checksum mismatch")
    volume, segment = fields.u32(), fields.raw(16)
    index, k, m, pack = fields.u8(), fields.u8(), fields.u8(), fields.u8()
    cell, length, written, policy, group = fields.u32(), fields.u64(), fields.u64(), fields.u16(), fields.u32()
    wrapped, roots, fragment = fields.raw(48), fields.raw(32 * (k + m)), fields.bytes()
    owner = fields.raw(32) if fields.version == 2 else b""
    fields.end()
    return Header(
        volume, segment, index, k, m, pack, cell, length, written, policy, group, wrapped, roots, fragment, owner)


def header_fits(piece, volume, segment, index, pack):
    """Whether a piece's own header says that it is this one, and the manifest's root stands behind it."""
    try:
        found = read_header(piece.header)
    except Damaged:
        return False
    says = found.volume, found.segment, found.index, found.k, found.m, found.pack, found.cell, found.length
    wanted = volume, segment.id, index, segment.k, segment.m, int(pack), CELL, segment.length
    return says == wanted and blake3(found.roots) == segment.root


class Source:
    """A segment's pieces, as far as they are here and their headers fit."""

    def __init__(self, volume, segment, found, pack):
        self.volume, self.segment = volume, segment
        self.layout = Layout(segment.k, segment.length, 0 if pack else TAG)
        self.n = segment.k + segment.m
        self.pieces = {
            index: [piece for piece in pieces if header_fits(piece, volume, segment, index, pack)]
            for index, pieces in found.items() if index < self.n}

    def cells(self, index, stripe, checked=True):
        """What each piece of this index has for the stripe."""
        for piece in self.pieces.get(index, ()):
            cell = piece.cell(stripe, self.layout.stored(stripe), checked)
            if cell is not None:
                yield cell

    def too_few(self, have, stripe):
        return Damaged(
            f"segment {self.segment.id.hex()}: {have} good pieces of {self.segment.k} that are needed (stripe {stripe})")


def segment_bytes(source, key):
    """The bytes of a segment of one object, stripe by stripe."""
    layout = source.layout
    for stripe in range(layout.stripes):
        yield b"".join(sealed_stripe(source, key, stripe))[: layout.held(stripe)]


def sealed_stripe(source, key, stripe):
    """The opened data cells of a stripe: those that don't open are decoded from others."""
    k, m = source.segment.k, source.segment.m

    def opened(index, cell):
        return rootkey.open_cell(key, source.volume, source.segment.id, stripe * k + index, cell)

    good, plain = {}, {}
    for index in range(k):
        for cell in source.cells(index, stripe, checked=False):
            text = opened(index, cell)
            if text is not None:
                good[index], plain[index] = cell, text
                break
    lost = [index for index in range(k) if index not in good]
    if not lost:
        return [plain[index] for index in range(k)]
    parity = {index: cell for index in range(k, k + m) for cell in itertools.islice(source.cells(index, stripe), 1)}
    if len(good) + len(parity) < k:
        raise source.too_few(len(good) + len(parity), stripe)
    for chosen in itertools.islice(itertools.combinations(sorted(parity), len(lost)), TRIES_MAX):
        cells = gf256.decode(k, m, {**good, **{index: parity[index] for index in chosen}})
        plain.update((index, opened(index, cells[index])) for index in lost)
        if all(plain[index] is not None for index in lost):
            return [plain[index] for index in range(k)]
    raise source.too_few(len(good), stripe)


def pack_range(source, start, end, without):
    """Bytes of a pack, decoded without the pieces of some indices."""
    layout, k, m = source.layout, source.segment.k, source.segment.m
    out = []
    for stripe in range(start // (k * CELL), -(-end // (k * CELL))):
        cells = {}
        for index in range(k + m):
            if len(cells) < k and index not in without:
                cells.update((index, cell) for cell in itertools.islice(source.cells(index, stripe), 1))
        if len(cells) < k:
            raise source.too_few(len(cells), stripe)
        data = b"".join(gf256.decode(k, m, cells))[: layout.held(stripe)]
        base = stripe * k * CELL
        out.append(data[max(start - base, 0) : end - base])
    return b"".join(out)


def packed_object(source, key, offset, length):
    """An object in a pack. Its tags don't say which piece is wrong, so that all ways are tried."""
    def opened(sealed):
        for number in range(-(-length // (CELL + TAG))):
            part = sealed[number * (CELL + TAG) : (number + 1) * (CELL + TAG)]
            yield rootkey.open_cell(key, source.volume, source.segment.id, number, part)

    if offset + length > source.segment.length:
        raise Damaged(f"a slot doesn't lie within pack {source.segment.id.hex()}")
    sets = (left for count in range(source.segment.m + 1) for left in itertools.combinations(range(source.n), count))
    for without in itertools.islice(sets, TRIES_MAX):
        try:
            plain = list(opened(pack_range(source, offset, offset + length, without)))
        except Damaged:
            if not without:
                raise
            continue
        if all(part is not None for part in plain):
            return b"".join(plain)
    raise Damaged(f"an object in pack {source.segment.id.hex()} doesn't open")


def body_bytes(root, volume, body, pieces):
    """The bytes that a body stands for. `pieces` gives what was found: segment → index → pieces."""
    if body[0] == "inline":
        yield body[1]
    elif body[0] == "packed":
        _, segment, slot, offset, length = body
        key = rootkey.unwrapped(root, volume, segment.id, 1 + slot, segment.wrapped)
        yield packed_object(Source(volume, segment, pieces[segment.id], True), key, offset, length)
    elif body[0] == "segments":
        for segment in body[1]:
            key = rootkey.unwrapped(root, volume, segment.id, 0, segment.wrapped)
            yield from segment_bytes(Source(volume, segment, pieces[segment.id], False), key)
    else:
        for size, inner in body[1]:
            yield from sized(body_bytes(root, volume, inner, pieces), size)


def sized(parts, size):
    """The parts, which must have so many bytes in all."""
    have = 0
    for part in parts:
        have += len(part)
        yield part
    if have != size:
        raise Damaged(f"{have} bytes were found where {size} should be")
