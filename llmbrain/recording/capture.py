"""One batch through the model: activations of the recorded tokens, and the surprisal of each, from one forward pass."""

import contextlib
import inspect

import numpy as np

from ..exceptions import RecordingError
from ..models.hooks import site_hooks

__all__ = ["Capture", "quiet_forward", "surprisal"]

_CHUNK = 32  # rows of logits that are turned into probabilities at a time, so that no second copy of all is made


class Capture:
    """Run a model on batches and keep the activations of chosen tokens.

    Parameters
    ----------
    model : torch.nn.Module
    groups : list of list of Site
        The sites of each recording; all are read in the same forward pass.
    n_rows : int
        Most tokens that one batch will keep.
    """

    def __init__(self, model, groups, n_rows):
        self.model = model
        self.groups = groups
        self.sites = [site for group in groups for site in group]
        self._place = []
        for g, group in enumerate(groups):
            ends = np.cumsum([site.size for site in group])
            self._place += [(g, int(end) - site.size, int(end)) for site, end in zip(group, ends)]
        self.n_rows = n_rows
        self._buffers = None
        parameters = inspect.signature(model.forward).parameters
        self._takes = None if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else set(parameters)
        self._options = {"use_cache": False} if "use_cache" in parameters else {}
        self._takes_positions = "position_ids" in parameters

    def __call__(self, batch, places):
        """Run one batch.

        Parameters
        ----------
        batch : llmbrain.corpus.Batch
        places : list of ndarray
            For each row of the batch, which of its tokens are kept.

        Returns
        -------
        blocks : list of ndarray, each (n_kept, n_neurons + 1), float32
            Activations of each group of sites in flat order, row by row, and a last column of zeros. They are
            overwritten by the next call.
        surprisal : ndarray of shape (n_kept,)
            Nats; NaN for the first token of a row.

        Raises
        ------
        RecordingError
            If an activation is infinite or not a number; ``args[1]`` holds the position of the site, the row in the
            block and the unit.
        """
        import torch

        self._allocate()
        width = batch.input_ids.shape[1]
        keep = np.concatenate([row * width + np.asarray(kept) for row, kept in enumerate(places)])
        index = torch.from_numpy(keep)
        seen = set()

        def keep_rows(i, x):
            flat = x.reshape(-1, x.shape[-1])
            g, start, stop = self._place[i]
            if flat.shape[0] != batch.input_ids.numel():
                raise RecordingError(
                    f"{self.sites[i].name} saw {flat.shape[0]} tokens instead of {batch.input_ids.numel()}; its tokens "
                    "cannot be told apart, so it cannot be recorded."
                )
            rows = flat.index_select(0, index.to(x.device))
            target = self._buffers[g][: len(keep), start:stop]
            target.copy_(rows)
            seen.add(i)
            # A sum that is finite proves that every term is; only then is a closer look needed.
            if not torch.isfinite(target.sum()):
                self._raise_if_not_finite(i, target)

        inputs = batch.to(_input_device(self.model)).inputs
        if not self._takes_positions:
            inputs.pop("position_ids")
        with torch.no_grad(), site_hooks(self.sites, keep_rows):
            logits = self.model(**inputs, **self._options).logits
            bits = surprisal(logits, inputs["input_ids"], places)
        missing = set(range(len(self.sites))) - seen
        if missing:
            raise RecordingError(
                f"{self.sites[min(missing)].name} was not reached by the forward pass, so it cannot be recorded."
            )
        return [buffer[: len(keep)].numpy() for buffer in self._buffers], bits

    def _allocate(self):
        import torch

        if self._buffers is None:
            widths = [sum(site.size for site in group) for group in self.groups]
            self._buffers = [torch.zeros(self.n_rows, width + 1) for width in widths]

    def _raise_if_not_finite(self, i, target):
        import torch

        bad = (~torch.isfinite(target)).nonzero()
        if len(bad):
            row, unit = (int(v) for v in bad[0])
            raise NotFiniteError(self.sites[i], row, unit, float(target[row, unit]), len(bad))


class NotFiniteError(RecordingError):
    """An activation is infinite or not a number: ``site``, ``row`` in the batch, ``unit``, ``value``, ``count``."""

    def __init__(self, site, row, unit, value, count):
        super().__init__(f"{site.name}, unit {unit}: {value}")
        self.site, self.row, self.unit, self.value, self.count = site, row, unit, value, count


def surprisal(logits, ids, places):
    """Surprisal of chosen tokens given what stands before them in their row.

    Parameters
    ----------
    logits : Tensor of shape (batch, tokens, vocabulary)
    ids : Tensor of shape (batch, tokens)
    places : list of ndarray
        Tokens wanted in each row.

    Returns
    -------
    ndarray of shape (n_wanted,), float64
        ``-log p(token | tokens before)`` in nats, row after row; NaN at the first place of a row.
    """
    import torch

    parts = []
    for row, wanted in enumerate(places):
        wanted = np.asarray(wanted)
        if not len(wanted):
            continue
        last = int(wanted[-1])
        values = torch.full((last + 1,), float("nan"), dtype=torch.float32, device=logits.device)
        targets = ids[row, 1 : last + 1].to(logits.device)
        first = max(int(wanted[0]), 1)
        for a in range(first - 1, last, _CHUNK):
            chunk = logits[row, a : min(a + _CHUNK, last)].float()
            target = targets[a : a + len(chunk), None]
            values[a + 1 : a + 1 + len(chunk)] = chunk.logsumexp(-1) - chunk.gather(-1, target)[:, 0]
        parts.append(values.cpu().numpy()[wanted])
    return np.concatenate(parts).astype(np.float64)


@contextlib.contextmanager
def quiet_forward(model):
    """Put a model in evaluation mode for a while: dropout would be recorded as if it were activity."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _input_device(model):
    """Where token ids go: the device of the embedding, or the one that accelerate runs it on."""
    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None) or getattr(model, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is None:
        device = embedding.weight.device
    return "cpu" if str(device) == "meta" else device
