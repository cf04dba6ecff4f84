"""Conventions of docs/formats/README.md: fields of values, versioned values, CRC-64/NVME."""

import struct


class Damaged(Exception):
    """Bytes that are not what they should be, or too few of them."""


class Fields:
    """Takes fields from the front of bytes."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def raw(self, length):
        end = self.at + length
        if end > len(self.data):
            raise Damaged(f"{self.what}: {length} bytes wanted at {self.at}, {len(self.data) - self.at} left")
        part = bytes(self.data[self.at : end])
        self.at = end
        return part

    def u8(self):
        return self.raw(1)[0]

    def u16(self):
        return int.from_bytes(self.raw(2), "little")

    def u32(self):
        return int.from_bytes(self.raw(4), "little")

    def u64(self):
        return int.from_bytes(self.raw(8), "little")

    def bytes(self):
        return self.raw(self.u32())

    def str(self):
        return self.bytes().decode()

    def left(self):
        return len(self.data) - self.at

    def end(self):
        if self.left():
            raise Damaged(f"{self.what}: {self.left()} bytes too many")


def versioned(data, mark, what, newest=1):
    """The fields of a versioned value's body, and its version."""
    if bytes(data[:4]) != mark:
        raise Damaged(f"{what}: mark {bytes(data[:4])!r} is not {mark!r}")
    if not 1 <= data[4] <= newest:
        raise Damaged(f"{what}: version {data[4]} is not known here")
    fields = Fields(data, what)
    fields.at, fields.version = 5, data[4]
    return fields


POLYNOMIAL, ONES = 0x9A6C9329AC4BC9B5, (1 << 64) - 1


def _tables():
    """BYTES: what a byte becomes; WORDS[n]: what 16 bits become with n times 16 bits of zeros behind."""
    of_bytes = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        of_bytes.append(value)
    first = []
    for value in range(1 << 16):
        value = of_bytes[value & 255] ^ value >> 8
        first.append(of_bytes[value & 255] ^ value >> 8)
    words = [first]
    for _ in range(3):
        words.append([first[value & 0xFFFF] ^ value >> 16 for value in words[-1]])
    return of_bytes, words


BYTES, WORDS = _tables()


def crc64(data):
    """CRC-64/NVME, 64 bits at a time."""
    last, third, second, first = WORDS
    crc, whole = ONES, len(data) // 8
    for word in struct.unpack_from(f"<{whole}Q", data):
        word ^= crc
        crc = first[word & 0xFFFF] ^ second[word >> 16 & 0xFFFF] ^ third[word >> 32 & 0xFFFF] ^ last[word >> 48]
    for byte in data[8 * whole :]:
        crc = BYTES[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ ONES


assert crc64(b"123456789") == 0xAE8B14860A799888
