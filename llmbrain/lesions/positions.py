"""At which tokens a lesion acts: all, the prompt, what is generated, the last one, or tokens of one's choice."""

import contextlib

from ..exceptions import ParameterError

__all__ = ["POSITIONS", "FixedPositions", "PositionTracker", "check_positions", "scored_positions"]

POSITIONS = ("all", "prompt", "generated", "last")


class PositionTracker:
    """Knows, during a forward pass, at which of its tokens the lesion acts.

    Parameters
    ----------
    model : transformers causal language model
    rule : {"all", "prompt", "generated", "last"} or callable
        ``prompt``: the tokens that the model was given; ``generated``: those it wrote itself, when they are fed back;
        ``last``: the last attended token of each row of a pass (in generation: every token as it is written). A
        callable gets the token ids, an int64 tensor ``(batch, n_tokens)``, and returns a boolean tensor of that shape.
    prompt_length : int, optional
        Where the prompt ends. By default it is what enters first: with a KV cache all that is read in passes of more
        than one token, without a cache the first text, as long as later passes begin with it. Give it where this does
        not hold (assisted decoding).
    follow : bool
        Follow the passes also where the lesion acts at all tokens, for lesions that depend on the position.

    Attributes
    ----------
    n_tokens, past : int or None, int
        Of the present pass: tokens of a row, and how many were read before (a KV cache).
    """

    def __init__(self, model, rule="all", prompt_length=None, follow=False):
        check_positions(rule)
        self.rule, self.prompt_length = rule, prompt_length
        self._follow = follow or rule != "all"
        self._body = model.get_decoder() if self._follow else model
        self.reset()

    def reset(self):
        """Forget what was read."""
        self._call = None
        self._prompt, self._end = None, 0
        self.n_tokens, self.past = None, 0

    @contextlib.contextmanager
    def watching(self):
        """Follow the passes of the model while the block lasts."""
        if not self._follow:
            yield
            return
        self.reset()
        handle = self._body.register_forward_pre_hook(self._before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def selected(self, leading_shape, device):
        """Where to act in this pass: a boolean tensor of shape ``leading_shape``, or None for everywhere."""
        if self.rule == "all":
            return None
        if self._call is None:
            raise ParameterError(
                "A part of the model was run on its own, so the positions of its tokens are unknown; call the model "
                "that was given to lesion(), or use positions='all'."
            )
        return self._call.reshape(leading_shape).to(device)

    def _before(self, module, args, kwargs):
        import torch

        ids = kwargs.get("input_ids", args[0] if args else None)
        tokens = ids if ids is not None else kwargs.get("inputs_embeds")
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        batch, n_tokens = tokens.shape[:2]
        self.n_tokens, self.past = n_tokens, past
        if self.rule == "all":
            return
        if callable(self.rule):
            self._call = _by_ids(self.rule, ids)
        elif self.rule == "last":
            self._call = _last(kwargs.get("attention_mask"), batch, n_tokens, tokens.device)
        else:
            self._find_end(ids, past, n_tokens)
            position = past + torch.arange(n_tokens, device=tokens.device)
            chosen = position < self._end if self.rule == "prompt" else position >= self._end
            self._call = chosen.expand(batch, n_tokens)

    def _find_end(self, ids, past, n_tokens):
        if self.prompt_length is not None:
            self._end = self.prompt_length
        elif past and n_tokens == 1:
            self._end = min(self._end, past) or past
        elif past or not self._goes_on(ids):
            self._end = past + n_tokens
            self._prompt = ids if not past else None

    def _goes_on(self, ids):
        """Whether a pass without cache begins with the prompt read before and is longer."""
        prompt = self._prompt
        if ids is None or prompt is None or len(ids) != len(prompt) or ids.shape[1] <= prompt.shape[1]:
            return False
        return bool((ids[:, : prompt.shape[1]] == prompt).all())


class FixedPositions:
    """Positions that are known beforehand: of sequences that are scored in one piece.

    Parameters
    ----------
    where : bool tensor of shape (batch, n_tokens)
    """

    def __init__(self, where):
        self.where, self.n_tokens, self.past = where, where.shape[1], 0

    def watching(self):
        """Nothing has to be followed."""
        return contextlib.nullcontext()

    def selected(self, leading_shape, device):
        """Where to act; see :meth:`PositionTracker.selected`."""
        return self.where.reshape(leading_shape).to(device)


def check_positions(rule, tasks=()):
    """Refuse a rule that is unknown, or means nothing for a task.

    Parameters
    ----------
    rule : {"all", "prompt", "generated", "last"} or callable
    tasks : sequence of llmbrain.lesions.tasks.Prepared
        Texts that are scored as a whole have no prompt.

    Raises
    ------
    ParameterError
    """
    if callable(rule) or rule == "all":
        return
    if not isinstance(rule, str) or rule not in POSITIONS:
        raise ParameterError(f"positions={rule!r} is unknown; choose from {', '.join(POSITIONS)}, or a callable.")
    whole = [task.name for task in tasks if task.sequences and not task.has_prompt]
    if whole:
        raise ParameterError(
            f"positions={rule!r} needs a prompt, but {', '.join(whole)} scores whole texts. Use 'all', a callable on "
            "token ids, or tasks with prompts (MultipleChoiceTask, generation_task, answer_task, harness_task)."
        )


def scored_positions(rule, sequences, ids):
    """Where a lesion acts in sequences that are scored in one piece.

    The prompt is what stands before the first scored token; ``generated`` are the scored tokens, and ``last`` are the
    tokens that a scored one is predicted from, as in a generation of the same tokens.

    Parameters
    ----------
    rule : {"all", "prompt", "generated", "last"} or callable
    sequences : list of ScoredSequence
    ids : int64 tensor of shape (n_sequences, n_tokens)
        Padded on the right.

    Returns
    -------
    bool tensor of shape (n_sequences, n_tokens), or None for everywhere
    """
    import torch

    if callable(rule):
        return _by_ids(rule, ids)
    if rule == "all":
        return None
    starts = torch.tensor([int(s.counted.argmax()) for s in sequences])[:, None]
    position = torch.arange(ids.shape[1])[None]
    return {"prompt": position < starts, "generated": position >= starts, "last": position >= starts - 1}[rule]


def _by_ids(rule, ids):
    """What a callable says, checked."""
    import torch

    if ids is None:
        raise ParameterError("The model was given embeddings, not token ids; a rule on token ids cannot be applied.")
    chosen = torch.as_tensor(rule(ids))
    if chosen.shape != ids.shape or chosen.dtype != torch.bool:
        raise ParameterError(
            f"positions= must return a boolean tensor of shape {tuple(ids.shape)}, one entry a token; it returned "
            f"{chosen.dtype} {tuple(chosen.shape)}."
        )
    return chosen


def _last(attention_mask, batch, n_tokens, device):
    """The last attended token of each row."""
    import torch

    last = torch.full((batch,), n_tokens - 1, device=device)
    if attention_mask is not None:
        if attention_mask.ndim != 2:
            raise ParameterError("positions='last' needs a two-dimensional attention mask, (batch, n_tokens).")
        here = attention_mask[:, -n_tokens:].to(device).bool()
        place = torch.arange(n_tokens, device=device)
        last = torch.where(here, place, -1).amax(dim=1)
    return torch.arange(n_tokens, device=device)[None] == last[:, None]
