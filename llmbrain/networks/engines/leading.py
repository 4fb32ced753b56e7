"""Leading directions of data that come in blocks, from the products of its smaller side: tokens or neurons."""

import warnings
from dataclasses import dataclass
from functools import partial

import torch

from ...exceptions import NumericalWarning, ParameterError
from .linalg import krylov_eigenpairs, leading_eigenpairs, lower_gram, product
from .parallel import block_map, hand_back, run_blocks, temporary
from .progress import track

GRAM_ROWS = 4096  # up to this number of tokens (or neurons), or
GRAM_ROWS_PER_VECTOR = 80  # this number for each requested vector, a matrix of products costs less than a Krylov space
GRAM_TASKS = 32  # partial sums of a matrix of products, whatever the number of workers
TALL = 1024  # with more rows than this, all workers add to one matrix instead,
PANELS = 16  # in this number of panels
NOTHING = "Every neuron is constant or not finite in every run: there is nothing to decompose."


@dataclass
class Leading:
    """Leading singular pairs of data ``X`` ``(n_rows, n_neurons)``; one side is enough to project on them."""

    values: torch.Tensor  # (k,) eigenvalues of X X^T, descending, float64
    left: torch.Tensor = None  # (n_rows, k) orthonormal columns, float64
    right: torch.Tensor = None  # (k, n_neurons) orthonormal rows, float32
    residual: float = 0.0
    square: torch.Tensor = None  # all products between neurons, where they were computed

    def __getitem__(self, which):
        """Return the pairs of a slice or a mask."""
        left = None if self.left is None else self.left[:, which]
        right = None if self.right is None else self.right[which]
        return Leading(self.values[which], left, right, self.residual)

    @classmethod
    def empty(cls, n_rows, k, device):
        """Room for the pairs that another process has found."""
        kind = {"dtype": torch.float64, "device": device}
        return cls(torch.empty(k, **kind), torch.empty(n_rows, k, **kind))

    def agreed(self, columns, owner=0):
        """Return the values and left vectors that one of the processes with shared neurons has found."""
        self.values, self.left = columns.agreed(self.values, owner), columns.agreed(self.left, owner)
        return self


def one_matrix(n, k):
    """Whether the products of ``n`` rows are computed as one matrix to find ``k`` vectors."""
    return n <= max(GRAM_ROWS, GRAM_ROWS_PER_VECTOR * k)


def is_tall(n_rows, n_neurons, k):
    """Whether the products between neurons are the smaller matrix, and small enough."""
    return n_neurons < n_rows and one_matrix(n_neurons, k)


def leading(data, k, seed=0, at_least=None, single=False):
    """Find the leading singular pairs of data that come in blocks, a :class:`Leading`.

    Fewer than ``k`` pairs are returned if the data have fewer independent directions, and an error is raised if these
    are fewer than ``at_least`` (``k`` by default; 0 for no check). ``single`` allows single precision for products
    between neurons.
    """
    if is_tall(data.n_rows, data.columns.n_neurons, k):
        square = neuron_gram(data) if data.square is None else data.square
        found = from_neurons(square, k, seed, single)
        found.square = square
    elif one_matrix(data.n_rows, k):
        found = from_tokens(token_gram(data), k, seed, overwrite=True).agreed(data.columns)
    else:
        found = _from_krylov(data, k, seed)
    if at_least == 0:
        return found
    return found[: check_rank(found.values, k if at_least is None else at_least, "in the cleaned data")]


def from_tokens(matrix, k, seed=0, overwrite=False):
    """Leading pairs from the products between tokens."""
    return Leading(*leading_eigenpairs(matrix, k, seed, overwrite))


def from_neurons(matrix, k, seed=0, single=False):
    """Leading pairs from the products between neurons; directions without variance are left out."""
    values, vectors = leading_eigenpairs(matrix, min(k, len(matrix)), seed, single=single)
    kept = values > 1e-7 * values[0]
    return Leading(values[kept], right=vectors[:, kept].T.float().contiguous())


def _from_krylov(data, k, seed):
    values, vectors, residual = krylov_eigenpairs(
        lambda q: _apply(data, q), data.n_rows, k, device=data.device, seed=seed, tol=1e-3
    )
    if residual > 0.05:
        warnings.warn(
            f"The leading subspace of {data.n_rows} rows did not converge (relative residual {residual:.1e}); "
            "the weakest components may be inaccurate.",
            NumericalWarning,
            stacklevel=3,
        )
    return Leading(values, vectors, residual=residual)


def neuron_gram(data):
    """``X^T X`` of data that comes in pieces of tokens with all neurons, float64."""
    n = data.n_neurons
    matrix = torch.zeros(n, n, dtype=torch.float64, device=data.device)

    def products(piece):
        x = data.piece(*piece)
        return product(x.T, x)

    for part in block_map(products, data.pieces()):
        matrix += part
    return matrix


def token_gram(data, owner=None):
    """``X X^T`` of data that comes in blocks of neurons, float64.

    If the neurons are shared, only the process ``owner`` gets the matrix; by default all processes do.
    """
    return data.columns.total(_own_token_gram(data), owner)


def _own_token_gram(data):
    """Products over the neurons of this process."""
    n = data.n_rows
    matrix = torch.zeros(n, n, dtype=torch.float64, device=data.device)
    if data.device.type != "cpu":
        for block in data.blocks():
            x = data.stacked(*block).contiguous()  # rows of kept data are far apart
            for panel in _panels(n, TALL):
                _add_panel(matrix, x, *panel)
        return _mirror(matrix, _panels(n, TALL))
    blocks = list(data.blocks())
    if n > TALL:
        _add_panels(matrix, data, blocks)
        hand_back()
        return matrix
    size = -(-len(blocks) // GRAM_TASKS)
    tasks = [blocks[i : i + size] for i in range(0, len(blocks), size)]
    grams = block_map(lambda task: lower_gram((data.stacked(*block) for block in task), n), tasks)
    for part in track(grams, "Reading runs", len(tasks)):
        matrix += part
    matrix += matrix.tril(-1).T
    return matrix


def _add_panels(matrix, data, blocks):
    """Add ``X X^T`` to a matrix of zeros, block by block of neurons.

    The workers share one matrix, each adding to other rows, while the next block is read. A sum per worker, as
    for small matrices, would be the largest thing in memory.
    """
    n, size = len(matrix), max(stop - start for start, stop in blocks)
    panels = _panels(n)[::-1]  # the longest ones first
    buffers, ready = [temporary(n, size), temporary(n, size)], None
    for block in track([*blocks, None], "Reading runs"):
        x, calls = data.stacking(*block, buffers[0]) if block else (None, [])
        if ready is not None:
            calls += [partial(_add_panel, matrix, ready, *panel) for panel in panels]
        run_blocks(lambda call: call(), calls)
        ready, buffers = x, buffers[::-1]
    _mirror(matrix, panels)


def _panels(n, least=1):
    """Bounds of bands of rows of a symmetric matrix, of which only the part up to the diagonal is computed."""
    height = max(least, -(-n // PANELS))
    return [(i, min(i + height, n)) for i in range(0, n, height)]


def _add_panel(matrix, x, first, last):
    matrix[first:last, :last] += product(x[first:last], x[:last].T)


def _mirror(matrix, panels):
    """Fill the part above the diagonal from that below it."""
    for first, last in panels:
        matrix[:first, first:last] = matrix[first:last, :first].T
        square = matrix[first:last, first:last]
        square.copy_(square.tril() + square.tril(-1).T)
    return matrix


def _apply(data, q):
    """``X (X^T q)`` in one pass over the data."""
    out, q = torch.zeros_like(q), q.float()

    def twice(block):
        x = data.stacked(*block)
        return product(x, product(x.T, q))

    blocks = list(data.blocks())
    for part in track(block_map(twice, blocks), "Krylov space, one pass", len(blocks)):
        out += part
    return data.columns.agreed(data.columns.total(out))


def check_rank(values, k, where):
    """Return the number of independent directions, and refuse more components than that."""
    top = float(values.max()) if len(values) else 0.0
    rank = int((values > max(top, 0) * 1e-7).sum())
    if not rank:
        raise ParameterError(NOTHING)
    if rank < k:
        raise ParameterError(
            f"n_components={k}, but there are only {rank} independent directions {where}. Use at most {rank} "
            "components, or record more tokens."
        )
    return rank
