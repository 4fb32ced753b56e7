"""Everything about a recording that is decided before the first forward pass."""

import hashlib
from dataclasses import dataclass

import numpy as np

from ..dataset import Study
from ..dataset.checks import read_sidecar
from ..exceptions import DatasetError, ParameterError, UnsupportedArchitectureError
from ..files import write_json
from ..geometry import NeuronGeometry
from ..models.identity import describe_model
from ..models.inputs import longest_context
from ..models.sites import find_sites
from ..text import batches, padding_id
from .events import EVENT_COLUMNS, log_frequencies
from .forecast import Forecast, make_forecast
from .sources import texts
from .windows import Plan, RunPlan, plan_recording

__all__ = ["TOKENS_PER_RUN", "Job", "prepare"]

CONTEXT = 1024
TOKENS_PER_RUN = 4096
BATCH_TOKENS = 2048  # places of one batch, padding included: bounds the memory, and more is not faster


@dataclass(eq=False)
class Job:
    """A planned recording.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    sites : dict of list of Site
        By the name of the site.
    geometries : dict of NeuronGeometry
    plan : Plan
    forecast : Forecast
    model_info, corpus_info : dict
    frequencies : tuple
        From :func:`~llmbrain.recording.events.log_frequencies`.
    pad_token_id, batch_size : int
    storage : numpy dtype
        Of the numbers in the files.
    """

    model: object
    sites: dict
    geometries: dict
    plan: Plan
    forecast: Forecast
    model_info: dict
    corpus_info: dict
    frequencies: tuple
    pad_token_id: int
    batch_size: int
    storage: np.dtype

    def study(self, root, create=False):
        """The study this job belongs to; refuses a folder that holds another. Only ``create`` writes anything."""
        make = Study.create if create else Study.plan
        settings = {**self.plan.settings, "storage": self.storage.name, "tokens_hash": self._tokens_hash()}
        study = make(root, self.model_info, self.corpus_info, recording=settings)
        self._refuse_other_neurons(study)
        if create:
            for geometry in self.geometries.values():
                study.write_atlases(geometry)
            if not study.path("events_json").exists():
                write_json(study.path("events_json"), EVENT_COLUMNS)
        return study

    def _tokens_hash(self):
        """Names the token ids themselves: another tokenizer, or other generated text, is another recording."""
        digest = hashlib.sha256()
        for document in self.plan.documents:
            digest.update(np.asarray(document.ids, "<i8").tobytes() + b"|")
        return digest.hexdigest()[:16]

    def _refuse_other_neurons(self, study):
        """Refuse a folder in which the same site stands for other neurons."""
        for name, geometry in self.geometries.items():
            for path in study.run_paths(name)[:1]:
                sidecar = read_sidecar(path)
                there = NeuronGeometry.from_dict(sidecar["Geometry"])
                if there != geometry or sidecar.get("Modules") != [site.name for site in self.sites[name]]:
                    raise DatasetError(
                        f"{study.root} holds the site '{name}' of the layers {list(there.layers)} "
                        f"({there.n_neurons} neurons), this recording is of the layers {list(geometry.layers)} "
                        f"({geometry.n_neurons}). Use the same layers and modules, or choose another folder."
                    )

    def is_finished(self, study, run, name):
        """Whether a run of a site counts as recorded: its sidecar, written last, is there."""
        return study.path("bold_json", run=run.number, site=name).is_file()

    def missing(self, study, wanted):
        """Runs of ``wanted`` that are not finished, each with the sites it still lacks."""
        rows = [(run, [name for name in self.geometries if not self.is_finished(study, run, name)]) for run in wanted]
        return [(run, names) for run, names in rows if names]

    def wanted(self, run_index):
        """The runs with some numbers (from 1), or all of them for None."""
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
        """Size of a run's files."""
        return sum(self.storage.itemsize * run.n_tokens * self.geometries[name].n_voxels for name in names)

    def batches(self, run: RunPlan):
        """The batches of a run: ``(batch, places, rows, pieces)``, documents of like length together.

        They depend on the run alone, so that a run that is made again gets the same bytes.
        """
        limit = max(BATCH_TOKENS, max(len(piece) for piece in run.pieces))
        for batch in batches(
            run.pieces, self.batch_size, max_batch_tokens=limit, bucket=True, pad_token_id=self.pad_token_id
        ):
            pieces = [run.pieces[i] for i in batch.indices]
            yield batch, [piece.places for piece in pieces], [piece.row for piece in pieces], pieces

    def most_rows(self, runs):
        """Most tokens that one batch of some runs keeps."""
        return max(sum(map(len, places)) for run in runs for _, places, _, _ in self.batches(run))


def prepare(
    model,
    tokenizer,
    corpus,
    *,
    site="mlp",
    layers=None,
    sites=None,
    max_tokens=None,
    every=1,
    context=None,
    warmup=None,
    tokens_per_run=TOKENS_PER_RUN,
    batch_size=8,
    storage="float32",
    special_tokens=False,
):
    """Check everything and plan the recording; no activation is computed, nothing is written.

    Parameters
    ----------
    model, tokenizer, corpus, site, layers, sites, max_tokens, every
        As in :func:`llmbrain.record`.
    context, warmup, tokens_per_run, batch_size, storage, special_tokens
        As well.

    Returns
    -------
    Job
    """
    _check_model(model)
    _check_tokenizer(tokenizer)
    names = [site] if isinstance(site, str) or site is None else list(site)
    if not names or len(set(names)) != len(names):
        raise ParameterError(f"site={site!r}: name one site, or several different ones.")
    storage = _storage(storage)
    by_hand = dict.fromkeys(names, sites) if len(names) == 1 or sites is None else sites
    if set(by_hand) != set(names):
        raise ParameterError(f"With several sites, sites= is a dict with the keys {', '.join(names)}.")
    found = {name: _choose_layers(find_sites(model, name, sites=by_hand[name]), layers) for name in names}
    geometries = {name: NeuronGeometry.from_sites(group, name) for name, group in found.items()}
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ParameterError(f"batch_size={batch_size!r}: it must be a whole number of at least 1.")
    material = texts(corpus, tokenizer)
    _check_vocabulary(model, material.documents)
    context = _context(model, context)
    plan = plan_recording(
        material.documents, context=context, warmup=context // 4 if warmup is None else warmup,
        tokens_per_run=tokens_per_run, max_tokens=max_tokens, every=every, special_tokens=special_tokens,
    )  # fmt: skip
    forecast = make_forecast(
        plan, geometries, BATCH_TOKENS, getattr(model.config.get_text_config(), "vocab_size", 0),
        itemsize=storage.itemsize, dtype_bytes=model.dtype.itemsize,
    )  # fmt: skip
    return Job(
        model, found, geometries, plan, forecast, describe_model(model), material.corpus,
        log_frequencies(material.documents), padding_id(tokenizer), batch_size, storage,
    )  # fmt: skip


def _check_model(model):
    """Refuse what is no language model: its surprisal would mean nothing."""
    if not hasattr(model, "named_modules") or not hasattr(model, "config"):
        raise ParameterError(
            f"model is {type(model).__name__}; it must be a loaded model: model, tokenizer = llmbrain.load_model(...)."
        )
    if hasattr(model, "can_generate") and not model.can_generate():
        parts = ", ".join(name for name, _ in model.named_children())
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} does not predict the next token ({parts}): "
            "its tokens have no surprisal. Load it as a causal language model (AutoModelForCausalLM, or load_model)."
        )


def _check_tokenizer(tokenizer):
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise ParameterError(
            f"tokenizer is {type(tokenizer).__name__}; it must be the model's tokenizer: "
            "model, tokenizer = llmbrain.load_model(...)."
        )


def _check_vocabulary(model, documents):
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    n_known = getattr(embedding, "num_embeddings", None)
    largest = max((int(np.max(document.ids)) for document in documents if len(document.ids)), default=0)
    if n_known is not None and largest >= n_known:
        raise ParameterError(
            f"The tokenizer gives the token {largest}, the model knows {n_known} tokens: they do not belong together."
        )


def _storage(storage):
    try:
        dtype = np.dtype(storage)
    except TypeError:
        dtype = None
    if dtype not in (np.dtype(np.float32), np.dtype(np.int16)):
        raise ParameterError(f"storage={storage!r}: choose 'float32', or 'int16' for files of half the size.")
    return dtype


def _choose_layers(group, layers):
    if layers is None:
        return group
    layers = [layers] if isinstance(layers, (int, np.integer)) else list(layers)
    known = {site.layer: site for site in group}
    unknown = [layer for layer in layers if layer not in known]
    if unknown or not layers:
        raise ParameterError(f"layers={layers!r}: the model has the layers {min(known)} to {max(known)}.")
    return [known[layer] for layer in sorted(set(layers))]


def _context(model, context):
    """Tokens read at once: what was asked for, within what the model can take."""
    longest = longest_context(model)
    if context is None:
        return min(CONTEXT, longest or CONTEXT)
    if longest and isinstance(context, (int, np.integer)) and context > longest:
        raise ParameterError(f"context={context}: this model reads at most {longest} tokens at once.")
    return context
