"""Functional localizers: neurons that respond more to one condition than to another.

nilearn's general linear model with a design from the events, a z map, and a mask at a false discovery rate.
"""

import tempfile
from dataclasses import dataclass, field

import numpy as np

from ...dataset.staleness import noted_runs, own_recordings
from ...exceptions import ParameterError
from ...registry import Registry
from ...stats import fdr
from .design import check_conditions, choose_tokens, item_design, item_means, item_table, read_tokens, token_design
from .statistics import contrast_glm, localizer_overlap

# dependent: whether observations of one unit depend on each other, so that the noise model matters
UNITS = Registry("unit", dependent=False)
SIDES = Registry("side")
PAIRS = {"language": lambda item: item.rsplit("-", 1)[1]}  # every sentence and its own shuffled version


@SIDES.register("both")
def _both(z):
    """All neurons that differ between the conditions."""
    return np.ones(len(z), bool)


@SIDES.register("more")
def _more(z):
    """Neurons with larger activation in the first condition."""
    return z > 0


@SIDES.register("less")
def _less(z):
    """Neurons with smaller activation in the first condition."""
    return ~(z > 0)


@UNITS.register("item")
def _items(runs, frames, items, contrast, covariates, pairs, magnitude):
    """Mean activation of each item, and the design over items."""
    return item_means(runs, frames, items, magnitude), item_design(items, frames, contrast, covariates, pairs)


@UNITS.register("token", dependent=True)
def _tokens(runs, frames, items, contrast, covariates, pairs, magnitude):
    """Activation at each token, and the design over tokens."""
    data = np.concatenate([read_tokens(run, frame, magnitude) for run, frame in zip(runs, frames)])
    return data, token_design(frames, contrast, covariates)


@dataclass(frozen=True, repr=False)
class Localization:
    """Contrast of two conditions at every neuron."""

    effect: np.ndarray  # (n_neurons,), mean difference of the conditions, in units of the activations
    z: np.ndarray  # (n_neurons,)
    p: np.ndarray  # (n_neurons,), two-sided; NaN for neurons that never change
    q: np.ndarray  # (n_neurons,), Benjamini-Hochberg
    contrast: tuple  # of two str
    items: object  # DataFrame: item, condition, run, n_tokens
    info: dict = field(default_factory=dict)

    def __repr__(self):
        n = int(self.selected().sum())
        return (
            f"Localization({' - '.join(self.contrast)}: {n:,} of {self.z.size:,} neurons at q < 0.05, "
            f"{len(self.items)} items)"
        )

    def selected(self, level=0.05, side="both"):
        """Select neurons at a false discovery rate ``level``, ``(n_neurons,)`` bool.

        ``side`` takes all neurons that differ ("both"), or those with "more" or "less" activation in the first
        condition.
        """
        return (np.nan_to_num(self.q, nan=1.0) <= level) & SIDES[side](self.z)

    def mask(self, geometry, level=0.05, side="both", name=None):
        """The selected neurons as a :class:`~llmbrain.NeuronMask`."""
        from ...masks import NeuronMask

        name = name or f"{self.contrast[0]}-{self.contrast[1]}"
        keep = ("model", "corpus_hash")
        info = {"localizer": name, "fdr": level, **{k: v for k, v in self.info.items() if k in keep}}
        return NeuronMask(self.selected(level, side), geometry, name=name, info=info)

    def overlap(self, networks, level=0.05, side="both", threshold=None, n_draws=199, random_state=0):
        r"""Compare the overlap of the selected neurons with networks to that of neurons permuted within layers.

        Returns the table of :func:`localizer_overlap` with ``flagged`` of each network. A strict ``level``, which
        selects about as many neurons as a network has, is most informative. Neurons with \|z\| above ``threshold``,
        by default that of the networks, belong to a network.
        """
        geometry = networks.geometry
        if geometry.n_neurons != len(self.z):
            raise ParameterError(f"The localizer has {len(self.z)} neurons, the networks {geometry.n_neurons}.")
        masks = np.stack([mask.values for mask in networks.masks(threshold)])
        options = {"layer_of": geometry.layer_of, "n_draws": n_draws, "random_state": random_state}
        table = localizer_overlap(self.selected(level, side), self.z, networks.maps, masks, **options)
        return table.assign(flagged=[k in networks.flagged for k in table["network"]])

    def save(self, study, geometry, name=None):
        """Write the z map, its description and the mask (false discovery rate 5 %) into a study; returns the paths.

        ``name`` is the label in the file names; by default it is the contrast.
        """
        from ...dataset import as_study, bids_label, write_result

        name = bids_label(name or "".join(self.contrast))
        mask = self.mask(geometry)
        counts = self.items["condition"].value_counts()
        info = {
            **self.info, "contrast": list(self.contrast), "fdr": 0.05, "n_selected": mask.count,
            "n_items": {c: int(counts[c]) for c in self.contrast}, "geometry": geometry.to_dict(),
        }  # fmt: skip
        parts = {"statmap": geometry.to_img(self.z.astype(np.float32))}
        if mask.count:
            parts |= {"localizer_mask": mask.to_img(), "localizer_mask_json": mask.sidecar()}
        weights = (self.info.get("model") or self.info).get("weights_hash")
        recordings = own_recordings(study := as_study(study), self.info.get("recording") or [])
        sources = {"weights": weights, "text": self.info.get("corpus_hash"), "recording": recordings}
        return write_result(study, "localizer", name, parts, info, sources=sources).paths


def run_localizer(model, tokenizer, name="language", *, out=None, record_options=None, **options):
    """Record the stimuli of a built-in localizer and contrast its two conditions.

    Parameters
    ----------
    model, tokenizer : transformers model and tokenizer
    name : {"language", "code", "arithmetic"}
        Sentences against the same words shuffled, code against prose, arithmetic against prose; see
        :func:`llmbrain.text.load_localizer`.
    out : path-like, optional
        Study folder for the recording. Default: a temporary one.
    record_options : dict, optional
        Of :func:`llmbrain.record`, for example ``dict(site="attention")``.
    **options
        Of :func:`localize`. The language localizer pairs every sentence with its own shuffled version.

    Returns
    -------
    Localization
    """
    from ...recording import record
    from ...text import LOCALIZERS, load_localizer

    corpus = load_localizer(name)
    if name in PAIRS:
        options.setdefault("pairs", PAIRS[name])
    given = {"progress": False, **(record_options or {})}
    with tempfile.TemporaryDirectory() as folder:
        runs = record(model, tokenizer, corpus, out=out or f"{folder}/study", **given)
        found = localize(list(runs), [run.events for run in runs], LOCALIZERS[name], **options)
    found.info.update(localizer=name, corpus_hash=corpus.hash, model=runs.study.info["model"])
    return found


def localize(runs, events, contrast, *, unit="item", covariates=None, pairs=None, magnitude=False, noise_model="ar1"):
    """Contrast two conditions with a general linear model.

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons)
        Activations; objects with ``to_array(start, stop)``, such as a Run, are read piece by piece.
    events : list of DataFrames of n_tokens rows
        With the columns document (the item) and kind (the condition). Tokens marked in the column sink, if present, are
        omitted.
    contrast : tuple of two str
        The two values of kind to compare. Other kinds are omitted.
    unit : {"item", "token"}
        "item": ordinary least squares on the mean activation of each item. "token": a model of every token, with
        `noise_model`, for comparison with brain imaging (docs/networks.md).
    covariates : sequence of str, optional
        For items, columns of the item table or the events (averaged); for tokens, columns of the events. Default: the
        logarithm of the item's length; for tokens ``log_position``.
    pairs : callable or None
        For items: returns the pair of an item from its name, for example to compare a sentence with its own shuffled
        version. Items of one pair share a regressor.
    magnitude : bool
        Contrast absolute activations; the sign of a hidden neuron's activation need not mean more or less.
    noise_model : str
        For tokens: nilearn's noise model, ``"ar1"`` or ``"ols"``.

    Returns
    -------
    Localization

    Raises
    ------
    ParameterError
        If a condition is missing or has fewer than two items, or the design leaves no degrees of freedom.

    References
    ----------
    Fedorenko et al. (2010), J. Neurophysiol. 104, 1177-1194 (language localizer);
    AlKhamissi et al. (2025), NAACL, arXiv:2411.02280 (in language models);
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57, 289-300.
    """
    UNITS.check(unit)
    if len(contrast) != 2 or contrast[0] == contrast[1]:
        raise ParameterError(f"contrast={contrast!r} must name two different conditions.")
    frames = [choose_tokens(f, contrast) for f in events]
    if len(frames) != len(runs):
        raise ParameterError(f"{len(runs)} runs need as many tables of events; got {len(frames)}.")
    items = item_table(frames)
    check_conditions(items, contrast)
    data, design = UNITS[unit](runs, frames, items, contrast, covariates, pairs, magnitude)
    noise_model = noise_model if UNITS[unit].dependent else "ols"
    effect, z, p, dof = contrast_glm(data, design, noise_model)
    info = {"unit": unit, "noise_model": noise_model, "dof": dof, "magnitude": magnitude}
    if noted := noted_runs(list(runs)):
        info |= {"recording": noted, "weights_hash": runs[0].sidecar["WeightsHash"]}
    return Localization(effect, z, p, fdr(p), tuple(contrast), items, info)
