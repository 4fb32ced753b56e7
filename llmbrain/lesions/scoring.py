"""Score tasks on the intact model and under many lesions."""

import contextlib
from dataclasses import dataclass

import numpy as np

from ..exceptions import ParameterError
from ..models.inputs import input_device
from .batched import MODES, Passes, condition_losses, row_mode
from .checkpoint import Checkpoint
from .context import Lesion
from .positions import PositionTracker, acts_everywhere, check_positions, scored_positions

__all__ = ["Scorer", "default_batch_tokens"]

AUTOCASTS = (None, "bfloat16", "float16")


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
        if self.mode not in ("auto", *MODES):
            raise ParameterError(f"mode must be one of auto, {', '.join(MODES)}; got {self.mode!r}.")
        if self.autocast not in AUTOCASTS:
            raise ParameterError(f"autocast must be one of {AUTOCASTS}; got {self.autocast!r}.")
        check_positions(self.positions)

    def run(self, tasks, edits, *, progress=False, checkpoint=None):
        """Return item values of every task: arrays ``(1 + n_edits, n_items)``; row 0 is intact, larger is worse."""
        check_positions(self.positions, tasks)
        sequences = [s for task in tasks for s in task.sequences]
        sums = self._score(sequences, edits, progress, checkpoint) if sequences else None
        values, start = [], 0
        for task in tasks:
            if task.call is not None:
                values.append(self._call(task, edits, progress, checkpoint))
                continue
            stop = start + len(task.sequences)
            values.append(task.values(sums[:, start:stop]))
            start = stop
        return values

    def _score(self, sequences, edits, progress, checkpoint):
        if self.mode == "auto":
            self.mode = row_mode(self.model, self.sites, edits)
        key = [] if checkpoint is None else self._key(edits, sequences)
        keeper, shape = Checkpoint(checkpoint, key), (1 + len(edits), len(sequences))
        sums = keeper.found if np.shape(keeper.found) == shape else np.full(shape, np.nan)
        with _bar((1 + len(edits)) * sum(map(len, sequences)), "lesions", progress) as bar, self._precision():

            def step(n_tokens, sums):
                bar.update(n_tokens)
                keeper.keep(sums)

            bar.update(int((~np.isnan(sums)).sum(axis=0) @ [len(s) for s in sequences]))
            passes = Passes(self.max_batch_tokens or default_batch_tokens(self.model), self.mode, self.positions)
            try:
                condition_losses(self.model, self.sites, sequences, edits, passes, done=sums, progress=step)
            finally:
                keeper.keep(sums, now=True)
        return sums

    def _call(self, task, edits, progress, checkpoint):
        key = [] if checkpoint is None else [*self._key(edits, []), str(self.positions), task.name, task.key]
        keeper = Checkpoint(checkpoint, key, task.name)
        rows = [] if keeper.found is None else list(keeper.found)
        with self._precision(), _bar(1 + len(edits), task.name, progress, unit="run") as bar:
            bar.update(len(rows))
            follow = any(edit.kind.by_position for edit in edits)
            tracker = PositionTracker(self.model, self.positions, follow=follow)
            for edit in [None, *edits][len(rows) :]:
                lesioned = contextlib.nullcontext()
                if edit is not None:
                    lesioned = Lesion(self.model, edit, self.sites, tracker)
                with lesioned:
                    row = task.call(self.model, self.tokenizer)
                rows.append(row)
                if len({len(row) for row in rows}) == 1:
                    keeper.keep(np.stack(rows), now=True)
                bar.update(1)
        if len({len(row) for row in rows}) > 1:
            raise ParameterError(f"The task {task.name!r} returned different numbers of items under different lesions.")
        return task.take(np.stack(rows))

    def _precision(self):
        import torch

        if self.autocast is None:
            return contextlib.nullcontext()
        device = input_device(self.model).type
        return torch.autocast(device, dtype=getattr(torch, self.autocast))

    def _key(self, edits, sequences):
        from ..models.identity import weights_hash

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
