"""Runs of which a block of neurons can be read, from arrays or files."""

import mmap
import os

import numpy as np
import torch

from ...exceptions import ParameterError

KEPT_BYTES = 1 << 29  # largest size of the Gram matrices of runs that are kept for reuse
MOST_GAPS = 256  # largest number of gaps between the columns of a block that is read with one call per row


class ArraySource:
    """One run ``(n_tokens, n_columns)`` whose columns can be read a block at a time.

    ``open`` returns the run. It is called for every block and its result is deleted afterwards, which releases the
    pages of a memory map. ``columns`` holds the column of each neuron in reading order, ``scale`` the factor of each
    neuron of a run that is stored as integers.
    """

    def __init__(self, open, n_tokens, n_neurons, columns=None, scale=None):
        self.open, self.n_tokens, self.n_neurons, self.scale = open, int(n_tokens), int(n_neurons), scale
        if columns is not None and np.array_equal(columns, np.arange(n_neurons)):
            columns = None
        self.columns = columns
        self.grams = None

    def keep_gram(self):
        """Keep the Gram matrix of the tokens, and leading rows, once computed, for other decompositions of the run."""
        self.grams = {} if self.grams is None else self.grams

    def read(self, start, stop, out, first=0):
        """Copy the neurons ``start:stop`` of the tokens from ``first`` on into ``out``, float32.

        ``out`` has the shape ``(number of tokens, stop - start)``.
        """
        where = slice(start, stop) if self.columns is None else as_slice(self.columns[start:stop])
        run = self.open()
        if not _read_file(run, where, out, first):
            _copy(run[first : first + len(out), where], out)
        if self.scale is not None:
            out *= self.scale[start:stop]

    def scaled(self, where):
        """Factors of the neurons ``where``, or None."""
        return None if self.scale is None else self.scale[where]

    def part(self, first, last):
        """Return the same run with the neurons ``first:last`` only."""
        return _Part(self, first, last)


class _Part(ArraySource):
    """Consecutive neurons of a run."""

    def __init__(self, source, first, last):
        super().__init__(source.open, source.n_tokens, last - first)
        self.source, self.begin = source, first

    def read(self, start, stop, out, first=0):
        """Read from the whole run."""
        self.source.read(self.begin + start, self.begin + stop, out, first)


def _copy(values, out):
    """Copy an array into another of float32; large ones with several threads."""
    if values.dtype == out.dtype and values.flags.writeable and min(values.strides, default=0) >= 0:  # torch's limits
        torch.from_numpy(out).copy_(torch.from_numpy(values))
    else:
        np.copyto(out, values, casting="unsafe")


def _read_file(run, where, out, top=0):
    """Read columns of a memory map from row ``top`` on, row by row; returns False if the run is no such map.

    Pages of a map stay in memory until it is closed, so a map would hold the whole file. Plain reads copy only what is
    needed and are faster. A few gaps between columns (the padding of sheets) are read into a dummy buffer.
    """
    plain = isinstance(run, np.memmap) and run.flags.c_contiguous and hasattr(os, "preadv")
    if not plain or run.dtype != out.dtype or out.strides[1] != out.itemsize:
        return False
    pieces, begin = _pieces(where), _place_in_file(run)
    if pieces is None or begin is None:
        return False
    spans, first, width = pieces
    step = run.shape[1] * run.itemsize
    first = begin + first * run.itemsize + top * step
    void = np.empty(max((n for start, n in spans if start is None), default=0), out.dtype)
    with open(run.filename, "rb", buffering=0) as file:
        fd = file.fileno()
        for i, row in enumerate(out):
            parts = [void[:n] if start is None else row[start : start + n] for start, n in spans]
            if os.preadv(fd, parts, first + i * step) != width * run.itemsize:
                return False  # a network file system may read short
    return True


def _place_in_file(run):
    """Byte of the file at which a memory map, or a slice of one, begins; None if its memory is not that of the file.

    A slice has the attribute ``offset`` of the whole map.
    """
    whole = run
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    if not isinstance(whole.base, mmap.mmap) or run.filename is None or run.mode == "c":
        return None  # a copy, or a private map
    return whole.offset + run.ctypes.data - whole.ctypes.data


def _pieces(where):
    """Columns as a few consecutive spans: list of (place in the row or None for a gap, length), first column, width."""
    if isinstance(where, slice):
        n = where.stop - where.start
        return [(0, n)], where.start, n
    steps = np.diff(where)
    cuts = np.flatnonzero(steps != 1)
    width = int(where[-1]) - int(where[0]) + 1
    if len(cuts) > MOST_GAPS or width > 2 * len(where) or not (steps > 0).all():
        return None
    spans, last = [], 0
    for cut in cuts:
        spans += [(last, int(cut) + 1 - last), (None, int(steps[cut]) - 1)]
        last = int(cut) + 1
    return [*spans, (last, len(where) - last)], int(where[0]), width


def as_slice(columns):
    """Turn consecutive columns into a slice, which is faster to read."""
    if len(columns) and columns[-1] - columns[0] == len(columns) - 1 and np.all(np.diff(columns) == 1):
        return slice(int(columns[0]), int(columns[-1]) + 1)
    return columns


def keep_grams(sources):
    """Keep the Gram matrices of as many runs as fit into ``KEPT_BYTES``, for several decompositions of them."""
    spent = np.cumsum([4 * source.n_tokens**2 for source in sources])
    for source, size in zip(sources, spent):
        if size <= KEPT_BYTES:
            source.keep_gram()


def as_sources(runs):
    """Turn arrays ``(n_tokens, n_neurons)`` into sources and check that they have the same neurons."""
    sources = []
    for i, run in enumerate(runs):
        if not isinstance(run, ArraySource):
            run = np.asarray(run)
            if run.ndim != 2:
                raise ParameterError(f"Run {i} has the shape {run.shape}; (n_tokens, n_neurons) is expected.")
            run = ArraySource(lambda run=run: run, *run.shape)
        sources.append(run)
    if not sources:
        raise ParameterError("The list of runs is empty; pass at least one array (n_tokens, n_neurons).")
    widths = {s.n_neurons for s in sources}
    if len(widths) > 1:
        raise ParameterError(f"All runs must have the same neurons; they have {sorted(widths)} neurons.")
    return sources
