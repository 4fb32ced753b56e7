"""Position rules: at which tokens a lesion acts."""

import contextlib
import threading
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..exceptions import ParameterError
from ..models.hooks import attached
from ..registry import Registry

# everywhere: nothing has to be tracked; needs_prompt: not defined for texts that are scored as a whole
POSITIONS = Registry("position rule", everywhere=False, needs_prompt=True)


@dataclass
class Pass:
    """One forward pass as seen by the decoder."""

    attention_mask: object
    n_tokens: int  # per row
    past: int  # tokens per row that were read before (with a KV cache)
    prompt_end: int  # position at which the prompt ends
    device: object

    @property
    def position(self):
        """Position of each token in its text, shape (n_tokens,); padding counts."""
        import torch

        return self.past + torch.arange(self.n_tokens, device=self.device)

    @property
    def place(self):
        """Position of each token in its text without padding on the left, (n_tokens,) or (batch, n_tokens)."""
        mask = self.attention_mask
        if mask is None or mask.ndim != 2:
            return self.position
        padding = (mask.to(self.device).bool().long().cumsum(-1) == 0).sum(-1, keepdim=True)
        return self.position - padding


@POSITIONS.register("all", everywhere=True, needs_prompt=False)
class All:
    """All tokens."""


@POSITIONS.register("prompt")
class Prompt:
    """The tokens of the prompt."""

    def in_pass(self, this):
        """Where to act in a pass: a boolean tensor that broadcasts to (batch, n_tokens)."""
        return this.position < this.prompt_end

    def in_scored(self, position, first_scored):
        """Where to act in sequences that are scored in one piece."""
        return position < first_scored


@POSITIONS.register("generated")
class Generated:
    """Generated tokens, as inputs of later passes; in scored sequences, the scored tokens."""

    def in_pass(self, this):
        return this.position >= this.prompt_end

    def in_scored(self, position, first_scored):
        return position >= first_scored


@POSITIONS.register("last")
class Last:
    """The last attended token of each row of a pass; in scored sequences, the tokens that predict a scored one."""

    def in_pass(self, this):
        import torch

        place = torch.arange(this.n_tokens, device=this.device)
        mask = this.attention_mask
        if mask is None:
            return place == this.n_tokens - 1
        if mask.ndim != 2:
            raise ParameterError("positions='last' needs a two-dimensional attention mask, (batch, n_tokens).")
        attended = mask[:, -this.n_tokens :].to(this.device).bool()
        return place[None] == torch.where(attended, place, -1).amax(dim=1)[:, None]

    def in_scored(self, position, first_scored):
        return position >= first_scored - 1


class Indices:
    """The tokens at given positions of each text, counted from 0; special tokens count, padding does not."""

    def __init__(self, indices):
        self.indices = _checked_indices(indices)

    def in_pass(self, this):
        return self._are(this.place)

    def in_scored(self, position, first_scored):
        return self._are(position)

    def _are(self, position):
        import torch

        return torch.isin(position, torch.tensor(self.indices, device=position.device))


def _checked_indices(indices):
    """Return positions as a list of whole numbers, or raise."""
    values = np.asarray(indices)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "iu" or values.min() < 0:
        raise ParameterError(
            f"positions={indices!r} must be whole numbers, 0 or more: positions of tokens in each text, counted from 0 "
            f"(BOS included). Or pass one of {', '.join(POSITIONS)}, or a function of the token ids."
        )
    return sorted(set(values.tolist()))


def as_rule(rule):
    """Return the rule of a name in :data:`POSITIONS`, a list of positions, or a callable."""
    if callable(rule):
        return rule
    return POSITIONS[rule]() if isinstance(rule, str) else Indices(rule)


def acts_everywhere(rule):
    """Whether a rule selects all tokens."""
    return isinstance(rule, str) and POSITIONS[rule].everywhere


class PositionTracker:
    """Follows the forward passes of a model and tells at which tokens of a pass the lesion acts.

    ``rule`` and ``prompt_length`` are those of :func:`llmbrain.lesion`. ``follow`` tracks positions even if the lesion
    acts at all tokens, for kinds that depend on the position.
    """

    def __init__(self, model, rule="all", prompt_length=None, follow=False):
        check_positions(rule)
        self.rule, self.prompt_length = rule, prompt_length
        self._everywhere = acts_everywhere(rule)
        self._rule = as_rule(rule)
        self._follow = follow or not self._everywhere
        self._body = model.get_decoder() if self._follow else model
        self.reset()

    def reset(self):
        """Forget earlier passes."""
        self._chosen, self.matched = None, self._everywhere  # matched: some token that was read is a lesioned one
        self._prompt, self._end = None, 0
        self.n_tokens, self.past = None, 0  # of the current pass: tokens per row, and those read before it

    @property
    def follows(self):
        """Whether the lesion depends on the positions of the tokens."""
        return self._follow

    @contextlib.contextmanager
    def watching(self):
        """Follow the passes of the model inside a ``with`` block."""
        if not self._follow:
            yield
            return
        self.reset()
        running = set()  # threads that are in a pass; a pass that failed leaves its thread here, so it may begin again

        def before(module, args, kwargs):
            if module is not self._body:  # a copy of the model that was made inside the block
                return
            running.add(threading.get_ident())
            if len(running) > 1:
                running.discard(threading.get_ident())
                raise ParameterError(
                    "Two threads run the lesioned model at the same time, so the positions of its tokens are not "
                    "known. Run one pass after the other, or use positions='all' and a kind without positions."
                )
            self._read(args, kwargs)

        def after(module, args, output):
            running.discard(threading.get_ident())

        body = self._body
        hooks = [
            (partial(body.register_forward_pre_hook, with_kwargs=True), before),
            (partial(body.register_forward_hook, always_call=True), after),
        ]
        with attached(hooks):
            yield

    def selected(self, leading_shape, device):
        """Where to act in this pass: a boolean tensor of shape ``leading_shape``, or None for everywhere."""
        if self._everywhere:
            return None
        if self._chosen is None:
            raise ParameterError(
                "A part of the model was run on its own, so the positions of its tokens are unknown. Call the model "
                "that was passed to lesion(), or use positions='all'."
            )
        return self._chosen.reshape(leading_shape).to(device)

    def _read(self, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        tokens = ids if ids is not None else kwargs.get("inputs_embeds")
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        batch, n_tokens = tokens.shape[:2]
        self.n_tokens, self.past = n_tokens, past
        if self._everywhere:
            return
        if callable(self.rule):
            self._chosen = _by_ids(self.rule, ids)
        else:
            self._find_end(ids, past, n_tokens)
            this = Pass(kwargs.get("attention_mask"), n_tokens, past, self._end, tokens.device)
            self._chosen = self._rule.in_pass(this).expand(batch, n_tokens)
        self.matched = self.matched or bool(self._chosen.any())

    def _find_end(self, ids, past, n_tokens):
        if self.prompt_length is not None:
            self._end = self.prompt_length
        elif past and n_tokens == 1:
            self._end = min(self._end, past) or past
        elif past or not self._continues_prompt(ids):
            self._end = past + n_tokens
            self._prompt = ids if not past else None

    def _continues_prompt(self, ids):
        """Whether a pass without cache begins with the prompt read before and is longer."""
        prompt = self._prompt
        if ids is None or prompt is None or len(ids) != len(prompt) or ids.shape[1] <= prompt.shape[1]:
            return False
        return bool((ids[:, : prompt.shape[1]] == prompt).all())


class FixedPositions:
    """Positions that are known beforehand, for sequences scored in one piece: bool, ``(batch, n_tokens)``."""

    follows = matched = True

    def __init__(self, where):
        self.where, self.n_tokens, self.past = where, where.shape[1], 0

    def watching(self):
        """Return a context that does nothing: there is nothing to follow."""
        return contextlib.nullcontext()

    def selected(self, leading_shape, device):
        """Where to act; see :meth:`PositionTracker.selected`."""
        return self.where.reshape(leading_shape).to(device)


def check_positions(rule, tasks=()):
    """Refuse a position rule that is unknown, or that needs a prompt where a task scores whole texts."""
    if not isinstance(rule, str):
        as_rule(rule)
        return
    if not POSITIONS[rule].needs_prompt:
        return
    whole = [task.name for task in tasks if task.sequences and not task.has_prompt]
    if whole:
        raise ParameterError(
            f"positions={rule!r} needs a prompt, but {', '.join(whole)} scores whole texts. Use 'all', a callable on "
            "token ids, or tasks with prompts (MultipleChoiceTask, generation_task, answer_task, harness_task)."
        )


def scored_positions(rule, sequences, ids):
    """Where a lesion acts in sequences that are scored in one piece: bool like ``ids``, or None for everywhere.

    The prompt is the part before the first scored token. ``ids`` are padded on the right.
    """
    import torch

    if callable(rule):
        return _by_ids(rule, ids)
    if acts_everywhere(rule):
        return None
    first_scored = torch.tensor([int(s.scored.argmax()) for s in sequences])[:, None]
    where = as_rule(rule).in_scored(torch.arange(ids.shape[1])[None], first_scored)
    return where.expand(len(sequences), ids.shape[1])


def _by_ids(rule, ids):
    """Apply a callable rule and check what it returns."""
    import torch

    if ids is None:
        raise ParameterError("The model was given embeddings, not token ids; a rule on token ids cannot be applied.")
    chosen = torch.as_tensor(rule(ids))
    if chosen.shape != ids.shape or chosen.dtype != torch.bool:
        raise ParameterError(
            f"positions= must return a boolean tensor of shape {tuple(ids.shape)}, one entry per token; it returned "
            f"{chosen.dtype} {tuple(chosen.shape)}."
        )
    return chosen
