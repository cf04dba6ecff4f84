"""docs/formats/namespace.md: from rows to buckets, keys, versions and bodies."""

from dataclasses import dataclass

from fields import Damaged, Fields, versioned

MARKER, NULL, UPLOAD, LONG_ATTRS = 1, 2, 4, 8
ROOT = 1


@dataclass
class Segment:
    """A segment as a body names it."""

    id: bytes
    k: int
    m: int
    length: int
    root: bytes
    wrapped: bytes


@dataclass
class Version:
    ord: int
    null: bool
    marker: bool
    modified: int
    size: int
    etag: str
    attrs: dict
    long_attrs: bool
    place: int
    body: tuple

    @property
    def id(self):
        """As S3 shows it."""
        return "null" if self.null else f"{self.ord:016x}"


def read_attrs(fields):
    return {fields.raw(fields.u16()).decode(): fields.bytes() for _ in range(fields.u16())}


def read_segment(fields):
    segment = fields.raw(16)
    fields.raw(6)
    return Segment(segment, fields.u8(), fields.u8(), fields.u64(), fields.raw(32), fields.raw(48))


def read_body(fields, nested=False):
    """("inline", bytes), ("packed", segment, slot, offset, length), ("segments", …) or ("spans", (size, body)…)."""
    kind = fields.u8()
    if kind == 0:
        return "inline", fields.bytes()
    if kind == 1:
        return "packed", read_segment(fields), fields.u32(), fields.u32(), fields.u32()
    if kind == 2:
        return "segments", [read_segment(fields) for _ in range(fields.u32())]
    if kind == 3 and not nested:
        return "spans", [(fields.u64(), read_body(fields, True)) for _ in range(fields.u32())]
    raise Damaged(f"{fields.what}: a body of kind {kind} is not known here")


def read_version(fields):
    flags, order, modified, size = fields.u8(), fields.u64(), fields.u64(), fields.u64()
    etag = fields.raw(fields.u8()).decode()
    if flags & UPLOAD:
        fields.raw(16)
    attrs, place = read_attrs(fields), fields.u8()
    body = read_body(fields) if place == 0 else None
    fields.end()
    return Version(
        order, bool(flags & NULL), bool(flags & MARKER), modified, size, etag, attrs, bool(flags & LONG_ATTRS),
        place, body)


def segments_of(body):
    """Every segment that a body names."""
    if body[0] == "packed":
        yield body[1]
    elif body[0] == "segments":
        yield from body[1]
    elif body[0] == "spans":
        for _, inner in body[1]:
            yield from segments_of(inner)


def buckets(rows):
    """Name → volume, by the rows of shard 0."""
    found = {}
    for key in rows.keys(b"b"):
        fields = versioned(rows.get(key), b"caBu", "bucket")
        name = fields.str()
        found[name] = fields.u32()
    return found


class Volume:
    """A bucket's keys, by the rows of shard 1."""

    def __init__(self, rows, number):
        self.rows, self.number = rows, number

    def key(self, table, *parts):
        return self.number.to_bytes(4, "big") + table + b"".join(parts)

    def keys(self):
        """(key, place of its rows, noncurrent versions, current version) in the order of keys."""
        # By hand, since keys may be deeper than Python's stack.
        walks = [self.children(ROOT, b"")]
        while walks:
            child = next(walks[-1], None)
            if child is None:
                walks.pop()
                continue
            row, path = child
            if path.endswith(b"/") and row[13:]:
                folder = versioned(self.rows.get(row), b"nsFo", "folder").u64()
                walks.append(self.children(folder, path))
            else:
                yield path.decode(), row[5:], *self.file(row)

    def children(self, parent, path):
        """(row, path) of what is in a folder."""
        table = self.key(b"D", parent.to_bytes(8, "big"))
        return ((row, path + row[len(table) :]) for row in self.rows.keys(table))

    def file(self, row):
        fields = versioned(self.rows.get(row), b"nsFi", "file")
        older = fields.u64()
        fields.u64()
        return older, read_version(fields)

    def find(self, key):
        """As one of `keys`, or nothing."""
        *folders, name = key.encode().split(b"/")
        parent = ROOT
        for folder in folders:
            row = self.key(b"D", parent.to_bytes(8, "big"), folder, b"/")
            value = self.rows.get(row)
            if value is None:
                return None
            parent = versioned(value, b"nsFo", "folder").u64()
        row = self.key(b"D", parent.to_bytes(8, "big"), name)
        return (key, row[5:], *self.file(row)) if self.rows.get(row) is not None else None

    def versions(self, place, current):
        """The current version, then the others, newest first."""
        yield current
        for row in self.rows.keys(self.key(b"V", place, b"\0")):
            yield read_version(versioned(self.rows.get(row), b"nsVr", "version"))

    def body(self, version):
        """Where the version's bytes are."""
        if version.place == 0:
            return version.body
        order = version.ord.to_bytes(8, "big")
        row = self.key(b"B" if version.place == 1 else b"M", order)
        value = self.rows.get(row)
        if value is None or version.place > 2:
            raise Damaged(f"the body of version {version.id} is not there")
        if version.place == 1:
            return "inline", value
        fields = versioned(value, b"nsMa", "manifest")
        body = read_body(fields)
        fields.end()
        return body

    def attrs(self, version):
        """All attributes."""
        if not version.long_attrs:
            return version.attrs
        value = self.rows.get(self.key(b"A", version.ord.to_bytes(8, "big")))
        if value is None:
            raise Damaged(f"attributes of version {version.id} are not there")
        return {**version.attrs, **read_attrs(versioned(value, b"nsAt", "attributes"))}
