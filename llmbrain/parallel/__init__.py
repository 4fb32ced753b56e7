"""Several processes that share one piece of work: torch.distributed under torchrun or srun, and nothing when alone.

Work is shared only inside :func:`processes`. Everywhere else, and in a process that no launcher started, every function
here does nothing and torch is not imported, so that code is written once for one process and for many.
"""

from .messages import agree, all_reduce, barrier, broadcast, check_shared_folder, gather, gather_texts, reduce_to
from .shares import Share, check_complete, only_launch, split
from .world import alone, check_enough, here, launched, main_process, processes, rank, share, world_size

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
