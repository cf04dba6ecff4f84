"""docs/formats/drive.md and metastore.md: from drives' folders to the rows of a shard."""

import bisect
import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path

import rootkey
from fields import Damaged, Fields, crc64, versioned

BATCH, MOVED, CLOSED = 1, 2, 3
FILE_HEAD, RECORD_HEAD, TAG = 128, 40, 16


@dataclass
class Members:
    shard: int
    epoch: int
    drives: list


@dataclass
class Drive:
    path: Path
    cluster: bytes
    id: bytes
    key_check: bytes
    members: list = field(default_factory=list)


def read_members(data):
    fields = versioned(data, b"AMem", "member set")
    shard, _, epoch = fields.u32(), fields.u32(), fields.u64()
    drives = [fields.raw(16) for _ in range(fields.u32())]
    body = data[5 : fields.at]
    if fields.u64() != crc64(body):
        raise Damaged("member set: checksum mismatch")
    fields.end()
    return Members(shard, epoch, drives)


def read_drive(path):
    """A folder's identity."""
    data = (path / "abide-drive").read_bytes()
    outer = versioned(data, b"AbDr", f"{path}/abide-drive")
    body = outer.bytes()
    if outer.u64() != crc64(body):
        raise Damaged(f"{path}/abide-drive: checksum mismatch")
    outer.end()
    fields = Fields(body, f"{path}/abide-drive")
    cluster, drive = fields.raw(16), fields.raw(16)
    fields.u64()
    key_check = fields.raw(16)
    fields.u8()
    members = [read_members(fields.bytes()) for _ in range(fields.u8())]
    fields.end()
    return Drive(path, cluster, drive, key_check, members)


class Rows:
    """A map from key to (seq, value), in tables of the keys' first five bytes."""

    def __init__(self):
        self.tables, self.sorted = {}, {}

    def row(self, key):
        return self.tables.get(key[:5], {}).get(key)

    def put(self, key, seq, value):
        self.tables.setdefault(key[:5], {})[key] = seq, value

    def remove(self, key):
        self.tables.get(key[:5], {}).pop(key, None)

    def remove_range(self, start, end):
        for prefix, table in self.tables.items():
            if start[:5] <= prefix <= end:
                for key in [key for key in table if start <= key < end]:
                    del table[key]

    def get(self, key):
        """The row's value, nothing if there is no row."""
        row = self.row(key)
        if row and row[1] is None:
            raise Damaged(f"the value of row {key!r} was left out and is nowhere else")
        return row and row[1]

    def keys(self, prefix):
        """Keys that begin so (with five bytes at least, or all of a shorter table), in order."""
        for name in sorted(name for name in self.tables if name.startswith(prefix[:5])):
            if name not in self.sorted:
                self.sorted[name] = sorted(self.tables[name])
            keys = self.sorted[name]
            at = bisect.bisect_left(keys, prefix)
            while at < len(keys) and keys[at].startswith(prefix):
                yield keys[at]
                at += 1


@dataclass
class Copy:
    """A mirror's copy of a log file."""

    data: mmap.mmap
    generation: int
    after: int
    previous: int
    previous_end: int
    end: int
    key: bytes


def mapped(path):
    """A file's bytes, read as they are looked at."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def read_copy(path, shard, number, metadata):
    """The copy, or nothing if its head isn't sound."""
    data = mapped(path)
    head = data[:FILE_HEAD]
    if len(head) < FILE_HEAD or head[:5] != b"ALog\x01":
        return None
    fields = Fields(head, str(path))
    fields.at = 8
    found, generation, own, after, _ = fields.u32(), fields.u32(), fields.u64(), fields.u64(), fields.u64()
    key = rootkey.log_key(metadata, fields.raw(16))
    if rootkey.opened(key, rootkey.counter(0), head[80:96], head[:80]) is None or (found, own) != (shard, number):
        return None
    previous, previous_end, end = fields.u64(), fields.u64(), fields.u64()
    return Copy(data, generation, after, previous, previous_end, end, key)


def record_at(copy, at):
    """(kind, seq, durable, body, next offset) of a whole record, or nothing. The seal covers what the checksum does."""
    head = copy.data[at : at + RECORD_HEAD]
    if len(head) < RECORD_HEAD or head[:4] != b"ARec":
        return None
    length = int.from_bytes(head[8:12], "little")
    end = at + RECORD_HEAD + length + TAG
    if end > len(copy.data):
        return None
    body = rootkey.opened(copy.key, rootkey.counter(at), copy.data[at + RECORD_HEAD : end], head[:32])
    if body is None:
        return None
    seq, durable = int.from_bytes(head[16:24], "little"), int.from_bytes(head[24:32], "little")
    return head[4], seq, durable, body, (end + 7) // 8 * 8


def sound_records(copy, at):
    """(offset, record) of whole records from `at` on, wherever they begin."""
    for found in re.compile(b"ARec").finditer(copy.data, at):
        place = found.start()
        record = record_at(copy, place) if place % 8 == 0 else None
        if record:
            yield place, record


def acknowledged_beyond(copy, at):
    """Whether a later record says that what should be at this offset was acknowledged."""
    return any(durable > at for _, (_, _, durable, _, _) in sound_records(copy, at))


def next_record(copy, at):
    return next((place for place, _ in sound_records(copy, at)), None)


class Shard:
    """Replays the log files of a shard's good mirrors.

    `tell` is told what is wrong with the metadata but can be passed over: rows may be older than they should be
    then. Without it such things are errors.
    """

    def __init__(self, drives, shard, metadata, tell=None):
        self.rows, self.seq, self.shard, self.tell = Rows(), 0, shard, tell
        files = {}
        for drive in good_mirrors(drives, shard, self.trouble):
            for path in (drive.path / "meta" / str(shard)).iterdir():
                if re.fullmatch("log-[0-9a-f]{16}", path.name):
                    files.setdefault(int(path.name[4:], 16), []).append(path)
        self.files, self.metadata = files, metadata
        self.replay()

    def trouble(self, what):
        if not self.tell:
            raise Damaged(f"shard {self.shard}: {what}")
        self.tell(f"shard {self.shard}: {what}")

    def copies(self, number):
        """The file's copies of the highest generation."""
        read = [read_copy(path, self.shard, number, self.metadata) for path in self.files[number]]
        sound = [copy for copy in read if copy]
        newest = max((copy.generation for copy in sound), default=0)
        return [copy for copy in sound if copy.generation == newest]

    def replay(self):
        numbers = sorted(self.files)
        now = self.copies(numbers[0]) if numbers else []
        previous = 0
        for at, number in enumerate(numbers):
            following = self.copies(numbers[at + 1]) if at + 1 < len(numbers) else []
            last = not following and at + 2 >= len(numbers)
            if not now:
                if number != numbers[-1]:
                    self.trouble(f"no sound head of log file {number:x}")
                # Else it was being made: nothing was ever written to it.
                now = following
                continue
            if previous and now[0].previous != previous:
                self.trouble(f"log file {now[0].previous:x} is missing")
            if not previous and now[0].after:
                self.trouble(f"the journal begins after batch {now[0].after}")
            end = now[0].end or (following[0].previous_end if following else 0)
            if not end and not last:
                self.trouble(f"no sound head of log file {numbers[at + 1]:x}")
            self.replay_file(number, now, end)
            previous, now = number, following

    def replay_file(self, number, copies, end):
        at = FILE_HEAD
        while not end or at < end:
            record = next(filter(None, (record_at(copy, at) for copy in copies)), None)
            if record is None:
                if not end and not any(acknowledged_beyond(copy, at) for copy in copies):
                    return
                self.trouble(f"the record at {at} of log file {number:x} is damaged on every mirror at hand")
                at = min(filter(None, (next_record(copy, at + 8) for copy in copies)), default=None)
                if at is None:
                    return
                continue
            kind, seq, _, body, at = record
            if kind == BATCH:
                if seq != self.seq + 1:
                    self.trouble(f"batch {seq} follows batch {self.seq}")
                self.seq = seq
                self.batch(Fields(body, f"batch {seq}"))
            elif kind == MOVED:
                self.moved(Fields(body, f"moved values in log file {number:x}"))
            elif kind != CLOSED:
                raise Damaged(f"shard {self.shard}: a record of kind {kind} is not known here")

    def event(self, data):
        """What a batch tells readers of the journal: it makes no rows."""

    def batch(self, fields):
        for _ in range(fields.u32()):
            self.event(fields.bytes())
        for _ in range(fields.u32()):
            self.rows.remove_range(fields.bytes(), fields.bytes())
        for _ in range(fields.u32()):
            self.rows.remove(fields.bytes())
        for _ in range(fields.u32()):
            key, form, length = fields.bytes(), fields.u8(), fields.u32()
            self.rows.put(key, self.seq, fields.raw(length) if form == 0 else None)
        fields.end()

    def moved(self, fields):
        for _ in range(fields.u32()):
            key, seq, value = fields.bytes(), fields.u64(), fields.bytes()
            row = self.rows.row(key)
            if row and row[0] == seq:
                self.rows.put(key, seq, value)
        fields.end()


def good_mirrors(drives, shard, trouble):
    """The folders whose mirror has every acknowledged change."""
    found = []
    for drive in drives:
        path = drive.path / "meta" / str(shard) / "members"
        if path.exists():
            try:
                found.append((drive, read_members(path.read_bytes())))
            except Damaged:
                continue
    newest = max((known.epoch for _, known in found), default=0)
    remembered = [known for drive in drives for known in drive.members if known.shard == shard]
    best = max(remembered, key=lambda known: known.epoch, default=None)
    good = [drive for drive, known in found if known.epoch == newest and drive.id in known.drives]
    if best and (best.epoch > newest or not good):
        wanted = ", ".join(one.hex() for one in best.drives)
        trouble(f"the newest metadata is on drives {wanted}, of which none is here")
    if not good:
        raise Damaged(f"shard {shard}: none of these folders holds the metadata")
    return good
