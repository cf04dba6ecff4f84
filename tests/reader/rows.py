"""Takes every row and event of a store apart as docs/formats/namespace.md says, to the last byte."""

import itertools

import namespace
from fields import Damaged, Fields, versioned


def one_of(*values):
    def read(fields):
        value = fields.u8()
        if value not in values:
            raise Damaged(f"{fields.what}: {value} is none of {values}")
        return value

    return read


FLAG = one_of(0, 1)


def option(*parts):
    return lambda fields: [take(fields, part) for part in parts] if FLAG(fields) else None


def since(version, part):
    """A field that older versions don't have."""
    return lambda fields: take(fields, part) if fields.version >= version else None


def many(most, *parts):
    """u8 count, so many."""
    def read(fields):
        count = fields.u8()
        if count > most:
            raise Damaged(f"{fields.what}: {count} are more than {most}")
        return [[take(fields, part) for part in parts] for _ in range(count)]

    return read


def group(fields):
    fields.u32(), fields.u32()
    for _ in range(2 * fields.u8()):
        fields.raw(16)


def owner(fields):
    if FLAG(fields) == 0:
        fields.u64(), fields.str()
    else:
        fields.raw(16), fields.u16()


def file(fields):
    fields.u64(), fields.u64()
    namespace.read_version(fields)


def etag(fields):
    return fields.raw(fields.u8()).decode()


# Table → mark (none: the value is plain) and what follows. A number is so many bytes.
SYSTEM = {
    "b": (b"caBu", ["str", "u32", "str", "u64", "str"]),
    "o": (None, []),
    "v": (None, ["u32"]),
    "w": (b"caVk", ["u32", "bytes"]),
    "x": (b"caDv", ["u32", "u64"]),
    "c": (None, [16]),
    "d": (b"caDr", [16, "str", one_of(0, 1, 2, 3), "u64", "u64", since(2, option(16))]),
    "n": (b"caNo", [16, 32, "u32", "u64", one_of(0, 1, 2, 3), "u64", "str", many(16, "str"), many(16, "str", "str")]),
    "l": (b"AbMl", ["rest"]),
    "t": (b"caTi", [8, 32, "u64"]),
    "h": (None, ["u64"]),
    "p": (b"caPo", ["u16", "u8", "u8", "u8", "str"]),
    "g": (b"AbGr", [group]),
    "s": (None, ["rest"]),
    "u": (b"caUs", ["str", "str", option("str")]),
    "e": (None, ["rest"]),
    "k": (b"caAk", ["str", "str", "str", "u64", FLAG]),
    "j": (b"caEv", ["u64", "u64", one_of(0, 1, 2), "str", "str", "str"]),
    "a": (b"caTr", ["u64", "u64", "str", "str", many(64, "str"), many(64, "str")]),
    "y": (b"caBu", ["str", "u32", "str", "u64", "str"]),
    "z": (b"caSv", ["u32", 32, 16, 32, "u64"]),
}
VOLUMES = {
    "V": (b"nsVr", [namespace.read_version]),
    "B": (None, ["rest"]),
    "M": (b"nsMa", [namespace.read_body]),
    "A": (b"nsAt", [namespace.read_attrs]),
    "H": (b"nsHd", [one_of(0, 1, 2), FLAG, *["u64"] * 8, 16]),
    "U": (b"nsUp", ["u64", namespace.read_attrs]),
    "P": (b"nsVr", [namespace.read_version]),
    "C": (None, ["rest"]),
    "R": (b"nsSe", ["u8", "u8", "u64", "u64", option("u64", "u32", "u64")]),
    "K": (b"nsSl", ["u32", "u32", owner]),
    "L": (None, ["u16", "u32"]),
    "G": (b"nsGa", ["u16", "u32", "u8", "u8", "u64", "u64"]),
    "T": (b"nsTo", ["u64"]),
    "O": (b"nsOu", [option("u64"), FLAG, "u64", "u64", etag]),
    "F": (None, ["u64"]),
    "N": (b"nsMi", ["u16", "u32", "u64", "bytes"]),
    "W": (None, ["u64"]),
    "X": (b"nsUd", ["u64", namespace.read_version]),
    "Y": (None, ["rest"]),
    "Z": (b"nsUh", ["u64", "u64"]),
}
FILE, FOLDER = (b"nsFi", [file]), (b"nsFo", ["u64", "u64", "u64"])
# The newest version of each mark that has more than one.
NEWEST = {b"caDr": 2}
# Bytes of a key behind the table's letter, where all have the same.
KEY_BYTES = {
    "v": 0, "w": 4, "x": 4, "c": 0, "d": 16, "n": 16, "l": 0, "t": 8, "h": 0, "p": 2, "g": 6, "j": 8,
    "B": 8, "M": 8, "A": 8, "H": 0, "P": 18, "R": 22, "K": 28, "L": 17, "G": 16, "T": 16, "N": 16, "O": 24, "F": 0,
    "a": 8, "y": 4, "W": 0, "Y": 16, "Z": 0,
}
EVENTS = {
    1: ["str", "u64", "u64", etag, option(16)], 2: ["str", "u64"], 3: ["str", "u64", FLAG], 4: ["str", "u64"],
    5: ["str", "u64"], 6: ["str", 16], 7: ["str", 16], 8: ["str"], 9: [one_of(0, 1, 2)], 10: [],
}


def take(fields, part):
    if callable(part):
        return part(fields)
    if part == "rest":
        return fields.raw(fields.left())
    return fields.raw(part) if isinstance(part, int) else getattr(fields, part)()


def check_value(value, what, mark, parts):
    fields = versioned(value, mark, what, NEWEST.get(mark, 1)) if mark else Fields(value, what)
    taken = [take(fields, part) for part in parts]
    fields.end()
    return taken


def check_rows(rows, system):
    """Table → how many rows; fails at the first that isn't as the page says."""
    counts = {}
    for key in itertools.chain.from_iterable(map(rows.keys, sorted(rows.tables))):
        table = chr(key[0] if system else key[4])
        rest = key[1:] if system else key[5:]
        if table in KEY_BYTES and len(rest) != KEY_BYTES[table]:
            raise Damaged(f"row {key!r}: the key has {len(rest)} bytes behind its letter")
        if table == "D":
            mark, parts = FOLDER if rest[8:].endswith(b"/") else FILE
        else:
            mark, parts = (SYSTEM if system else VOLUMES)[table]
        check_value(rows.get(key), f"row {key!r}", mark, parts)
        counts[table] = counts.get(table, 0) + 1
    return counts


def check_event(data):
    fields = versioned(data, b"nsEv", "event")
    fields.u32(), fields.u64()
    kind = fields.u8()
    for part in EVENTS[kind]:
        take(fields, part)
    fields.end()
    return kind
