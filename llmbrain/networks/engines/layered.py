"""Many decompositions in one batch on a GPU: one per layer or window of layers.

Tokens and signals stay in bfloat16, whose rounding is far below the noise of any recording. Sums are float32, and
everything that decides about orthogonality is float64.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ...exceptions import ParameterError
from ...stats.precision import full_precision
from .group import GroupICA, check_n_components, warn_convergence, warn_dead
from .ica import batched_fastica, draw_rotations, sparsest_start
from .maps import order_maps
from .reduction import GROUP_MODELS, whiten_rows
from .runs import CleanedRuns
from .staging import room

TOGETHER = 16  # layers that are reduced together
ROWS = 1024  # tokens that are held in float32 at a time


@dataclass
class BatchedICA:
    """Result of :func:`layered_ica`, on the device."""

    maps: torch.Tensor  # (n_layers, n_components, n_signals), unit variance, by falling variance, peaks positive
    variance: torch.Tensor  # (n_layers, n_components), share of the variance of the layer
    n_iter: torch.Tensor  # (n_layers, n_init)
    converged: torch.Tensor  # (n_layers, n_init)
    change: torch.Tensor  # (n_layers, n_init), last value of the criterion
    chosen: torch.Tensor  # (n_layers,), the start that the maps come from
    rotations: torch.Tensor  # (n_layers, n_init, n_components, n_components) float64, of every start
    values: torch.Tensor  # (n_layers, n_components), leading eigenvalues of X^T X


def standardize_(x):
    """Z-score every column of ``(n_tokens, n_signals)`` in place; constant or non-finite columns become 0."""
    n = len(x)
    mean = sum(part.float().sum(0) for part in x.split(ROWS)) / n
    var = sum((part.float() - mean).square_().sum(0) for part in x.split(ROWS)) / (n - 1)
    scale = var.rsqrt()
    scale = torch.where(torch.isfinite(scale) & (var > (4e-7 * mean).square()), scale, 0)
    mean = torch.where(scale > 0, mean, 0)
    for part in x.split(ROWS):
        part.copy_(torch.nan_to_num((part.float() - mean) * scale, 0, 0, 0))
    return x


def leading_signals(group, k, *, n_iter=8, seed=0):
    """Leading right singular vectors of several matrices ``(n_tokens, n_signals)`` by subspace iteration.

    The large products run matrix by matrix, the small decompositions for all matrices at once. 32 more vectors make
    the ``n_iter`` iterations converge faster. Returns orthonormal rows ``(n, k, n_signals)`` float32, and the
    eigenvalues of ``X^T X`` ``(n, k)`` float64, descending.
    """
    p = min(k + 32, *(min(x.shape) for x in group))
    generator = torch.Generator().manual_seed(seed)
    starts = [torch.randn(len(x), p, generator=generator).to(x.device) for x in group]
    q = torch.stack([_multiply(x.mT, y) for x, y in zip(group, starts)])
    for _ in range(n_iter):
        q = _orthonormal(q)
        for i, x in enumerate(group):
            q[i] = _multiply(x.mT, _multiply(x, q[i]))
    q = _orthonormal(_orthonormal(q))
    values, rotation = torch.linalg.eigh(torch.stack([_gram64(_multiply(x, y)) for x, y in zip(group, q)]))
    return rotation.flip(-1)[..., :k].float().mT @ q.mT, values.flip(-1)[:, :k]


def _multiply(x, q):
    """``x @ q`` with the factors in the type of ``x`` and a float32 result."""
    if x.dtype == torch.float32:
        return x @ q
    if x.is_cuda:
        return torch.mm(x, q.to(x.dtype), out_dtype=torch.float32)
    return (x @ q.to(x.dtype)).float()


def _gram64(q):
    """``q.mT @ q`` in float64, from pieces, without a copy of ``q`` in float64."""
    return sum(part.double().mT @ part.double() for part in q.split(1 << 16, -2))


def _orthonormal(q):
    """Orthonormal columns of a batch by Cholesky QR in float64, shifted so that dependent columns do no harm."""
    q = q / torch.linalg.vector_norm(q, dim=-2, keepdim=True).clamp_min(1e-30)
    gram = torch.stack([_gram64(part) for part in q])
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky_ex(gram + 1e-12 * eye).L
    return q @ torch.linalg.solve_triangular(factor, eye.expand_as(gram), upper=False).mT.float()


@full_precision()
def layered_ica(
    layers,
    n_components=128,
    *,
    n_init=1,
    standardize=True,
    n_power=8,
    contrast="cube",
    max_iter=300,
    tol=1e-4,
    random_state=0,
    numbers=None,
):
    """Decompose each layer by itself, all in one batch: subspace iteration, whitening, FastICA.

    Layers, ``(n_tokens, n_signals)``, are z-scored in place; on a GPU they should be bfloat16. Of a generator, 16
    layers are on the device at a time. Of ``n_init`` starts, the sparsest is kept. ``n_power`` is the
    ``n_iter`` of :func:`leading_signals`. ``numbers`` are those of the layers among more, on which the starts depend.
    """
    state = random_state if isinstance(random_state, np.random.RandomState) else np.random.RandomState(random_state)
    drawn = random_state is None or random_state is state
    seed = int(state.randint(np.iinfo(np.int32).max) if drawn else random_state)
    rows, values, totals = [], [], []
    for group in _groups(layers, n_components):
        group = [standardize_(x) for x in group] if standardize else group
        row, value = leading_signals(group, n_components, n_iter=n_power, seed=seed)
        rows.append(row)
        values.append(value)
        totals += [(len(x) - 1) * x.shape[1] if standardize else float(x.float().square().sum()) for x in group]
    z, transform = whiten_rows(torch.cat(rows))
    values, totals = torch.cat(values), torch.tensor(totals, dtype=torch.float64, device=z.device)
    numbers = list(range(len(z)) if numbers is None else numbers)
    starts = draw_rotations((max(numbers) + 1) * n_init, n_components, state, z.device)
    starts = starts.reshape(-1, n_init, n_components, n_components)[numbers]
    rotations, n_iter, converged, change = batched_fastica(z, starts, contrast=contrast, max_iter=max_iter, tol=tol)
    chosen = torch.tensor([sparsest_start(w, white) for w, white in zip(rotations, z)], device=z.device)
    w = rotations[torch.arange(len(z), device=z.device), chosen]
    maps = w.float() @ z
    # a map is a combination of singular vectors, and their eigenvalues are the variance that each explains
    mixing = w @ transform
    mixing = mixing / torch.linalg.vector_norm(mixing, dim=-1, keepdim=True)
    share = (mixing.square() @ values[..., None])[..., 0] / totals[:, None]
    variance, order = share.sort(-1, descending=True)
    maps = maps.gather(1, order[..., None].expand_as(maps))
    maps *= torch.where(maps.amax(-1) < -maps.amin(-1), -1.0, 1.0)[..., None]
    return BatchedICA(maps, variance, n_iter, converged, change, chosen, rotations, values)


def _groups(layers, n_components):
    """Lists of up to ``TOGETHER`` checked layers."""
    group = []
    for x in layers:
        if x.ndim != 2 or n_components > min(x.shape[0] - 1, x.shape[1] - 1):
            raise ParameterError(
                f"n_components={n_components} needs more tokens and more signals in every layer; got {tuple(x.shape)}."
            )
        group.append(x)
        if len(group) == TOGETHER:
            yield group
            group = []
    if group:
        yield group


def can_batch(parts, device, group):
    """Whether parts can be decomposed in one batch: on a GPU, with equal widths, by a group model that allows it."""
    if torch.device(device).type != "cuda" or len(parts) < 2:
        return False
    widths = {sources[0].n_neurons for sources in parts}
    return len(widths) == 1 and (GROUP_MODELS[group].batched or len(parts[0]) == 1)


def group_ica_of_parts(
    parts,
    n_components=20,
    *,
    confounds=None,
    n_init=10,
    contrast="cube",
    max_iter=200,
    tol=1e-4,
    detrend=False,
    standardize=True,
    random_state=0,
    device="auto",
    dtype=torch.bfloat16,
    numbers=None,
):
    """Decompose parts by themselves, as :func:`~llmbrain.networks.group_ica` with ``group="tokens"`` would.

    A part is a list of runs; all parts have the same number of neurons. Those with the given ``numbers`` are
    decomposed, by default all. The cleaned tokens lie on the device as ``dtype``.
    """
    numbers = range(len(parts)) if numbers is None else numbers
    data = [CleanedRuns(parts[i], confounds, detrend=detrend, standardize=standardize, device=device) for i in numbers]
    check_n_components(n_components, data[0].n_tokens, data[0].n_neurons)
    if _fit(data):  # each is read once then, not again for its courses
        for d in data:
            d.hold()
    found = layered_ica(
        (d.stacked(0, d.n_neurons).to(dtype) for d in data),
        n_components,
        n_init=n_init,
        standardize=False,
        contrast=contrast,
        max_iter=max_iter,
        tol=tol,
        random_state=random_state,
        numbers=numbers,
    )
    values = found.values.sqrt().cpu().numpy()
    if not torch.isfinite(found.maps).all():
        raise ParameterError(f"n_components={n_components}, but a part has fewer independent directions than that.")
    results = []
    for i, d in enumerate(data):
        results.append(_result(d, found, i, values[i]))
        d.release()
    for d, result in zip(data, results):
        warn_dead(torch.from_numpy(result.dead), d)
    warn_convergence(found.converged.cpu().numpy(), float(found.change.max()))
    return results


def _fit(data):
    """Whether half of the free memory of the device holds all tokens of all parts."""
    return 2 * sum(d.n_rows * d.n_neurons * 4 for d in data) < room(data[0].device)


def _result(data, found, i, values):
    dead = data.dead()
    maps, courses, variance = order_maps(data, found.maps[i].masked_fill_(dead.to(data.device), 0))
    return GroupICA(
        maps=maps,
        variance=variance,
        n_iter=found.n_iter[i].cpu().numpy(),
        converged=found.converged[i].cpu().numpy(),
        chosen=int(found.chosen[i]),
        singular_values=values,
        dead=dead.numpy(),
        time_courses=courses,
        rotations=found.rotations[i].cpu().numpy(),
        group="tokens",
    )
