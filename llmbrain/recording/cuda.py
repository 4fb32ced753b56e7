"""Recording on a CUDA device: while a batch is copied to the host and written, the next one is computed."""

import queue
from concurrent.futures import ThreadPoolExecutor

from .capture import columns_of, raise_if_not_finite, run_batch

__all__ = ["CudaScanner"]

_BYTES = 64 << 20  # of one transfer: long enough for the bus, short enough that a few fit anywhere
_SLOTS = 6  # transfers under way or being written
_WRITERS = 4  # threads that hand pages to the system, which copies them once more


class CudaScanner:
    """Take runs through a model all of whose recorded sites are on one CUDA device.

    Rows are collected on the device in the model's own type, ordered there as the file wants them, and copied to
    pinned memory on a second stream; threads write them. Two sets of rows alternate, so that the device computes while
    the last batch leaves it.

    Parameters
    ----------
    model, groups, n_rows
        As for :class:`~llmbrain.recording.capture.HostScanner`.
    """

    def __init__(self, model, groups, n_rows):
        import torch

        self.model = model
        self.sites = [site for group in groups for site in group]
        self.place = columns_of(groups)
        self.device = next(self.sites[0].module.parameters(), next(model.parameters())).device
        floating = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
        dtype = floating.pop() if len(floating) == 1 else torch.float32
        widths = [sum(site.size for site in group) for group in groups]
        self._sets = [
            [torch.zeros(n_rows, width + 1, dtype=dtype, device=self.device) for width in widths] for _ in range(2)
        ]
        self._copying = torch.cuda.Stream(self.device)
        self._slots = queue.Queue()
        for _ in range(_SLOTS):
            self._slots.put(torch.empty(_BYTES, dtype=torch.uint8, pin_memory=True))

    def scan(self, todo, writers, progress):
        """As :meth:`llmbrain.recording.capture.HostScanner.scan`."""
        import torch

        orders = [_Order(writer, self.device) for writer in writers]
        surprisals, finite, writing = [], [], []
        left = [None, None]  # when each set of rows has left the device
        with ThreadPoolExecutor(_WRITERS) as pool:
            for number, (batch, places, rows) in enumerate(todo):
                buffers = self._sets[number % 2]
                if number >= 2:
                    left[number % 2].synchronize()
                    self._check(number - 2, finite[number - 2], todo, buffers)
                n_kept = sum(map(len, places))
                views = [buffer[:n_kept] for buffer in buffers]
                surprisals.append(
                    run_batch(self.model, self.sites, batch, places, lambda i, x, v=views: self._keep(v, i, x))
                )
                self._copying.wait_stream(torch.cuda.current_stream(self.device))
                with torch.cuda.stream(self._copying):
                    finite.append(self._all_finite(buffers, n_kept))
                    for order, buffer in zip(orders, buffers):
                        writing += self._send(pool, order, buffer, places, rows)
                    left[number % 2] = self._copying.record_event()
                for done in [future for future in writing if future.done()]:
                    done.result()
                progress(n_kept)
            self._copying.synchronize()
            for number in range(max(0, len(todo) - 2), len(todo)):
                self._check(number, finite[number], todo, self._sets[number % 2])
            for future in writing:
                future.result()
        for order in orders:
            order.finish()
        return [values.cpu().numpy() for values in surprisals]

    def _keep(self, views, i, rows):
        g, start, stop = self.place[i]
        views[g][:, start:stop] = rows

    def _send(self, pool, order, buffer, places, rows):
        """Start the copies of a batch's rows; returns what is being written."""
        import torch

        futures, start = [], 0
        step = max(1, _BYTES // order.row_bytes)
        for kept, row in zip(places, rows):
            for a in range(0, len(kept), step):
                n = min(step, len(kept) - a)
                ordered = order(buffer[start + a : start + a + n])
                slot = self._slots.get()
                target = slot[: ordered.numel() * ordered.element_size()].view(ordered.dtype).view(ordered.shape)
                target.copy_(ordered, non_blocking=True)
                arrived = torch.cuda.Event()
                arrived.record(self._copying)
                futures.append(pool.submit(self._write, order.writer, row + a, target, slot, arrived))
            start += len(kept)
        return futures

    def _write(self, writer, row, target, slot, arrived):
        try:
            arrived.synchronize()
            writer.put(row, target.numpy())
        finally:
            self._slots.put(slot)

    def _all_finite(self, buffers, n_kept):
        """Whether the sums are finite, for each group, on the host as soon as the rows have left the device."""
        import torch

        flags = torch.empty(len(buffers), dtype=torch.bool, pin_memory=True)
        sums = [buffer[:n_kept].sum(dtype=torch.float32) for buffer in buffers]
        return flags.copy_(torch.stack(sums).isfinite(), non_blocking=True)

    def _check(self, number, finite, todo, buffers):
        """Look closer at a batch whose sum is not finite, while its rows are still there."""
        if bool(finite.all()):
            return
        n_kept = sum(map(len, todo[number][1]))
        for site, (g, start, stop) in zip(self.sites, self.place):
            try:
                raise_if_not_finite(site, buffers[g][:n_kept, start:stop])
            except Exception as error:
                error.batch = number
                raise


class _Order:
    """Put rows in file order on the device, and into the type of the file."""

    def __init__(self, writer, device):
        import torch

        self.writer = writer
        self.columns = torch.from_numpy(writer.columns).to(device)
        self.steps = None if writer.steps is None else torch.from_numpy(writer.steps).to(device)
        self.row_bytes = len(writer.columns) * writer.dtype.itemsize
        self._clipped = torch.zeros((), dtype=torch.int64, device=device)

    def __call__(self, rows):
        import torch

        ordered = rows.index_select(1, self.columns).float()
        if self.steps is None:
            return ordered
        steps = ordered.mul_(self.steps).round_()
        self._clipped += (steps.abs() > 32767).sum()
        return steps.clamp_(-32767, 32767).to(torch.int16)

    def finish(self):
        self.writer.n_clipped += int(self._clipped)
