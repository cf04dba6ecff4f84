"""BLAKE3, its keyed and derive_key modes, from the paper alone (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020).

Slow and short: it is here to derive keys and to check small roots without trusting Abide's own library.
"""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, DERIVE_CONTEXT, DERIVE_MATERIAL = 1, 2, 4, 8, 16, 32, 64
MASK = 0xFFFFFFFF
QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)


def _compress(chaining, block, counter, length, flags):
    v = [*chaining, *IV[:4], counter & MASK, counter >> 32, length, flags]
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    for turn in range(7):
        for i, (a, b, c, d) in enumerate(QUARTERS):
            for word, (first, second) in ((m[2 * i], (16, 12)), (m[2 * i + 1], (8, 7))):
                v[a] = (v[a] + v[b] + word) & MASK
                x = v[d] ^ v[a]
                v[d] = (x >> first | x << (32 - first)) & MASK
                v[c] = (v[c] + v[d]) & MASK
                x = v[b] ^ v[c]
                v[b] = (x >> second | x << (32 - second)) & MASK
        m = [m[i] for i in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


class _Node:
    """The last compression of a subtree, kept open until it is known whether it is the root."""

    def __init__(self, chaining, block, counter, length, flags):
        self.parts = chaining, block, counter, length, flags

    def words(self, more=0):
        chaining, block, counter, length, flags = self.parts
        return _compress(chaining, block, counter, length, flags | more)


def _chunk(key, data, index, flags):
    chaining = key
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    for i, block in enumerate(blocks):
        f = flags | (CHUNK_START if i == 0 else 0)
        if i == len(blocks) - 1:
            return _Node(chaining, block, index, len(block), f | CHUNK_END)
        chaining = _compress(chaining, block, index, 64, f)


def _tree(key, data, index, flags):
    if len(data) <= 1024:
        return _chunk(key, data, index, flags)
    chunks = (len(data) + 1023) // 1024
    left = 1 << ((chunks - 1).bit_length() - 1)
    words = _tree(key, data[: left * 1024], index, flags).words() + _tree(
        key, data[left * 1024 :], index + left, flags
    ).words()
    return _Node(key, struct.pack("<16I", *words), 0, 64, flags | PARENT)


def _hash(key, data, flags):
    return struct.pack("<8I", *_tree(key, bytes(data), 0, flags).words(ROOT))


def blake3(data):
    """The 32-byte hash."""
    return _hash(IV, data, 0)


def keyed(key, data):
    """The 32-byte hash under a key of 32 bytes."""
    return _hash(struct.unpack("<8I", key), data, KEYED)


def derive_key(context, material):
    """32 bytes of key from key material, for one context string."""
    key = struct.unpack("<8I", _hash(IV, context.encode(), DERIVE_CONTEXT))
    return _hash(key, material, DERIVE_MATERIAL)


assert blake3(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
assert blake3(bytes(i % 251 for i in range(2049))).hex().startswith("5f4d72f40d7a5f82b15ca2b2e44b1de3")
