"""Identify a model: the name and the hash by which sidecars, masks and checkpoints refer to it."""

import hashlib
import os
import re
from pathlib import Path

_SAMPLE = 4096  # values of each tensor that enter the hash
_PART = 1 << 22  # values per part; the sum of the bits of every part enters the hash


def weights_hash(model):
    """Hash the weights of a model to 16 hexadecimal digits.

    The hash covers the names and shapes of all parameters, up to 4096 evenly spaced values of each, and the sums of the
    bits of all values, computed on the device that holds them. It changes with any single weight, so training, pruning
    and conversion to another dtype change it. It does not protect against deliberate collisions.
    """
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if parameter.device.type == "meta":
            parameter = _offloaded(model, name)
            if parameter is None:  # a model without weights
                continue
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLE)
        digest.update(flat[::step].to("cpu", torch.float32).numpy().tobytes())
        digest.update(_bit_sums(flat))
    return digest.hexdigest()[:16]


def _bit_sums(flat):
    """Sums of the bits of a tensor, read as integers, so that the order of addition does not matter."""
    import torch

    size, sums = flat.element_size(), []
    for part in flat.contiguous().split(_PART):
        fits = not (part.numel() * size % 8 or part.storage_offset() * size % 8)  # eight bytes at once
        whole = torch.int64 if fits else {1: torch.uint8, 2: torch.int16, 4: torch.int32}[size]
        sums.append(part.view(whole).sum(dtype=torch.int64))
    return torch.stack(sums).cpu().numpy().tobytes() if sums else b""


def _offloaded(model, name):
    """Value of a parameter that accelerate stores elsewhere until its module runs, or None."""
    path, _, leaf = name.rpartition(".")
    hook = getattr(model.get_submodule(path), "_hf_hook", None)
    for part in getattr(hook, "hooks", [hook]):
        weights = getattr(part, "weights_map", None)
        if weights is not None:
            return weights[leaf]
    return None


def other_weights(model, made_on):
    """Name the model that something was made on, if it had other weights than this model; else an empty text.

    ``made_on`` comes from :func:`describe_model`, or is None. The hash is computed from the values, so weights in
    another precision are not compared.
    """
    made_on, dtype = made_on or {}, str(model.dtype).removeprefix("torch.")
    offloaded = any(p.device.type == "meta" for p in model.parameters())
    if not made_on.get("weights_hash") or made_on.get("dtype", dtype) != dtype or offloaded:
        return ""
    own = weights_hash(model)
    if own == made_on["weights_hash"]:
        return ""
    name = f"{made_on.get('id', 'another model')} (weights {made_on['weights_hash']})"
    return f"{name}, but this model has the weights {own}"


def model_label(name):
    """Turn a model's name into a BIDS label (letters and digits) for ``sub-<label>``.

    Examples
    --------
    >>> model_label("HuggingFaceTB/SmolLM2-135M-Instruct")
    'SmolLM2135MInstruct'
    """
    last = str(name).rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^0-9A-Za-z]", "", last) or "model"


def describe_model(model):
    """Describe a loaded model.

    Parameters
    ----------
    model : torch.nn.Module
        A model from transformers.

    Returns
    -------
    dict
        ``id``, ``label``, ``revision``, ``architecture``, ``n_layers``, ``hidden_size``, ``n_parameters``, ``dtype``,
        ``weights_hash``. Paths on this machine are left out.
    """
    config = model.config
    text = config.get_text_config()
    name = str(getattr(config, "_name_or_path", "") or "") or type(model).__name__
    if Path(name).is_absolute() or os.path.exists(name):
        name = Path(name).name
    return {
        "id": name,
        "label": model_label(name),
        "revision": getattr(config, "_commit_hash", None),
        "architecture": type(model).__name__,
        "n_layers": text.num_hidden_layers,
        "hidden_size": text.hidden_size,
        "n_parameters": int(sum(p.numel() for p in model.parameters())),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights_hash": weights_hash(model),
    }
