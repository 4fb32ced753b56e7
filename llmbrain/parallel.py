"""Several processes that share one piece of work: torch.distributed under torchrun or srun, and nothing when alone.

Work is shared only inside :func:`processes`. Everywhere else, and in a process that no launcher started, every function
here does nothing and torch is not imported, so that code is written once for one process and for many.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from .exceptions import DatasetError, ParallelError, ParameterError

__all__ = [
    "Share",
    "agree",
    "all_reduce",
    "alone",
    "barrier",
    "broadcast",
    "check_complete",
    "check_enough",
    "check_shared_folder",
    "gather",
    "gather_texts",
    "here",
    "launched",
    "main_process",
    "only_launch",
    "processes",
    "rank",
    "reduce_to",
    "share",
    "split",
    "world_size",
]

_MEETING = timedelta(minutes=5)  # for all processes to start
_WAITING = timedelta(days=1)  # for others to finish their part; a process that dies is noticed at once
_LOST = re.compile("gloo|nccl|closed by peer|reset by peer|broken pipe", re.IGNORECASE)
_SECONDS_UNTIL_VISIBLE = 15  # a network file system may show a new file late


@dataclass(frozen=True)
class _World:
    """This process among the others."""

    rank: int
    size: int
    group: object  # of torch.distributed


_WORLD = None


@dataclass(frozen=True)
class Share:
    """One of several equal parts of a piece of work, for job arrays: part ``index`` of ``count``, counted from 0.

    Examples
    --------
    >>> Share.parse("3/40")
    Share(index=2, count=40)
    >>> Share(0, 2).of(["a", "b", "c"])
    ['a', 'c']
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text):
        """Read ``"3/40"``, the third of forty shares; None and a Share pass through."""
        if text is None or isinstance(text, cls):
            return text
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(text))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ParameterError(
                f"share {text!r} must be NUMBER/COUNT, counted from 1, for example 3/40 for the third of forty."
            )
        return cls(int(found[1]) - 1, int(found[2]))

    def of(self, items, costs=None):
        """Return the items of this share, see :func:`split`."""
        items = list(items)
        return [items[i] for i in split(len(items), self.count, costs)[self.index]]

    def __str__(self):
        return f"{self.index + 1}/{self.count}"

    def path(self, path):
        """Return the file of this share beside a file: ``grid.share-3-of-40.tsv`` for ``grid.tsv``."""
        path = Path(path)
        return path.with_name(f"{path.stem}.share-{self.index + 1}-of-{self.count}{path.suffix}")

    @staticmethod
    def find(path):
        """Return the files of shares beside a file, a dict by :class:`Share`, in order."""
        path = Path(path)
        name = re.compile(rf"{re.escape(path.stem)}\.share-(\d+)-of-(\d+){re.escape(path.suffix)}")
        files = path.parent.iterdir() if path.parent.is_dir() else ()
        found = {Share(int(m[1]) - 1, int(m[2])): file for file in files if (m := name.fullmatch(file.name))}
        return dict(sorted(found.items(), key=lambda item: (item[0].count, item[0].index)))


def split(n_items, count, costs=None):
    """Split items into shares of about equal cost; the result depends on the arguments alone.

    Parameters
    ----------
    n_items, count : int
    costs : sequence of float, optional
        Of each item. By default all items cost the same, and shares differ by at most one item.

    Returns
    -------
    list of list of int
        Positions of the items of each share, ascending. With more shares than items, some are empty.

    Examples
    --------
    >>> split(5, 2)
    [[0, 2, 4], [1, 3]]
    >>> split(4, 2, costs=[1, 9, 2, 3])
    [[1], [0, 2, 3]]
    """
    if costs is None:
        return [list(range(k, n_items, count)) for k in range(count)]
    shares, loads = [[] for _ in range(count)], [0.0] * count
    for i in sorted(range(n_items), key=lambda i: (-float(costs[i]), i)):  # the largest first, to the least loaded
        least = min(range(count), key=loads.__getitem__)
        shares[least].append(i)
        loads[least] += float(costs[i])
    return [sorted(part) for part in shares]


# ------------------------------------------------------------------------------------------------ who and how many
def rank():
    """Number of this process, from 0."""
    return 0 if _WORLD is None else _WORLD.rank


def world_size():
    """Number of processes that share the work; 1 when alone."""
    return 1 if _WORLD is None else _WORLD.size


def main_process():
    """Return whether this process speaks for all: it prints, and writes what is written once."""
    return rank() == 0


def share(items, costs=None):
    """Return this process's items; all of them when alone. See :func:`split`."""
    return list(items) if _WORLD is None else Share(_WORLD.rank, _WORLD.size).of(items, costs)


@contextlib.contextmanager
def processes(backend=None, gpus_per_rank=1):
    """Share the work of the block between the processes that torchrun or srun has started.

    Without a launcher, or with one process, nothing happens. Otherwise the processes meet, and each sees only its own
    GPUs, if there are any. The process group ends with the block.

    Parameters
    ----------
    backend : {None, "gloo", "nccl"}
        Of torch.distributed. Default: gloo for tensors on CPUs, and NCCL for those on GPUs.
    gpus_per_rank : int
        GPUs of each process, for a model that one GPU cannot hold.

    Raises
    ------
    ParameterError
        If the launcher's variables are incomplete, the machine has too few GPUs, or NCCL finds none.
    ParallelError
        If the processes do not meet within five minutes.

    Examples
    --------
    >>> with processes():
    ...     print(share(["a", "b"]), world_size())
    ['a', 'b'] 1
    """
    global _WORLD
    place = None if _WORLD is not None else _launched()
    if place is None:
        yield
        return
    import torch.distributed as dist

    _take_gpus(place, backend, gpus_per_rank)
    group, ours = _start(place, backend)
    _WORLD = _World(place.rank, place.size, group)
    try:
        yield
    finally:
        _WORLD = group = None
        if ours:
            with contextlib.suppress(RuntimeError):  # another process may be gone already
                dist.destroy_process_group()


def launched():
    """Number of processes that the launcher has started, whether they share work now or not; 1 without one."""
    place = _launched()
    return 1 if place is None else place.size


@contextlib.contextmanager
def alone():
    """Let this process do the work of the block by itself, for example inside an item of its share."""
    global _WORLD
    before, _WORLD = _WORLD, None
    try:
        yield
    finally:
        _WORLD = before


def here(part=None):
    """Return the share of this process, or None if there is one process: of a share ``part``, or of everything."""
    part = Share.parse(part)
    if _WORLD is None:
        return part
    index, count = (0, 1) if part is None else (part.index, part.count)
    return Share(index * _WORLD.size + _WORLD.rank, count * _WORLD.size)


def check_enough(n_items, what, part=None):
    """Raise an error if there are more shares or processes than items.

    Parameters
    ----------
    n_items : int
    what : str
        Names the items in the error, for example ``"runs"``.
    part : Share or str, optional

    Raises
    ------
    ParameterError
    """
    mine = here(part)
    if mine is not None and mine.count > n_items:
        unit = "processes" if part is None else "shares"
        raise ParameterError(f"{mine.count} {unit} were started for {n_items} {what}. Start at most {n_items}.")


def check_complete(shares, where):
    """Raise an error unless shares are the shares 1 to n of one n.

    Parameters
    ----------
    shares : iterable of Share
    where : path-like
        Where they were looked for.

    Raises
    ------
    DatasetError
        The message names those that are missing.
    """
    counts = sorted({share.count for share in shares})
    if not counts:
        raise DatasetError(f"{where} holds no shares to merge. Run the command with --share 1/N to N/N first.")
    if len(counts) > 1:
        raise DatasetError(
            f"{where} holds shares of different splits: of {' and of '.join(map(str, counts))}. Remove the files of "
            "all but one."
        )
    missing = [str(share) for k in range(counts[0]) if (share := Share(k, counts[0])) not in set(shares)]
    if missing:
        raise DatasetError(
            f"{where} lacks the shares {', '.join(missing)}. Run these with --share, and then merge again."
        )


@contextlib.contextmanager
def only_launch(path):
    """Refuse a second launch that writes the same file, as long as the block runs.

    Raises
    ------
    DatasetError
        If another process holds the file.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name.lstrip('.')}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DatasetError(
            f"Another launch is writing {path} now. Wait for it, or stop it, and then repeat this one."
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


# ------------------------------------------------------------------------------------------------ messages
def all_reduce(tensor):
    """Add up a tensor over all processes, in place; return it.

    All processes get the same bits. The tensor must have the same shape and type everywhere.
    """
    if _WORLD is not None:
        import torch.distributed as dist

        with _translated():
            _contiguous(tensor, lambda t: dist.all_reduce(t, group=_WORLD.group))
    return tensor


def reduce_to(tensor, owner):
    """Add up a tensor over all processes, in place, in the process ``owner``; return it.

    In the other processes its values are undefined afterwards.
    """
    if _WORLD is not None:
        import torch.distributed as dist

        with _translated():
            _contiguous(tensor, lambda t: dist.reduce(t, group=_WORLD.group, dst=owner))
    return tensor


def broadcast(tensor, owner=0):
    """Copy a tensor of the process ``owner`` to all others, in place; return it."""
    if _WORLD is not None:
        import torch.distributed as dist

        with _translated():
            _contiguous(tensor, lambda t: dist.broadcast(t, group=_WORLD.group, src=owner))
    return tensor


def barrier():
    """Wait until all processes are here."""
    if _WORLD is not None:
        import torch

        all_reduce(torch.zeros(1))  # on the CPU, also in a world of GPUs


def gather(record):
    """Return the records of all processes, in their order; alone, a list with this one.

    Parameters
    ----------
    record : dict
        Arrays, and values that JSON can hold. The names and shapes may differ between processes.
    """
    if _WORLD is None:
        return [record]
    import numpy as np
    import torch

    arrays = {name: value for name, value in record.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in record.items() if name not in arrays}
    forms = {name: [value.dtype.str, value.shape] for name, value in arrays.items()}
    head = np.frombuffer(json.dumps([plain, forms]).encode(), np.uint8)
    sizes = torch.zeros(world_size(), dtype=torch.int64)
    sizes[rank()] = len(head)
    all_reduce(sizes)
    found = []
    for owner, size in enumerate(sizes.tolist()):
        mine = owner == rank()
        text = broadcast(torch.from_numpy(head.copy() if mine else np.empty(size, np.uint8)), owner)
        plain, forms = json.loads(bytes(text.numpy()))
        for name, (dtype, shape) in forms.items():
            plain[name] = np.array(arrays[name]) if mine else np.empty(shape, dtype)
            if plain[name].size:
                broadcast(torch.from_numpy(plain[name].reshape(-1).view(np.uint8)), owner)
        found.append(plain)
    return found


def gather_texts(text):
    """Return the texts of all processes, in their order; alone, a list with this one."""
    return [record["text"] for record in gather({"text": text})]


def agree(what, *parts):
    """Raise an error in every process unless all have the same ``parts`` (texts or bytes).

    Parameters
    ----------
    what : str
        Names the parts in the error, for example ``"settings"``.
    *parts : str or bytes

    Raises
    ------
    ParameterError
    """
    if _WORLD is None:
        return
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    found = gather_texts(digest.hexdigest())
    differ = [k + 1 for k in range(1, world_size()) if found[k] != found[0]]
    if differ:
        raise ParameterError(
            f"The {what} of process{'es' * (len(differ) > 1)} {', '.join(map(str, differ))} of {world_size()} differ "
            "from those of process 1. Start all processes with the same command, text and model."
        )


def check_shared_folder(folder):
    """Raise an error in every process unless all processes see the same folder.

    Parameters
    ----------
    folder : path-like
        It need not exist; then its nearest parent is tested.

    Raises
    ------
    DatasetError
        With the name of a machine that does not see it.
    """
    if _WORLD is None:
        return
    import torch

    folder = Path(folder).absolute()
    name = broadcast(torch.tensor(list(uuid.uuid4().bytes), dtype=torch.int64))
    name = f".shared-{bytes(name.tolist()).hex()}"
    with contextlib.ExitStack() as stack:
        if main_process():
            place = folder
            while not place.is_dir() and place != place.parent:
                place = place.parent
            (place / name).touch()
            stack.callback((place / name).unlink, missing_ok=True)
        barrier()
        seen = torch.zeros(world_size(), dtype=torch.int64)
        seen[rank()] = _appears(folder, name)
        all_reduce(seen)
    blind = [k + 1 for k in range(world_size()) if not seen[k]]
    if blind:
        mine = f" This one runs on {platform.node()}." if rank() + 1 in blind else ""
        raise DatasetError(
            f"{folder} is not one folder for all processes: {', '.join(map(str, blind))} of {world_size()} do not see "
            f"what process 1 writes there.{mine} Choose a folder on a file system that all machines share."
        )


def _appears(folder, name):
    places = [folder, *folder.parents]
    for _ in range(_SECONDS_UNTIL_VISIBLE * 5):
        if any((place / name).exists() for place in places):
            return True
        time.sleep(0.2)
    return False


def _contiguous(tensor, operation):
    """Run an operation in place, through a copy if the memory of the tensor has gaps."""
    if tensor.is_contiguous():
        operation(tensor)
        return
    copy = tensor.contiguous()
    operation(copy)
    tensor.copy_(copy)


@contextlib.contextmanager
def _translated():
    """Turn the errors of torch.distributed into one sentence; others pass through."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        raise ParallelError(
            f"Process {rank() + 1} of {world_size()} has lost another one, which ended or cannot be reached "
            f"({str(error).splitlines()[0]}). Finished parts are kept: look for the message of the other process, then "
            "repeat the command to resume."
        ) from error


# ------------------------------------------------------------------------------------------------ launchers
@dataclass(frozen=True)
class _Place:
    """Where the launcher has put this process."""

    rank: int
    size: int
    local: int  # number on this machine
    local_size: int


def _launched():
    """Read what torchrun or srun say about this process; None for one process."""
    env = os.environ
    if "WORLD_SIZE" not in env and "RANK" not in env:
        if int(env.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
            return None
        _translate_slurm(env)
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in env]
    if missing and env.get("WORLD_SIZE") != "1":
        raise ParameterError(
            f"The environment announces several processes, but {' and '.join(missing)} is not set. Start them with "
            "'torchrun --nproc-per-node N -m llmbrain ...', or unset RANK and WORLD_SIZE to run alone."
        )
    if env["WORLD_SIZE"] == "1":
        return None
    try:
        number, size = int(env["RANK"]), int(env["WORLD_SIZE"])
        place = _Place(number, size, int(env.get("LOCAL_RANK", number)), int(env.get("LOCAL_WORLD_SIZE", size)))
    except ValueError:
        place = None
    if place is None or not 0 <= place.rank < place.size:
        raise ParameterError(
            f"RANK={env['RANK']!r} and WORLD_SIZE={env['WORLD_SIZE']!r} must be whole numbers with 0 <= RANK < "
            "WORLD_SIZE. Start the processes with torchrun or srun, which set them."
        )
    return place


def _translate_slurm(env):
    """Set torchrun's variables from those of srun."""
    nodes = re.match(r"([^,\[]+)(?:\[(\d+))?", env.get("SLURM_STEP_NODELIST", "localhost"))
    per_node = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", env["SLURM_STEP_NUM_TASKS"]))
    env.setdefault("MASTER_ADDR", nodes[1] + (nodes[2] or ""))
    job = 100 * int(env.get("SLURM_JOB_ID", 0)) + int(env.get("SLURM_STEP_ID", 0))
    env.setdefault("MASTER_PORT", str(20_000 + job % 40_000))
    env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_STEP_NUM_TASKS"]
    env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"] = env.get("SLURM_LOCALID", "0"), per_node[0]


def _take_gpus(place, backend, wanted):
    """Make only this process's own GPUs visible, so that "cuda" and ``device_map`` mean these."""
    import torch

    if backend not in (None, "gloo", "nccl"):
        raise ParameterError(f"backend={backend!r}: choose 'gloo' (CPUs) or 'nccl' (GPUs), or None for both.")
    n_gpus = 0 if backend == "gloo" else torch.cuda.device_count()
    if not n_gpus:
        if backend == "nccl" or wanted > 1:
            what = "NCCL" if backend == "nccl" else f"{wanted} GPUs per process"
            raise ParameterError(
                f"{what} cannot be used: torch finds no GPU on {platform.node()}. Use the backend 'gloo', and one "
                "process for each socket or machine."
            )
        return
    if n_gpus == wanted and "SLURM_PROCID" in os.environ:  # srun has bound each process to its own
        return
    if n_gpus < place.local_size * wanted:
        raise ParameterError(
            f"{place.local_size} processes with {wanted} GPU{'s' * (wanted > 1)} each were started on "
            f"{platform.node()}, which has {n_gpus}. Start at most {n_gpus // wanted} per machine, or set "
            "CUDA_VISIBLE_DEVICES= (empty) to use the CPUs."
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(k) for k in range(n_gpus)]
    if torch.cuda.is_initialized():
        torch.cuda.set_device(place.local * wanted)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[place.local * wanted : (place.local + 1) * wanted])


def _start(place, backend):
    """Meet the other processes; return the group and whether the process group is ours to end."""
    import torch
    import torch.distributed as dist

    both = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    kind, ours = both if backend is None else backend, not dist.is_initialized()
    try:
        if ours:
            dist.init_process_group(kind, rank=place.rank, world_size=place.size, timeout=_MEETING)
        # a group beside the default one, because its messages may wait for hours and the meeting may not
        return dist.new_group(backend=kind, timeout=_WAITING), ours
    except RuntimeError as error:
        raise ParallelError(
            f"Process {place.rank + 1} of {place.size} did not meet the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}). Start all {place.size} with torchrun or "
            "srun, and look whether another launch uses the port."
        ) from error
