"""Recording on CUDA devices: while one batch is copied to the host and written, the next one is computed."""

import contextlib
import os
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

from ..models.hooks import site_hooks
from ..models.inputs import input_device
from .capture import NotFiniteError, columns_of, pieces, raise_if_not_finite, run_batch

_BYTES = 16 << 20  # per transfer: large enough for the bus, small enough that many fit in memory
_RUNS = 8  # most runs recorded at once: threads write into different files without waiting for each other
_FEW = 4  # fewer files than this are written through memory maps, which threads can share
_WRITERS = 16  # most threads; each writes 2 to 4 GiB/s
_SPARE = 4  # transfers in flight while all threads write
_SHARE = 0.4  # of the device's free memory, for rows that wait to be copied


class CudaScanner:
    """Record runs with a model that is on one CUDA device, or spread over several; used like ``HostScanner``.

    A wave consists of one batch of each of several runs. Its rows are collected on one device in the model's own type,
    put in file order and converted to the type of the files there, and copied to pinned memory on a second stream.
    Threads then write them, alternating between the files. Two sets of rows alternate, so that the device computes one
    wave while the previous one is copied; this goes on from one group of runs to the next. Files are the bottleneck:
    the system lets only one thread at a time write into a file. Memory is bounded by the two waves, which use a part of
    the device's free memory, and by 20 transfers of 16 MiB on the host.
    """

    reserve = False  # see RunWriter; the device would wait for it

    def __init__(self, model, groups, n_rows, n_runs=1):
        import torch

        self.model = model
        self.sites = [site for group in groups for site in group]
        self.place = columns_of(groups)
        self.device = input_device(model)
        dtype = self._dtype()
        widths = [sum(site.size for site in group) + 1 for group in groups]
        self._lane = _Lane(self.device)
        room = self._lane.free_bytes() * _SHARE / (2 * n_rows * sum(widths) * dtype.itemsize)
        self.n_runs = max(1, min(_RUNS, n_runs, int(room)))
        self._sets = [
            [
                [torch.zeros(n_rows, width, dtype=dtype, device=self.device) for width in widths]
                for _ in range(self.n_runs)
            ]
            for _ in range(2)
        ]
        self._n_writers = min(_WRITERS, os.cpu_count() or 1)
        self._slots, self._turn = None, 0  # the set of rows of the latest wave

    def _dtype(self):
        """Find the type of all activations by running one token, because weights do not show it; float32 if mixed."""
        import torch

        seen = set()
        ids = torch.zeros(1, 1, dtype=torch.int64, device=input_device(self.model))
        with torch.no_grad(), site_hooks(self.sites, lambda i, x: seen.add(x.dtype)):
            self.model(input_ids=ids)
        return seen.pop() if len(seen) == 1 else torch.float32

    def scan(self, runs, progress, before=None):
        """Like :meth:`llmbrain.recording.capture.HostScanner.scan`, for up to ``n_runs`` runs.

        The last wave is sent and written by the function that is returned. If that is ``before`` of the next scan, the
        device computes meanwhile.
        """
        with self._lane.after(None):  # on the other stream, or the copies would wait for computations
            orders = [[_Order(writer, self.device) for writer in writers] for _, writers in runs]
        self._make_slots(max(order.row_bytes for group in orders for order in group))
        mapped = len(runs) < _FEW
        surprisals, writing, sent, last = [[] for _ in runs], [], None, None
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._n_writers))
            for members in _waves(runs):
                self._settle(sent)  # its rows make room for this wave
                self._turn = 1 - self._turn
                wave = self._compute(members, self._sets[self._turn], surprisals)
                if before is not None:
                    before()
                    before = None
                if last is not None:  # it is copied while the device computes
                    writing = _unfinished(writing) + self._send(pool, last, orders, progress, mapped)
                sent, last = last, wave
            self._settle(sent)
            rest = stack.pop_all()

        def finish():
            with rest:
                writes = writing + self._send(pool, last, orders, progress, mapped)
                self._settle(last)
                for future in writes:
                    future.result()
            with self._lane.after(None):
                for order in (order for group in orders for order in group):
                    order.finish()
                return [[values.cpu().numpy() for values in parts] for parts in surprisals]

        return finish

    def _compute(self, members, sets, surprisals):
        """Start a wave: forward passes one after another, each into its own rows."""
        wave = _Wave([], None, None)
        for (run, number, (batch, places, rows)), buffers in zip(members, sets):
            views = [buffer[: sum(map(len, places))] for buffer in buffers]
            surprisals[run].append(
                run_batch(self.model, self.sites, batch, places, lambda i, x, v=views: self._keep(v, i, x))
            )
            wave.members.append((run, number, places, rows, views))
        wave.computed = self._lane.now()
        return wave

    def _settle(self, wave):
        """Wait until a wave has been copied, and find the bad value if its sums are not finite."""
        if wave is None:
            return
        wave.left.synchronize()
        for (run, number, _, _, views), finite in zip(wave.members, wave.finite):
            if not bool(finite.all()):
                self._raise_for(run, number, views)

    def _raise_for(self, run, number, views):
        for site, (g, start, stop) in zip(self.sites, self.place):
            try:
                raise_if_not_finite(site, views[g][:, start:stop])
            except NotFiniteError as error:
                error.run, error.batch = run, number
                raise

    def _make_slots(self, row_bytes):
        """Allocate pinned memory for the transfers, kept for all runs; a slot holds at least one token."""
        if self._slots is None or self._slot_bytes < row_bytes:
            self._slot_bytes = max(_BYTES, row_bytes)
            self._slots = queue.Queue()
            for _ in range(self._n_writers + _SPARE):
                self._slots.put(self._lane.host_bytes(self._slot_bytes))

    def _keep(self, views, i, rows):
        g, start, stop = self.place[i]
        views[g][:, start:stop] = rows

    def _send(self, pool, wave, orders, progress, mapped):
        """Start the copies of a wave's rows, alternating between runs; return the pending writes."""
        futures = []
        with self._lane.after(wave.computed):
            wave.finite = [self._all_finite(views) for *_, views in wave.members]
            transfers = [self._transfers(orders[run], *member) for run, _, *member in wave.members]
            for order, row, part in (t for turn in zip_longest(*transfers) for t in turn if t is not None):
                ordered = order(part)
                slot = self._slots.get()
                target = slot[: ordered.numel() * ordered.element_size()].view(ordered.dtype).view(ordered.shape)
                target.copy_(ordered, non_blocking=True)
                write = order.writer.put_mapped if mapped else order.writer.put
                futures.append(pool.submit(self._write, write, row, target, slot, self._lane.mark()))
            wave.left = self._lane.mark()
        progress(sum(len(kept) for _, _, places, _, _ in wave.members for kept in places))
        return futures

    def _transfers(self, orders, places, rows, views):
        """Yield the transfers of a batch: ``(order, row in the run, part of the rows)``."""
        for order, view in zip(orders, views):
            for row, part in pieces(places, rows, self._slot_bytes // order.row_bytes):
                yield order, row, view[part]

    def _write(self, write, row, target, slot, arrived):
        try:
            arrived.synchronize()
            write(row, target.numpy())
        finally:
            self._slots.put(slot)

    def _all_finite(self, views):
        """Whether the sum of each group is finite, on the host as soon as the rows have been copied."""
        import torch

        flags = self._lane.host_bytes(len(views)).view(torch.bool)
        sums = [view.sum(dtype=torch.float32) for view in views]
        return flags.copy_(torch.stack(sums).isfinite(), non_blocking=True)


@dataclass(eq=False)
class _Wave:
    """Batches that are on the device together: their rows, and events for when they were computed and copied."""

    members: list
    computed: object
    left: object
    finite: list = ()


def _waves(runs):
    """Yield the first batch of each run, then the second of each, and so on: ``[(run, number, batch)]``."""
    numbered = [[(run, number, row) for number, row in enumerate(todo)] for run, (todo, _) in enumerate(runs)]
    for wave in zip_longest(*numbered):
        yield [member for member in wave if member is not None]


def _unfinished(futures):
    """Raise the errors of finished writes; return the unfinished ones."""
    for future in futures:
        if future.done():
            future.result()
    return [future for future in futures if not future.done()]


class _Lane:
    """The stream on which rows are copied from a device; on the CPU, where tests run, everything is synchronous."""

    def __init__(self, device):
        import torch

        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def now(self):
        """Return an event after all work queued on the device so far, for :meth:`after`."""
        import torch

        return None if self._stream is None else torch.cuda.current_stream(self.device).record_event()

    @contextlib.contextmanager
    def after(self, done):
        """Run the block on this stream, after the event ``done`` if there is one."""
        import torch

        if self._stream is None:
            yield
            return
        if done is not None:
            self._stream.wait_event(done)
        with torch.cuda.stream(self._stream):
            yield

    def free_bytes(self):
        """Return the free memory of the device, in bytes."""
        import torch

        if self._stream is None:
            return 1 << 32
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)  # by torch, reusable
        return torch.cuda.mem_get_info(self.device)[0] + kept

    def mark(self):
        """Return an event: its ``synchronize()`` waits until all work queued on this stream so far is done."""
        return self if self._stream is None else self._stream.record_event()

    def synchronize(self):
        """Wait for all queued work."""
        if self._stream is not None:
            self._stream.synchronize()

    def host_bytes(self, n):
        """Allocate host memory that the device can access directly."""
        import torch

        return torch.empty(n, dtype=torch.uint8, pin_memory=self._stream is not None)


class _Order:
    """Put rows in file order, and convert them to the type of the file, on the device."""

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
