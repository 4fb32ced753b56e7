"""Text that a model writes, and numbers that tell fluent text from broken text."""

import contextlib
from dataclasses import dataclass

import numpy as np

from ..exceptions import ParameterError

__all__ = ["GeneratedText", "distinct_n", "generate_texts", "longest_loop", "repetition_n", "text_metrics"]


@dataclass(frozen=True, eq=False)
class GeneratedText:
    """What a model wrote after a prompt.

    Parameters
    ----------
    prompt, text : str
    ids : int array of shape (n_new_tokens,)
        The new tokens, without padding and without the token that ends the text.
    ended : bool
        Whether the model ended the text itself.
    """

    prompt: str
    text: str
    ids: np.ndarray
    ended: bool


def generate_texts(
    model,
    tokenizer,
    prompts,
    *,
    max_new_tokens=64,
    sample=False,
    temperature=1.0,
    top_p=1.0,
    chat=False,
    random_state=0,
):
    """Let a model go on after prompts, greedily or by sampling.

    Prompts of equal length are run together, so that none is padded and each gets what it would get alone.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    prompts : str or list of str
    max_new_tokens : int
    sample : bool
        False: the most likely token each time.
    temperature, top_p : float
        For sampling.
    chat : bool
        Put each prompt into the tokenizer's chat template, as the user's turn.
    random_state : int
        Seed of the sampling; the state of torch's own generator is left as it was.

    Returns
    -------
    list of GeneratedText
    """
    import torch

    from ..models.inputs import input_device
    from ..text import padding_id

    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ParameterError("prompts is a string or a list of strings, at least one.")
    if max_new_tokens < 1:
        raise ParameterError(f"max_new_tokens={max_new_tokens}: at least one token must be written.")
    encoded = [_encode(tokenizer, p, chat) for p in prompts]
    options = {"max_new_tokens": max_new_tokens, "do_sample": sample, "num_beams": 1}
    # top_k=0: no other truncation than what is asked for
    options |= {"temperature": temperature, "top_p": top_p, "top_k": 0} if sample else {}
    options["pad_token_id"] = padding_id(tokenizer)
    ends = _end_ids(model, tokenizer)
    results = [None] * len(prompts)
    device = input_device(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _plain_config(model):
        torch.manual_seed(random_state)
        for length in sorted({len(ids) for ids in encoded}):
            rows = [i for i, ids in enumerate(encoded) if len(ids) == length]
            ids = torch.tensor([encoded[i] for i in rows], device=device)
            with torch.no_grad():
                written = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
            for i, new in zip(rows, written[:, length:].tolist()):
                results[i] = _result(tokenizer, prompts[i], new, ends)
    return results


def _encode(tokenizer, prompt, chat):
    if not chat:
        ids = tokenizer(prompt, verbose=False)["input_ids"]
        if not len(ids):
            raise ParameterError(f"The prompt {prompt!r} has no token.")
        return list(ids)
    if not tokenizer.chat_template:
        raise ParameterError("chat=True needs a tokenizer with a chat template; this one has none.")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@contextlib.contextmanager
def _plain_config(model):
    """Decode by what was asked for alone: checkpoints bring sampling defaults that would warn or interfere."""
    config = model.generation_config
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "do_sample")
    old = {name: getattr(config, name) for name in names if hasattr(config, name)}
    for name in old:
        setattr(config, name, None)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(config, name, value)


def _end_ids(model, tokenizer):
    ends = {getattr(tokenizer, "eos_token_id", None)}
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends |= set(configured) if isinstance(configured, (list, tuple)) else {configured}
    return ends - {None}


def _result(tokenizer, prompt, new, ends):
    stop = next((i for i, token in enumerate(new) if token in ends), None)
    ids = new if stop is None else new[:stop]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return GeneratedText(prompt, text, np.asarray(ids, dtype=np.int64), stop is not None)


def distinct_n(ids, n):
    """Share of different n-grams among all n-grams, 0 to 1; NaN for a text shorter than n.

    Parameters
    ----------
    ids : sequence of int
        Tokens.
    n : int

    Returns
    -------
    float

    References
    ----------
    Li et al. (2016), A diversity-promoting objective function for neural conversation models, NAACL.

    Examples
    --------
    >>> distinct_n([1, 2, 1, 2], 2)
    0.6666666666666666
    """
    grams = _grams(ids, n)
    return len(set(grams)) / len(grams) if grams else float("nan")


def repetition_n(ids, n=4):
    """Share of n-grams that occurred before, 0 to 1 (``1 - distinct``); NaN for a text shorter than n.

    Parameters
    ----------
    ids : sequence of int
        Tokens.
    n : int

    Returns
    -------
    float

    References
    ----------
    Welleck et al. (2020), Neural text generation with unlikelihood training, ICLR (rep-n within a text).

    Examples
    --------
    >>> repetition_n([1, 2, 3, 4] * 3, 4)
    0.5555555555555556
    """
    return 1.0 - distinct_n(ids, n)


def longest_loop(ids):
    """Longest stretch of tokens in which a pattern is repeated at least once, in tokens; 0 if there is none.

    Patterns of up to 32 tokens count; a stretch holds at least two whole rounds of its pattern.

    Parameters
    ----------
    ids : sequence of int
        Tokens.

    Returns
    -------
    int

    Examples
    --------
    >>> longest_loop([9, 1, 2, 1, 2, 1, 7]), longest_loop([1, 2, 3])
    (5, 0)
    """
    ids = np.asarray(ids)
    best = 0
    for period in range(1, min(32, len(ids) // 2) + 1):
        run = 0
        for same in ids[period:] == ids[:-period]:
            run = run + 1 if same else 0
            if run >= period:
                best = max(best, run + period)
    return best


def text_metrics(texts, n=4):
    """Numbers on generated texts, a row a text.

    Parameters
    ----------
    texts : list of GeneratedText
    n : int
        Length of the n-grams whose repetition is counted.

    Returns
    -------
    pandas.DataFrame
        ``prompt, text, n_tokens, ended, distinct_1, distinct_2, repetition`` (of n-grams) and ``loop`` (share of the
        text in its longest loop).
    """
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "prompt": t.prompt,
                "text": t.text,
                "n_tokens": len(t.ids),
                "ended": t.ended,
                "distinct_1": distinct_n(t.ids, 1),
                "distinct_2": distinct_n(t.ids, 2),
                "repetition": repetition_n(t.ids, n),
                "loop": longest_loop(t.ids) / len(t.ids) if len(t.ids) else 0.0,
            }
            for t in texts
        ]
    )


def _grams(ids, n):
    if n < 1:
        raise ParameterError(f"n={n}: an n-gram has at least one token.")
    ids = [int(i) for i in ids]
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
