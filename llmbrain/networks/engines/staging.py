"""The way of data from main memory to a GPU: through locked memory, while the next part is read."""

from functools import lru_cache

import torch

STAGES = 4  # parts that are on the way at a time,
STAGE_VALUES = 1 << 23  # and float32 values of each (32 MiB)


class Stage:
    """Locked memory that is used in turn. Copies are ordered with the other work of the device."""

    def __init__(self, device):
        self.is_cuda = torch.device(device).type == "cuda"
        self.buffers, self.copied, self.turn = [torch.empty(0)] * STAGES, [None] * STAGES, 0

    def fill(self, out, read):
        """Fill ``out`` ``(n_rows, n_columns)`` on the device by calls ``read(array, first)`` for rows from there on."""
        step = max(1, STAGE_VALUES // max(out.shape[1], 1))
        for first in range(0, len(out), step):
            rows, host = out[first : first + step], self._next(step * out.shape[1])
            host = host[: rows.numel()].view(rows.shape)
            read(host.numpy(), first)
            rows.copy_(host, non_blocking=self.is_cuda)
            if self.is_cuda:
                self.copied[self.turn] = torch.cuda.current_stream(out.device).record_event()
        return out

    def _next(self, size):
        """Return the buffer that was used longest ago, once its copy has arrived."""
        self.turn = (self.turn + 1) % STAGES
        if self.copied[self.turn] is not None:
            self.copied[self.turn].synchronize()
        if len(self.buffers[self.turn]) < size:
            self.buffers[self.turn] = torch.empty(max(size, STAGE_VALUES), pin_memory=self.is_cuda)
        return self.buffers[self.turn]


@lru_cache
def stage(device):
    """Return the memory that all runs share on their way to a device; locking memory takes long."""
    return Stage(device)


def room(device):
    """Free bytes of a GPU; 0 if its memory is not its own."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
