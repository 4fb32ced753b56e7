"""The size of a recording, computed before it starts."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..exceptions import RecordingError


@dataclass(frozen=True)
class Forecast:
    """Size of a recording.

    Parameters
    ----------
    n_documents, n_runs, n_tokens : int
        Numbers of what will be recorded.
    n_fed : int
        Tokens that the model reads, including special and warm-up tokens.
    n_neurons : dict
        Number of neurons by site.
    bytes : int
        Total size of the NIfTI files.
    peak_memory : int
        Bytes in addition to the model: the activations and logits of one batch; of each process.
    n_processes, n_fed_each, seconds : int, int, float
        With ``processes=``: their number, the tokens that the busiest one reads, and the time that it needs for them.
    """

    n_documents: int
    n_runs: int
    n_tokens: int
    n_fed: int
    n_neurons: dict
    bytes: int
    peak_memory: int
    n_processes: int | None = None
    n_fed_each: int | None = None
    seconds: float | None = None

    def __str__(self):
        each = ""
        if self.n_processes is not None:
            minutes = f"{self.seconds / 60:.1f} minutes" if self.seconds >= 60 else f"{self.seconds:.1f} seconds"
            each = (
                f". With {self.n_processes} process{'es' * (self.n_processes > 1)}: at most {self.n_fed_each} tokens "
                f"each, about {minutes} on processors like this one, plus loading; {_size(self.peak_memory)} and one "
                "copy of the model in the memory of each"
            )
        neurons = ", ".join(f"{n} neurons ({site})" for site, n in self.n_neurons.items())
        return (
            f"{self.n_tokens} tokens of {self.n_documents} documents in {self.n_runs} runs x {neurons}: "
            f"{_size(self.bytes)} on disk, about {_size(self.peak_memory)} of memory in addition to the model{each}"
        )


def make_forecast(plan, geometries, batch_tokens, vocabulary, itemsize=4, dtype_bytes=4):
    """Compute the forecast of a plan.

    ``itemsize`` is the size of a stored number in bytes, ``dtype_bytes`` that of the model's own numbers.
    """
    neurons = {site: geometry.n_neurons for site, geometry in geometries.items()}
    voxels = sum(geometry.n_voxels for geometry in geometries.values())
    longest = max(len(window) for run in plan.runs for window in run.windows)
    at_once = min(max(batch_tokens, longest), plan.n_fed)
    return Forecast(
        n_documents=len({window.document for run in plan.runs for window in run.windows}),
        n_runs=len(plan.runs),
        n_tokens=plan.n_tokens,
        n_fed=plan.n_fed,
        n_neurons=neurons,
        bytes=plan.n_tokens * voxels * itemsize + 352 * len(plan.runs) * len(geometries),
        peak_memory=at_once * (4 * sum(neurons.values()) + dtype_bytes * vocabulary),
    )


def check_room(folder, n_bytes):
    """Raise an error if the disk of a folder, which need not exist yet, has too little space for a recording."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise RecordingError(
            f"The recording needs {_size(n_bytes)}, but {folder} has {_size(free)} left. Record fewer tokens "
            "(max_tokens=, every=) or layers (layers=), store int16 (storage='int16'), or choose another disk."
        )


def _size(n_bytes):
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit in ("B", "KiB") else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
