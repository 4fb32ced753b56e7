"""Layout of a sheet: a curve through all cells, anchors on the plane, assignment of points to cells."""

import numpy as np

ROUNDS = 300  # of exchanges between cells


def embed_features(halves, order, aspect=1.0):
    """Place neurons ``(n_neurons, 2)`` on the plane, between the anchors of the two features with the largest loadings.

    ``halves`` holds non-negative loadings ``(n_halves, n_neurons)``, ``order`` the order of the anchors along a Hilbert
    curve. The coordinates lie roughly in ``[0, 1] x [0, aspect]``. Each anchor is weighted by the cube of the loading.
    """
    n = len(halves)
    side = max(int(np.ceil(np.sqrt(n / max(aspect, 1e-6)))), 1)
    across = int(np.ceil(n / side))
    grid = hilbert_curve(side, across)
    spots = grid[np.round(np.linspace(0, len(grid) - 1, n)).astype(int)]
    anchors = np.empty((n, 2))
    anchors[order] = (spots + 0.5) / [side, across] * [1.0, aspect]
    first, second = two_largest(halves)
    columns = np.arange(halves.shape[1])
    weight = np.stack([halves[first, columns], halves[second, columns]]) ** 3 + 1e-9
    places = weight[0][:, None] * anchors[first] + weight[1][:, None] * anchors[second]
    return places / weight.sum(axis=0)[:, None]


def two_largest(halves):
    """Rows of the largest and of the second largest value of each column."""
    if len(halves) == 1:
        return np.zeros((2, halves.shape[1]), int)
    top = np.argpartition(halves, len(halves) - 2, axis=0)[-2:]
    swap = np.take_along_axis(halves, top, axis=0)
    return np.where(swap[1] >= swap[0], top[1], top[0]), np.where(swap[1] >= swap[0], top[0], top[1])


def assign_to_grid(points, rows, cols, random_state=0):
    """Assign points ``(n, 2)`` to the cells of a sheet with a small sum of squared distances (optimal transport).

    Starts from the monotone assignment (strip by strip) and exchanges pairs of cells at random offsets if that reduces
    the sum; the exchanges of one round share no cells. Returns the cell of each point; the first ``n_points`` cells,
    row by row, are filled.
    """
    points = np.asarray(points, float)
    rng = np.random.default_rng(random_state)
    n = len(points)
    by_row = np.argsort(points[:, 0], kind="stable")
    owner = np.concatenate(
        [strip[np.argsort(points[strip, 1], kind="stable")] for strip in np.split(by_row, np.arange(cols, n, cols))]
    )
    row, col = np.divmod(np.arange(n), cols)
    scale = np.array([rows, cols]) / np.maximum(np.ptp(points, axis=0), 1e-9)
    scaled = (points - points.min(axis=0)) * scale
    reach = max(rows, cols) / 2
    for step in range(ROUNDS):
        span = max(1, int(round(reach * (1 - step / ROUNDS) ** 2)))
        dr, dc = rng.integers(-span, span + 1, 2)
        if dr == 0 and dc == 0:
            continue
        first = _disjoint_pairs(row, col, dr, dc, rows, cols, n)
        second = first + dr * cols + dc
        a, b = owner[first], owner[second]
        worse = (scaled[a] - scaled[b]) @ np.array([-dr, -dc], float) < 0
        owner[first[worse]], owner[second[worse]] = b[worse], a[worse]
    cells = np.empty(n, np.int64)
    cells[owner] = np.arange(n)
    return cells


def _disjoint_pairs(row, col, dr, dc, rows, cols, n):
    """Cells that may be exchanged with the cell at an offset; no cell is in two pairs."""
    inside = (row + dr >= 0) & (row + dr < rows) & (col + dc >= 0) & (col + dc < cols)
    block = row // abs(dr) if dr else col // abs(dc)
    first = np.flatnonzero(inside & (block % 2 == 0))
    return first[first + dr * cols + dc < n]


def hilbert_curve(rows, cols):
    """Hilbert curve through all cells of a rectangle, ``(rows * cols, 2)``, whose steps connect neighbouring cells.

    The rectangle is split along its longer side, or into three parts around a turn, down to lines of single cells. With
    odd sides a step may be diagonal.
    """
    major, minor = (complex(0, cols), complex(rows)) if cols > rows else (complex(rows), complex(0, cols))
    steps = np.array(list(_walk(0j, major, minor)))
    return np.stack([steps.real, steps.imag], axis=1).astype(np.int64)


def _walk(start, a, b):
    """Walk the rectangle spanned by the vectors a (direction of travel) and b from its corner ``start``.

    Places and vectors are complex numbers, ``row + 1j * column``.
    """
    length, width = int(abs(a)), int(abs(b))
    da, db = a / length, b / width
    if width == 1 or length == 1:
        steps, d = (length, da) if width == 1 else (width, db)
        yield from (start + d * i for i in range(steps))
        return
    half_a, half_b = (complex(v.real // 2, v.imag // 2) for v in (a, b))
    if 2 * length > 3 * width:  # long: two rectangles one after the other
        if abs(half_a) % 2 and length > 2:
            half_a += da
        yield from _walk(start, half_a, b)
        yield from _walk(start + half_a, a - half_a, b)
        return
    if abs(half_b) % 2 and width > 2:  # about square: up, across, down
        half_b += db
    yield from _walk(start, half_b, half_a)
    yield from _walk(start + half_b, a, b - half_b)
    yield from _walk(start + a - da + half_b - db, -half_b, half_a - a)
