"""Running a model up to its last hidden states, so that logits are computed only where they are needed."""

import inspect

from ..models.hooks import attached
from ..stats.precision import exact_products


class LogitReader:
    """Runs a model up to its last hidden states, and turns some of them into logits.

    The first pass checks at the last token of every row whether the head, with a known rescaling after it, gives the
    logits of the model. If not, later passes use the full logits of the model.
    """

    def __init__(self, model):
        self.model, self.head = model, model.get_output_embeddings()
        known = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._finish = None if known and self.head is not None else _full
        # some classes call the decoder inside their base model directly
        self._bodies = {getattr(model, "base_model", model), model.get_decoder()} - {model, None}

    def read(self, input_ids, attention_mask=None):
        """Last hidden states for ids of shape (batch, n_tokens), as :meth:`score` needs them; hooks may add rows."""
        import torch

        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        if self._finish is None:
            hidden, last = self._run(inputs, 1)
            self._finish = self._find(hidden, last[:, -1])
        elif self._finish is not _full:
            # the model computes no logits here: `score` does, and only for scored tokens
            hidden, _ = self._run(inputs, torch.zeros(0, dtype=torch.long, device=input_ids.device))
        return self.model(**inputs).logits if self._finish is _full else hidden

    def score(self, hidden):
        """Logits of some hidden states, ``(..., vocabulary)``."""
        return hidden if self._finish is _full else self._finish(self.head(hidden))

    @property
    def n_words(self):
        """Size of the vocabulary, or None if :meth:`score_words` cannot be used: on a GPU, or without a linear head."""
        import torch

        head = self.head
        if self._finish in (None, _full) or type(head) is not torch.nn.Linear:
            return None
        replaced = "forward" in head.__dict__ or head._forward_hooks or head._forward_pre_hooks
        return None if replaced or head.weight.device.type != "cpu" else len(head.weight)

    def score_words(self, hidden, first, last):
        """Logits of the words ``first:last`` only, ``(..., last - first)``."""
        import torch

        bias = None if self.head.bias is None else self.head.bias[first:last]
        return self._finish(torch.nn.functional.linear(hidden, self.head.weight[first:last], bias))

    def _run(self, inputs, keep):
        caught = []

        def catch(module, args, output):
            caught.append(output[0])

        with attached([(body.register_forward_hook, catch) for body in self._bodies]):
            logits = self.model(**inputs, logits_to_keep=keep).logits
        return (caught[-1] if caught else None), logits

    def _find(self, hidden, expected):
        if hidden is None:
            return _full
        return find_rescaling(self.model, self.head(hidden[:, -1]), expected) or _full


def find_rescaling(model, made, expected):
    """Find how a model rescales the output ``made`` of its head into its logits ``expected``.

    Both are (n_tokens, n_words). Returns a function that is applied to each number by itself, so it also holds for some
    of the words; None if no known rescaling fits.
    """
    known = _rescalings(model.config.get_text_config())
    return next((rescale for rescale in known if _same(rescale(made), expected)), None)


def _rescalings(config):
    """Known ways in which models rescale the output of the head."""
    yield _as_it_is
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        yield lambda x: cap * (x / cap).tanh()
    for name, sign in (("logit_scale", 1), ("logits_scaling", -1)):
        scale = getattr(config, name, None)
        if scale:
            yield lambda x, factor=float(scale) ** sign: x * factor


def _same(logits, expected):
    import torch

    tolerance = 1e-4 if exact_products(expected.dtype) else 2e-2
    logits, expected = logits.float(), expected.float().to(logits.device)
    scale = float(expected.abs().nan_to_num().max()) or 1.0
    return torch.allclose(logits, expected, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def _as_it_is(logits):
    return logits


def _full(logits):
    return logits
