"""Runs of a recording that are shared between processes or jobs of an array."""

import dataclasses
import time

from .. import parallel
from ..dataset.checks import read_own
from ..exceptions import DatasetError, ParameterError
from ..files import with_hashes, write_json
from ..models.hooks import evaluating
from .capture import run_batch

_TIMED_TOKENS = 4096  # read to measure the speed of the model


def runs_of_share(job, wanted, share):
    """Return the runs of a share, balanced by tokens; all for None."""
    part = parallel.Share.parse(share)
    parallel.check_enough(len(wanted), "runs", part)
    return wanted if part is None else part.of(wanted, [run.n_tokens for run in wanted])


def check_processes(job, wanted, out):
    """Refuse processes that would not record into one folder together, before any work; alone, do nothing."""
    if parallel.world_size() == 1:
        return
    if out is None:
        raise ParameterError("Several processes need one folder: pass out= (--out).")
    parallel.agree("model, text or settings", job.identity, str([run.number for run in wanted]))
    parallel.check_shared_folder(out)


def note_share(job, study, share):
    """Keep in the study which runs all shares have together, for :func:`check_shares`."""
    note, runs = study.path("recording_shares"), {str(run.number): run.n_tokens for run in job.plan.runs}
    noted = {"count": parallel.Share.parse(share).count, "runs": runs, "sites": list(job.geometries)}
    if note.is_file():  # another site may be recorded in shares of its own
        noted["sites"] = sorted({*noted["sites"], *_read_note(note)["sites"]})
    write_json(note, with_hashes(noted))


def check_shares(study):
    """Check that all shares of a recording are there, and remove the note that it was shared.

    Parameters
    ----------
    study : Study

    Returns
    -------
    int or None
        Number of runs; None if the study was not recorded in shares.

    Raises
    ------
    DatasetError
        If runs or shares are missing or damaged; the message names them.
    """
    note = study.path("recording_shares")
    if not note.is_file():
        return None
    noted = _read_note(note)
    runs, count, missing = {int(run): n for run, n in noted["runs"].items()}, noted["count"], set()
    for name in noted["sites"]:
        missing |= {run for run in runs if not study.path("bold_json", run=run, site=name).is_file()}
    if missing:
        numbers, parts = list(runs), parallel.split(len(runs), count, list(runs.values()))
        lacking = [f"{k + 1}/{count}" for k, part in enumerate(parts) if missing & {numbers[i] for i in part}]
        few = ", ".join(map(str, sorted(missing)[:9])) + (", ..." if len(missing) > 9 else "")
        raise DatasetError(
            f"{study.root} lacks {len(missing)} of {len(runs)} runs ({few}), which belong to the shares "
            f"{', '.join(lacking)}. Repeat llmbrain record with these shares, and then merge again."
        )
    for name in noted["sites"]:
        study.recording(name).check()
    note.unlink()
    return len(runs)


def _read_note(path):
    """Content of the note of :func:`note_share`."""
    return read_own(path, "Remove it, and repeat one share of llmbrain record.")


def forecast_of_shares(job, n):
    """Return the forecast of a job with the time that each of ``n`` processes needs."""
    runs = job.plan.runs
    if n > len(runs):
        raise ParameterError(
            f"processes={n}: this recording has {len(runs)} runs, so at most {len(runs)} processes have work. Use "
            "fewer, or shorter runs (tokens_per_run=)."
        )
    largest = max(
        sum(len(window) for i in part for window in runs[i].windows)
        for part in parallel.split(len(runs), n, [run.n_tokens for run in runs])
    )
    return dataclasses.replace(job.forecast, n_processes=n, n_fed_each=largest, seconds=largest / _speed(job))


def _speed(job):
    """Tokens per second that the model reads, hooks included and files excluded."""
    sites = [site for group in job.sites.values() for site in group]

    def keep(_, rows):
        rows.float().cpu()

    batches, done = (batch for run in job.plan.runs for batch in job.batches(run)), 0
    with evaluating(job.model):
        batch, places, _ = next(batches)
        run_batch(job.model, sites, batch, places, keep)  # the first pass is slower
        start = time.perf_counter()
        while done < _TIMED_TOKENS:
            done += sum(map(len, batch.windows))
            run_batch(job.model, sites, batch, places, keep)
            batch, places, _ = next(batches, (None, None, None))
            if batch is None:
                break
    return done / (time.perf_counter() - start)
