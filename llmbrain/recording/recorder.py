"""A model and texts in, runs out."""

import atexit
import contextlib
import itertools
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from .. import __version__
from ..dataset import Recording, Run
from ..dataset.layout import bids_label
from ..exceptions import NumericalWarning, RecordingError
from ..files import write_json, write_tsv
from .capture import HostScanner, NotFiniteError, quiet_forward
from .claims import claim
from .events import run_events
from .forecast import check_room
from .job import TOKENS_PER_RUN, prepare
from .scaling import neuron_scales
from .writer import RunWriter

__all__ = ["record"]

_WAIT = 0.5  # seconds between looks at a run that another process is recording


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
    storage="float32",
    special_tokens=False,
    run_index=None,
    progress=True,
):
    """Record what the neurons of a model do while it reads texts.

    Activations go straight into 4D NIfTI files of float32, ``(layer, row, column, token)``, with a JSON sidecar and
    an ``events.tsv`` that says what each token is, in the layout of a BIDS derivative. Special tokens and padding are
    left out. Memory is bounded by one batch, whatever the length of the texts (on CUDA by two batches of each of up to
    eight runs, within 40 % of what is free on the device). An interrupted recording is gone on
    with by the same call: finished runs stay, the others are made again, to the same bytes.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its outputs are not changed.
    tokenizer : transformers.PreTrainedTokenizerBase
    corpus : Corpus, list of str, str, path-like or Material
        Whatever :func:`llmbrain.load_corpus` takes, or what :func:`llmbrain.recording.conversations` (chat templates,
        with roles) or :func:`llmbrain.recording.generated` (prompts and what the model makes of them) return.
    out : path-like, optional
        Folder of the study. None makes a temporary one, removed when Python ends.
    site : str or list of str
        One or several of :data:`llmbrain.models.sites.SITES`; several are read in one pass.
    layers : sequence of int, optional
        Record only these layers.
    sites : dict or str, optional
        Names the modules by hand, see :func:`llmbrain.find_sites`; with several sites a dict by site.
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
    storage : {"float32", "int16"}
        Type of the numbers in the files. int16 halves them: each neuron is divided by a factor of its own, 1/4096 of
        its largest activation in the first 2048 tokens, kept in a ``scale`` image beside the runs.
    special_tokens : bool
        Record BOS and other special tokens as well: attention sinks, whose activity is out of all proportion.
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
        context=context, warmup=warmup, tokens_per_run=tokens_per_run, batch_size=batch_size, storage=storage,
        special_tokens=special_tokens,
    )  # fmt: skip
    wanted = job.wanted(run_index)
    study = job.study(out if out is not None else _temporary())
    missing = job.missing(study, wanted)
    check_room(study.root, sum(job.run_bytes(run, names) for run, names in missing))
    study = job.study(study.root, create=True)
    if progress:
        print(f"Recording {job.forecast} -> {study.root}")
    _record_runs(job, study, missing, progress)
    recordings = {name: _open(study, name, wanted) for name in job.geometries}
    if progress:
        for runs in recordings.values():
            print(
                f"{len(runs)} runs, {runs.n_tokens} tokens: {Path(runs.paths[0]).parent}/*desc-{bids_label(runs.site)}*"
            )
    return recordings[site] if isinstance(site, str) else recordings


def _record_runs(job, study, missing, progress):
    """Record what is missing; wait for what another process is recording at this moment."""
    from tqdm.auto import tqdm

    if not missing:
        return
    scales = neuron_scales(job, study) if job.storage == np.int16 else dict.fromkeys(job.geometries)
    total = sum(run.n_tokens for run, _ in missing)
    scanners = _Scanners(job, [run for run, _ in missing])
    with quiet_forward(job.model), tqdm(total=total, unit="token", disable=not progress) as bar:
        while missing:
            busy = []
            for runs, names in _groups(missing, scanners):
                busy += [(run, names) for run in _try_runs(job, study, runs, names, scanners, scales, bar)]
            if len(busy) == len(missing):
                bar.set_postfix_str("waiting for another process")
                time.sleep(_WAIT)
            missing = busy


def _groups(missing, scanners):
    """Runs that are recorded together: as many as the scanner takes at once, all lacking the same sites."""
    for names, rows in itertools.groupby(missing, key=lambda row: row[1]):
        runs = [run for run, _ in rows]
        at_once = scanners[names].n_runs
        for a in range(0, len(runs), at_once):
            yield runs[a : a + at_once], names


def _try_runs(job, study, runs, names, scanners, scales, bar):
    """Record runs unless other processes are at them; returns those that are taken."""
    taken, free, locks = [], [], []
    with contextlib.ExitStack() as claims:
        for run in runs:
            lock = study.path("lock", run=run.number)
            if not claims.enter_context(claim(lock)):
                taken.append(run)
                continue
            locks.append(lock)
            left = [name for name in names if not job.is_finished(study, run, name)]
            if left == names:
                free.append(run)
            elif left:  # another process was killed between the sites of this run
                _record_together(job, study, [run], left, scanners, scales, bar)
            else:
                bar.update(run.n_tokens)
        if free:
            _record_together(job, study, free, names, scanners, scales, bar)
        # Only now: a lock that is removed while its run is unfinished could be held twice, under one name.
        for lock in locks:
            lock.unlink(missing_ok=True)
    return taken


def _record_together(job, study, runs, names, scanners, scales, bar):
    """Record a few runs: data first, then events, and last the sidecars that make them count."""
    scanner, writers = scanners[names], [{} for _ in runs]
    try:
        for run, mine in zip(runs, writers):
            for name in names:
                path = study.path("bold", run=run.number, site=name)
                mine[name] = RunWriter(
                    path, job.geometries[name], run.n_tokens, job.storage, scales[name], reserve=scanner.reserve
                )
        surprisals = _fill(job, runs, scanner, [list(mine.values()) for mine in writers], bar)
        for mine in writers:
            for writer in mine.values():
                writer.close()
    except BaseException:
        for mine in writers:
            for writer in mine.values():
                writer.abandon()
        raise
    for run, mine, values in zip(runs, writers, surprisals):
        _finish(job, study, run, mine, values)


def _finish(job, study, run, writers, surprisals):
    write_tsv(study.path("events", run=run.number), run_events(job.plan, run, surprisals, job.frequencies))
    for name, writer in writers.items():
        if writer.n_clipped:
            warnings.warn(
                f"{writer.n_clipped} values of {writer.path.name} were too large for int16 and were cut. If that is "
                "not a small share, record with storage='float32'.",
                NumericalWarning,
                stacklevel=2,
            )
        write_json(study.path("bold_json", run=run.number, site=name), _sidecar(job, study, run, name, writer))


def _fill(job, runs, scanner, writers, bar):
    """Take runs through the model, each token to its row; returns the surprisals of each in the order of the run."""
    todo = [list(job.batches(run)) for run in runs]
    try:
        parts = scanner.scan([([row[:3] for row in rows], mine) for rows, mine in zip(todo, writers)], bar.update)
    except NotFiniteError as error:
        raise _explain(error, job, todo[error.run][error.batch][3]) from error
    surprisals = [np.full(run.n_tokens, np.nan) for run in runs]
    for into, run_parts, batches in zip(surprisals, parts, todo):
        for values, (_, places, rows, _) in zip(run_parts, batches):
            start = 0
            for kept, row in zip(places, rows):
                into[row : row + len(kept)] = values[start : start + len(kept)]
                start += len(kept)
    return surprisals


class _Scanners:
    """One scanner for each set of sites, made when it is needed and kept for all runs, for its buffers are large."""

    def __init__(self, job, runs):
        self.job, self.n_rows, self.n_runs, self.made = job, job.most_rows(runs), len(runs), {}

    def __getitem__(self, names):
        key = tuple(names)
        if key not in self.made:
            groups = [self.job.sites[name] for name in names]
            self.made[key] = _scanner_for(self.job.model)(self.job.model, groups, self.n_rows, self.n_runs)
        return self.made[key]


def _scanner_for(model):
    if {p.device.type for p in model.parameters()} == {"cuda"}:
        from .cuda import CudaScanner

        return CudaScanner
    return HostScanner  # also where a part of the model is kept elsewhere until it runs


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
    remedy = (
        "Load the model with dtype='bfloat16' or 'float32', whose range is larger."
        if dtype == "float16"
        else "Look for nan or inf in its weights, or leave the document out."
    )
    return RecordingError(
        f"Layer {error.site.layer} ({error.site.name}), unit {error.unit}, is {error.value} at token {position} "
        f"({document.tokens[position]!r}) of document {document.id!r}. The run was not written. The model computes in "
        f"{dtype}. {remedy}"
    )


def _sidecar(job, study, run, name, writer):
    import torch
    import transformers

    model, settings = job.model_info, job.plan.settings
    scaled = {"Scale": study.path("scale", site=name).name, "ClippedValues": writer.n_clipped}
    return {
        "Description": f"Activations of {model['id']} at the site {name} while it reads.",
        "TaskName": study.task,
        "RepetitionTime": 1.0,
        "TokenUnit": "one volume is one token; RepetitionTime is 1 token, not 1 second",
        "SkullStripped": False,
        "Run": run.number,
        "NumberOfTokens": run.n_tokens,
        "DataType": job.storage.name,
        **(scaled if writer.steps is not None else {}),
        "Site": name,
        "Modules": [found.name for found in job.sites[name]],
        "Geometry": job.geometries[name].to_dict(),
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
        "SpecialTokens": settings["special_tokens"],
        "BatchSize": job.batch_size,
        "LibraryVersions": {
            "llmbrain": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
    }


def _open(study, name, wanted):
    paths = {study.path("bold", run=run.number, site=name) for run in wanted}
    return Recording(study, [Run(path) for path in study.run_paths(name) if path in paths])


def _temporary():
    folder = Path(tempfile.mkdtemp(prefix="llmbrain-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
