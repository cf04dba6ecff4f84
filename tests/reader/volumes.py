"""docs/formats/keys.md, section Volumes: a volume's root, its shares and lock, folders' keys, sealed names and bytes."""

import base64

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import rootkey
from blake3 import keyed
from fields import Damaged
from rootkey import derive


def key_of(root, what):
    """The grant, kit, holders or anchors key, or that of the top folder (folders)."""
    return derive(f"abide 2026 volume {what} v1", root)


def check(root):
    return key_of(root, "check")[:16]


def public_key(root):
    private = Ed25519PrivateKey.from_private_bytes(key_of(root, "signing"))
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def is_signed(public, context, data, signature):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, context.encode() + b"\0" + data)
    except InvalidSignature:
        return False
    return True


def product(a, b):
    """In GF(2^8)/0x11b."""
    result = 0
    while b:
        if b & 1:
            result ^= a
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return result


def share(text):
    """Threshold, index, tag and values of a share's 30 words."""
    bits = 0
    for word in text.split():
        bits = bits << 11 | rootkey.WORDS.index(word)
    body = (bits >> 26).to_bytes(38, "big")
    if int.from_bytes(derive("abide 2026 share v1", body)[:4], "big") >> 6 != bits & (1 << 26) - 1:
        raise Damaged("the share is mistyped")
    return body[0], body[1], body[2:6], body[6:]


def join(shares):
    """The root, by Lagrange's interpolation at 0."""
    root = bytearray(32)
    for _, x, _, values in shares:
        weight = 1
        for _, other, _, _ in shares:
            if other != x:
                inverse = next(i for i in range(256) if product(i, other ^ x) == 1)
                weight = product(weight, product(other, inverse))
        for at, value in enumerate(values):
            root[at] ^= product(weight, value)
    if check(bytes(root))[:4] != shares[0][2]:
        raise Damaged("the shares don't belong together")
    return bytes(root)


def unlock(locked, passphrase):
    if locked[:5] != b"AbPw\x01" or len(locked) != 77:
        raise Damaged("no locked key")
    memory, passes = (int.from_bytes(locked[at : at + 4], "little") for at in (5, 9))
    kdf = Argon2id(salt=locked[13:29], length=32, iterations=passes, lanes=1, memory_cost=memory)
    return AESGCM(kdf.derive(passphrase.encode())).decrypt(bytes(12), locked[29:], locked[:29])


def child(folder, name):
    return derive("abide 2026 folder v1", folder, name.encode())


def at(folder, path):
    """The key of the folder or file that a path names."""
    *folders, file = path.split("/")
    for name in folders:
        folder = child(folder, name)
    return derive("abide 2026 file v1", folder, file.encode()) if file else folder


def open_name(folder, sealed):
    raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    iv, text = raw[:16], raw[16:]
    cipher = Cipher(algorithms.AES(derive("abide 2026 folder name v1", folder)), modes.CTR(iv)).decryptor()
    padded = cipher.update(text)
    if keyed(derive("abide 2026 folder name iv v1", folder), padded)[:16] != iv:
        raise Damaged("a name doesn't open")
    return padded.rstrip(b"\0")[:-1].decode()


def open_path(folder, sealed):
    *folders, file = sealed.split("/")
    path = ""
    for part in folders:
        name = open_name(folder, part)
        folder, path = child(folder, name), path + name + "/"
    return path + (open_name(folder, file) if file else "")


def open_bytes(folder, data, sealed):
    """Sealed bytes: salt, ciphertext, tag."""
    key = derive("abide 2026 folder bytes v1", folder, sealed[:16])
    try:
        return AESGCM(key).decrypt(bytes(12), sealed[16:], data)
    except InvalidTag:
        raise Damaged("sealed bytes don't open") from None


def open_older(root, sealed):
    """A root that this one replaced; nothing if another one did."""
    try:
        return open_bytes(key_of(root, "older"), b"older root", sealed)
    except Damaged:
        return None
