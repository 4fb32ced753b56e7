"""Read GGUF files quickly, for transformers: metadata in bulk and once, tensors dequantised ahead by threads.

The reader of the gguf package takes tens of microseconds for every token of the vocabulary, and transformers opens the
file three times: for the config, the weights and the tokenizer. The values are those of the package, bit for bit.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

__all__ = ["quick_reader", "quick_reading"]

AHEAD = 3  # tensors that are dequantised before transformers asks for them


@contextmanager
def quick_reading():
    """Give transformers a quick reader of GGUF files inside the ``with`` block.

    transformers takes the reader from the gguf package when it opens a file, so the name is replaced there; the package
    is as before at the end. Where a version of the package reads in another way, its own code runs.
    """
    import gguf

    plain = gguf.GGUFReader, gguf.dequantize
    reader_class, readers = _quick_class(gguf.GGUFReader), {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:

        def reader(path, *args, **kwargs):
            if path not in readers:
                readers[path] = reader_class(path, *args, **kwargs)
            return readers[path]

        gguf.GGUFReader, gguf.dequantize = reader, _Ahead(gguf.dequantize, readers, pool)
        try:
            yield
        finally:
            gguf.GGUFReader, gguf.dequantize = plain


def quick_reader():
    """The package's class ``GGUFReader``, with arrays of the metadata read in bulk."""
    import gguf

    return _quick_class(gguf.GGUFReader)


def _quick_class(base):
    """Subclass of the package's reader that reads arrays of the metadata in bulk."""
    from gguf import GGUFValueType

    class Reader(base):
        """The same fields and tensors."""

        def _get_field_parts(self, orig_offs, raw_type):
            if raw_type != GGUFValueType.ARRAY or self.byte_order == "S":
                return super()._get_field_parts(orig_offs, raw_type)
            kind, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
            item, n, first = GGUFValueType(kind[0]), int(count[0]), orig_offs + 12
            if item == GGUFValueType.STRING and n:
                parts, end = _strings(self.data.view(np.ndarray), first, n)
                where = range(3, 2 + len(parts), 2)
            elif item in self.gguf_scalar_to_np and n:
                values = self._get(first, self.gguf_scalar_to_np[item], n).view(np.ndarray)
                parts, end, where = list(values[:, None]), first + values.nbytes, range(2, 2 + n)
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            return end - orig_offs, [kind, count, *parts], list(where), [GGUFValueType.ARRAY, item]

    return Reader


def _strings(data, first, n):
    """Lengths and bytes of ``n`` strings from byte ``first`` on, as views in turn, and the byte after them."""
    parts, raw = [], memoryview(data)
    for _ in range(n):
        start = first + 8
        end = start + int.from_bytes(raw[first:start], "little")
        if end > len(data):
            raise ValueError(f"a string of the metadata ends at byte {end} of a file of {len(data)} bytes")
        parts += (data[first:start].view(np.uint64), data[start:end])
        first = end
    return parts, first


class _Ahead:
    """``dequantize`` whose next calls are already running: transformers goes through the tensors in their order."""

    def __init__(self, plain, readers, pool):
        self.plain, self.readers, self.pool = plain, readers, pool
        self.running, self.left = {}, None

    def __call__(self, data, kind):
        """Return the float32 values of a tensor."""
        if self.left is None:
            self.left = deque(t for reader in self.readers.values() for t in reader.tensors)
        key = _place(data)
        while self.left and len(self.running) <= AHEAD:
            tensor = self.left.popleft()
            self.running[_place(tensor.data)] = self.pool.submit(self.plain, tensor.data, tensor.tensor_type)
        found = self.running.pop(key, None)
        return self.plain(data, kind) if found is None else found.result()


def _place(data):
    return data.__array_interface__["data"][0], data.nbytes
