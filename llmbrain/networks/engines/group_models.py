"""Choice of the group model by the tails of the maps; docs/networks.md says why."""

from dataclasses import dataclass

import torch

from .columns import WHOLE
from .ica import Rotations, fastica
from .leading import check_rank, from_tokens, is_tall, one_matrix, token_gram
from .linalg import leading_eigenpairs, product
from .parallel import block_map, hand_back, temporary
from .reduction import ROWS_PER_RUN, Subspace, group_subspace, is_flat, strides, whiten

HEAVIER = 1.03  # tail weights of equally good models differ a little by chance; "tokens" is kept below this ratio
TRY_CONTRAST, TRY_STEPS, TRY_TOL = "cube", 100, 1e-4  # of FastICA, for the maps whose tails are compared
KEEP_SHARE = 0.25  # of a run: white data up to this size are kept while those of the other model are computed


@dataclass
class Choice:
    """Outcome of :func:`choose_subspace`."""

    subspace: Subspace
    z: torch.Tensor  # white rows (n_components, n_neurons)
    weights: dict  # group model -> tail weight of its maps, if both were tried
    begun: Rotations = None  # result of FastICA from ``start``


def choose_subspace(data, n_components, *, rows_per_run=ROWS_PER_RUN, do_cca=True, start=None):
    """Reduce a group of runs with both group models and keep the one whose independent maps have heavier tails.

    ``"tokens"`` is kept unless the tails of ``"runs"`` are heavier by more than 3 %, and also where the runs are copies
    of each other. With too many tokens and too many neurons for one matrix of products (4,096, or 80 per component)
    ``"runs"`` is chosen without a comparison. For a single run the two models are the same. FastICA begins at the
    rotation ``start``, ``(1, n_components, n_components)``.
    """
    options = {"rows_per_run": rows_per_run, "do_cca": do_cca}
    if len(data.sources) == 1 or not one_matrix(min(data.n_rows, data.columns.n_neurons), n_components):
        group = "tokens" if len(data.sources) == 1 else "runs"
        subspace = group_subspace(data, n_components, group=group, **options)
        return Choice(subspace, whiten(data, subspace), {})
    if is_tall(data.n_rows, data.columns.n_neurons, n_components):
        data.square = torch.zeros(data.n_neurons, data.n_neurons, dtype=torch.float64, device=data.device)
        runs = group_subspace(data, n_components, group="runs", **options)  # adds its products between neurons there
        tokens = group_subspace(data, n_components, group="tokens", **options)
        data.square = None
    else:
        data.hold()
        matrix = token_gram(data)
        tokens = _tokens_from_gram(matrix, data, n_components)
        runs = _runs_from_gram(matrix, data, n_components, **options)
        del matrix
    if is_flat(runs.values):  # rare, so the full test, which costs another reduction, is made only now
        runs = group_subspace(data, n_components, group="runs", **options)
        if runs.flat:
            tokens.flat = True
            return Choice(tokens, whiten(data, tokens), {})
    weights, begun, white = {}, {}, {}
    for subspace in (tokens, runs):
        if n_components > KEEP_SHARE * max(data.n_tokens) and subspace.rows is None:
            white.clear()  # computing it again, if it is the better one, costs less than holding two
        hand_back()
        white[subspace.group] = z = whiten(data, subspace)
        search = {"contrast": TRY_CONTRAST, "max_iter": TRY_STEPS, "tol": TRY_TOL, "columns": data.columns}
        begun[subspace.group] = found = fastica(z, start, **search)
        weights[subspace.group] = tail_weight(found.w[0], z, data.columns)
        del z
    best = runs if weights["runs"] > HEAVIER * weights["tokens"] else tokens
    z = white.pop(best.group, None)
    white.clear()
    if z is None:
        hand_back()
        z = whiten(data, best)
    return Choice(best, z, weights, begun[best.group])


def tail_weight(w, z, columns=WHOLE):
    """Mean over maps of ``log(1 + excess kurtosis)``; a negative excess counts as 0."""
    rows, total = w.float(), torch.zeros(len(w), dtype=torch.float64, device=z.device)

    def fourth(where):
        out = temporary(len(rows), where.stop - where.start, device=z.device)
        return product(rows, z[:, where], out=out).square_().square_().sum(1, dtype=torch.float64)

    for part in block_map(fourth, strides(z)):
        total += part
    return float((columns.total(total) / columns.count(z) - 3).clamp_min(0).log1p().mean())


def _tokens_from_gram(matrix, data, k):
    """Leading subspace of all tokens, from their Gram matrix."""
    found = from_tokens(matrix, k).agreed(data.columns)
    values, vectors = found.values, found.left
    check_rank(values, k, "in the cleaned data")
    return Subspace(list((vectors.T / values.sqrt()[:, None]).split(data.n_tokens, 1)), values, "tokens")


def _runs_from_gram(matrix, data, n_components, rows_per_run, do_cca):
    """Canonical subspace of the runs, from the Gram matrix of all tokens, which is overwritten."""
    reductions, first = [], 0
    for n in data.n_tokens:
        k = min(max(n_components, round(rows_per_run * n_components)), n - 1)
        values, vectors = leading_eigenpairs(matrix[first : first + n, first : first + n].contiguous(), k)
        keep = values > values[0] * 1e-6
        scale = values[keep].rsqrt() if do_cca else torch.ones_like(values[keep])
        reductions.append(scale[:, None] * vectors[:, keep].T)
        first += n
    m, n = sum(map(len, reductions)), 0
    place = matrix.view(-1)  # no row of the result is longer, or ends later, than the rows it is computed from
    for a, block in zip(reductions, matrix.split(data.n_tokens)):
        rows = torch.cat([a @ part @ b.T for b, part in zip(reductions, block.split(data.n_tokens, 1))], 1)
        place[n : n + rows.numel()] = rows.flatten()
        n += rows.numel()
    values, vectors = leading_eigenpairs(place[: m * m].view(m, m), n_components, overwrite=True)
    values = data.columns.agreed(values)
    check_rank(values, n_components, "common to the runs")
    parts = (vectors.T / values.sqrt()[:, None]).split([len(p) for p in reductions], 1)
    projections = [data.columns.agreed(a @ b) for a, b in zip(parts, reductions)]
    return Subspace(projections, values, "runs")
