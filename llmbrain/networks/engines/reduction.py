"""From many tokens to a few rows: the subspace that independent components are sought in.

Two group models are offered. ``"runs"`` is canonical ICA (Varoquaux et al. 2010): each run is reduced to its leading
rows, the rows of all runs are brought to unit norm, and the leading subspace of the stack is kept. ``"tokens"`` takes
the leading subspace of all tokens of all runs at once (temporal concatenation), which keeps weak networks that a
reduction of each run loses. For a single run the two are the same.
"""

import warnings
from dataclasses import dataclass

import torch

from ...exceptions import NumericalWarning, ParameterError
from .linalg import gram, krylov_eigenpairs, leading_eigenpairs, lower_gram, product
from .parallel import block_map

__all__ = ["Subspace", "check_rank", "group_subspace", "leading_rows", "project", "token_gram", "whiten", "whiten_rows"]

GRAM_ROWS = 4096  # up to so many rows a Gram matrix costs less than a Krylov space,
GRAM_ROWS_PER_VECTOR = 60  # and up to so many for each vector that is asked for
STACK_BYTES = 1 << 29  # reduced rows of all runs that are held
STRIDE = 1 << 14  # neurons of a block where only a few rows are left
GRAM_TASKS = 32  # sums that a Gram matrix is put together from, whatever the number of workers
TOKENS_AT_ONCE = GRAM_ROWS  # up to here "auto" decomposes all tokens at once


@dataclass
class Subspace:
    """What :func:`group_subspace` found: ``X0 = sum_r projections[r] @ X_r`` has orthonormal rows."""

    projections: list  # of (n_components, n_tokens) float64
    values: torch.Tensor  # eigenvalues of the (stacked) data, descending
    group: str
    residual: float = 0.0
    rows: torch.Tensor = None  # X0 itself, where it was at hand


def group_subspace(runs, n_components, *, group="auto", rows_per_run=5, do_cca=True, seed=0, at_least=None):
    """Find the leading subspace of a group of runs.

    Parameters
    ----------
    runs : CleanedRuns
        The data.
    n_components : int
        Dimension of the subspace.
    group : {"auto", "tokens", "runs"}
        The group model; ``"auto"`` is ``"tokens"`` up to 4,096 tokens in all, else ``"runs"``. (A fit looks at both:
        :func:`~llmbrain.networks.engines.group_models.choose_subspace`.)
    rows_per_run : float
        Rows kept of each run, as a multiple of ``n_components``. 1 is canonical ICA as nilearn computes it; more
        rows keep weaker networks.
    do_cca : bool
        Whether the rows of all runs are brought to unit norm before they are stacked.
    at_least : int, optional
        Where there are fewer directions than ``n_components`` but so many, all there are are returned. Default: fewer
        are an error.

    Returns
    -------
    Subspace
    """
    if group not in ("auto", "tokens", "runs"):
        raise ParameterError(f"group must be 'auto', 'tokens' or 'runs'; got {group!r}.")
    if group == "auto":
        group = "tokens" if len(runs.sources) == 1 or runs.n_rows <= TOKENS_AT_ONCE else "runs"
    if group == "tokens" or len(runs.sources) == 1:
        runs.hold()
        values, vectors, residual = leading_rows(runs, n_components, seed, at_least or n_components)
        projection = vectors.T / values.sqrt()[:, None]
        return Subspace(list(projection.split(runs.n_tokens, 1)), values, group, residual)
    n_rows = [min(max(n_components, round(rows_per_run * n_components)), n - 1) for n in runs.n_tokens]
    stack = _Stack(runs, n_rows)
    for r, k in enumerate(n_rows):
        runs.hold(r)
        values, vectors, _ = leading_rows(_OneRun(runs, r), k, seed, 0)
        keep = values > values[0] * 1e-10
        scale = values[keep].rsqrt() if do_cca else torch.ones_like(values[keep])
        stack.add(scale[:, None] * vectors[:, keep].T)
        runs.release()
    values, vectors, residual = leading_rows(stack, min(n_components, stack.n_rows), seed, at_least or n_components)
    rows = vectors.T / values.sqrt()[:, None]
    parts = [a @ b for a, b in zip(rows.split(stack.heights, 1), stack.reductions)]
    return Subspace(parts, values, group, residual, stack.combine(rows))


def project(runs, subspace):
    """Project all runs on a subspace: orthonormal rows ``(n_components, n_neurons)``, float32, not centred."""
    if subspace.rows is not None:
        return subspace.rows
    z = torch.empty(len(subspace.values), runs.n_neurons, device=runs.device)
    projections = [p.float() for p in subspace.projections]

    def part(block):
        z[:, block[0] : block[1]] = sum(product(p, runs.block(r, *block)) for r, p in enumerate(projections))

    for _ in block_map(part, runs.blocks(max(runs.n_tokens))):
        pass
    return z


def whiten(runs, subspace):
    """Project all runs on a subspace, centre the rows over neurons and make them white.

    Returns
    -------
    tensor (n_components, n_neurons), float32
        ``Z`` with ``Z @ Z.T / n_neurons`` the identity.
    """
    return whiten_rows(project(runs, subspace))


def whiten_rows(z):
    """Centre rows and make them white, in place."""
    k, v = z.shape
    sums = torch.zeros(k, dtype=torch.float64, device=z.device)
    products = torch.zeros(k, k, dtype=torch.float64, device=z.device)

    def moments(start):
        part = z[:, start : start + STRIDE]
        return part.sum(1, dtype=torch.float64), gram(part).double()

    for total, square in block_map(moments, range(0, v, STRIDE)):
        sums += total
        products += square
    mean = sums / v
    values, vectors = torch.linalg.eigh(products - torch.outer(mean, mean) * v)
    check_rank(values, k, "after centring over neurons")
    transform = (v**0.5 * vectors.T / values.sqrt()[:, None]).float()
    mean = mean.float()[:, None]

    def rotate(start):
        part = z[:, start : start + STRIDE]
        part.copy_(product(transform, part - mean))

    for _ in block_map(rotate, range(0, v, STRIDE)):
        pass
    return z


class _OneRun:
    """One run of a group, seen as the whole data."""

    def __init__(self, runs, r):
        self.runs, self.r, self.n_rows, self.device = runs, r, runs.n_tokens[r], runs.device

    def blocks(self):
        return self.runs.blocks(self.n_rows)

    def stacked(self, start, stop):
        return self.runs.block(self.r, start, stop)

    def kept_gram(self, matrix=None):
        return self.runs.kept_gram(self.r, matrix)


class _Stack:
    """The reduced rows of all runs: held if they are few, else computed anew for each block of neurons.

    Parameters
    ----------
    runs : CleanedRuns
    n_rows : list of int
        Rows of each run, at most.
    """

    def __init__(self, runs, n_rows):
        self.runs, self.device = runs, runs.device
        self.reductions, self.heights, self.n_rows = [], [], 0
        size = sum(n_rows) * runs.n_neurons * 4
        few = size <= max(STACK_BYTES, 0.4 * max(runs.n_tokens) * runs.n_neurons * 4)
        self.held = torch.empty(sum(n_rows), runs.n_neurons, device=runs.device) if few else None

    def add(self, reduction):
        """Reduce the next run."""
        r, first = len(self.reductions), self.n_rows
        self.reductions.append(reduction)
        self.heights.append(len(reduction))
        self.n_rows += len(reduction)
        if self.held is None:
            return
        rows, small = self.held[first : self.n_rows], reduction.float()

        def reduce(block):
            rows[:, block[0] : block[1]] = product(small, self.runs.block(r, *block))

        for _ in block_map(reduce, self.runs.blocks(self.runs.n_tokens[r])):
            pass

    def blocks(self):
        """Blocks of neurons."""
        return self.runs.blocks(self.n_rows if self.held is not None else max(self.n_rows, *self.runs.n_tokens))

    def stacked(self, start, stop):
        """Reduced rows of all runs on top of each other."""
        if self.held is not None:
            return self.held[: self.n_rows, start:stop]
        small = [p.float() for p in self.reductions]
        return torch.cat([product(p, self.runs.block(r, start, stop)) for r, p in enumerate(small)])

    def combine(self, rows):
        """``rows @ stack`` if the stack is held, else None."""
        if self.held is None:
            return None
        out = torch.empty(len(rows), self.runs.n_neurons, device=self.device)
        small = rows.float()

        def part(block):
            out[:, block[0] : block[1]] = product(small, self.stacked(*block))

        for _ in block_map(part, self.blocks()):
            pass
        return out


def leading_rows(data, k, seed=0, at_least=None):
    """Leading eigenpairs of ``X X^T`` for data that comes in blocks of neurons.

    With ``at_least`` (0 for no check at all) fewer than ``k`` pairs may come back, if there are so many directions;
    by default fewer than ``k`` are an error.
    """
    residual = 0.0
    if data.n_rows <= max(GRAM_ROWS, GRAM_ROWS_PER_VECTOR * k):
        matrix = data.kept_gram() if isinstance(data, _OneRun) else None
        if matrix is None:
            matrix = token_gram(data)
            if isinstance(data, _OneRun):
                data.kept_gram(matrix)
        values, vectors = leading_eigenpairs(matrix, k, seed)
    else:
        values, vectors, residual = krylov_eigenpairs(
            lambda q: _apply(data, q), data.n_rows, k, device=data.device, seed=seed, tol=1e-3
        )
        if residual > 0.05:
            warnings.warn(
                f"The leading subspace of {data.n_rows} rows did not settle (relative residual {residual:.1e}); "
                "the weakest components may differ from run to run.",
                NumericalWarning,
                stacklevel=2,
            )
    if at_least == 0:
        return values, vectors, residual
    rank = check_rank(values, k if at_least is None else at_least, "in the cleaned data")
    return values[:rank], vectors[:, :rank], residual


def token_gram(data):
    """``X X^T`` of data that comes in blocks of neurons, float64."""
    n = data.n_rows
    matrix = torch.zeros(n, n, dtype=torch.float64, device=data.device)
    if data.device.type != "cpu":
        for part in block_map(lambda block: gram(data.stacked(*block)), data.blocks()):
            matrix += part
        return matrix
    blocks = list(data.blocks())
    size = -(-len(blocks) // GRAM_TASKS)
    tasks = [blocks[i : i + size] for i in range(0, len(blocks), size)]
    for part in block_map(lambda task: lower_gram((data.stacked(*block) for block in task), n), tasks):
        matrix += part
    matrix += matrix.tril(-1).T
    return matrix


def _apply(data, q):
    """``X (X^T q)`` in one pass over the data."""
    out, q = torch.zeros_like(q), q.float()

    def twice(block):
        x = data.stacked(*block)
        return product(x, product(x.T, q))

    for part in block_map(twice, data.blocks()):
        out += part
    return out


def check_rank(values, k, where):
    """Refuse more components than there are independent directions; returns their number."""
    top = float(values.max())
    rank = int((values > max(top, 0) * 1e-7).sum())
    if not rank:
        raise ParameterError("Every neuron is constant or not finite in every run: there is nothing to decompose.")
    if rank < k:
        raise ParameterError(
            f"n_components={k}, but there are only {rank} independent directions {where}. Ask for at most {rank} "
            "components, or record more tokens."
        )
    return rank
