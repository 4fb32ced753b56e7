"""Sparse dictionaries by full passes over all neurons.

The problem is that of Mensch et al. (2016) as nilearn poses it: write reduced rows ``X`` (n_rows, n_neurons) as ``D C``
with unit atoms ``D`` (n_rows, n_components) and sparse maps ``C`` so that ``1/2 |X - D C|^2 + alpha |C|_1`` is minimal.
nilearn learns online from a few thousand random neurons; here every pass codes all neurons.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ...exceptions import NumericalWarning, ParameterError
from .columns import WHOLE
from .group import GroupICA, can_share, check_n_components, warn_dead, warn_flat
from .ica import draw_rotations, fastica
from .linalg import gram, product
from .maps import order_maps
from .parallel import block_map, workers
from .progress import track
from .reduction import group_subspace, project, whiten_rows
from .runs import CleanedRuns

BLOCK = 1 << 16  # values of a block of codes, which stays in the cache during a whole sweep
SWEEPS = 3  # of coordinate descent over the components in each pass over the neurons


@dataclass
class Dictionary:
    """Outcome of :func:`sparse_dictionary`."""

    codes: torch.Tensor  # (n_components, n_neurons)
    atoms: torch.Tensor  # (n_rows, n_components)
    first_atoms: torch.Tensor
    objective: list
    converged: bool


def sparse_dictionary(x, codes, alpha, *, n_epochs=100, tol=1e-4, columns=WHOLE):
    """Minimise the objective by coding all neurons (coordinate descent) and updating the atoms in turn.

    ``x`` is ``(n_rows, n_neurons)``; ``codes``, the initial maps ``(n_components, n_neurons)``, are overwritten. The
    iteration ends after ``n_epochs`` passes, or when the objective falls by a smaller share than ``tol``. The update of
    the atoms is algorithm 2 of Mairal et al. (2010), JMLR 11, 19-60. Processes that share the neurons exchange the
    products of rows and codes in every pass.
    """
    total = sum(block_map(lambda b: float(x[:, b].square().sum(dtype=torch.float64)), _slices(x)))
    total = columns.number(total)
    atoms = first = _first_atoms(x, codes, columns)
    codes.zero_()
    history, converged = [], False
    for _ in track(range(n_epochs), "Dictionary, passes at most"):
        inner, cross, l1 = _code(x, codes, atoms, alpha, columns)
        fit = total - 2 * float((cross * atoms).sum()) + float((gram(atoms.T) * inner).sum())
        history.append(columns.agreed_number(0.5 * fit + alpha * l1))
        if len(history) > 1 and history[-2] - history[-1] < tol * history[-2]:
            converged = True
            break
        atoms = columns.agreed(_update_atoms(atoms, inner, cross))
    return Dictionary(codes, atoms, first, history, converged)


def _first_atoms(x, maps, columns):
    """Unit loadings of maps by least squares, float64."""
    cross = sum(block_map(lambda b: product(x[:, b], maps[:, b].T).double(), _slices(x)))
    inner = sum(block_map(lambda b: gram(maps[:, b]).double(), _slices(x)))
    atoms = columns.agreed(columns.total(cross) @ torch.linalg.pinv(columns.total(inner), hermitian=True))
    norms = torch.linalg.vector_norm(atoms, dim=0)
    return atoms / torch.where(norms > 0, norms, 1)


def _slices(x, size=1 << 14):
    return [slice(i, min(i + size, x.shape[1])) for i in range(0, x.shape[1], size)]


def _code(x, codes, atoms, alpha, columns):
    """Coordinate descent on the codes of all neurons, in place; returns ``C C^T``, ``X C^T`` and ``|C|_1``."""
    n = len(codes)
    small, d = gram(atoms.T.contiguous()), atoms.float()
    diagonal = small.diagonal().clone()
    used = torch.nonzero(diagonal > 1e-12).ravel().tolist()
    off = (small - torch.diag(diagonal)).float()
    inverse = (1 / diagonal.clamp_min(1e-12)).tolist()

    def work(block):
        c, target = codes[:, block].contiguous(), product(d.T.contiguous(), x[:, block])
        for _ in range(SWEEPS):
            for j in used:
                row = target[j] - product(off[j : j + 1], c)[0]
                c[j] = torch.nn.functional.softshrink(row, alpha).mul_(inverse[j])
        codes[:, block] = c
        return gram(c).double(), product(x[:, block], c.T).double(), float(c.abs().sum(dtype=torch.float64))

    inner = torch.zeros(n, n, dtype=torch.float64, device=x.device)
    cross, l1 = torch.zeros(len(x), n, dtype=torch.float64, device=x.device), 0.0
    size = max(256, BLOCK // n) if x.device.type == "cpu" else x.shape[1]
    for a, b, s in block_map(work, _slices(x, size)):
        inner += a
        cross += b
        l1 += s
    return columns.total(inner), columns.total(cross), columns.number(l1)


def _update_atoms(atoms, inner, cross):
    """Block coordinate descent over the atoms; atoms that no neuron uses are not changed."""
    atoms = atoms.clone()
    scale = inner.diagonal().max()
    for _ in range(2):
        for j in range(atoms.shape[1]):
            weight = inner[j, j]
            if weight <= 1e-12 * scale:
                continue
            new = atoms[:, j] + (cross[:, j] - atoms @ inner[:, j]) / weight
            atoms[:, j] = new / torch.linalg.vector_norm(new).clamp_min(1e-30)
    return atoms


def group_dictionary(
    runs,
    n_components=20,
    *,
    alpha="auto",
    init=None,
    confounds=None,
    group="auto",
    rows_per_run=2,
    n_epochs=100,
    tol=1e-4,
    detrend=False,
    standardize=True,
    random_state=0,
    device="auto",
    warn=True,
):
    """Decompose runs into sparse maps, starting from independent components or from the maps ``init``.

    ``alpha`` is the weight of the l1 norm; its natural size grows with the square root of the number of tokens, and
    ``"auto"`` is ``0.1 * sqrt(n_tokens)``. ``rows_per_run`` is the number of rows kept of the data, as a multiple of
    ``n_components``. The other parameters are those of :func:`~llmbrain.networks.group_ica` and
    :func:`sparse_dictionary`. In the result, ``n_iter`` and ``converged`` have one element.
    """
    shared = can_share(runs, n_components, rows_per_run)
    data = CleanedRuns(runs, confounds, detrend=detrend, standardize=standardize, device=device, shared=shared)
    columns = data.columns
    check_n_components(n_components, data.n_tokens, columns.n_neurons)
    alpha = 0.1 * data.n_rows**0.5 if alpha == "auto" else float(alpha)
    with workers(data.device):
        rows = min(round(rows_per_run * n_components), sum(n - 1 for n in data.n_tokens), columns.n_neurons - 1)
        subspace = group_subspace(data, rows, group=group, rows_per_run=1, do_cca=False, at_least=n_components)
        x = project(data, subspace)
        x *= subspace.values.sqrt().float()[:, None]
        codes = _begin(x, subspace, n_components, random_state, columns) if init is None else _given(init, data)
        begun = columns.whole(codes).numpy().copy()
        data.release()
        found = sparse_dictionary(x, codes, alpha, n_epochs=n_epochs, tol=tol, columns=columns)
    alive = columns.total((found.codes != 0).sum(1))
    if not bool(alive.any()):
        raise ParameterError(f"alpha={alpha:g} leaves no neuron in any map; use a smaller one (0.1 * sqrt(n_tokens)).")
    if warn and not found.converged:
        warnings.warn(
            f"The dictionary did not converge in {n_epochs} passes (last change of the objective "
            f"{1 - found.objective[-1] / found.objective[-2] if n_epochs > 1 else float('nan'):.1e}).",
            NumericalWarning,
            stacklevel=2,
        )
    dead = data.dead()
    if warn:
        warn_dead(dead, data)
        warn_flat(subspace)
    found.codes[:, dead.to(found.codes.device)] = 0
    maps, courses, variance = order_maps(data, found.codes)
    maps, dead = columns.whole(torch.from_numpy(maps)).numpy(), columns.whole(dead)
    return GroupICA(
        maps=maps,
        variance=variance,
        n_iter=np.array([len(found.objective)]),
        converged=np.array([found.converged]),
        chosen=0,
        singular_values=subspace.values.sqrt().cpu().numpy(),
        dead=dead.numpy(),
        time_courses=courses,
        rotations=np.eye(n_components)[None],
        group=subspace.group,
        flat=subspace.flat,
        initial=(begun, found.first_atoms.cpu().numpy()),
    )


def _begin(x, subspace, n_components, random_state, columns):
    """Independent components of the leading rows, from one start."""
    z, _ = whiten_rows(x[:n_components] / subspace.values[:n_components].sqrt().float()[:, None], columns)
    start = columns.agreed(draw_rotations(1, n_components, random_state, z.device))
    return product(fastica(z, start, columns=columns).w[0].float(), z)


def _given(init, data):
    maps = np.array(init, np.float32)
    columns = data.columns
    if maps.ndim != 2 or maps.shape[1] != columns.n_neurons:
        raise ParameterError(f"init must be (n_components, {columns.n_neurons}); got {maps.shape}.")
    return torch.from_numpy(maps[:, columns.first : columns.last]).contiguous().to(data.device)
