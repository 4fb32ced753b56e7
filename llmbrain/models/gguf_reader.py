"""Read GGUF files quickly, for transformers: metadata in bulk and once, tensors dequantised ahead by threads.

The reader of the gguf package takes tens of microseconds for every token of the vocabulary, and transformers opens the
file three times: for the config, the weights and the tokenizer. The values are those of the package, bit for bit.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import lru_cache
from importlib import import_module
from unittest.mock import patch

import numpy as np

AHEAD = 3  # tensors that are dequantised before transformers asks for them
PIECE = 1 << 18  # values that are dequantised at once (1 MiB of float32, in the second-level cache)
TASK = 1 << 22  # values of a tensor that one thread dequantises


@contextmanager
def quick_reading():
    """Give transformers a quick reader of GGUF files inside the ``with`` block.

    transformers takes the reader from the gguf package when it opens a file, so names are replaced there, and two
    helpers of its own that run once per token. All are as before at the end. Where a version reads in another way, its
    own code runs.
    """
    import gguf

    reader_class, readers = _quick_class(gguf.GGUFReader), {}

    def reader(path, *args, **kwargs):
        if path not in readers:
            readers[path] = reader_class(path, *args, **kwargs)
        return readers[path]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, ExitStack() as stack:
        replaced = {
            "gguf.GGUFReader": reader,
            "gguf.dequantize": _Ahead(gguf.dequantize, readers, pool),
            "gguf.get_tensor_name_map": lru_cache(gguf.get_tensor_name_map),  # transformers asks for every module
            "transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint": _config_once(),
            "transformers.modeling_gguf_pytorch_utils._gguf_parse_value": _parse_value,
            "transformers.integrations.gguf.reader._mapped": _mapped,
        }
        for name, new in replaced.items():
            module, _, own = name.rpartition(".")
            if _has(module, own):
                stack.enter_context(patch(name, new))
        yield


def _has(module, name):
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


def _config_once():
    """transformers' ``load_gguf_checkpoint``, which reads the config of a file once for the model and the tokenizer."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    plain = lru_cache(load_gguf_checkpoint)

    def load(path, return_tensors=False, **options):
        if return_tensors:
            return load_gguf_checkpoint(path, True, **options)
        return {**plain(path), "config": deepcopy(plain(path)["config"])}

    return load


def _parse_value(value, kinds):
    """One value of a field, from the array of its bytes and the types of the field."""
    kind = kinds[-1] if isinstance(kinds, list) else kinds
    return value.tobytes().decode() if kind == 8 else value[0].item()  # 8 is a string


def _mapped(path):
    """The bytes of a file; slices of a memory map itself take longer than those of a plain array."""
    return np.memmap(path, mode="r", dtype=np.uint8).view(np.ndarray)


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
            self.running[_place(tensor.data)] = self._start(tensor.data, tensor.tensor_type)
        values, tasks = self.running.pop(key, None) or self._start(data, kind)
        for task in tasks:
            task.result()
        return values

    def _start(self, data, kind):
        """Return an array for the values of a tensor, and the tasks that fill it.

        The package takes 16 rows at a time, which are few values in a narrow tensor. No value depends on another block,
        so here longer pieces of the bytes are dequantised, and several at once.
        """
        if data.dtype != np.uint8:  # not quantised
            return self.plain(data, kind), []
        from gguf import GGML_QUANT_SIZES

        per_block, n_bytes = GGML_QUANT_SIZES[kind]
        blocks = data.reshape(-1, n_bytes)
        values = np.empty((len(blocks), per_block), np.float32)
        size = TASK // per_block
        tasks = [
            self.pool.submit(self._fill, values[i : i + size], blocks[i : i + size], kind)
            for i in range(0, len(blocks), size)
        ]
        return values.reshape(*data.shape[:-1], -1), tasks

    def _fill(self, values, blocks, kind):
        size = PIECE // values.shape[1]
        for i in range(0, len(blocks), size):
            part = values[i : i + size]
            part[:] = self.plain(blocks[i : i + size].reshape(1, -1), kind).reshape(part.shape)


def _place(data):
    return data.__array_interface__["data"][0], data.nbytes
