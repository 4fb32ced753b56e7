"""Group independent component analysis on arrays, on any device of torch."""

import warnings
from dataclasses import dataclass, field

import numpy as np

from ...arguments import checked, count, flag
from ...exceptions import NumericalWarning, ParameterError, is_number
from .contrasts import CONTRASTS
from .group_models import TRY_CONTRAST, TRY_STEPS, TRY_TOL, choose_subspace
from .ica import Rotations, batched_fastica, draw_rotations, fastica, sparsest_start
from .leading import is_tall
from .maps import order_and_sign, rotate
from .parallel import hand_back, workers
from .reduction import ROWS_PER_RUN, group_subspace, whiten
from .runs import CleanedRuns
from .sources import as_sources


@dataclass
class GroupICA:
    """Result of :func:`group_ica`.

    Attributes
    ----------
    maps : ndarray of shape (n_components, n_neurons), float32
        Unit-norm maps, centred over neurons, mutually orthogonal, by falling share of variance, peak positive.
    variance : ndarray of shape (n_components,)
        Share of the variance of the cleaned data that each map explains.
    n_iter, converged : ndarray of shape (n_init,)
        Steps of each start, and whether it met the tolerance.
    chosen : int
        The start that the maps come from.
    singular_values : ndarray of shape (n_components,)
        Of the group data.
    dead : ndarray of bool, shape (n_neurons,)
        Neurons that are constant or not finite in every run; their maps are 0.
    time_courses : list of ndarray (n_tokens, n_components) or None
        Courses of the maps by least squares on the cleaned runs.
    rotations : ndarray of shape (n_init, n_components, n_components)
        The rotation of each start; rows of two starts correlate as ``rotations[i] @ rotations[j].T``.
    group : str
        The group model that was used.
    flat : bool
        Whether the runs share more directions equally well than there are components; see :func:`warn_flat`.
    tail_weights : dict
        Tail weight of the maps of each group model, where both were tried.
    initial : tuple of two ndarrays or None
        For a dictionary: its initial maps, and their loadings ``(n_rows, n_components)``.
    """

    maps: np.ndarray
    variance: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray
    chosen: int
    singular_values: np.ndarray
    dead: np.ndarray
    time_courses: list
    rotations: np.ndarray
    group: str
    flat: bool = False
    tail_weights: dict = field(default_factory=dict)
    initial: tuple = None


def check_n_components(n_components, n_tokens, n_neurons):
    """Refuse a number of components that the data cannot carry, before any work is done."""
    if isinstance(n_components, bool) or not isinstance(n_components, (int, np.integer)) or n_components < 1:
        raise ParameterError(f"n_components must be a positive integer; got {n_components!r}.")
    limit = min(sum(n - 1 for n in n_tokens), n_neurons - 1)  # centring costs a direction in each run
    if n_components > limit:
        raise ParameterError(
            f"n_components={n_components}, but the runs hold only {sum(n_tokens)} tokens of {n_neurons} neurons, which "
            f"carry at most {limit} components. Use fewer components or record more text."
        )


@checked(n_components=count, do_cca=flag, detrend=flag, time_courses=flag, warn=flag)
def group_ica(
    runs,
    n_components=20,
    *,
    confounds=None,
    group="auto",
    rows_per_run=ROWS_PER_RUN,
    do_cca=True,
    n_init=10,
    contrast="cube",
    max_iter=200,
    tol=1e-4,
    detrend=False,
    standardize=True,
    random_state=0,
    device="auto",
    time_courses=True,
    warn=True,
):
    """Decompose runs into spatially independent maps: reduction, whitening, FastICA from several starts.

    The model is that of canonical ICA (Varoquaux et al. 2010) as nilearn computes it; ``group="runs",
    rows_per_run=1`` follows it step by step with exact instead of randomised decompositions. The data are read in
    blocks, so memory stays near that of the result.

    Parameters
    ----------
    runs : list of ndarray of shape (n_tokens, n_neurons)
        The runs; :class:`~llmbrain.networks.engines.sources.ArraySource` objects are taken too.
    n_components : int
        Number of maps.
    confounds : list of ndarray or None
        For each run None or ``(n_tokens, n_confounds)``.
    group : {"auto", "tokens", "runs"}
        ``"tokens"`` takes the leading subspace of all tokens, ``"runs"`` what the runs have in common (canonical ICA).
        ``"auto"`` tries both and keeps the one whose maps have heavier tails; see
        :func:`~llmbrain.networks.engines.group_models.choose_subspace`.
    rows_per_run : float
        For ``"runs"``: rows kept of each run, as a multiple of ``n_components``.
    do_cca : bool
        For ``"runs"``: bring the rows to unit norm before they are stacked.
    n_init : int
        Number of random starts; the one whose largest l1 norm of a map is smallest is kept, as in nilearn.
    contrast : {"cube", "logcosh"}
        Contrast of FastICA.
    max_iter, tol : int, float
        End of the iteration: largest number of steps, and the criterion of convergence.
    detrend, standardize : bool
        Cleaning, see :class:`~llmbrain.networks.engines.runs.CleanedRuns`.
    random_state : int or RandomState
        Seed of the starts. The decompositions themselves draw nothing.
    device : str
        Torch device; ``"auto"`` is the GPU if there is one.
    time_courses : bool
        Whether to return the courses.
    warn : bool
        Whether to warn about starts that did not converge, dead neurons and runs that are copies of each other.

    Returns
    -------
    GroupICA

    Raises
    ------
    ParameterError
        If the data cannot carry ``n_components``.

    Notes
    -----
    The processes of :mod:`llmbrain.parallel` share the neurons: each reads some columns of all runs. In every step of
    FastICA they exchange ``(n_init, n_components, n_components + 1)`` sums. All of them return the whole result.

    Examples
    --------
    >>> rng = np.random.RandomState(0)
    >>> maps = rng.laplace(size=(3, 500)) ** 3
    >>> run = rng.standard_normal((60, 3)) @ maps + rng.standard_normal((60, 500))
    >>> result = group_ica([run.astype("float32")], 3)
    >>> result.maps.shape, bool(result.converged.all())
    ((3, 500), True)
    """
    shared = can_share(runs, n_components, rows_per_run)
    data = CleanedRuns(runs, confounds, detrend=detrend, standardize=standardize, device=device, shared=shared)
    columns = data.columns
    check_n_components(n_components, data.n_tokens, columns.n_neurons)
    check_search(n_init, contrast, max_iter, tol)
    with workers(data.device):
        starts = columns.agreed(draw_rotations(n_init, n_components, random_state, data.device))
        options = {"rows_per_run": rows_per_run, "do_cca": do_cca}
        if group == "auto":
            choice = choose_subspace(data, n_components, start=starts[:1], **options)
            subspace, z, weights = choice.subspace, choice.z, choice.weights
            same_search = contrast == TRY_CONTRAST and max_iter >= TRY_STEPS and tol <= TRY_TOL
            begun = choice.begun if same_search else None
            del choice  # so that the maps can reuse the memory of the white data
        else:
            subspace, weights, begun = group_subspace(data, n_components, group=group, **options), {}, None
            hand_back()
            z = whiten(data, subspace)
        subspace.rows = None
        hand_back()
        found = _rotate(z, starts, contrast, max_iter, tol, begun, columns)
        chosen = sparsest_start(found.w, z, columns)
        hand_back()
        rotate(found.w[chosen].float(), z)
        dead = data.dead()
        z[:, dead.to(z.device)] = 0
        maps, order, signs, courses, variance = order_and_sign(data, z)
        data.release()
        hand_back()
        maps, dead = columns.whole(maps), columns.whole(dead)
    w = found.w.cpu()
    w[chosen] = w[chosen][order] * signs[:, None].double().cpu()
    if warn:
        warn_dead(dead, data)
        warn_flat(subspace)
        warn_convergence(found.converged, found.change.max())
    return GroupICA(
        maps=maps.numpy(),
        variance=variance,
        n_iter=found.n_iter,
        converged=found.converged,
        chosen=chosen,
        singular_values=subspace.values.sqrt().cpu().numpy(),
        dead=dead.numpy(),
        time_courses=courses if time_courses else None,
        rotations=w.numpy(),
        group=subspace.group,
        flat=subspace.flat,
        tail_weights=weights,
    )


def _rotate(z, starts, contrast, max_iter, tol, begun, columns):
    """FastICA from all starts; on a GPU without waiting for it at every step."""
    search = {"contrast": contrast, "max_iter": max_iter, "tol": tol, "columns": columns}
    if z.device.type == "cpu":
        return fastica(z, starts, **search, begun=begun)
    w, *rest = (part[0] for part in batched_fastica(z[None], starts[None], **search))
    return Rotations(w, *(part.cpu().numpy() for part in rest))


def can_share(runs, n_components, rows_per_run=ROWS_PER_RUN):
    """Whether processes can share the neurons: products between neurons, the cheaper ones, would need all of them."""
    sources = as_sources(runs)
    rows = max(n_components, round(rows_per_run * n_components))
    return not is_tall(sum(s.n_tokens for s in sources), sources[0].n_neurons, rows)


def check_search(n_init, contrast, max_iter, tol):
    """Refuse options of FastICA that are not allowed."""
    for name, value in (("n_init", n_init), ("max_iter", max_iter)):
        count(name, value)
    if not is_number(tol) or not tol > 0:
        raise ParameterError(f"tol={tol!r}: it must be a positive number.")
    CONTRASTS.check(contrast)


def warn_dead(dead, data, stacklevel=3):
    """Warn about neurons that are excluded."""
    n_bad = int(data.columns.total(data.bad.sum()))
    for n, what in ((n_bad, "hold NaN or infinite values"), (int(dead.sum()) - n_bad, "are constant in every run")):
        if n > 0:
            message = f"{n} of {data.columns.n_neurons} neurons {what}; they are excluded (their maps are 0)."
            warnings.warn(message, NumericalWarning, stacklevel=stacklevel)


def warn_flat(subspace):
    """Warn about runs that share more directions equally well than there are components."""
    if not subspace.flat:
        return
    used = {"tokens": "all tokens were decomposed together", "runs": "only one row per component was kept of each run"}
    warnings.warn(
        "The runs share more directions equally well than there are components: they are copies of each other, or have "
        "too few neurons for so many rows. Their common subspace does not show which directions are networks, so "
        f"{used[subspace.group]} (group={subspace.group!r}).",
        NumericalWarning,
        stacklevel=3,
    )


def warn_convergence(converged, change):
    """Warn about starts that did not converge; ``change`` is the largest last value of the criterion."""
    if not converged.all():
        n = converged.size
        warnings.warn(
            f"{n - int(converged.sum())} of {n} starts of FastICA did not converge (last change {change:.1e}). "
            "Components that hold only noise do not converge: use fewer components, or check which are stable.",
            NumericalWarning,
            stacklevel=3,
        )
