"""Divergence of a changed model from the dense one, on windows of text.

The Kullback-Leibler divergence to the dense model grows smoothly from 0 with every neuron removed; the difference of
two losses on the same tokens is many times noisier, and needs labels.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ...evaluation.reader import find_rescaling
from ...exceptions import UnsupportedArchitectureError
from ...models.inputs import input_device
from ...parallel import all_reduce, share, world_size
from ...stats.precision import half_products, reduced_precision

KEPT_VALUES = 1 << 28  # 1 GiB in float32
_LEADING = 32  # words of each token that are looked at one by one
_SAMPLED = 1024  # words by which the mass of all others is estimated


@contextmanager
def probing(device):
    """Let a model run fast inside the block: on a GPU layers multiply in bfloat16 and predictions in TF32.

    A probe is made and used inside such a block, so that both sides of a divergence are rounded alike.
    """
    with reduced_precision(), half_products(device):
        yield


@dataclass(frozen=True)
class Words:
    """The words by which the predictions for one window are compared; None stands for the whole vocabulary.

    ``leading`` are looked at one by one. ``sampled`` are drawn from all others, which count as one word: the sum over
    the sample, times ``factor``, estimates the sum over all of them.
    """

    leading: torch.Tensor
    sampled: torch.Tensor
    factor: float

    @classmethod
    def of(cls, log_probabilities, n_leading=_LEADING, n_sampled=_SAMPLED):
        """Choose the ``n_leading`` most probable words of each token, or None where they are half of the vocabulary."""
        n_words = log_probabilities.shape[-1]
        if n_leading + n_sampled >= n_words // 2:
            return None
        leads = torch.zeros(n_words, dtype=torch.bool, device=log_probabilities.device)
        leads[log_probabilities.topk(n_leading, dim=-1).indices.flatten()] = True
        leading, others = leads.nonzero()[:, 0], (~leads).nonzero()[:, 0]
        if len(leading) + n_sampled >= n_words // 2:
            return None
        draw = np.random.default_rng(0).choice(len(others), n_sampled, replace=False)
        return cls(leading, others[torch.as_tensor(draw, device=others.device)], len(others) / n_sampled)

    @property
    def all(self):
        """Leading words, then sampled ones."""
        return torch.cat([self.leading, self.sampled])

    def log_probabilities(self, logits):
        """Log probabilities of the leading words and of all others together, from the logits of :attr:`all`."""
        leading, sampled = logits.split([len(self.leading), len(self.sampled)], dim=-1)
        others = sampled.logsumexp(-1, keepdim=True) + math.log(self.factor)
        return torch.log_softmax(torch.cat([leading, others], dim=-1), dim=-1)


class Probe:
    """Divergence of a changed model from the dense one on given windows; the model is dense when the probe is made.

    Predictions are compared word by word for the words that lead anywhere in a window, with all other words as one.
    That is the divergence of a coarser prediction: never more than that of whole predictions, and the same in the
    limit. With ``n_leading=None`` the whole vocabulary is compared. Several processes share the blocks, as a
    :class:`~llmbrain.pruning.walk.Walk` does; divergences are those of all windows.
    """

    @torch.no_grad()
    def __init__(self, model, blocks, n_leading=_LEADING):
        self.model, self.blocks = model, blocks
        self.device = input_device(model)
        self._own = share(range(len(blocks)))
        self._dense_head = model.get_output_embeddings()
        self._rescale = self._find_rescaling()
        self._last = [self._final(blocks[i]) for i in self._own]
        self._words = [None] * sum(len(blocks[i].ids) for i in self._own)
        if n_leading is not None:
            whole = (self.predict(self._dense_head, hidden, None) for hidden in self._hidden(self._last))
            self._words = [Words.of(predictions, n_leading) for predictions in whole]
        self._wanted = {}  # predictions of the dense model for each window, kept if they are small enough
        n_words = self._dense_head.weight.shape[0]
        widths = [n_words if words is None else len(words.all) for words in self._words]
        lengths = [len(h) for h in self._hidden(self._last)]
        self._keeps = sum(n * width for n, width in zip(lengths, widths)) <= KEPT_VALUES

    def _final(self, block):
        """Input of the output embedding."""
        output = self.model.base_model(**block.inputs(self.device), use_cache=False)
        return output.last_hidden_state

    def _hidden(self, finals):
        """Final hidden states of every window of this process in turn, without padding."""
        for i, hidden in zip(self._own, finals):
            yield from (rows[keep] for rows, keep in zip(hidden, self.blocks[i].mask.to(self.device)))

    def _find_rescaling(self):
        inputs = {name: value[:1, :8] for name, value in self.blocks[0].inputs(self.device).items()}
        made = self._dense_head(self.model.base_model(**inputs, use_cache=False).last_hidden_state[:, -1])
        rescale = find_rescaling(self.model, made, self.model(**inputs, use_cache=False).logits[:, -1])
        if rescale is None:
            raise UnsupportedArchitectureError(
                f"The logits of {type(self.model).__name__} are not those of its output embedding, so divergences "
                "cannot be measured from hidden states. Use an allocation other than 'curves', 'trial' and 'search'."
            )
        return rescale

    def predict(self, head, hidden, words):
        """Log probabilities of one window from its final hidden states, shape (n_tokens, n_words)."""
        with torch.autocast(hidden.device.type, enabled=False):
            if words is None:
                return torch.log_softmax(self._rescale(head(hidden)).float(), dim=-1)
            bias = None if head.bias is None else head.bias[words.all]
            logits = torch.nn.functional.linear(hidden, head.weight[words.all], bias)
            return words.log_probabilities(self._rescale(logits).float())

    def divergence(self, finals=None):
        """Mean divergence of the current model, nats per token; ``finals`` are final hidden states already known."""
        return self.windows(finals).sum() / self.n_tokens

    @property
    def n_tokens(self):
        """Tokens of all windows."""
        return sum(block.n_tokens for block in self.blocks)

    @torch.no_grad()
    def windows(self, finals=None):
        """Divergence of every window, summed over its tokens, shape (n_windows,)."""
        finals = (self._final(self.blocks[i]) for i in self._own) if finals is None else finals
        values, head = [], self.model.get_output_embeddings()
        pairs = zip(self._hidden(self._last), self._hidden(finals), self._words)
        for number, (dense, hidden, words) in enumerate(pairs):  # one window at a time: a vocabulary is wide
            wanted = self._wanted.get(number)
            if wanted is None:
                wanted = self.predict(self._dense_head, dense, words)
                if self._keeps:
                    self._wanted[number] = wanted
            given = self.predict(head, hidden, words)
            values.append((wanted.exp() * (wanted - given)).sum(dtype=torch.float64))
        return self._in_order(torch.stack(values).cpu() if values else torch.zeros(0, dtype=torch.float64)).numpy()

    def _in_order(self, values):
        """Values of the windows of all processes, from those of this one."""
        if world_size() == 1:
            return values
        ends = np.cumsum([0] + [len(block.ids) for block in self.blocks])
        table = torch.zeros(int(ends[-1]), dtype=torch.float64)
        if len(values):
            table[np.concatenate([np.arange(ends[i], ends[i + 1]) for i in self._own])] = values
        return all_reduce(table)
