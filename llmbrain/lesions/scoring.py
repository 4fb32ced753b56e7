"""Score tasks on the intact model and under many lesions."""

import contextlib
from dataclasses import dataclass

import numpy as np

from .. import parallel
from ..exceptions import ParameterError
from ..models.hooks import evaluating
from ..models.identity import weights_hash
from ..models.inputs import input_device
from ..registry import choose
from .batched import MODES, Passes, condition_losses, row_mode
from .checkpoint import Checkpoint
from .context import Lesion
from .positions import PositionTracker, acts_everywhere, check_positions, scored_positions

AUTOCASTS = ("bfloat16", "float16")


@dataclass
class Scorer:
    """Scores prepared tasks on the intact model and under a list of edits; options as in ``StudyOptions``."""

    model: object
    tokenizer: object
    sites: list  # in the layer order of the edits' geometry
    max_batch_tokens: int = None  # default from the device
    mode: str = "auto"  # after a run, the mode that was used
    autocast: str = None
    positions: object = "all"

    def __post_init__(self):
        choose("mode", self.mode, ("auto", *MODES))
        if self.autocast is not None:
            choose("autocast", self.autocast, AUTOCASTS)
        check_positions(self.positions)

    def run(self, tasks, edits, *, progress=False, checkpoint=None):
        """Return item values of every task: arrays ``(1 + n_edits, n_items)``; row 0 is intact, larger is worse.

        In several processes, each runs some of the conditions, and all return the same values.
        """
        parallel.check_enough(1 + len(edits), "conditions")
        found = self._measure(tasks, edits, progress, checkpoint)
        values, start = [], 0
        for task, rows in zip(tasks, found):
            if task.call is not None:
                values.append(task.take(rows))
                continue
            stop = start + len(task.sequences)
            values.append(task.values(rows[:, start:stop]))
            start = stop
        return values

    def run_share(self, tasks, edits, part, *, progress=False, checkpoint=None):
        """Run one share of the conditions and keep its numbers in the checkpoint."""
        parallel.check_enough(1 + len(edits), "conditions", part)
        self._measure(tasks, edits, progress, checkpoint, part)

    def _measure(self, tasks, edits, progress, checkpoint, part=None):
        """Return for every task what was measured, of callables or of all sequences together."""
        check_positions(self.positions, tasks)
        sequences, mine = [s for task in tasks for s in task.sequences], parallel.here(part)
        progress = progress and parallel.main_process()
        file = checkpoint if checkpoint is None or mine is None else mine.path(checkpoint)
        each_alone = mine is None and parallel.launched() > 1  # all processes of a launch do the same
        alone = contextlib.nullcontext() if file is None or each_alone else parallel.only_launch(file)
        with alone, evaluating(self.model):
            sums = self._score(sequences, edits, progress, checkpoint, part) if sequences else None
            return [
                sums if task.call is None else self._call(task, edits, progress, checkpoint, part) for task in tasks
            ]

    def _score(self, sequences, edits, progress, checkpoint, part):
        if self.mode == "auto":
            self.mode = row_mode(self.model, self.sites, edits)
        max_tokens = self.max_batch_tokens or default_batch_tokens(self.model)
        max_tokens = min(map(int, parallel.gather_texts(str(max_tokens))))  # the free memory of GPUs differs
        key = self._key(edits, sequences) if checkpoint is not None or parallel.world_size() > 1 else []
        parallel.agree("settings, texts or weights", self.mode, *key)
        keeper, shape = Checkpoint(checkpoint, key, share=parallel.here(part)), (1 + len(edits), len(sequences))
        before = keeper.found if np.shape(keeper.found) == shape else np.full(shape, np.nan)
        sums = before.copy()
        with _bar((1 + len(edits)) * sum(map(len, sequences)), "lesions", progress) as bar, self._precision():

            def step(n_tokens, sums):
                bar.update(n_tokens)
                keeper.keep(sums)

            bar.update(int((~np.isnan(sums)).sum(axis=0) @ [len(s) for s in sequences]))
            passes = Passes(max_tokens, self.mode, self.positions)
            parallel.barrier()  # nobody writes before all have read the checkpoints
            try:
                share = None if part is None else parallel.here(part)
                given = {"done": sums, "progress": step, "part": share}
                condition_losses(self.model, self.sites, sequences, edits, passes, **given)
            finally:
                keeper.keep(sums, now=True)
        return _together(sums, ~np.isnan(sums), ~np.isnan(before))

    def _call(self, task, edits, progress, checkpoint, part):
        key = [] if checkpoint is None else [*self._key(edits, []), str(self.positions), task.name, task.key]
        keeper, conditions = Checkpoint(checkpoint, key, task.name, parallel.here(part)), [None, *edits]
        before = np.zeros(len(conditions), bool) if keeper.found is None else keeper.finished[:, 0]
        rows = {k: keeper.found[k] for k in np.flatnonzero(before)}
        todo = range(len(conditions)) if part is None else parallel.here(part).of(range(len(conditions)))
        todo = [k for k in todo if not before[k]]
        parallel.barrier()
        with self._precision(), _bar(len(conditions), task.name, progress, unit="run") as bar:
            bar.update(len(rows))
            follow = any(edit.kind.by_position for edit in edits)
            tracker = PositionTracker(self.model, self.positions, follow=follow)
            for k in todo if part is not None else parallel.share(todo):
                lesioned = contextlib.nullcontext()
                if k:
                    lesioned = Lesion(self.model, conditions[k], self.sites, tracker)
                with lesioned:
                    rows[k] = task.call(self.model, self.tokenizer)
                if len({len(row) for row in rows.values()}) == 1:
                    keeper.keep(*_table(rows, len(conditions)), now=True)
                bar.update(1)
        own = " ".join(str(len(row)) for row in rows.values())
        counts = set(" ".join(parallel.gather_texts(own)).split())
        if len(counts) > 1:
            raise ParameterError(f"The task {task.name!r} returned different numbers of items under different lesions.")
        numbers, finished = _table(rows, len(conditions), int(next(iter(counts))))
        return _together(numbers, finished, before[:, None])

    def _precision(self):
        import torch

        if self.autocast is None:
            return contextlib.nullcontext()
        device = input_device(self.model).type
        return torch.autocast(device, dtype=getattr(torch, self.autocast))

    def _key(self, edits, sequences):
        return [
            weights_hash(self.model),
            str(self.autocast),
            *self._places(sequences),
            *(edit.signature for edit in edits),
            *(s.ids.tobytes() + s.scored.tobytes() for s in sequences),
        ]

    def _places(self, sequences):
        """The lesioned positions of each sequence, as part of what identifies the study when it resumes."""
        import torch

        if acts_everywhere(self.positions):
            return []
        ids = (torch.from_numpy(s.ids)[None] for s in sequences)
        return [scored_positions(self.positions, [s], i).numpy().tobytes() for s, i in zip(sequences, ids)]


def _table(rows, n, width=None):
    """Arrange rows by their number: numbers ``(n, width)``, NaN for missing rows, and which rows are there."""
    numbers = np.full((n, next(map(len, rows.values())) if width is None else width), np.nan)
    finished = np.zeros((n, 1), bool)
    for k, row in rows.items():
        numbers[k], finished[k] = row, True
    return numbers, finished


def _together(numbers, finished, before):
    """Put together what each process has measured since ``before``, which all know; the same bits in all."""
    import torch

    if parallel.world_size() == 1:
        return numbers
    # each value is a sum of one number and zeros; a NaN that was measured (an unread answer) stays one
    new = torch.from_numpy(np.where(finished & ~before, numbers, 0.0))
    return np.where(before, numbers, parallel.all_reduce(new).numpy())


def default_batch_tokens(model):
    """Choose the tokens of a forward pass: enough to keep the processor busy, few enough for the available memory."""
    import torch

    device = input_device(model)
    if device.type != "cuda":
        return 2048
    config = model.config.get_text_config()
    width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # about ten copies of the widest activation exist at a time; they may take a third of the free memory
    free, _ = torch.cuda.mem_get_info(device)
    return int(np.clip(free / 3 / (10 * width * 4), 4096, 131072))


def _bar(total, name, show, unit="tok"):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, unit=unit, unit_scale=unit == "tok", disable=not show, leave=False)
