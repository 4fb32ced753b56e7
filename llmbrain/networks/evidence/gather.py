"""All the evidence on the networks of a recording: whether they are stable, what they are about, where they are."""

import warnings
from dataclasses import dataclass, replace

import numpy as np

from ...exceptions import NumericalWarning, ParameterError
from ...parallel import alone, gather, share, world_size
from ..connectivity import functional_connectivity
from ..result import NetworkSet, describe_maps

REPEATS = 20


@dataclass(frozen=True, repr=False)
class Evidence:
    """Evidence for and against the networks of a recording.

    Parameters
    ----------
    networks : NetworkSet
        The same networks, with iq, coverage, stability, split_half_r, icc, dice, label, artefact and flagged in their
        metrics.
    stability : DataFrame
        One row per network: iq and coverage of its cluster, r with its centrotype, stability (their product);
        split_half_r, dice and split_half_p (of the axes, against rotations in the subspace) between separately
        decomposed halves of the text; icc, the ICC(2,1) over neurons of the network's dual-regression maps in the two
        halves.
    interpretation : Interpretation or None
        None without events.
    engagement : DataFrame or None
        None with fewer than two kinds of text.
    profile : DataFrame
        One row per network, one column per layer: share of the squared weights.
    connectivity : Connectivity
    clusters : list of Icasso
        One for the whole model, or one per layer or window; maps in the flat order of neurons.
    """

    networks: object
    stability: object
    interpretation: object
    engagement: object
    profile: object
    connectivity: object
    clusters: list

    def __repr__(self):
        found = "labelled" if self.interpretation is not None else "without events"
        return f"Evidence({len(self.networks)} networks, {len(self.networks.flagged)} flagged, {found})"

    @property
    def centrotypes(self):
        """The centrotypes of all clusters as a :class:`NetworkSet`, the most stable of each part first.

        A centrotype is the estimate that is most similar to all others of its cluster: the map to use where single fits
        are unreliable. The metrics hold iq, coverage and stability, and unstable ones are flagged.
        """
        geometry, support = self.networks.geometry, self.networks.support
        if support is not None:
            rows = [rows[0] for rows, _ in _parts(self.networks)]
            support = np.repeat(support[rows], [len(c.maps) for c in self.clusters], axis=0)
        maps = np.concatenate([c.maps for c in self.clusters])
        table = {n: np.concatenate([getattr(c, n) for c in self.clusters]) for n in ("iq", "coverage", "stability")}
        metrics = describe_maps(maps, geometry, stability=table["stability"], support=support).assign(**table)
        info = {**self.networks.info, "maps": "centrotypes of ICASSO over bootstrapped runs"}
        return NetworkSet(maps, geometry, metrics, info, support=support)

    def save(self, study, name=None, *, settings=None):
        """Write the networks with their new metrics, and every table, into a study as one result; returns the paths.

        The parameters are those of :meth:`llmbrain.NetworkSet.save`.
        """
        tables = {"stability": self.stability, "profile": self.profile}
        tables |= {"connectivity": self.connectivity.to_frame(), "engagement": self.engagement}
        if self.interpretation is not None:
            tables |= {name: getattr(self.interpretation, name) for name in ("correlations", "tokens", "contexts")}
        return self.networks.save(study, name, tables=tables, settings=settings)


def gather_evidence(
    networks, recording, *, confounds=None, n_repeats=REPEATS, n_draws=99, random_state=0, device="auto"
):
    """Test whether networks are real, and describe what they are about.

    Stability is that of independent components; for a dictionary it shows whether its networks are also found as
    independent components.

    Parameters
    ----------
    networks : NetworkSet
        Networks of an estimator that was fitted to the recording.
    recording : Recording, Run, study, or list of runs, images, paths or arrays
        The runs of the fit.
    confounds : list of ndarray, DataFrame or path, optional
        The confounds of the fit, for each run ``(n_tokens, n_confounds)``.
    n_repeats : int
        Repetitions on bootstrapped runs (ICASSO).
    n_draws : int
        Draws of every null.
    random_state : int
    device : str
        Torch device of the decompositions; ``"auto"`` is the GPU if there is one.

    Returns
    -------
    Evidence

    Examples
    --------
    >>> from llmbrain.networks import CanICA
    >>> rng = np.random.default_rng(0)
    >>> maps = 3 * rng.normal(size=(3, 400)) * (rng.random((3, 400)) < 0.1)
    >>> runs = [rng.normal(size=(80, 3)) @ maps + rng.normal(size=(80, 400)) for _ in range(4)]
    >>> found = gather_evidence(CanICA(n_components=3).fit(runs).networks_, runs, n_repeats=5, n_draws=19)
    >>> found.networks.metrics["flagged"].tolist()
    [False, False, False]
    """
    import pandas as pd

    from ..engines.maps import least_squares_courses
    from ..engines.runs import CleanedRuns
    from ..engines.sources import keep_grams
    from ..inputs import as_confounds, load_runs

    runs = load_runs(recording, networks.geometry)
    recording = runs.recording
    networks.geometry.check_same(runs.geometry, "the recording")
    confounds = as_confounds(confounds, len(runs.sources))
    options = _options(networks, runs, device)

    def evidence_of(rows, neurons):
        sources = runs.sources if neurons is None else runs.part(neurons)
        keep_grams(sources)  # the decompositions of the data and of its halves share them
        maps, layer_of = networks.maps[rows], networks.geometry.layer_of
        maps, layer_of = (runs.read_order(x) if neurons is None else x[..., neurons] for x in (maps, layer_of))
        table, found = _stability(sources, confounds, maps, layer_of, n_repeats, n_draws, random_state, options)
        for source in sources:
            source.grams = None
        return table.assign(network=rows), _flat(found, runs, neurons)

    scores, clusters = zip(*_of_parts(evidence_of, list(_parts(networks))))
    stability = pd.concat(scores).sort_values("network").reset_index(drop=True)
    courses = networks.time_courses
    if courses is None or [len(c) for c in courses] != runs.n_tokens:
        courses = least_squares_courses(CleanedRuns(runs.sources, confounds), runs.read_order(networks.maps))
    interpretation, engagement = _texts(courses, recording, n_draws, random_state)
    completed = _complete(networks, stability, interpretation)
    connectivity = functional_connectivity([c[:, networks.maps.any(axis=1)] for c in courses])
    about = interpretation, engagement, _profile(networks), connectivity
    return Evidence(completed, stability, *about, list(clusters))


def _of_parts(evidence_of, parts):
    """Evidence of every part; several processes share the parts, or the repetitions of a single one."""
    import pandas as pd

    from .stability import Icasso

    if len(parts) == 1 or world_size() == 1:
        return [evidence_of(*part) for part in parts]
    own = {}
    with alone():
        for i in share(range(len(parts))):
            table, clusters = evidence_of(*parts[i])
            own |= {f"{i} table {name}": column.to_numpy() for name, column in table.items()}
            own |= {f"{i} clusters {name}": array for name, array in vars(clusters).items()}
    found = [{"table": {}, "clusters": {}} for _ in parts]
    for record in gather(own):
        for key, array in record.items():
            i, kind, name = key.split(" ", 2)
            found[int(i)][kind][name] = array
    return [(pd.DataFrame(f["table"]), Icasso(**f["clusters"])) for f in found]


def _options(networks, runs, device):
    """Options that repeat the decomposition of the networks, as far as their info holds them."""
    from ..engines.reduction import GROUP_MODELS, ROWS_PER_RUN, default_group

    given = networks.info.get("parameters") or {}
    group = networks.info.get("group")
    if group not in GROUP_MODELS:
        group = default_group(runs.n_tokens)
    return {
        "group": group,
        "rows_per_run": networks.info.get("rows_per_run", ROWS_PER_RUN),
        "detrend": bool(given.get("detrend") or False),
        "standardize": given.get("standardize", True) not in (None, False),
        "device": device,
        "contrast": (given.get("solver_params") or {}).get("contrast", "cube"),
    }


def _parts(networks):
    """Networks that were decomposed together: their rows, and their neurons (None for all)."""
    if networks.support is None:
        yield np.arange(len(networks)), None
        return
    _, first, group = np.unique(networks.support, axis=0, return_index=True, return_inverse=True)
    for k in np.argsort(first):  # in the order of the networks
        yield np.flatnonzero(group.ravel() == k), np.flatnonzero(networks.support[first[k]][networks.geometry.layer_of])


def _flat(clusters, runs, neurons):
    """The same clusters with their maps in the flat order of all neurons."""
    maps = np.zeros((len(clusters.maps), runs.geometry.n_neurons), np.float32)
    if neurons is None:
        neurons = slice(None) if runs.order is None else runs.order
    maps[:, neurons] = clusters.maps
    return replace(clusters, maps=maps)


def _stability(sources, confounds, maps, layer_of, n_repeats, n_draws, random_state, options):
    from .matching import match_maps
    from .order import draw_seeds, half_subspace, halves, sparsest_maps
    from .resampling import resampled_networks
    from .stability import score_networks, split_half

    reduction = {k: v for k, v in options.items() if k != "contrast"}
    alive = np.flatnonzero(maps.any(axis=1))
    n_components = max(len(alive), 1)
    search = {"n_repeats": n_repeats, "random_state": random_state, "confounds": confounds}
    clusters = resampled_networks(sources, n_components, **search, **options)
    table = score_networks(maps, clusters)
    rng = np.random.default_rng(random_state)
    sides, nuisance = halves(sources, confounds)
    limit = min(sum(s.n_tokens - 1 for s in side) for side in sides)
    if limit <= n_components:
        return table.assign(split_half_r=np.nan, icc=np.nan, dice=np.nan, split_half_p=np.nan), clusters
    seeds, own = [draw_seeds(3, rng) for _ in sides], {}
    for i in share(range(len(sides))):
        space = half_subspace(sides[i], n_components, confounds=nuisance[i], **reduction)
        own[str(i)] = sparsest_maps(space, n_components, seeds[i])
    found = {i: half for record in gather(own) for i, half in record.items()}
    found = [found[str(i)] for i in range(len(sides))]
    # a given network is represented by its match in the first half
    own = match_maps(maps, found[0]).index
    halves_table = split_half(*found, layer_of=layer_of, n_draws=n_draws, random_state=random_state)
    table["icc"] = _retest(sides, nuisance, maps)
    for name, column in (("split_half_r", "r"), ("dice", "dice"), ("split_half_p", "p_axes")):
        values = halves_table[column].abs() if column == "r" else halves_table[column]
        table[name] = np.where(own >= 0, values.to_numpy()[own], np.nan)
    return table, clusters


def _retest(sides, nuisance, maps):
    """ICC(2,1) over neurons of the networks' dual-regression maps in the two halves."""
    from ...stats import icc
    from .dual_regression import pooled_maps

    alive = np.flatnonzero(maps.any(axis=1))
    values = np.full(len(maps), np.nan)
    try:
        first, second = (pooled_maps(side, maps[alive], given) for side, given in zip(sides, nuisance))
    except ParameterError as error:
        warnings.warn(f"No test-retest ICC: {error}", NumericalWarning, stacklevel=4)
        return values
    values[alive] = [icc(np.stack(pair, axis=1), "ICC(2,1)") for pair in zip(first, second)]
    return values


def _texts(courses, recording, n_draws, random_state):
    """Interpretation, and engagement by kind of text, if there are events."""
    from ..meaning.interpretation import interpret
    from ..meaning.profiles import kind_engagement

    events = _events(recording)
    if events is None or [len(e) for e in events] != [len(c) for c in courses]:
        return None, None
    interpretation = interpret(courses, events, n_draws=n_draws, random_state=random_state)
    kinds = {k for e in events if "kind" in e and "document" in e for k in e["kind"].dropna().unique()}
    engagement = kind_engagement(courses, events, random_state=random_state) if len(kinds) > 1 else None
    return interpretation, engagement


def _events(recording):
    """Events of every run, or None if the runs have none."""
    from ..inputs import open_study

    runs = open_study(recording)
    runs = list(runs) if isinstance(runs, (list, tuple)) or hasattr(runs, "runs") else [runs]
    return [run.events for run in runs] if runs and all(hasattr(run, "events") for run in runs) else None


def _profile(networks):
    import pandas as pd

    from ..meaning.profiles import layer_profile

    geometry = networks.geometry
    table = pd.DataFrame(
        layer_profile(networks.maps, geometry.layer_of), columns=[f"layer-{n:02d}" for n in geometry.layers]
    )
    table.insert(0, "network", np.arange(len(table)))
    return table


def _complete(networks, stability, interpretation):
    """Return the networks with the evidence in their metrics."""
    metrics = networks.metrics.copy()
    for name in ("iq", "coverage", "stability", "split_half_r", "icc", "dice"):
        metrics[name] = stability[name].to_numpy()
    metrics["flagged"] = (metrics["n_neurons"] == 0) | ~stability["stable"].to_numpy()
    if interpretation is not None:
        metrics["label"] = interpretation.table["label"].to_numpy()
        metrics["artefact"] = interpretation.table["artefact"].to_numpy()
    info = {**networks.info, "stability": "ICASSO over bootstrapped runs: Iq x coverage x r of the map"}
    return NetworkSet(networks.maps, networks.geometry, metrics, info, networks.time_courses, networks.support)
