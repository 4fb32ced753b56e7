"""Recording of runs: :func:`record` and the loop over runs, with locks between processes and atomic files."""

import atexit
import contextlib
import itertools
import shutil
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from .. import __version__, parallel
from ..dataset import Recording, Run, check_study_folder
from ..dataset.checksums import checksums
from ..dataset.layout import bids_label
from ..exceptions import NumericalWarning, RecordingError, check_count
from ..files import sha256, with_hashes, write_json, write_tsv
from ..models.finite import not_finite_error
from ..models.hooks import evaluating
from ..models.inputs import input_device
from ..models.lesioned import refuse_lesioned
from ..models.origin import source_of
from ..models.wrappers import check_model, plain, refuse_compiled
from .capture import HostScanner, NotFiniteError, pieces
from .events import run_events
from .forecast import check_room
from .job import RecordingOptions, prepare
from .scaling import neuron_scales
from .shares import check_processes, forecast_of_shares, note_share, runs_of_share
from .writer import RunWriter

_WAIT = 0.5  # seconds before retrying runs that another process is recording


def record(model, tokenizer, text, out=None, *, run_index=None, share=None, progress=True, **options):
    """Record the activations of a model's neurons while it reads texts.

    Activations are written into 4D NIfTI files, ``(layer, row, column, token)``, each with a JSON sidecar and an
    ``events.tsv`` that describes each token, in the layout of a BIDS derivative. Special tokens and padding are left
    out. Only one batch of activations is in memory at a time (on CUDA, two batches of each of up to eight runs, within
    40 % of the free device memory). The tokenized text stays in memory: about 40 bytes per token. To resume an
    interrupted recording, repeat the call: finished runs stay, and the others are recorded again with the same bytes.
    Inside :func:`llmbrain.parallel.processes`, the runs are shared between the processes; the bytes are the same.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its outputs do not change.
    tokenizer : transformers.PreTrainedTokenizerBase
    text : Corpus, list of str, str, path-like or Material
        Anything that :func:`llmbrain.load_corpus` accepts, or what :func:`llmbrain.recording.conversations` (chat
        templates with roles) or :func:`llmbrain.recording.generated` (prompts and the model's continuations) return.
    out : path-like, optional
        Folder of the study. By default a temporary folder, which is removed when Python ends.
    run_index : int or sequence of int, optional
        Record only these runs, counted from 1. Several processes, for example of a job array, can record into one
        folder.
    share : str or Share, optional
        Record only one share of the runs, balanced by tokens: ``"3/40"`` is the third of forty. ``llmbrain merge``
        checks that all shares are there.
    progress : bool
        Show the forecast and a progress bar.
    **options
        Fields of :class:`llmbrain.recording.RecordingOptions`: ``site``, ``layers``, ``sites``, ``max_tokens``,
        ``every``, ``context``, ``warmup``, ``tokens_per_run``, ``batch_size``, ``storage``, ``special_tokens`` and
        ``bos``.

    Returns
    -------
    Recording, or dict of Recording
        With a list of sites, a dict with one recording per site. With ``run_index``, only the requested runs.

    Raises
    ------
    ParameterError
        If a number is outside the allowed range, ``out`` lies in the folder of the texts or of the model, or a lesion
        is active in a model that is recorded into a study.
    UnsupportedArchitectureError
        If the site is not found in the model.
    CorpusError
        If the texts are missing or empty, or a document is shorter than two tokens.
    DatasetError
        If the folder holds another study or damaged runs, or not all processes see it. Nothing has been written then.
    RecordingError
        If the disk is too small, or an activation is infinite or not a number (with the layer and the token).

    Examples
    --------
    >>> runs = record(model, tokenizer, load_corpus("demo"), out="study")  # doctest: +SKIP
    >>> runs[0].to_array().shape, runs.events.columns  # doctest: +SKIP
    """
    check_model(model)
    model = plain(model)
    refuse_compiled(model, "its modules have other names than those of the plain model")
    if out is not None:
        check_study_folder(out, [text, source_of(model)])
        refuse_lesioned(model, "recorded into a study, which would describe it as the intact model")
    job, progress = prepare(model, tokenizer, text, RecordingOptions(**options)), progress and parallel.main_process()
    wanted = runs_of_share(job, job.wanted(run_index), share)
    check_processes(job, wanted, out)
    study = job.study(out if out is not None else _temporary())
    job.check_finished(study, wanted)
    missing = job.missing(study, wanted)
    check_room(study.root, sum(job.run_bytes(run, names) for run, names in missing))
    if parallel.main_process():
        study = job.study(study.root, create=True)
    parallel.barrier()  # nobody writes a run before all know which are missing
    if progress:
        print(f"Recording {job.forecast} -> {study.root}")
    if share is not None:
        note_share(job, study, share)
    scales = _scales(job, study) if missing else None
    _record_runs(job, study, parallel.share(missing, [run.n_fed for run, _ in missing]), scales, progress)
    parallel.barrier()
    for run in wanted if parallel.main_process() else ():  # a process that was killed leaves its locks
        _remove_lock(study.path("lock", run=run.number))
    recordings = {name: _open(study, name, wanted) for name in job.geometries}
    if progress:
        for runs in recordings.values():
            print(
                f"{len(runs)} runs, {runs.n_tokens} tokens: {Path(runs.paths[0]).parent}/*desc-{bids_label(runs.site)}*"
            )
    return recordings[job.options.site] if isinstance(job.options.site, str) else recordings


def forecast(model, tokenizer, text, *, processes=None, **options):
    """Compute the size of a recording without recording.

    Parameters
    ----------
    model, tokenizer, text, **options
        As in :func:`llmbrain.record`.
    processes : int, optional
        Also estimate, for this number of processes, what each of them does and how long it takes. The model reads the
        first texts once, to measure its speed.

    Returns
    -------
    Forecast
        Print it, or read its numbers.
    """
    check_count("processes", processes, optional=True)
    job = prepare(model, tokenizer, text, RecordingOptions(**options))
    return job.forecast if processes is None else forecast_of_shares(job, processes)


def _scales(job, study):
    """Return the int16 factors of each site; None for float32."""
    if job.storage != np.int16:
        return dict.fromkeys(job.geometries)
    return neuron_scales(job, study)


def _record_runs(job, study, missing, scales, progress):
    """Record the missing runs; wait for runs that another process is recording."""
    from tqdm.auto import tqdm

    if not missing:
        return
    total = sum(run.n_tokens for run, _ in missing)
    scanners, writing = _Scanners(job, [run for run, _ in missing]), _Writing()
    with evaluating(job.model), tqdm(total=total, unit="token", disable=not progress) as bar, writing:
        while missing:
            busy = []
            for runs, names in _groups(missing, scanners):
                busy += [(run, names) for run in _try_runs(job, study, runs, names, scanners, scales, bar, writing)]
            writing.finish()
            if len(busy) == len(missing):
                bar.set_postfix_str("waiting for another process")
                time.sleep(_WAIT)
            missing = busy


class _Writing:
    """What remains to be done for runs that are computed: it is done while a device computes those after them."""

    def __init__(self):
        self._left = []

    def add(self, step):
        """Do a step at the next :meth:`finish`."""
        self._left.append(step)

    def finish(self):
        """Do all steps."""
        while self._left:
            self._left.pop(0)()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.finish()


def _groups(missing, scanners):
    """Group runs that are recorded together: as many as the scanner takes at once, all missing the same sites."""
    for names, rows in itertools.groupby(missing, key=lambda row: row[1]):
        runs = [run for run, _ in rows]
        at_once = scanners[names].n_runs
        for a in range(0, len(runs), at_once):
            yield runs[a : a + at_once], names


def _try_runs(job, study, runs, names, scanners, scales, bar, writing):
    """Record runs unless other processes are recording them; return the runs that others hold."""
    taken, free, locks = [], [], []
    with contextlib.ExitStack() as held:
        for run in runs:
            lock = _lock(study.path("lock", run=run.number))
            if lock is None:
                taken.append(run)
                continue
            held.callback(lock.release)
            held.callback(writing.finish)  # after an error: no run is written without its lock
            locks.append(Path(lock.lock_file))
            left = [name for name in names if not job.is_finished(study, run, name)]
            if left == names:
                free.append(run)
            elif left:  # another process was killed between the sites of this run
                _record_together(job, study, [run], left, scanners, scales, bar, writing)
            else:
                bar.update(run.n_tokens)
        if free:
            _record_together(job, study, free, names, scanners, scales, bar, writing)
        release = held.pop_all()
    writing.add(release.close)
    # Only then: if a lock were removed while its run is unfinished, two processes could hold locks of one name.
    for lock in locks:
        writing.add(partial(_remove_lock, lock))
    return taken


def _remove_lock(path):
    """Remove the lock of a finished run."""
    with contextlib.suppress(OSError):  # Windows refuses while another process looks whether the run is finished
        path.unlink()


def _lock(path):
    """Lock a run for this process, or return None if another one holds it.

    The operating system releases the lock when the process ends, so a killed recording leaves none behind.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _record_together(job, study, runs, names, scanners, scales, bar, writing):
    """Record a few runs: data first, then events, and last the sidecars, which mark them as finished.

    The end of it is left to ``writing``.
    """
    scanner, writers, todo = scanners[names], [{} for _ in runs], [list(job.batches(run)) for run in runs]

    def finish():
        with _abandoned(writers):
            surprisals = _surprisals(job, runs, todo, collect)
            for writer in (writer for mine in writers for writer in mine.values()):
                writer.close()
        for run, mine, values in zip(runs, writers, surprisals):
            _finish(job, study, run, mine, values)

    with _abandoned(writers):
        for run, mine in zip(runs, writers):
            for name in names:
                path = study.path("bold", run=run.number, site=name)
                mine[name] = RunWriter(
                    path, job.geometries[name], run.n_tokens, job.storage, scales[name], reserve=scanner.reserve
                )
        with _explained(job, todo):
            given = [(batches, list(mine.values())) for batches, mine in zip(todo, writers)]
            collect = scanner.scan(given, bar.update, writing.finish)
    writing.add(finish)


@contextlib.contextmanager
def _abandoned(writers):
    """Remove the files of runs if the block fails."""
    try:
        yield
    except BaseException:
        for writer in (writer for mine in writers for writer in mine.values()):
            writer.abandon()
        raise


@contextlib.contextmanager
def _explained(job, todo):
    """Name the token of a value that is not finite."""
    try:
        yield
    except NotFiniteError as error:
        raise _explain(error, job, todo[error.run][error.batch][0]) from error


def _finish(job, study, run, writers, surprisals):
    events = study.path("events", run=run.number)
    if not events.is_file() or not study.find("bold_json", run=run.number):
        write_tsv(events, run_events(job.plan, run, surprisals, job.frequencies))  # else a finished site has them
    for name, writer in writers.items():
        if writer.n_clipped:
            warnings.warn(
                f"{writer.n_clipped} values of {writer.path.name} were too large for int16 and were clipped. If these "
                "are not a small share, record with storage='float32'.",
                NumericalWarning,
                stacklevel=2,
            )
        sidecar = _sidecar(job, study, run, name, writer)
        write_json(study.path("bold_json", run=run.number, site=name), with_hashes(sidecar))


def _surprisals(job, runs, todo, collect):
    """Wait until runs are written; return the surprisals of each, shape ``(n_tokens,)``."""
    with _explained(job, todo):
        parts = collect()
    surprisals = [np.full(run.n_tokens, np.nan) for run in runs]
    for into, run_parts, batches in zip(surprisals, parts, todo):
        for values, (batch, places, rows) in zip(run_parts, batches):
            if not np.isfinite(values[np.concatenate(places) > 0]).all():
                inputs = batch.inputs(input_device(job.model))
                raise not_finite_error(job.model, partial(job.model, **inputs, use_cache=False), "The surprisals")
            for row, part in pieces(places, rows, len(values)):
                into[row : row + part.stop - part.start] = values[part]
    return surprisals


class _Scanners:
    """One scanner per set of sites, made on demand and kept for all runs, because its buffers are large."""

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
    return HostScanner  # also for models that are partly offloaded


def _explain(error, job, batch):
    """Name the token and the document of a value that is not finite."""
    owners = np.concatenate([np.full(int(window.kept.sum()), window.document) for window in batch.windows])
    document = job.plan.documents[owners[error.row]]
    position = int(np.concatenate([window.kept_positions for window in batch.windows])[error.row])
    dtype = str(job.model.dtype).removeprefix("torch.")
    remedy = (
        "Load the model with dtype='bfloat16' or 'float32', whose range is larger."
        if dtype == "float16"
        else "Look for nan or inf in its weights, or exclude the document."
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
    scaled = {}
    if writer.steps is not None:
        scale = study.path("scale", site=name)
        scaled = {"Scale": scale.name, "ScaleHash": sha256(scale), "ClippedValues": writer.n_clipped}
    return {
        "Description": f"Activations of {model['id']} at the site {name} while it reads.",
        "TaskName": study.task,
        "RepetitionTime": 1.0,
        "TokenUnit": "one volume is one token; RepetitionTime is 1 token, not 1 second",
        "SkullStripped": False,
        "SpatialReference": "orig",  # no space- entity: voxels are neurons of this model
        "Run": run.number,
        "NumberOfTokens": run.n_tokens,
        "DataType": job.storage.name,
        "Checksums": checksums(writer.sums),
        "EventsHash": sha256(study.path("events", run=run.number)),
        **scaled,
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
        "LeadingTokens": job.plan.documents[0].head,
        "BatchSize": job.options.batch_size,
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
