"""Options and plan of a recording: everything that is decided before the first forward pass."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .. import parallel
from ..dataset import Study, check_content, check_run
from ..dataset.atlases import write_atlases
from ..dataset.checks import read_sidecar
from ..exceptions import DatasetError, ParameterError, UnsupportedArchitectureError, check_count
from ..files import write_json
from ..geometry import NeuronGeometry
from ..models.identity import describe_model
from ..models.inputs import check_readable, context_limit
from ..models.sites import find_sites
from ..models.wrappers import refuse_wrapped
from ..text import batches, padding_id
from ..text.tokens import refuse_no_tokenizer
from .events import EVENT_COLUMNS, log_frequencies
from .forecast import Forecast, make_forecast
from .sources import texts
from .windows import Plan, RunPlan, plan_recording

CONTEXT = 1024
FREQUENCY_TOKENS = 65536  # tokens of the text that are always read, to know how frequent each token is
BATCH_TOKENS = 2048  # tokens per batch including padding: bounds the memory; larger batches are not faster


@dataclass(frozen=True)
class RecordingOptions:
    """What is recorded, and how. :func:`llmbrain.record` and :func:`forecast` take these fields as keyword arguments.

    Parameters
    ----------
    site : str or list of str
        One or several of :data:`llmbrain.models.sites.SITES`; several are recorded in one pass.
    layers : int or sequence of int, optional
        Record only these layers.
    sites : dict or str, optional
        Names the modules by hand, see :func:`llmbrain.find_sites`; with several sites, a dict by site.
    max_tokens : int, optional
        Stop after this number of recorded tokens.
    every : int
        Record only every ``every``-th token of a document.
    context : int, optional
        Longest window that the model reads at once, in tokens; by default 1024, or the model's limit if that is less.
    warmup : int, optional
        A document longer than the context is read in overlapping windows. In every window but the first, only tokens
        preceded by at least ``warmup`` tokens are recorded; a quarter of the context by default.
    tokens_per_run : int
        Maximum number of tokens per run, at most 32767. Runs end with documents where possible.
    batch_size : int
        Most windows per batch; a batch also has at most 2048 tokens, or one window.
    storage : {"float32", "int16"}
        Type of the numbers in the files. int16 halves them: each neuron is divided by its own factor, 1/4096 of its
        largest activation in the first 2048 tokens, which is kept in a ``scale`` image beside the runs.
    special_tokens : bool
        Also record BOS and other special tokens. They are attention sinks: their activity is far larger than that of
        other tokens.
    bos : {"auto", True, False}
        Special tokens at the head of every window, see :func:`llmbrain.text.leading_tokens`.
    subject, session : str, optional
        Labels of the model and its checkpoint in the dataset. By default the model's name and, if it is known, its
        revision. A folder that holds other models gets another ``sub-`` folder.
    """

    site: str | list = "mlp"
    layers: int | list | None = None
    sites: dict | str | None = None
    max_tokens: int | None = None
    every: int = 1
    context: int | None = None
    warmup: int | None = None
    tokens_per_run: int = 4096
    batch_size: int = 8
    storage: str = "float32"
    special_tokens: bool = False
    bos: bool | str = "auto"
    subject: str | None = None
    session: str | None = None

    @property
    def dtype(self):
        """The numpy type of ``storage``."""
        try:
            dtype = np.dtype(self.storage)
        except TypeError:
            dtype = None
        if dtype not in (np.dtype(np.float32), np.dtype(np.int16)):
            raise ParameterError(f"storage={self.storage!r}: choose 'float32', or 'int16' for half the size.")
        return dtype

    def find_sites(self, model):
        """Find the chosen layers of each site: a dict of lists of :class:`~llmbrain.models.sites.Site`."""
        names = list(self.site) if isinstance(self.site, (list, tuple)) else [self.site]
        if not names or len(set(names)) != len(names):
            raise ParameterError(f"site={self.site!r}: pass one site, or a list of different sites.")
        by_hand = dict.fromkeys(names, self.sites) if len(names) == 1 or self.sites is None else self.sites
        if set(by_hand) != set(names):
            raise ParameterError(f"With several sites, sites= must be a dict with the keys {', '.join(names)}.")
        return {name: _choose_layers(find_sites(model, name, sites=by_hand[name]), self.layers) for name in names}

    def material(self, corpus, tokenizer):
        """Tokenize the corpus; with ``max_tokens``, only as much of it as the recording needs."""
        if not isinstance(self.special_tokens, bool):
            raise ParameterError(f"special_tokens={self.special_tokens!r}: it must be True or False.")
        check_count("every", self.every)
        check_count("context", self.context, 2, optional=True)
        check_count("max_tokens", self.max_tokens, 2, optional=True)
        limit = None if self.max_tokens is None else max(FREQUENCY_TOKENS, self.max_tokens * self.every)
        return texts(corpus, tokenizer, self.bos, limit)

    def plan(self, model, documents):
        """Plan the windows and runs of some documents."""
        context = _context(model, self.context)
        warmup = context // 4 if self.warmup is None else self.warmup
        kept = ("tokens_per_run", "max_tokens", "every", "special_tokens")
        return plan_recording(documents, context=context, warmup=warmup, **{name: getattr(self, name) for name in kept})


@dataclass(eq=False)
class Job:
    """A planned recording."""

    model: object
    options: RecordingOptions
    sites: dict
    geometries: dict
    plan: Plan
    forecast: Forecast
    model_info: dict
    corpus_info: dict
    frequencies: tuple
    pad_token_id: int

    @property
    def storage(self):
        """The numpy type of the numbers in the files."""
        return self.options.dtype

    def study(self, root, create=False):
        """Return the study of this job, or raise an error if the folder holds another. Only ``create`` writes files."""
        make = Study.create if create else Study.plan
        settings = {
            **self.plan.settings,
            "storage": self.storage.name,
            "tokens_hash": self._tokens_hash(),
            "bos": self.plan.documents[0].head,
        }
        labels = {"subject": self.options.subject, "session": self.options.session}
        study = make(root, self.model_info, self.corpus_info, recording=settings, **labels)
        self._refuse_other_neurons(study)
        if create:
            for geometry in self.geometries.values():
                write_atlases(study, geometry)
            if not study.path("events_json").exists():
                write_json(study.path("events_json"), {"Description": "What each recorded token is.", **EVENT_COLUMNS})
        return study

    @property
    def identity(self):
        """All that decides the bytes of the files, as one text."""
        modules = {name: [site.name for site in sites] for name, sites in self.sites.items()}
        parts = self.model_info, self.plan.settings, self._tokens_hash(), modules, self.storage.name
        return json.dumps([*parts, self.options.batch_size, str(self.options)], sort_keys=True, default=str)

    def _tokens_hash(self):
        """Hash of the token ids: with another tokenizer, or other generated text, it is another recording."""
        digest = hashlib.sha256()
        for document in self.plan.documents:
            digest.update(np.asarray(document.ids, "<i8").tobytes() + b"|")
        return digest.hexdigest()[:16]

    def _refuse_other_neurons(self, study):
        """Raise an error if the folder holds other neurons of the same site."""
        for name, geometry in self.geometries.items():
            for path in study.run_paths(name)[:1]:
                sidecar = read_sidecar(path)
                there = NeuronGeometry.from_dict(sidecar["Geometry"])
                if there != geometry or sidecar.get("Modules") != [site.name for site in self.sites[name]]:
                    raise DatasetError(
                        f"{study.root} holds the site '{name}' of the layers {list(there.layers)} "
                        f"({there.n_neurons} neurons), but this recording has the layers {list(geometry.layers)} "
                        f"({geometry.n_neurons} neurons). Use the same layers and modules, or choose another folder."
                    )

    def is_finished(self, study, run, name):
        """Whether a run of a site is recorded: its sidecar, which is written last, exists."""
        return study.path("bold_json", run=run.number, site=name).is_file()

    def missing(self, study, wanted):
        """Return the unfinished runs of ``wanted``, each with its missing sites."""
        rows = [(run, [name for name in self.geometries if not self.is_finished(study, run, name)]) for run in wanted]
        return [(run, names) for run, names in rows if names]

    def check_finished(self, study, wanted):
        """Check the finished runs of ``wanted`` at all sites: they stay, and other sites share their events."""
        numbers = {run.number for run in wanted}
        found = [one.path for one in study.find("bold_json") if one.entities["run"] in numbers]
        for path in parallel.share(found):
            check_run(path.with_suffix(".nii"), self.model_info["weights_hash"])
            check_content(path.with_suffix(".nii"))

    def wanted(self, run_index):
        """Return the runs with the given numbers, counted from 1; all runs for None."""
        runs = self.plan.runs
        if run_index is None:
            return runs
        numbers = list(run_index) if np.iterable(run_index) else [run_index]
        right = all(
            isinstance(n, (int, np.integer)) and not isinstance(n, bool) and 1 <= n <= len(runs) for n in numbers
        )
        if not numbers or not right:
            raise ParameterError(f"run_index={run_index!r}: this recording has the runs 1 to {len(runs)}.")
        return [runs[n - 1] for n in sorted(set(numbers))]

    def run_bytes(self, run, names):
        """Size of the files of a run, in bytes."""
        return sum(self.storage.itemsize * run.n_tokens * self.geometries[name].n_voxels for name in names)

    def batches(self, run: RunPlan):
        """Yield the batches of a run, ``(batch, places, rows)``, with windows of similar length together.

        They depend only on the run, so that a run that is recorded again has the same bytes.
        """
        limits = {"max_rows": self.options.batch_size, "max_tokens": BATCH_TOKENS}
        for batch in batches(run.windows, **limits, pad_id=self.pad_token_id):
            yield batch, [window.places for window in batch.windows], [run.rows[i] for i in batch.indices]

    def most_rows(self, runs):
        """Largest number of tokens that one batch of the given runs keeps."""
        return max(sum(map(len, places)) for run in runs for _, places, _ in self.batches(run))


def prepare(model, tokenizer, corpus, options):
    """Check everything and plan a recording; no activation is computed and nothing is written."""
    _check_model(model)
    refuse_no_tokenizer(tokenizer)
    storage, sites = options.dtype, options.find_sites(model)
    geometries = {name: NeuronGeometry.from_sites(group, name) for name, group in sites.items()}
    check_count("batch_size", options.batch_size)
    material = options.material(corpus, tokenizer)
    check_readable(model, (document.ids for document in material.documents))
    plan = options.plan(model, material.documents)
    forecast = make_forecast(
        plan, geometries, BATCH_TOKENS, getattr(model.config.get_text_config(), "vocab_size", 0),
        itemsize=storage.itemsize, dtype_bytes=model.dtype.itemsize,
    )  # fmt: skip
    return Job(
        model, options, sites, geometries, plan, forecast, describe_model(model), material.corpus,
        log_frequencies(material.documents), padding_id(tokenizer),
    )  # fmt: skip


def _check_model(model):
    """Raise an error unless the model predicts the next token: otherwise there is no surprisal."""
    refuse_wrapped(model)
    if not hasattr(model, "config"):
        raise ParameterError(f"model is {type(model).__name__}; it must be a language model of transformers.")
    if hasattr(model, "can_generate") and not model.can_generate():
        parts = ", ".join(name for name, _ in model.named_children())
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} does not predict the next token ({parts}): "
            "its tokens have no surprisal. Load it as a causal language model (AutoModelForCausalLM, or load_model)."
        )


def _choose_layers(group, layers):
    if layers is None:
        return group
    layers = list(layers) if isinstance(layers, Iterable) else [layers]
    known = {site.layer: site for site in group}
    unknown = [layer for layer in layers if layer not in known]
    if unknown or not layers:
        raise ParameterError(f"layers={layers!r}: the model has the layers {min(known)} to {max(known)}.")
    return [known[layer] for layer in sorted(set(layers))]


def _context(model, context):
    """Return the requested context, or the default, checked against the limit of the model."""
    longest = context_limit(model, context)
    return min(CONTEXT, longest or CONTEXT) if context is None else context
