"""docs/formats/grant.md: grants, claims, anchors, tickets."""

import base64
import ipaddress
from dataclasses import dataclass

import volumes
from blake3 import keyed
from fields import Damaged, Fields, versioned
from rootkey import derive

CAVEATS = {1: lambda f: f.str(), 2: Fields.u8, 3: Fields.u64, 4: Fields.u64, 5: lambda f: f.raw(16)}


@dataclass
class Grant:
    volume: int
    public: bytes
    epoch: int
    caveats: list
    genuine: bool
    key: bytes
    path: str
    addresses: list
    ticket: bool


def address(fields):
    length = {4: 4, 6: 16}[fields.u8()]
    return ipaddress.ip_address(fields.raw(length)), fields.u16()


def read_anchor(fields):
    return [fields.bytes() for _ in range(fields.u8())]


def open_anchor(root, steps):
    """The path to which an anchor leads, and the key there."""
    opener, key, path = volumes.key_of(root, "anchors"), volumes.key_of(root, "folders"), ""
    for step in steps:
        below = volumes.open_bytes(opener, b"anchor", step).decode()
        opener = key = volumes.at(key, below)
        path += below
    return path, key


def ticket_is_genuine(data):
    fields = versioned(data, b"AbOt", "ticket")
    public = fields.raw(32)
    fields.bytes()
    if fields.u8():
        fields.raw(16)
    fields.raw(32)
    end = fields.at
    signature = fields.raw(64)
    fields.end()
    return volumes.is_signed(public, "abide 2026 owner ticket v1", data[5:end], signature)


def parse(root, text):
    """A grant, checked and opened by who has the volume's root."""
    head, coded = text[:12], text[12:]
    raw = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    data, checksum = raw[:-5], raw[-5:]
    if head != "abide-grant1" or derive("abide 2026 grant check v1", data)[:5] != checksum:
        raise Damaged("no grant, or mistyped")
    fields = versioned(data, b"AbGt", "grant")
    if fields.raw(5) != b"AbGc\x01":
        raise Damaged("no claim")
    begin = fields.at
    number, public, epoch, _ = fields.u32(), fields.raw(32), fields.u64(), fields.raw(16)
    tag = keyed(volumes.key_of(root, "grants"), b"abide 2026 grant v1" + data[begin : fields.at])
    caveats = []
    for _ in range(fields.u8()):
        start, kind = fields.at, fields.u8()
        caveats.append((kind, CAVEATS[kind](fields)))
        tag = keyed(tag, data[start : fields.at])
    genuine = tag == fields.raw(32)
    key, path = None, None
    if fields.u8():
        key = fields.raw(32)
        path, found = open_anchor(root, read_anchor(fields))
        if found != key:
            raise Damaged("the grant's key isn't that of its anchor")
    addresses = [address(fields) for _ in range(fields.u8())]
    ticket = bool(fields.u8()) and ticket_is_genuine(fields.bytes())
    fields.end()
    return Grant(number, public, epoch, caveats, genuine, key, path, addresses, ticket)
