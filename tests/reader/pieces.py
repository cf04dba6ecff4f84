"""docs/formats/piecestore.md: finding pieces in drives' folders."""

import re
from dataclasses import dataclass

from fields import Damaged, Fields, crc64

UNIT, BLOCK, HEAD, TRAILER = 16, 4096, 128, 80
PUT, LARGE = 1, 2


def read_at(path, offset, length):
    """So many bytes of a file; fewer at its end."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def u32(data, at):
    return int.from_bytes(data[at : at + 4], "little")


def u64(data, at):
    return int.from_bytes(data[at : at + 8], "little")


@dataclass
class Head:
    """A record's head."""

    kind: int
    id: bytes
    life: int
    seq: int
    header: int
    body: int
    cell_bytes: int
    extent: tuple
    meta_crc: int

    @property
    def meta(self):
        """Bytes of header and table."""
        cells = -(-self.body // self.cell_bytes) if self.body else 0
        return self.header + 8 * cells

    @property
    def size(self):
        return -(-(HEAD + self.meta + (self.body if self.kind == PUT else 0)) // UNIT) * UNIT


def head_of(data):
    """The head, or nothing if it isn't sound."""
    if len(data) < HEAD or data[:5] != b"ABpr\x01" or crc64(data[:120]) != u64(data, 120):
        return None
    head = Head(
        data[5], data[7:24], u64(data, 24), u64(data, 32), u32(data, 44), u32(data, 48), u32(data, 52),
        (u32(data, 72), u32(data, 76), u32(data, 80)), u64(data, 104))
    return head if head.cell_bytes or not head.body else None


def log_life(data):
    """The life that either copy of a log's head tells, else its first sound record."""
    for at in (0, 2048):
        copy = data[at : at + 48]
        if copy[:5] == b"ABpl\x01" and crc64(copy[:40]) == u64(copy, 40):
            return u64(copy, 16)
    for found in re.compile(b"ABpr").finditer(data, BLOCK):
        head = head_of(data[found.start() : found.start() + HEAD]) if found.start() % UNIT == 0 else None
        if head:
            return head.life
    return None


def footer(path, length):
    """(kind, id, offset) of a log's records by its footer, or nothing if it has none."""
    trailer = read_at(path, max(length - TRAILER, 0), TRAILER)
    if len(trailer) < TRAILER or trailer[:5] != b"ABpf\x01" or crc64(trailer[:72]) != u64(trailer, 72):
        return None
    first = read_at(path, 0, BLOCK)
    entries = read_at(path, u64(trailer, 24), u64(trailer, 32))
    if log_life(first) != u64(trailer, 8) or crc64(entries) != u64(trailer, 64):
        return None
    fields, found = Fields(entries, f"footer of {path}"), []
    for _ in range(u32(trailer, 16)):
        piece, kind, flags, unit = fields.raw(17), fields.u8(), fields.u16(), fields.u32()
        fields.raw(8)
        if kind in (PUT, LARGE):
            fields.raw(8 if flags & 32 else 4)
        fields.raw((16 if flags & 2 else 0) + (12 if flags & 4 else 0) + (8 if flags & 8 else 0) + (8 if flags & 16 else 0))
        found.append((kind, piece, unit * UNIT))
    fields.end()
    return found


def scanned(path):
    """The same by going through the log."""
    data = path.read_bytes()
    life, at, found = log_life(data), BLOCK, []
    while at + HEAD <= len(data):
        head = head_of(data[at : at + HEAD])
        if head and head.life == life and at + head.size <= len(data):
            found.append((head.kind, head.id, at))
            at += head.size
            continue
        at = data.find(b"ABpr", at + 1)
        while at % UNIT and at > 0:
            at = data.find(b"ABpr", at + 1)
        if at < 0:
            break
    return found


@dataclass
class Piece:
    """A piece on a drive. Header and table were checked."""

    path: object
    offset: int
    body: int
    cell_bytes: int
    header: bytes
    table: bytes

    def cell(self, number, length, checked=True):
        """A cell's bytes as they lie there, or nothing if they aren't there or (if asked) don't fit their checksum."""
        start = number * self.cell_bytes
        if min(self.cell_bytes, self.body - start) != length:
            return None
        try:
            data = read_at(self.path, self.offset + start, length)
        except OSError:
            return None
        if len(data) != length or checked and crc64(data) != u64(self.table, 8 * number):
            return None
        return data


def load(folder, log, at, wanted):
    """The piece of a record, or nothing if it isn't sound."""
    head = head_of(read_at(log, at, HEAD))
    if not head or head.id != wanted or head.kind not in (PUT, LARGE):
        return None
    meta = read_at(log, at + HEAD, head.meta)
    if len(meta) != head.meta or crc64(meta) != head.meta_crc:
        return None
    header, table = meta[: head.header], meta[head.header :]
    if head.kind == PUT:
        return Piece(log, at + HEAD + head.meta, head.body, head.cell_bytes, header, table)
    file, block, _ = head.extent
    path = folder / f"extents-{file:08x}"
    return Piece(path, (block + 1) * BLOCK, head.body, head.cell_bytes, header, table) if path.exists() else None


class Pieces:
    """All that the folders hold."""

    def __init__(self, folders):
        self.folders = [folder / "pieces" for folder in folders if (folder / "pieces").is_dir()]
        self.places = None

    def records(self):
        """(folder, log, offset, id) of every piece's record."""
        for folder in self.folders:
            for log in sorted(folder.iterdir()):
                if not re.fullmatch("log-[0-9a-f]{8}", log.name):
                    continue
                try:
                    try:
                        entries = footer(log, log.stat().st_size)
                    except Damaged:
                        entries = None
                    for kind, piece, at in scanned(log) if entries is None else entries:
                        if kind in (PUT, LARGE):
                            yield folder, log, at, piece
                except OSError:
                    continue

    def remember(self):
        """Keeps every record's place, for who wants many segments."""
        self.places = {}
        for record in self.records():
            self.places.setdefault(record[3][:16], []).append(record)
        return self

    def of(self, segments):
        """Segment → index → its pieces, those of later logs first."""
        wanted = {segment: {} for segment in segments}
        records = self.records() if self.places is None else [
            record for segment in wanted for record in self.places.get(segment, ())]
        for folder, log, at, piece in records:
            if piece[:16] in wanted:
                loaded = load(folder, log, at, piece)
                if loaded:
                    wanted[piece[:16]].setdefault(piece[16], []).insert(0, loaded)
        return wanted
