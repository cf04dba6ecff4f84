"""docs/formats/keys.md: the root key, what is derived from it, and what is sealed with that."""

import functools
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import blake3
from fields import Damaged

WORDS = Path(__file__).with_name("bip39_english.txt").read_text().split()


def from_words(text):
    """The root key that 24 words of BIP-39 stand for."""
    words = text.lower().split()
    if len(words) != 24:
        raise Damaged(f"the root key has 24 words, these are {len(words)}")
    bits = 0
    for place, word in enumerate(words, 1):
        if word not in WORDS:
            raise Damaged(f"word {place}, {word!r}, is none of BIP-39's")
        bits = bits << 11 | WORDS.index(word)
    root = (bits >> 8).to_bytes(32, "big")
    if hashlib.sha256(root).digest()[0] != bits & 255:
        raise Damaged("the words' checksum is wrong: one of them is another one, or two are swapped")
    return root


def from_file(text):
    """The root key of a key file."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 3 or lines[0] != "abide root key v1" or not lines[2].startswith("check "):
        raise Damaged("this is no key file")
    root = from_words(lines[1])
    if lines[2] != f"check {check(root).hex()}":
        raise Damaged("the key file's check line doesn't fit its words")
    return root


@functools.lru_cache(maxsize=4096)
def derive(context, *material):
    return blake3.derive_key(context, b"".join(material))


def check(root):
    return derive("abide 2026 key check v1", root)[:16]


def metadata_key(root):
    return derive("abide 2026 metadata v1", root)


def volume_key(root, volume):
    volumes = derive("abide 2026 volumes v1", root)
    return derive("abide 2026 volume v1", volumes, volume.to_bytes(4, "little"))


def log_key(metadata, salt):
    return derive("abide 2026 log v1", metadata, salt)


def counter(number):
    return number.to_bytes(8, "little") + bytes(4)


def opened(key, nonce, sealed, data):
    """The plaintext, or nothing if it was sealed otherwise."""
    try:
        return AESGCM(key).decrypt(nonce, bytes(sealed), data)
    except InvalidTag:
        return None


def unwrapped(root, volume, segment, slot, wrapped):
    """The key of a segment (slot 0) or of an object in a pack (slot 1 + its place)."""
    return unwrapped_by(volume_key(root, volume), segment, slot, wrapped)


def unwrapped_by(wrapping, segment, slot, wrapped):
    """The same by the key that wraps it: the volume's, or, in an end-to-end volume, the file's."""
    key = derive("abide 2026 segment wrap v1", wrapping, segment, slot.to_bytes(4, "little"))
    plain = opened(key, counter(0), wrapped, None)
    if plain is None:
        raise Damaged(f"the key of segment {segment.hex()} doesn't open")
    return plain


def open_cell(key, volume, segment, number, sealed):
    """A cell's plaintext, or nothing."""
    data = volume.to_bytes(4, "little") + segment + number.to_bytes(8, "little")
    return opened(key, counter(number), sealed, data)


def open_fragment(root, volume, segment, sealed):
    key = derive("abide 2026 fragment v1", volume_key(root, volume))
    return opened(key, sealed[:12], sealed[12:], segment)
