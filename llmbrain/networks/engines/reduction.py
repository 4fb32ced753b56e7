"""From many tokens to a few rows: the subspace in which independent components are searched."""

import warnings
from dataclasses import dataclass, replace
from functools import partial

import torch

from ...exceptions import NumericalWarning, ParameterError
from ...registry import Registry
from .linalg import gram, krylov_eigenpairs, leading_eigenpairs, lower_gram, product
from .parallel import block_map, hand_back, run_blocks, temporary
from .progress import track

__all__ = [
    "GROUP_MODELS",
    "Subspace",
    "check_rank",
    "default_group",
    "group_subspace",
    "is_flat",
    "leading_rows",
    "project",
    "strides",
    "token_gram",
    "whiten",
    "whiten_rows",
]

GRAM_ROWS = 4096  # up to this number of rows, or
GRAM_ROWS_PER_VECTOR = 60  # this number for each requested vector, a Gram matrix costs less than a Krylov space
STACK_BYTES = 1 << 29  # largest size of the reduced rows of all runs that is held if they are read many times,
STACK_BYTES_TWICE = 1 << 26  # and if they are read twice
STRIDE_VALUES = 1 << 19  # values of a block of a few rows on the CPU (2 MiB)
STRIDE_GPU = 1 << 14  # neurons of such a block on a GPU
GRAM_TASKS = 32  # partial sums of a Gram matrix, whatever the number of workers
TALL = 1024  # with more rows than this, all workers add to one matrix instead,
PANELS = 16  # in this number of panels
TOKENS_AT_ONCE = GRAM_ROWS  # up to this number of tokens "auto" decomposes all of them together
FLAT = 1e-5  # relative difference of eigenvalues below which the directions of a stack are equally good
NOTHING = "Every neuron is constant or not finite in every run: there is nothing to decompose."


# by_run: whether each run, or piece of a run, enters with its leading rows at unit norm
GROUP_MODELS = Registry("group model", by_run=False)


@dataclass
class Subspace:
    """Result of :func:`group_subspace`: ``X0 = sum_r projections[r] @ X_r`` has orthonormal rows."""

    projections: list  # of (n_components, n_tokens) float64
    values: torch.Tensor  # eigenvalues of the (stacked) data, descending
    group: str
    residual: float = 0.0
    rows: torch.Tensor = None  # X0 itself, where it was at hand
    flat: bool = False  # whether the runs share more directions equally well than there are components


def group_subspace(runs, n_components, *, group="auto", rows_per_run=5, do_cca=True, seed=0, at_least=None):
    """Find the leading subspace of a group of runs with one of the ``GROUP_MODELS``.

    ``rows_per_run`` is the number of rows kept of each run, as a multiple of ``n_components``: 1 is canonical ICA as
    nilearn computes it; more rows keep weaker networks. With ``do_cca`` the rows of all runs have unit norm before they
    are stacked. ``at_least`` is the smallest acceptable dimension, by default ``n_components``.
    """
    find = GROUP_MODELS[group]
    if len(runs.sources) == 1:  # the models are the same
        find = GROUP_MODELS["tokens"]
    options = {"rows_per_run": rows_per_run, "do_cca": do_cca, "seed": seed, "at_least": at_least or n_components}
    return find(runs, n_components, **options)


def default_group(n_tokens):
    """Group model for runs of given numbers of tokens: all tokens together as long as their Gram matrix is small."""
    return "tokens" if len(n_tokens) == 1 or sum(n_tokens) <= TOKENS_AT_ONCE else "runs"


@GROUP_MODELS.register("auto")
def _of_default_group(runs, n_components, **options):
    """Decompose by tokens, or by runs where there are too many tokens."""
    return GROUP_MODELS[default_group(runs.n_tokens)](runs, n_components, **options)


@GROUP_MODELS.register("tokens")
def _of_tokens(runs, n_components, *, seed, at_least, **_):
    """Leading subspace of all tokens of all runs (temporal concatenation), which keeps weak networks."""
    runs.hold()
    values, vectors, residual = leading_rows(runs, n_components, seed, at_least)
    projection = vectors.T / values.sqrt()[:, None]
    return Subspace(list(projection.split(runs.n_tokens, 1)), values, "tokens", residual)


@GROUP_MODELS.register("runs", by_run=True)
def _of_runs(runs, n_components, *, rows_per_run, do_cca, seed, at_least):
    """Leading subspace of the leading rows of every run at unit norm: canonical ICA (Varoquaux et al. 2010)."""
    n_rows = [min(max(n_components, round(rows_per_run * n_components)), n - 1) for n in runs.n_tokens]
    stack = _Stack(runs, n_rows)
    for r, k in enumerate(track(n_rows, "Reducing runs")):
        runs.hold(r)
        values, vectors, _ = leading_rows(_OneRun(runs, r), k, seed, 0)
        keep = values > values[0] * 1e-10
        scale = values[keep].rsqrt() if do_cca else torch.ones_like(values[keep])
        stack.add(scale[:, None] * vectors[:, keep].T)
        runs.release()
    if not stack.n_rows:
        raise ParameterError(NOTHING)
    values, vectors, residual = leading_rows(stack, min(n_components, stack.n_rows), seed, at_least)
    if is_flat(values) and stack.n_rows > n_components:
        more = leading_rows(stack, n_components + 1, seed, 0)[0]
        if is_flat(more):
            # Any subspace of these directions is as good as the returned one. With one row per component, the rows
            # that explain most of each run are the only ones left.
            del stack
            options = {"rows_per_run": 1, "do_cca": do_cca, "seed": seed, "at_least": at_least}
            return replace(_of_runs(runs, n_components, **options), flat=True)
    rows = vectors.T / values.sqrt()[:, None]
    parts = [a @ b for a, b in zip(rows.split(stack.heights, 1), stack.reductions)]
    return Subspace(parts, values, "runs", residual, stack.combine(rows))


def is_flat(values):
    """Whether descending eigenvalues are equal up to numerical noise."""
    return bool(values[-1] > (1 - FLAT) * values[0])


def project(runs, subspace):
    """Project all runs on a subspace: orthonormal rows ``(n_components, n_neurons)``, float32, not centred."""
    if subspace.rows is not None:
        return subspace.rows
    z = torch.empty(len(subspace.values), runs.n_neurons, device=runs.device)
    projections = [p.float() for p in subspace.projections]

    def part(block):
        rows = z[:, block[0] : block[1]].zero_()
        new = temporary(*rows.shape, device=z.device)
        for r, x in runs.each(*block):
            rows += product(projections[r], x, out=new)

    run_blocks(part, runs.blocks(max(runs.n_tokens)))
    return z


def strides(z):
    """Yield slices of neurons for a pass over rows ``(k, n_neurons)``."""
    size = STRIDE_GPU if z.device.type != "cpu" else max(1024, STRIDE_VALUES // len(z))
    for start in range(0, z.shape[1], size):
        yield slice(start, min(start + size, z.shape[1]))


def whiten(runs, subspace):
    """Project all runs on a subspace and make the rows white: ``Z @ Z.T / n_neurons`` is the identity."""
    return whiten_rows(project(runs, subspace))


def whiten_rows(z):
    """Centre rows and make them white, in place."""
    k, v = z.shape
    sums = torch.zeros(k, dtype=torch.float64, device=z.device)
    products = torch.zeros(k, k, dtype=torch.float64, device=z.device)

    def moments(where):
        part = z[:, where]
        return part.sum(1, dtype=torch.float64), gram(part).double()

    for total, square in block_map(moments, strides(z)):
        sums += total
        products += square
    mean = sums / v
    values, vectors = torch.linalg.eigh(products - torch.outer(mean, mean) * v)
    check_rank(values, k, "after centring over neurons")
    transform = (v**0.5 * vectors.T / values.sqrt()[:, None]).float()
    mean = mean.float()[:, None]

    def rotate(where):
        part = z[:, where]
        part -= mean
        part.copy_(product(transform, part, out=temporary(*part.shape, device=z.device)))

    run_blocks(rotate, strides(z))
    return z


class _OneRun:
    """One run of a group with the interface of the whole data."""

    def __init__(self, runs, r):
        self.runs, self.r, self.n_rows, self.device = runs, r, runs.n_tokens[r], runs.device

    def blocks(self):
        return self.runs.blocks(self.n_rows)

    def stacked(self, start, stop):
        return self.runs.block(self.r, start, stop)

    def stacking(self, start, stop, out=None):
        return self.runs.stacking(start, stop, out, [self.r])

    def kept_gram(self, matrix=None):
        return self.runs.kept_gram(self.r, matrix)


class _Stack:
    """The reduced rows of all runs: in memory if they are few, else computed again for each block of neurons."""

    def __init__(self, runs, n_rows):
        self.runs, self.device = runs, runs.device
        self.reductions, self.heights, self.n_rows = [], [], 0
        size = sum(n_rows) * runs.n_neurons * 4
        limit = STACK_BYTES_TWICE if sum(n_rows) <= GRAM_ROWS else STACK_BYTES
        few = size <= max(limit, 0.4 * max(runs.n_tokens) * runs.n_neurons * 4)
        self.held = torch.empty(sum(n_rows), runs.n_neurons, device=runs.device) if few else None

    def add(self, reduction):
        """Add the next run."""
        r, first = len(self.reductions), self.n_rows
        self.reductions.append(reduction)
        self.heights.append(len(reduction))
        self.n_rows += len(reduction)
        if self.held is None:
            return
        rows, small = self.held[first : self.n_rows], reduction.float()

        def reduce(block):
            rows[:, block[0] : block[1]] = product(small, self.runs.block(r, *block))

        run_blocks(reduce, self.runs.blocks(self.runs.n_tokens[r]))

    def blocks(self):
        """Blocks of neurons."""
        return self.runs.blocks(self.n_rows if self.held is not None else max(self.n_rows, *self.runs.n_tokens))

    def stacked(self, start, stop):
        """Reduced rows of all runs on top of each other."""
        out, calls = self.stacking(start, stop)
        for call in calls:
            call()
        return out

    def stacking(self, start, stop, out=None):
        """Array for the reduced rows, and the calls, one per run, that fill it."""
        if self.held is not None:
            return self.held[: self.n_rows, start:stop], []
        out = torch.empty(self.n_rows, stop - start, device=self.device) if out is None else out[:, : stop - start]

        def reduce(r, rows):
            rows.copy_(product(self.reductions[r].float(), self.runs.block(r, start, stop)))

        return out, [partial(reduce, r, rows) for r, rows in enumerate(out.split(self.heights))]

    def combine(self, rows):
        """``rows @ stack`` if the stack is in memory, else None."""
        if self.held is None:
            return None
        out = torch.empty(len(rows), self.runs.n_neurons, device=self.device)
        small = rows.float()

        def part(block):
            out[:, block[0] : block[1]] = product(small, self.stacked(*block))

        run_blocks(part, self.blocks())
        return out


def leading_rows(data, k, seed=0, at_least=None):
    """Leading eigenpairs of ``X X^T`` for data that comes in blocks of neurons.

    Fewer than ``k`` pairs are returned if the data have fewer independent directions, and an error is raised if these
    are fewer than ``at_least`` (``k`` by default; 0 for no check).
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
                f"The leading subspace of {data.n_rows} rows did not converge (relative residual {residual:.1e}); "
                "the weakest components may be inaccurate.",
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
    n = len(matrix)
    height, size = -(-n // PANELS), max(stop - start for start, stop in blocks)
    panels = [(i, min(i + height, n)) for i in range(0, n, height)][::-1]  # the longest ones first
    buffers, ready = [temporary(n, size), temporary(n, size)], None

    def add(x, first, last):
        matrix[first:last, :last] += product(x[first:last], x[:last].T)

    for block in track([*blocks, None], "Reading runs"):
        x, calls = data.stacking(*block, buffers[0]) if block else (None, [])
        if ready is not None:
            calls += [partial(add, ready, *panel) for panel in panels]
        run_blocks(lambda call: call(), calls)
        ready, buffers = x, buffers[::-1]
    for first, last in panels:
        matrix[:first, first:last] = matrix[first:last, :first].T
        square = matrix[first:last, first:last]
        square.copy_(square.tril() + square.tril(-1).T)


def _apply(data, q):
    """``X (X^T q)`` in one pass over the data."""
    out, q = torch.zeros_like(q), q.float()

    def twice(block):
        x = data.stacked(*block)
        return product(x, product(x.T, q))

    blocks = list(data.blocks())
    for part in track(block_map(twice, blocks), "Krylov space, one pass", len(blocks)):
        out += part
    return out


def check_rank(values, k, where):
    """Return the number of independent directions, and refuse more components than that."""
    top = float(values.max())
    rank = int((values > max(top, 0) * 1e-7).sum())
    if not rank:
        raise ParameterError(NOTHING)
    if rank < k:
        raise ParameterError(
            f"n_components={k}, but there are only {rank} independent directions {where}. Ask for at most {rank} "
            "components, or record more tokens."
        )
    return rank
