"""Coarse threads: each worker computes whole blocks of neurons with single-threaded libraries.

Threads inside every small product have to synchronise at each of them, which is slow on a busy machine. Partial results
are added in the order of the blocks, so the result is the same for any number of workers.
"""

import ctypes
import math
import mmap
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from ...stats.precision import full_precision

SMALL_BYTES = 1 << 18

_POOL = ContextVar("pool", default=None)


@lru_cache(maxsize=1)
def _controller():
    return ThreadpoolController()


@lru_cache(maxsize=1)
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not the GNU C library
        return lambda pad: 0


def hand_back():
    """Return freed memory to the system; glibc keeps what each worker has freed, which adds up over the stages."""
    _trim()(0)


def temporary(*shape, dtype=np.float32, device="cpu"):
    """Zeros in memory that returns to the system when they are deleted, unlike that of the C library."""
    kind = torch.float64 if dtype == np.float64 else torch.float32
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if torch.device(device).type != "cpu" or size < SMALL_BYTES:
        return torch.zeros(shape, dtype=kind, device=device)
    return torch.from_numpy(np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape))


@contextmanager
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def workers(device="cpu", n=None):
    """Spread the blocks of :func:`block_map` over ``n`` workers (torch's number of threads by default) on the CPU.

    On a GPU there are no workers; products are computed in full precision there.
    """
    if torch.device(device).type != "cpu":
        with full_precision():
            yield
        return
    if _POOL.get() is not None:
        yield
        return
    n = n or torch.get_num_threads()
    with _one_thread(), ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        token = _POOL.set((pool, n))
        try:
            yield
        finally:
            _POOL.reset(token)


def block_map(function, items):
    """Apply a function to blocks and yield the results in order, with few pending at any time."""
    active = _POOL.get()
    if active is None:
        yield from map(function, items)
        return
    pool, n = active
    pending = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > n:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def run_blocks(function, items):
    """Apply a function without a result to blocks."""
    deque(block_map(function, items), maxlen=0)
