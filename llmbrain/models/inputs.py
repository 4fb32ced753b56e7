"""Inputs of a model: the device of its token ids, and the number of tokens that it reads at once."""

import numpy as np

from ..exceptions import ParameterError
from .finite import check_weights
from .wrappers import check_model, refuse_prompts, refuse_wrapped


def input_device(model):
    """Find the device on which a model expects its token ids, also when it is spread over several devices."""
    import torch

    embedding = model.get_input_embeddings()
    for module in (embedding, model):  # accelerate runs a module on another device than the one that stores it
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return model.device if embedding.weight.device.type == "meta" else embedding.weight.device


def longest_context(model, default=None):
    """Number of tokens that a model reads at once, according to its config; ``default`` if the config has none."""
    check_model(model)
    if not hasattr(model, "config"):
        refuse_wrapped(model)
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 1:
            return value
    return default


def context_limit(model, context=None):
    """Return :func:`longest_context` of a model, which a requested ``context`` must not exceed."""
    longest = longest_context(model)
    if longest and isinstance(context, (int, np.integer)) and context > longest:
        raise ParameterError(f"context={context}: this model reads at most {longest} tokens at once.")
    return longest


def check_readable(model, texts):
    """Refuse weights that are not finite, learned prompts, and tokens that a model lacks, before it reads texts.

    Such tokens are an error deep inside the model, and on a GPU one that ends Python. Not every NaN reaches the logits:
    the attention of torch takes queries of NaN for queries that see nothing.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    texts : iterable of sequences of int
        Token ids.

    Raises
    ------
    NumericalError, ParameterError
    """
    refuse_prompts(model)
    check_weights(model)
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    n_known = getattr(embedding, "num_embeddings", None)
    largest = max((int(np.max(ids)) for ids in texts if len(ids)), default=0)
    if n_known is not None and largest >= n_known:
        raise ParameterError(
            f"The texts contain token {largest}, but the model has {n_known} tokens. Use the model's own tokenizer."
        )


def check_generation(model, n_prompt, max_new_tokens):
    """Refuse to generate more tokens than a model can read at once: it would run for a long time and write noise.

    Raises
    ------
    ParameterError
    """
    longest = longest_context(model)
    if longest is not None and n_prompt + max_new_tokens > longest:
        fewer = f"Generate at most {longest - n_prompt}, or use" if longest > n_prompt else "Use"
        raise ParameterError(
            f"A prompt of {n_prompt} tokens and {max_new_tokens} new ones are more than the {longest} that this model "
            f"reads at once. {fewer} a shorter prompt."
        )
