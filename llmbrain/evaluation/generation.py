"""Generated text, and measures of how repetitive it is."""

import contextlib
from dataclasses import dataclass

import numpy as np

from ..arguments import between, checked, flag, texts
from ..exceptions import ParameterError, check_count, check_seed
from ..models.finite import finite_logits
from ..models.hooks import evaluating, restoring
from ..models.inputs import check_generation, check_readable, input_device
from ..text import encode_prompts, padding_id
from ..text.tokens import describe_head


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
    bos : str
        Special tokens at the head of the prompt, or "none".
    """

    prompt: str
    text: str
    ids: np.ndarray
    ended: bool
    bos: str = "none"


@checked(prompts=texts, sample=flag, temperature=between(1e-6, 1e6), top_p=between(1e-9, 1), chat=flag)
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

    Only prompts of equal length run together, so that none is padded and each gets the same result as alone.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    prompts : str or list of str
    max_new_tokens : int
    sample : bool
        Sample each token. By default the most likely one is used.
    temperature, top_p : float
        For sampling.
    chat : bool
        Write each prompt as a user's message with the tokenizer's chat template, which adds its own special tokens.
    random_state : int
        Seed for sampling. The state of torch's own generator does not change.
    bos : {"auto", True, False}
        Special tokens before every prompt, see :func:`llmbrain.text.leading_tokens`.

    Returns
    -------
    list of GeneratedText

    Raises
    ------
    ParameterError
        If a prompt has no token, or may grow beyond what the model reads at once.
    NumericalError
        If logits are not finite.
    """
    import torch

    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ParameterError("prompts must be a string or a list of at least one string.")
    check_count("max_new_tokens", max_new_tokens)
    check_seed(random_state)
    encoded = _chats(prompts, tokenizer) if chat else encode_prompts(prompts, tokenizer, bos)
    empty = [prompt for prompt, ids in zip(prompts, encoded) if not len(ids)]
    if empty:
        raise ParameterError(f"The prompt {empty[0]!r} has no token.")
    check_generation(model, max(map(len, encoded)), max_new_tokens)
    check_readable(model, encoded)
    options = {"max_new_tokens": max_new_tokens, "do_sample": sample, "num_beams": 1}
    # top_k=0: no truncation besides top_p
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
            with torch.no_grad(), evaluating(model), finite_logits(model):
                written = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
            for i, new in zip(rows, written[:, length:].tolist()):
                stop = next((n for n, token in enumerate(new) if token in ends), None)
                text = tokenizer.decode(new[:stop], skip_special_tokens=True)
                new, head = np.array(new[:stop], dtype=np.int64), describe_head(tokenizer, encoded[i])
                results[i] = GeneratedText(prompts[i], text, new, stop is not None, head)
    return results


def _chats(prompts, tokenizer):
    """Token ids of prompts, each written as a user's message with the chat template."""
    if not tokenizer.chat_template:
        raise ParameterError("chat=True needs a tokenizer with a chat template; this one has none.")
    written = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, tokenize=False)
        for p in prompts
    ]
    return encode_prompts(written, tokenizer, bos=False)


@contextlib.contextmanager
def _plain_config(model):
    """Set aside the sampling defaults of the checkpoint, which would interfere or raise warnings."""
    config = model.generation_config
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "do_sample")
    old = {name: getattr(config, name) for name in names if hasattr(config, name)}

    def restore():
        for name, value in old.items():
            setattr(config, name, value)

    with restoring(restore):
        for name in old:
            setattr(config, name, None)
        yield


def _end_ids(model, tokenizer):
    ends = {getattr(tokenizer, "eos_token_id", None)}
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends |= set(configured) if isinstance(configured, (list, tuple)) else {configured}
    return ends - {None}


def distinct_n(ids, n):
    """Share of different n-grams among all n-grams of token ids, 0 to 1; NaN for a text shorter than n."""
    grams = list(zip(*(np.asarray(ids)[i:].tolist() for i in range(n))))
    return len(set(grams)) / len(grams) if grams else float("nan")


def longest_loop(ids):
    """Length of the longest stretch of token ids that repeats a pattern of at most 32 tokens; 0 if there is none."""
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
    """Measure how repetitive generated texts are.

    Parameters
    ----------
    texts : list of GeneratedText
    n : int
        Length of the n-grams for ``repetition``.

    Returns
    -------
    pandas.DataFrame
        One row per text: ``prompt, text, n_tokens, ended, distinct_1, distinct_2`` (shares of different tokens and
        pairs of tokens), ``repetition`` (share of n-grams that occurred before), ``loop`` (share of the text in its
        longest loop) and ``bos`` (the leading special tokens of the prompt, or "none").

    References
    ----------
    Li et al. (2016), A diversity-promoting objective function for neural conversation models, NAACL (distinct-n);
    Welleck et al. (2020), Neural text generation with unlikelihood training, ICLR (repetition).
    """
    import pandas as pd

    check_count("n", n)

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
                "bos": t.bos,
            }
            for t in texts
        ]
    )
