"""This process among the others, and the block in which they share work."""

import contextlib
from dataclasses import dataclass

from ..exceptions import ParameterError
from .launchers import cores_of, meet, read_place, take_gpus
from .shares import Share


@dataclass(frozen=True)
class _World:
    """This process among the others."""

    rank: int
    size: int
    group: object  # of torch.distributed


_WORLD = None


def rank():
    """Number of this process, from 0."""
    return 0 if _WORLD is None else _WORLD.rank


def world_size():
    """Number of processes that share the work; 1 when alone."""
    return 1 if _WORLD is None else _WORLD.size


def main_process():
    """Return whether this process speaks for all: it prints, and writes what is written once."""
    return rank() == 0


def process_group():
    """The group of torch.distributed that carries messages; None when alone."""
    return None if _WORLD is None else _WORLD.group


def share(items, costs=None):
    """Return this process's items; all of them when alone. See :func:`split`."""
    return list(items) if _WORLD is None else Share(_WORLD.rank, _WORLD.size).of(items, costs)


@contextlib.contextmanager
def processes(backend=None, gpus_per_rank=1):
    """Share the work of the block between the processes that torchrun or srun has started.

    Without a launcher, or with one process, nothing happens. Otherwise the processes meet, and each sees only its own
    GPUs, if there are any; one with a GPU uses its share of the cores, unless OMP_NUM_THREADS is set to more than the 1
    that torchrun sets. The process group ends with the block.

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
    place = None if _WORLD is not None else read_place()
    if place is None:
        yield
        return
    import torch
    import torch.distributed as dist

    take_gpus(place, backend, gpus_per_rank)
    n_threads, n_cores = torch.get_num_threads(), cores_of(place)
    group, ours = meet(place, backend)
    _WORLD = _World(place.rank, place.size, group)
    try:
        torch.set_num_threads(n_cores or n_threads)
        yield
    finally:
        torch.set_num_threads(n_threads)
        _WORLD = group = None
        if ours:
            with contextlib.suppress(RuntimeError):  # another process may be gone already
                dist.destroy_process_group()


def launched():
    """Number of processes that the launcher has started, whether they share work now or not; 1 without one."""
    place = read_place()
    return 1 if place is None else place.size


@contextlib.contextmanager
def alone():
    """Run the block in this process alone, for example for one item of its share."""
    global _WORLD
    before, _WORLD = _WORLD, None
    try:
        yield
    finally:
        _WORLD = before


def here(part=None):
    """Return the share of this process, of ``part`` or of all work; without other processes, ``part`` itself."""
    part = Share.parse(part)
    if _WORLD is None:
        return part
    index, count = (0, 1) if part is None else (part.index, part.count)
    return Share(index * _WORLD.size + _WORLD.rank, count * _WORLD.size)


def check_enough(n_items, what, part=None):
    """Raise an error if there are more shares or processes than items; ``what`` names these, for example ``"runs"``."""
    mine = here(part)
    if mine is not None and mine.count > n_items:
        unit = "processes" if part is None else "shares"
        raise ParameterError(f"{mine.count} {unit} were started for {n_items} {what}. Start at most {n_items}.")
