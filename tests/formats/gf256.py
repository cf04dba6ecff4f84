"""Reed-Solomon as docs/formats/erasure.md describes it, in plain Python."""

EXP, LOG = [0] * 510, [0] * 256
value = 1
for power in range(255):
    EXP[power] = EXP[power + 255] = value
    LOG[value] = power
    value <<= 1
    if value & 0x100:
        value ^= 0x11D


def times(a, b):
    return EXP[LOG[a] + LOG[b]] if a and b else 0


def inverse(a):
    return EXP[255 - LOG[a]]


def power(a, n):
    return 1 if n == 0 else (EXP[LOG[a] * n % 255] if a else 0)


def product(left, right):
    columns = list(zip(*right))
    out = []
    for row in left:
        line = []
        for column in columns:
            total = 0
            for a, b in zip(row, column):
                total ^= times(a, b)
            line.append(total)
        out.append(line)
    return out


def inverted(matrix):
    size = len(matrix)
    rows = [list(row) + [int(i == j) for j in range(size)] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(r for r in range(column, size) if rows[r][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        factor = inverse(rows[column][column])
        rows[column] = [times(factor, x) for x in rows[column]]
        for r in range(size):
            if r != column and rows[r][column]:
                factor = rows[r][column]
                rows[r] = [x ^ times(factor, y) for x, y in zip(rows[r], rows[column])]
    return [row[size:] for row in rows]


def matrix(k, m):
    """k + m rows of k: the first k are the identity."""
    if k == 1:
        return [[1]] * (1 + m)
    vandermonde = [[power(row, column) for column in range(k)] for row in range(k + m)]
    return product(vandermonde, inverted(vandermonde[:k]))


def combine(row, cells):
    """The sum of the cells, each times its factor in the row."""
    total = 0
    for factor, cell in zip(row, cells):
        if factor == 1:
            part = cell
        elif factor:
            part = cell.translate(bytes(times(factor, x) for x in range(256)))
        else:
            continue
        total ^= int.from_bytes(part, "big")
    return total.to_bytes(len(cells[0]), "big")


def decode(k, m, present):
    """The k data cells from any k of the cells: `present` maps an index to its bytes."""
    if all(i in present for i in range(k)):
        return [present[i] for i in range(k)]
    chosen = sorted(present)[:k]
    rows = matrix(k, m)
    back = inverted([rows[i] for i in chosen])
    cells = [present[i] for i in chosen]
    return [present[i] if i in present else combine(back[i], cells) for i in range(k)]
