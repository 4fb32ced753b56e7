"""A model and texts in, runs out."""

import atexit
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from ..corpus import Corpus, as_corpus, batches, encode, padding_id
from ..dataset import Recording, Run, Study
from ..dataset.layout import bids_label
from ..exceptions import ParameterError, RecordingError
from ..files import write_json, write_tsv
from ..geometry import NeuronGeometry
from ..models.identity import describe_model
from ..models.sites import find_sites
from .capture import Capture, NotFiniteError, quiet_forward
from .claims import claim
from .events import EVENT_COLUMNS, log_frequencies, run_events
from .forecast import Forecast, check_room, make_forecast
from .windows import Plan, plan_recording
from .writer import RunWriter

__all__ = ["prepare", "record"]

CONTEXT = 1024
TOKENS_PER_RUN = 4096
_WAIT = 0.5  # seconds between looks at a run that another process is recording
BATCH_TOKENS = 2048  # places of one batch, padding included: bounds the memory, and more is not faster


def record(
    model,
    tokenizer,
    corpus,
    out=None,
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
    run_index=None,
    progress=True,
):
    """Record what the neurons of a model do while it reads texts.

    Activations go straight into 4D NIfTI files of float32, ``(layer, row, column, token)``, with a JSON sidecar and
    an ``events.tsv`` that says what each token is, in the layout of a BIDS derivative. Special tokens and padding are
    left out. Memory is bounded by one batch, whatever the length of the texts. An interrupted recording is gone on
    with by the same call: finished runs stay, the others are made again, to the same bytes.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its outputs are not changed.
    tokenizer : transformers.PreTrainedTokenizerBase
    corpus : Corpus, list of str, str or path-like
        Whatever :func:`llmbrain.load_corpus` takes.
    out : path-like, optional
        Folder of the study. None makes a temporary one, removed when Python ends.
    site : str or list of str
        One or several of :data:`llmbrain.models.sites.SITES`; several are read in one pass.
    layers : sequence of int, optional
        Record only these layers.
    sites : dict or str, optional
        Names the modules by hand, see :func:`llmbrain.find_sites`.
    max_tokens : int, optional
        Stop after so many recorded tokens.
    every : int
        Record only every ``every``-th token of a document.
    context : int, optional
        Most tokens that the model reads at once; 1024, or what the model can read if that is less.
    warmup : int, optional
        A document longer than the context is read in overlapping windows, and in every window but the first only
        tokens with at least so many before them are recorded; a quarter of the context.
    tokens_per_run : int
        Most tokens of a run, at most 32767; runs end with documents where that is possible.
    batch_size : int
        Most windows in a batch; a batch also has at most 2048 tokens (or one window).
    run_index : int or sequence of int, optional
        Record only these runs (from 1). Several processes, e.g. of a job array, can so fill one folder.
    progress : bool
        Show the forecast and a progress bar.

    Returns
    -------
    Recording, or dict of Recording
        For a list of sites a dict with one recording a site. With ``run_index``, the runs that were asked for.

    Raises
    ------
    ParameterError
        If a number is outside what is allowed.
    UnsupportedArchitectureError
        If the site is not found in the model.
    CorpusError
        If the texts are missing, empty, or have a document shorter than two tokens.
    DatasetError
        If the folder holds another study. Nothing has been written then.
    RecordingError
        If the disk is too small, or an activation is infinite or not a number (with the layer and the token).

    Examples
    --------
    >>> runs = record(model, tokenizer, load_corpus("demo"), out="study")  # doctest: +SKIP
    >>> runs[0].to_array().shape, runs.events.columns  # doctest: +SKIP
    """
    job = prepare(
        model, tokenizer, corpus, site=site, layers=layers, sites=sites, max_tokens=max_tokens, every=every,
        context=context, warmup=warmup, tokens_per_run=tokens_per_run, batch_size=batch_size,
    )
    wanted = _wanted_runs(job.plan, run_index)
    study = job.study(out if out is not None else _temporary())
    missing = job.missing(study, wanted)
    check_room(study.root, sum(_run_bytes(job, run, names) for run, names in missing))
    study = job.study(study.root, create=True)
    if progress:
        print(f"Recording {job.forecast} -> {study.root}")
    _record_runs(job, study, missing, progress)
    recordings = {name: _open(study, name, wanted) for name in job.geometries}
    return recordings if not isinstance(site, str) else recordings[site]


@dataclass(eq=False)
class Job:
    """Everything about a recording that is known before the first forward pass."""

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

    def study(self, root, create=False):
        """The study this job belongs to; refuses a folder that holds another. Written only with ``create``."""
        make = Study.create if create else Study.plan
        study = make(root, self.model_info, self.corpus_info, recording=self.plan.settings)
        if create:
            for geometry in self.geometries.values():
                study.write_atlases(geometry)
            if not study.path("events_json").exists():
                write_json(study.path("events_json"), EVENT_COLUMNS)
        return study

    def missing(self, study, wanted):
        """Runs of ``wanted`` that are not finished, each with the sites it still lacks."""
        rows = [(run, [name for name in self.geometries if not _is_finished(study, run, name)]) for run in wanted]
        return [(run, names) for run, names in rows if names]


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
):
    """Check everything and plan the recording; nothing is run or written. Parameters as in :func:`record`."""
    names = [site] if isinstance(site, str) else list(site)
    if not names or len(set(names)) != len(names):
        raise ParameterError(f"site={site!r}: name one site, or several different ones.")
    found = {name: _choose_layers(find_sites(model, name, sites=sites), layers) for name in names}
    geometries = {name: NeuronGeometry.from_sites(group, name) for name, group in found.items()}
    corpus = corpus if isinstance(corpus, Corpus) else as_corpus(corpus)
    documents = encode(corpus, tokenizer)
    context = _context(model, context)
    plan = plan_recording(
        documents, context=context, warmup=context // 4 if warmup is None else warmup, tokens_per_run=tokens_per_run,
        max_tokens=max_tokens, every=every,
    )
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", 0)
    forecast = make_forecast(plan, geometries, BATCH_TOKENS, vocabulary, dtype_bytes=model.dtype.itemsize)
    return Job(
        model, found, geometries, plan, forecast, describe_model(model),
        {"name": corpus.name, "hash": corpus.hash, "n_documents": len(corpus)},
        log_frequencies(documents), padding_id(tokenizer), batch_size,
    )


def _record_runs(job, study, missing, progress):
    """Record what is missing; wait for what another process is recording at this moment."""
    from tqdm.auto import tqdm

    total = sum(run.n_tokens for run, _ in missing)
    with quiet_forward(job.model), tqdm(total=total, unit="token", disable=not progress) as bar:
        while missing:
            busy = [(run, names) for run, names in missing if not _try_run(job, study, run, names, bar)]
            if len(busy) == len(missing):
                bar.set_postfix_str("waiting for another process")
                time.sleep(_WAIT)
            missing = busy


def _try_run(job, study, run, names, bar):
    """Record a run unless another process is at it; returns whether it is done."""
    lock = study.path("bold", run=run.number).parent / f".{study.path('events', run=run.number).stem}.lock"
    with claim(lock) as free:
        if not free:
            return False
        left = [name for name in names if not _is_finished(study, run, name)]
        if left:
            _record_run(job, study, run, left, bar)
        else:
            bar.update(run.n_tokens)
        # Only now: a lock that is removed while its run is unfinished could be held twice, under one name.
        lock.unlink(missing_ok=True)
    return True


def _record_run(job, study, run, names, bar):
    """Record one run: data first, then events, and last the sidecar that makes it count."""
    writers = {
        name: RunWriter(study.path("bold", run=run.number, site=name), job.geometries[name], run.n_tokens)
        for name in names
    }
    try:
        surprisals = _fill(job, run, [job.sites[name] for name in names], list(writers.values()), bar)
        for writer in writers.values():
            writer.close()
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    write_tsv(study.path("events", run=run.number), run_events(job.plan, run, surprisals, job.frequencies))
    for name in names:
        write_json(study.path("bold_json", run=run.number, site=name), _sidecar(job, study, run, name))


def _fill(job, run, groups, writers, bar):
    """Run the model on the pieces of a run and write each token at its row; returns the surprisals in order."""
    surprisals = np.full(run.n_tokens, np.nan)
    todo = list(batches(run.pieces, job.batch_size, max_batch_tokens=_batch_tokens(run), bucket=True,
                        pad_token_id=job.pad_token_id))
    n_rows = max(sum(len(run.pieces[i].places) for i in batch.indices) for batch in todo)
    capture = Capture(job.model, groups, n_rows)
    for batch in todo:
        pieces = [run.pieces[i] for i in batch.indices]
        try:
            blocks, values = capture(batch, [piece.places for piece in pieces])
        except NotFiniteError as error:
            raise _explain(error, job, pieces) from error
        start = 0
        for piece in pieces:
            stop = start + len(piece.places)
            surprisals[piece.row : piece.row + stop - start] = values[start:stop]
            for writer, block in zip(writers, blocks):
                writer.write(piece.row, block[start:stop])
            start = stop
        bar.update(start)
    return surprisals


def _batch_tokens(run):
    return max(BATCH_TOKENS, max(len(piece) for piece in run.pieces))


def _explain(error, job, pieces):
    """Say which token of which document it was."""
    row = error.row
    for piece in pieces:
        if row < len(piece.tokens):
            break
        row -= len(piece.tokens)
    document = job.plan.documents[piece.window.document]
    position = int(piece.tokens[row])
    dtype = str(job.model.dtype).removeprefix("torch.")
    return RecordingError(
        f"Layer {error.site.layer} ({error.site.name}), unit {error.unit}, is {error.value} at token {position} "
        f"({document.tokens[position]!r}) of document {document.id!r}, {error.count} values in all. The run was not "
        f"written. The model computes in {dtype}: "
        + ("load it with dtype='bfloat16' or 'float32'." if dtype == "float16" else "look at its weights for nan.")
    )


def _sidecar(job, study, run, name):
    import torch
    import transformers

    model, settings = job.model_info, job.plan.settings
    geometry = job.geometries[name]
    return {
        "Description": f"Activations of {model['id']} at the site {name} while it reads.",
        "TaskName": study.task,
        "RepetitionTime": 1.0,
        "TokenUnit": "one volume is one token; RepetitionTime is 1 token, not 1 second",
        "SkullStripped": False,
        "Run": run.number,
        "NumberOfTokens": run.n_tokens,
        "DataType": "float32",
        "Site": name,
        "Geometry": geometry.to_dict(),
        "ModelID": model["id"],
        "Revision": model["revision"],
        "Architecture": model["architecture"],
        "WeightsHash": model["weights_hash"],
        "ModelDataType": model["dtype"],
        "Corpus": job.corpus_info["name"],
        "CorpusHash": job.corpus_info["hash"],
        "Context": settings["context"],
        "WarmUp": settings["warmup"],
        "EveryNthToken": settings["every"],
        "BatchSize": job.batch_size,
        "LibraryVersions": {
            "llmbrain": __version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
    }


def _is_finished(study, run, name):
    return study.path("bold_json", run=run.number, site=name).is_file()


def _run_bytes(job, run, names):
    return sum(4 * run.n_tokens * job.geometries[name].n_voxels for name in names)


def _open(study, name, wanted):
    paths = {study.path("bold", run=run.number, site=name) for run in wanted}
    return Recording(study, [Run(path) for path in study.run_paths(bids_label(name)) if path in paths])


def _wanted_runs(plan, run_index):
    if run_index is None:
        return plan.runs
    numbers = [run_index] if isinstance(run_index, (int, np.integer)) else list(run_index)
    unknown = [n for n in numbers if isinstance(n, bool) or not 1 <= n <= len(plan.runs)]
    if unknown or not numbers:
        raise ParameterError(f"run_index={run_index!r}: this recording has the runs 1 to {len(plan.runs)}.")
    return [plan.runs[n - 1] for n in sorted(set(numbers))]


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
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return min(CONTEXT, longest or CONTEXT)
    if longest and context > longest:
        raise ParameterError(f"context={context}: this model reads at most {longest} tokens at once.")
    return context


def _temporary():
    folder = Path(tempfile.mkdtemp(prefix="llmbrain-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
