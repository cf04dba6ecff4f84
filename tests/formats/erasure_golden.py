"""The golden vectors of the erasure code, by a stranger's hand."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gf256  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[2] / "crates/erasure/tests/golden.txt"


def cells(k, length, state):
    out = bytearray()
    while len(out) < k * length:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out.append(state >> 56)
    return [bytes(out[i * length : (i + 1) * length]) for i in range(k)]


checked = 0
for line in GOLDEN.read_text().splitlines():
    k, m, *parity = line.split()
    k, m = int(k), int(m)
    data = cells(k, 16, 1)
    rows = gf256.matrix(k, m)
    ours = [gf256.combine(row, data) for row in rows[k:]]
    assert [cell.hex() for cell in ours] == parity, f"{k}+{m} differs"
    whole = dict(enumerate(data + ours))
    for lost in range(min(m, k)):
        del whole[lost]
    assert gf256.decode(k, m, whole) == data, f"{k}+{m} is not decoded"
    checked += 1
assert checked == 9, f"only {checked} vectors found"
print(f"{checked} codes are the same by another hand")
