"""What torchrun or srun say about a process, its GPUs, and how it meets the others."""

import os
import platform
import re
from dataclasses import dataclass
from datetime import timedelta

from ..exceptions import ParallelError, ParameterError

_MEETING = timedelta(minutes=5)  # for all processes to start
_WAITING = timedelta(days=1)  # for others to finish their part; a process that dies is noticed at once


@dataclass(frozen=True)
class Place:
    """Where the launcher has put this process."""

    rank: int
    size: int
    local: int  # number on this machine
    local_size: int


def read_place():
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
        place = Place(number, size, int(env.get("LOCAL_RANK", number)), int(env.get("LOCAL_WORLD_SIZE", size)))
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


def take_gpus(place, backend, wanted):
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
    if not torch.cuda.is_initialized():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[place.local * wanted : (place.local + 1) * wanted])
    # The driver reads the variable once, and something may have asked it for GPUs before: then all are still visible,
    # "cuda" would mean the first of them in every process, and NCCL refuses two processes on one GPU.
    if torch._C._cuda_getDeviceCount() > wanted:
        torch.cuda.set_device(place.local * wanted)


def cores_of(place):
    """Number of threads for a process with GPUs, its share of the cores; None if the number should stay as it is.

    torchrun sets OMP_NUM_THREADS=1 where the user has set nothing. One thread cannot feed a GPU from main memory.
    """
    import torch

    if not torch.cuda.is_available() or "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    if os.environ.get("OMP_NUM_THREADS") != "1":
        return None
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, n_cores // place.local_size)


def meet(place, backend):
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
