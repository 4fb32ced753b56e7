"""The number of components, chosen by the number of networks that two halves of the text share."""

from dataclasses import dataclass, field

import numpy as np

from ...arguments import checked, count, whole
from ...dataset import as_study, write_result
from ...exceptions import ParameterError
from ...parallel import gather, share
from ..engines.progress import track
from ..engines.reduction import default_group
from ..engines.sources import ArraySource, as_sources
from ..inputs import load_runs
from .matching import match_maps
from .noise import explained_variance, marchenko_pastur_count, parallel_analysis, standardized_sample
from .resampling import ROWS_PER_COMPONENT, cut_blocks, decompose, draw_seed, joint_subspace

REPRODUCED = 0.7  # a network counts as found again if its maps in two halves have at least this correlation


def half_spans(n_tokens):
    """Divide runs of given lengths into two halves that share no text: every other run, or piece of a few runs.

    Returns two lists of (run, start, stop).
    """
    spans = [(r, 0, n) for r, n in enumerate(n_tokens)]
    if len(n_tokens) < 4:
        spans = []
        for r, labels in enumerate(cut_blocks(n_tokens, minimum=8)):
            cuts = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1, append=labels[-1] + 1))
            spans += [(r, int(start), int(stop)) for start, stop in zip(cuts, cuts[1:])]
    return spans[::2], spans[1::2]


def halves(runs, confounds=None):
    """Split runs into two halves of sources, see :func:`half_spans`, and their confounds in the same way."""
    sources = as_sources(runs)
    if confounds is not None and (not isinstance(confounds, list | tuple) or len(confounds) != len(sources)):
        raise ParameterError(f"confounds must be a list of one table for each of {len(sources)} runs.")
    sides, nuisance = [], []
    for spans in half_spans([s.n_tokens for s in sources]):
        side = []
        for r, start, stop in spans:
            source = sources[r]
            if (start, stop) == (0, source.n_tokens):
                side.append(source)
                continue
            opened = lambda s=source, a=start, b=stop: s.open()[a:b]  # noqa: E731
            side.append(ArraySource(opened, stop - start, source.n_neurons, source.columns, source.scale))
        sides.append(side)
        parts = None
        if confounds is not None:
            parts = [None if confounds[r] is None else np.asarray(confounds[r])[a:b] for r, a, b in spans]
        nuisance.append(parts)
    return sides, nuisance


@checked(grid=whole)
def split_half_curve(runs, grid, *, n_init=3, confounds=None, random_state=0, **reduction):
    """Decompose two halves of the data with each number of components and count the networks that they share.

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons), or sources
    grid : sequence of int
        Numbers of components.
    n_init : int
        Starts of each decomposition; the sparsest result is kept.
    confounds : list of arrays, optional
    random_state : int, numpy Generator or None
    **reduction
        ``group``, ``detrend``, ``standardize`` and ``device``, as in :func:`~llmbrain.networks.group_ica`.

    Returns
    -------
    DataFrame
        n_components; n_reproduced (one-to-one pairs with an absolute correlation of at least ``REPRODUCED``); share
        (of the components); mean_r and median_r of all pairs.
    """
    import pandas as pd

    grid = sorted({int(k) for k in grid})
    rng = np.random.default_rng(random_state)
    sides, nuisance = halves(runs, confounds)
    if reduction.get("group", "auto") == "auto":
        # the default for the whole data, not for the shorter halves
        reduction["group"] = default_group([s.n_tokens for side in sides for s in side])
    limit = min(sum(s.n_tokens - 1 for s in side) for side in sides)
    if not grid or grid[0] < 1 or grid[-1] > limit:
        raise ParameterError(
            f"The grid {grid} must lie between 1 and {limit}, the largest number that half of the tokens allow."
        )
    spaces = [half_subspace(side, grid[-1], confounds=c, **reduction) for side, c in zip(sides, nuisance)]
    seeds = {k: [draw_seeds(n_init, rng) for _ in spaces] for k in grid}
    rows = {}
    for k in track(share(grid, costs=grid), "Numbers of components"):  # several processes share the numbers
        a, b = (sparsest_maps(space, k, own) for space, own in zip(spaces, seeds[k]))
        r = np.abs(match_maps(a, b).score)
        found = int((r >= REPRODUCED).sum())
        rows[str(k)] = [k, found, found / k, float(r.mean()), float(np.median(r))]
    rows = {k: row for record in gather(rows) for k, row in record.items()}
    table = [rows[str(k)] for k in grid]
    return pd.DataFrame(table, columns=["n_components", "n_reproduced", "share", "mean_r", "median_r"])


def half_subspace(side, n_components, **reduction):
    """Reduce one half, for decompositions of whole runs into up to `n_components` networks; a JointSubspace."""
    blocks = cut_blocks([s.n_tokens for s in side], minimum=1)
    return joint_subspace(side, ROWS_PER_COMPONENT * n_components, blocks=blocks, **reduction)


def draw_seeds(n_init, rng):
    """Draw the seeds of the starts of :func:`sparsest_maps`."""
    return [draw_seed(rng) for _ in range(n_init)]


def sparsest_maps(space, n_components, seeds):
    """Maps of the sparsest of several decompositions of a joint subspace, (n_components, n_neurons)."""
    weights = np.ones(len(space.covariances))
    maps = [decompose(space, weights, n_components, seed).astype(np.float32) @ space.rows for seed in seeds]
    return min(maps, key=lambda m: np.abs(m).sum(axis=1).max())


@dataclass(frozen=True, repr=False)
class Order:
    """A number of components and the evidence for it."""

    n_components: int
    marchenko_pastur: int  # number of directions above the noise edge
    parallel: int  # number of directions above the null of parallel analysis
    curve: object  # DataFrame of :func:`split_half_curve`
    spectrum: object  # DataFrame: component, eigenvalue, share, cumulative, null (bound of parallel analysis)
    info: dict = field(default_factory=dict)  # sizes and settings

    def __repr__(self):
        return f"Order(n_components={self.n_components}, parallel={self.parallel}, noise edge={self.marchenko_pastur})"

    def save(self, study, name="canica"):
        """Write the curve (TSV) and the choice (JSON) into a study under a name; returns the paths."""
        chosen = {name: int(getattr(self, name)) for name in ("n_components", "marchenko_pastur", "parallel")}
        sources = {"recording": self.info.get("recording")}
        info = {**chosen, **self.info}
        return write_result(as_study(study), "order", name, {"order": self.curve}, info, sources=sources).paths


def default_grid(limit):
    """Numbers of components to try: 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, up to `limit`."""
    grid = [5, 10, 15, 20, 30, 40, 60, 80, 120, 160]
    return [k for k in grid if k <= limit] or [max(1, limit)]


@checked(grid=whole, largest=count)
def choose_n_components(
    runs, *, largest=80, grid=None, n_draws=5, n_init=3, confounds=None, random_state=0, **reduction
):
    """Choose the number of components, as ``n_components="auto"`` does.

    The candidates are the numbers of the grid up to that of parallel analysis. Among those of which at least half of
    the networks are found again in the other half of the text, the one with most such networks is chosen; of equals the
    smaller. (In language models a larger number always adds a few reproducible networks among ever more that are not.)
    Somewhat too many components are harmless, since surplus ones are unstable and flagged; too few merge networks.

    Parameters
    ----------
    runs : Recording, Run, path of a study, or list of runs, images, paths or arrays (n_tokens, n_neurons)
    largest : int
        Upper end of the default grid.
    grid : sequence of int, optional
    n_draws : int
        Draws of parallel analysis.
    n_init : int
        Starts of each decomposition.
    confounds : list of arrays, optional
    random_state : int, numpy Generator or None
    **reduction
        ``group``, ``detrend``, ``standardize`` and ``device``, as in :func:`~llmbrain.networks.group_ica`.

    Returns
    -------
    Order
    """
    import pandas as pd

    recording = None
    if not isinstance(runs, (list, tuple)) or not all(isinstance(run, ArraySource) for run in runs):
        loaded = load_runs(runs)
        runs, recording = loaded.sources, loaded.info.get("recording")
    sample = standardized_sample(runs, confounds=confounds, random_state=random_state)
    n_tokens, n_neurons = sum(len(x) for x in sample) - len(sample), sample[0].shape[1]
    parallel, eigenvalues, bound = parallel_analysis(sample, n_draws=n_draws, random_state=random_state)
    beyond, edge = marchenko_pastur_count(sample)
    half = min(sum(s.n_tokens - 1 for s in side) for side in halves(runs)[0])
    limit = min(max(parallel, 1), half, largest)
    grid = default_grid(limit) if grid is None else grid
    curve = split_half_curve(runs, grid, n_init=n_init, confounds=confounds, random_state=random_state, **reduction)
    share, cumulative = explained_variance(eigenvalues)
    table = pd.DataFrame(
        {
            "component": np.arange(len(eigenvalues)),
            "eigenvalue": eigenvalues,
            "share": share,
            "cumulative": cumulative,
            "null": bound,
        }
    )
    info = {"n_tokens": n_tokens, "n_neurons_sampled": n_neurons, "noise_bound": edge, "reproduced_at": REPRODUCED}
    info |= {"recording": recording} if recording else {}
    return Order(_best(curve), beyond, parallel, curve, table, info)


def _best(curve):
    """Number with most reproduced networks, among those of which at least half are reproduced."""
    trusted = curve[curve["share"] >= 0.5]
    if trusted.empty:
        return int(curve["n_components"][curve["share"].idxmax()])
    return int(trusted["n_components"][trusted["n_reproduced"].idxmax()])
