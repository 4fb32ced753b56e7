"""Generated text, and numbers that tell fluent text from broken text."""

import contextlib
from dataclasses import dataclass

import numpy as np

from ..exceptions import ParameterError
from ..models.inputs import input_device
from ..text import encode_prompts, padding_id

__all__ = ["GeneratedText", "distinct_n", "generate_texts", "longest_loop", "text_metrics"]


@dataclass(frozen=True, eq=False)
class GeneratedText:
    """A prompt and its continuation by a model.

    Parameters
    ----------
    prompt, text : str
    ids : int array of shape (n_new_tokens,)
        The new tokens, without padding and without the token that ends the text.
    ended : bool
        Whether the model ended the text before ``max_new_tokens``.
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
    bos="auto",
):
    """Let a model continue prompts, greedily or by sampling.

    Prompts of equal length run together, so that none is padded and each gets what it would get alone.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    prompts : str or list of str
    max_new_tokens : int
    sample : bool
        False takes the most likely token each time.
    temperature, top_p : float
        For sampling.
    chat : bool
        Put each prompt into the tokenizer's chat template, as the user's turn. The template then decides about special
        tokens.
    random_state : int
        Seed of the sampling; the state of torch's own generator does not change.
    bos : {"auto", True, False}
        Special tokens before every prompt, see :func:`llmbrain.text.leading_tokens`.

    Returns
    -------
    list of GeneratedText
    """
    import torch

    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ParameterError("prompts is a string or a list of strings, at least one.")
    if max_new_tokens < 1:
        raise ParameterError(f"max_new_tokens={max_new_tokens}: at least one token must be written.")
    encoded = _chats(prompts, tokenizer) if chat else encode_prompts(prompts, tokenizer, bos)
    empty = [prompt for prompt, ids in zip(prompts, encoded) if not len(ids)]
    if empty:
        raise ParameterError(f"The prompt {empty[0]!r} has no token.")
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
            ids = torch.from_numpy(np.stack([encoded[i] for i in rows])).to(device)
            with torch.no_grad():
                written = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
            for i, new in zip(rows, written[:, length:].tolist()):
                results[i] = _result(tokenizer, prompts[i], new, ends)
    return results


def _chats(prompts, tokenizer):
    """Token ids of prompts in the chat template, each as the user's turn."""
    if not tokenizer.chat_template:
        raise ParameterError("chat=True needs a tokenizer with a chat template; this one has none.")
    written = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, tokenize=False)
        for p in prompts
    ]
    return encode_prompts(written, tokenizer, bos=False)


@contextlib.contextmanager
def _plain_config(model):
    """Remove the sampling defaults of the checkpoint for a while: they would warn or interfere."""
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

    One minus this is the share of n-grams that occurred before (rep-n of Welleck et al. 2020).

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


def longest_loop(ids):
    """Length in tokens of the longest stretch that repeats one pattern at least twice; 0 if there is none.

    Only patterns of up to 32 tokens are found.

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
    """Numbers on generated texts, one row per text.

    Parameters
    ----------
    texts : list of GeneratedText
    n : int
        Length of the n-grams for ``repetition``.

    Returns
    -------
    pandas.DataFrame
        ``prompt, text, n_tokens, ended, distinct_1, distinct_2, repetition`` (share of n-grams that occurred before)
        and ``loop`` (share of the text in its longest loop).
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
                "repetition": 1.0 - distinct_n(t.ids, n),
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
