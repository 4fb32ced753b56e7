"""From many tokens to a few rows: the subspace in which independent components are searched."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from ...exceptions import ParameterError
from ...parallel import rank
from ...registry import Registry
from .columns import WHOLE
from .leading import (
    GRAM_ROWS,
    NOTHING,
    Leading,
    check_rank,
    from_neurons,
    from_tokens,
    is_tall,
    leading,
    one_matrix,
    token_gram,
)
from .linalg import product
from .parallel import block_map, run_blocks, temporary
from .progress import track
from .runs import HOLD_BYTES

STACK_BYTES = 1 << 29  # largest size of the reduced rows of all runs that is held if they are read many times,
STACK_BYTES_TWICE = 1 << 26  # and if they are read twice
STRIDE_VALUES = 1 << 19  # values of a block of a few rows on the CPU (2 MiB)
STRIDE_GPU = 1 << 14  # neurons of such a block on a GPU
AHEAD_BYTES = 1 << 25  # matrices of products up to this size are decomposed while the next run is read
TOKENS_AT_ONCE = GRAM_ROWS  # up to this number of tokens "auto" decomposes all of them together
ROWS_PER_RUN = 5  # rows kept of each run, as a multiple of the number of components; docs/networks.md says why
FLAT = 1e-5  # relative difference of eigenvalues below which the directions of a stack are equally good


# by_run: whether each run, or piece of a run, enters with its leading rows at unit norm. batched: whether many
# decompositions can be made in one batch
GROUP_MODELS = Registry("group model", by_run=False, batched=False)


@dataclass
class Subspace:
    """Result of :func:`group_subspace`: ``X0 = sum_r projections[r] @ X_r`` has orthonormal rows."""

    projections: list  # of (n_components, n_tokens) float64; None where the rows are at hand
    values: torch.Tensor  # eigenvalues of the (stacked) data, descending
    group: str
    residual: float = 0.0
    rows: torch.Tensor = None  # X0 itself, where it was at hand
    flat: bool = False  # whether the runs share more directions equally well than there are components


def group_subspace(runs, n_components, *, group="auto", rows_per_run=ROWS_PER_RUN, do_cca=True, seed=0, at_least=None):
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


@GROUP_MODELS.register("tokens", batched=True)
def _of_tokens(runs, n_components, *, seed, at_least, **_):
    """Leading subspace of all tokens of all runs (temporal concatenation), which keeps weak networks."""
    runs.hold()
    found = leading(runs, n_components, seed, at_least)
    if found.left is None:
        return Subspace(None, found.values, "tokens", rows=found.right)
    projection = found.left.T / found.values.sqrt()[:, None]
    return Subspace(list(projection.split(runs.n_tokens, 1)), found.values, "tokens", found.residual)


@GROUP_MODELS.register("runs", by_run=True)
def _of_runs(runs, n_components, *, rows_per_run, do_cca, seed, at_least):
    """Leading subspace of the leading rows of every run at unit norm: canonical ICA (Varoquaux et al. 2010)."""
    n_rows = [min(max(n_components, round(rows_per_run * n_components)), n - 1) for n in runs.n_tokens]
    stack = _Stack(runs, n_rows, do_cca)
    for found in _leading_of_runs(runs, n_rows, seed):
        stack.add(found)
        if runs.square is not None:
            runs.square = None if found.square is None else runs.square + found.square
    if not stack.n_rows:
        raise ParameterError(NOTHING)
    found = stack.leading(min(n_components, stack.n_rows), seed, at_least)
    if is_flat(found.values) and stack.n_rows > n_components:
        more = stack.leading(n_components + 1, seed, 0)
        if is_flat(more.values):
            # Any subspace of these directions is as good as the returned one. With one row per component, the rows
            # that explain most of each run are the only ones left.
            del stack
            runs.square = None
            options = {"rows_per_run": 1, "do_cca": do_cca, "seed": seed, "at_least": at_least}
            return replace(_of_runs(runs, n_components, **options), flat=True)
    if found.left is None:
        return Subspace(None, found.values, "runs", rows=found.right)
    rows = found.left.T / found.values.sqrt()[:, None]
    if stack.held is not None:
        return Subspace(None, found.values, "runs", found.residual, stack.combine(rows))
    parts = [a @ b for a, b in zip(rows.split(stack.heights, 1), stack.reductions)]
    return Subspace(parts, found.values, "runs", found.residual)


def _leading_of_runs(runs, n_rows, seed):
    """Yield the leading pairs of every run; decompositions use one thread each, so several runs go in parallel."""
    whole = [_OneRun(runs, r) for r in range(len(n_rows))]
    if runs.columns.is_shared:
        yield from track(_leading_of_shared_runs(whole, n_rows, seed), "Reducing runs", len(whole))
        return
    if all(4 * run.n_rows * run.n_neurons <= HOLD_BYTES for run in whole):
        tasks = block_map(lambda r: _begin(whole[r], n_rows[r], seed)(), range(len(whole)))
        yield from track(tasks, "Reducing runs", len(whole))
        return
    tasks = block_map(lambda call: call(), (_begin(run, k, seed) for run, k in zip(whole, n_rows)))
    yield from track(tasks, "Reducing runs", len(whole))


def _leading_of_shared_runs(whole, n_rows, seed):
    """Yield the leading pairs of every run; each process decomposes the products, over all neurons, of some runs."""
    columns = whole[0].columns
    owners, n = range(columns.n_owners), columns.n_owners
    for i in range(0, len(whole), n):
        some = [(owner, run, k) for owner, run, k in zip(owners, whole[i:], n_rows[i:]) if one_matrix(run.n_rows, k)]
        grams = ((owner, k, token_gram(run, owner)) for owner, run, k in some)
        mine = [(k, matrix) for owner, k, matrix in grams if owner == rank()]  # one matrix at most
        solved = [from_tokens(matrix, k, seed, overwrite=True) for k, matrix in mine]
        for owner, run, k in zip(owners, whole[i:], n_rows[i:]):
            if one_matrix(run.n_rows, k):
                found = solved[0] if owner == rank() else Leading.empty(run.n_rows, k, run.device)
                yield found.agreed(columns, owner)
            else:
                yield leading(run, k, seed, 0)


def _begin(run, k, seed):
    """Read a run with all workers, and return the call that finds its leading pairs with one."""
    n = run.n_rows
    if not is_tall(n, run.columns.n_neurons, k) and one_matrix(n, k):
        matrix = run.token_gram()
        if 8 * n * n <= AHEAD_BYTES:
            return partial(from_tokens, matrix, k, seed, overwrite=True)
        found = from_tokens(matrix, k, seed, overwrite=True)
    else:
        found = leading(run, k, seed, 0, single=True)  # all these rows get unit norm: their span is what counts
    return lambda: found


def run_rows(runs, r, n_rows):
    """Leading rows of one run at unit norm, the strongest first, ``(n, n_neurons)`` float32."""
    rows = runs.kept_rows(r, n_rows)
    if rows is not None:
        return rows
    found = _begin(_OneRun(runs, r), min(n_rows, runs.n_tokens[r] - 1), seed=0)()
    found = found[found.values > 1e-7 * found.values[0]]
    rows = found.right
    if rows is None:
        rows = _reduced(runs, r, (found.left / found.values.sqrt()).T)
    return runs.kept_rows(r, n_rows, rows)


def _reduced(runs, r, reduction, out=None):
    """``reduction @ X_r``, block by block of neurons."""
    small = reduction.float()
    out = torch.empty(len(small), runs.n_neurons, device=runs.device) if out is None else out

    def reduce(block):
        out[:, block[0] : block[1]] = product(small, runs.block(r, *block))

    run_blocks(reduce, runs.blocks(runs.n_tokens[r]))
    return out


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
    """Yield slices of neurons for a pass over rows ``(..., k, n_neurons)``."""
    size = STRIDE_GPU if z.device.type != "cpu" else max(1024, STRIDE_VALUES // z.shape[-2])
    for start in range(0, z.shape[-1], size):
        yield slice(start, min(start + size, z.shape[-1]))


def whiten(runs, subspace):
    """Project all runs on a subspace and make the rows white: ``Z @ Z.T / n_neurons`` is the identity."""
    return whiten_rows(project(runs, subspace), runs.columns)[0]


def whiten_rows(z, columns=WHOLE):
    """Centre rows ``(..., k, n_neurons)`` over neurons and make them white, in place.

    Returns them, and the matrices ``(..., k, k)``, float64, that made the centred rows white.
    """
    v = columns.count(z)
    sums = torch.zeros(z.shape[:-1], dtype=torch.float64, device=z.device)
    products = torch.zeros(*z.shape[:-1], z.shape[-2], dtype=torch.float64, device=z.device)

    def moments(where):
        part = z[..., where]
        return part.sum(-1, dtype=torch.float64), product(part, part.mT).double()

    for total, square in block_map(moments, strides(z)):
        sums += total
        products += square
    mean = columns.total(sums)[..., None] / v
    transform = columns.agreed(_white_transform(columns.total(products) / v - mean * mean.mT))
    mean, small = mean.float(), transform.float()

    def rotate(where):
        part = z[..., where]
        part -= mean
        part.copy_(product(small, part, out=temporary(*part.shape, device=z.device)))

    run_blocks(rotate, strides(z))
    return z, transform


def _white_transform(covariance):
    """Matrices that make data of these covariances white."""
    k = covariance.shape[-1]
    if covariance.device.type != "cpu":
        # a batch of eigendecompositions takes far longer on a GPU than all the rest
        factor = torch.linalg.cholesky_ex(covariance).L
        eye = torch.eye(k, dtype=factor.dtype, device=factor.device).expand_as(factor)
        return torch.linalg.solve_triangular(factor, eye, upper=False)
    values, vectors = torch.linalg.eigh(covariance)
    check_rank(values.reshape(-1, k).amin(0), k, "after centring over neurons")
    return vectors.mT / values.sqrt()[..., None]


class _OneRun:
    """One run of a group with the interface of the whole data."""

    def __init__(self, runs, r):
        self.runs, self.r, self.n_rows, self.device = runs, r, runs.n_tokens[r], runs.device
        self.n_neurons, self.columns, self.square = runs.n_neurons, runs.columns, None

    def token_gram(self):
        """Products between tokens, which the run may keep for other decompositions."""
        matrix = self.runs.kept_gram(self.r)
        if matrix is None:
            matrix = token_gram(self)
            self.runs.kept_gram(self.r, matrix)
        return matrix

    def blocks(self):
        return self.runs.blocks(self.n_rows)

    def stacked(self, start, stop):
        return self.runs.block(self.r, start, stop)

    def stacking(self, start, stop, out=None):
        return self.runs.stacking(start, stop, out, [self.r])

    def pieces(self):
        return self.runs.pieces([self.r])

    def piece(self, *where):
        return self.runs.piece(*where)


class _Stack:
    """The reduced rows of all runs: as products between neurons, in memory, or computed again for each block."""

    def __init__(self, runs, n_rows, do_cca):
        self.runs, self.device, self.n_neurons, self.do_cca = runs, runs.device, runs.n_neurons, do_cca
        self.reductions, self.heights, self.n_rows, self.columns = [], [], 0, runs.columns
        self.held = self.square = None
        total, v = sum(n_rows), runs.columns.n_neurons
        bytes_per_row = 4 * v // runs.columns.n_owners  # about the same in all processes
        size, limit = total * bytes_per_row, STACK_BYTES_TWICE if total <= GRAM_ROWS else STACK_BYTES
        any_tall = any(is_tall(n, v, k) for n, k in zip(runs.n_tokens, n_rows))
        # what other decompositions read again is kept
        self.keeps = do_cca and size <= STACK_BYTES and all(map(runs.keeps, range(len(n_rows))))
        self.wanted = n_rows
        if is_tall(total, v, max(n_rows)):
            self.square = torch.zeros(v, v, dtype=torch.float64, device=runs.device)
        elif any_tall or self.keeps or size <= max(limit, 0.4 * max(runs.n_tokens) * bytes_per_row):
            self.held = torch.empty(total, runs.n_neurons, device=runs.device)

    def add(self, found):
        """Add the next run, whose leading pairs are given."""
        r, first = len(self.reductions), self.n_rows
        found = found[found.values > found.values[:1] * 1e-10]
        scale = torch.ones_like(found.values) if self.do_cca else found.values.sqrt()
        reduction = None if found.left is None else (scale / found.values.sqrt())[:, None] * found.left.T
        self.reductions.append(reduction)
        self.heights.append(len(scale))
        self.n_rows += len(scale)
        if self.held is None and self.square is None:
            return
        rows = found.right
        if rows is None:
            rows = _reduced(self.runs, r, reduction, None if self.held is None else self.held[first : self.n_rows])
        elif not self.do_cca:
            rows = rows * scale[:, None].float()
        if self.square is not None:
            self.square += product(rows.T, rows)
            self.reductions[r] = None
        elif found.left is None:
            self.held[first : self.n_rows] = rows
        if self.held is not None and self.keeps and bool((found.values > 1e-7 * found.values[0]).all()):
            self.runs.kept_rows(r, self.wanted[r], self.held[first : self.n_rows])

    def leading(self, k, seed, at_least):
        """Leading pairs of all rows."""
        if self.square is None:
            return leading(self, k, seed, at_least)
        found = from_neurons(self.square, k, seed)
        return found if at_least == 0 else found[: check_rank(found.values, at_least or k, "common to the runs")]

    def pieces(self):
        """Yield the bounds of pieces of the rows in memory."""
        yield 0, self.n_rows

    def piece(self, first, last):
        """Return such a piece."""
        return self.held[first:last]

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
        """``rows @ stack`` of a stack in memory."""
        out = torch.empty(len(rows), self.runs.n_neurons, device=self.device)
        small = rows.float()

        def part(block):
            out[:, block[0] : block[1]] = product(small, self.stacked(*block))

        run_blocks(part, self.blocks())
        return out
