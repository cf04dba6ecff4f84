"""What docs/formats says of volumes, grants and kits, checked against the fixtures that Abide's own tests keep."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import grants  # noqa: E402
import kit  # noqa: E402
import rescue  # noqa: E402
import segments  # noqa: E402
import volumes  # noqa: E402
from fields import Damaged  # noqa: E402
from rootkey import derive  # noqa: E402

CRATES = Path(__file__).resolve().parents[2] / "crates"
ROOT = bytes(range(32))
TOP = volumes.key_of(ROOT, "folders")
MIB = 1 << 20


def fixture(path):
    crate, name = path.split("/")
    return (CRATES / crate / "tests" / name).read_text().split("\n")


def keys():
    lines = fixture("crypt/volume.txt")
    assert lines[0] == volumes.check(ROOT).hex()
    assert lines[1] == volumes.public_key(ROOT).hex()
    assert lines[2:7] == [volumes.key_of(ROOT, what).hex() for what in ("grants", "kit", "holders", "anchors", "folders")]
    assert lines[7:9] == [volumes.at(TOP, path).hex() for path in ("photos/", "photos/a.jpg")]
    shares = [volumes.share(text) for text in fixture("crypt/shares.txt") if text]
    for two in (shares[:2], shares[1:], shares[::2]):
        assert volumes.join(two) == ROOT
    locked = bytes.fromhex(fixture("crypt/locked.txt")[0])
    assert volumes.unlock(locked, "correct horse") == bytes([7] * 32)


def names():
    short, path, sealed, _ = fixture("crypt/names.txt")
    assert volumes.open_name(TOP, short) == "a"
    assert volumes.open_path(TOP, path) == "photos/2026/holiday at the sea.jpg"
    assert volumes.open_bytes(TOP, b"key", bytes.fromhex(sealed)) == b"abide"


def a_grant():
    grant = grants.parse(ROOT, fixture("grant/grant-v1.txt")[0])
    assert (grant.volume, grant.public, grant.epoch, grant.genuine) == (7, volumes.public_key(ROOT), 3, True)
    assert (grant.path, grant.key, grant.ticket) == ("photos/", volumes.at(TOP, "photos/"), True)
    (prefix, sealed), *others = grant.caveats
    assert prefix == 1 and volumes.open_path(TOP, sealed) == "photos/"
    assert others == [(2, 3), (3, 9000)]
    assert [str(ip) for ip, _ in grant.addresses] == ["10.1.2.3", "2001:db8::1"]
    assert grants.ticket_is_genuine(bytes.fromhex(fixture("grant/ticket-v1.txt")[0]))


def a_kit():
    log, seen, _ = fixture("kit/log-v1.txt")
    log, seen = bytes.fromhex(log), bytes.fromhex(seen)
    found = kit.open_log(ROOT, log)
    assert seen[:5] == b"AbKn\x01" and seen[-40:] == found.number.to_bytes(8, "little") + found.chain
    assert (found.volume, found.position, found.older) == (7, (12, 1_800_000_000_500), [bytes([1] * 64)])
    newest = {path: versions[max(versions)] for path, versions in found.objects.items() if versions}
    sizes = {path: one.size for path, one in newest.items() if not one.marker}
    assert sizes.pop("new/1") > 0
    assert sizes == {
        "photos/ä.jpg": 5, "photos/äh.jpg": MIB, "photos/b": 64 * MIB + 3, "x": 5000, "y": 5000, "z/z": 5014}
    for path, one in newest.items():
        assert sum(size for _, size, _ in one.body) == one.size, path
    assert newest["z"].marker and found.objects["z"][9].attrs == b"etag"
    assert [kind for kind, _, _ in newest["z/z"].body] == ["inline", "segment", "packed"]
    version, members, before = found.groups[1, 3]
    assert (version, len(members), len(before)) == (2, 6, 5)
    assert found.nodes[bytes([1] * 16)][1][0][1] == 9400
    wrong = bytearray(log)
    wrong[400] ^= 1
    try:
        assert kit.open_log(ROOT, bytes(wrong)).number < found.number
    except Damaged:
        pass
    offset, part = kit.parcel(bytes.fromhex(fixture("kit/parcel-v1.txt")[0]))
    assert (offset, len(part), part[:2]) == (3, 37, b"t\x01")


def headers():
    whole, pack, binding, envelope, owner, _ = (bytes.fromhex(line) for line in fixture("kit/header-v2.txt"))
    part = (bytes([8] * 16), 3)
    assert kit.origin(whole) == ("whole", "a/ä", bytes([4] * 16), 5, 1, part)
    assert kit.origin(pack) == ("pack", [(1, 5016, bytes([9] * 48), "b", part)])
    opened = kit.open_envelope(ROOT, binding, envelope)
    assert opened == ("whole", "shared/with us/a/ä", bytes([4] * 16), 5, 1, part)
    assert owner == volumes.public_key(ROOT)
    assert derive("abide 2026 volume check v1", ROOT)[:16] == volumes.check(ROOT)


def piece_headers():
    """Whole headers, of version 1 and 2."""
    old, whole, pack = (bytes.fromhex(line) for line in fixture("client/header-v1.txt")[:3])
    header = segments.read_header(old)
    assert (header.volume, header.segment, header.index, header.k, header.m) == (7, bytes([3] * 16), 1, 2, 1)
    assert (header.length, header.policy, header.group, header.fragment, header.owner) == (100_000, 1, 5, b"sealed", b"")
    assert (whole[:5], pack[:5]) == (b"AbFr\x01",) * 2
    path = "photos/ä.jpg"
    wanted = [
        ("whole", path, bytes([4] * 16), 1 << 26, rescue.LATER, None),
        ("pack", [(10, 5000, bytes([9] * 48), "a/b", (bytes([8] * 16), 3))])]
    for line, says in zip(fixture("client/header-v2.txt"), wanted):
        header = segments.read_header(bytes.fromhex(line))
        assert (header.owner, header.pack) == (volumes.public_key(ROOT), int(says[0] == "pack"))
        assert rescue.origin(rescue.VolumeKeys(ROOT), header) == says
        header.written += 1
        assert rescue.origin(rescue.VolumeKeys(ROOT), header) is None


if __name__ == "__main__":
    for test in (keys, names, a_grant, a_kit, headers, piece_headers):
        test()
        print(f"{test.__name__.replace('_', ' ')}: as the pages say")
