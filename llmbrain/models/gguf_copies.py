"""GGUF files, opened through a dequantised copy in the cache."""

import glob
import hashlib
import importlib.util
import os
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

from filelock import FileLock

from ..exceptions import LLMBrainError, LLMBrainWarning, ModelNotFoundError
from ..files import atomic_dir, read_json, sha256, write_json
from .checkpoints import load_pretrained, open_checkpoint, reading, tokenizer_of
from .devices import as_device
from .gguf_reader import quick_reading

GENERAL_CLASS = "PreTrainedTokenizerFast"  # of tokenizers that are one file
FORM = 3  # of the copies; raised when what is written changes


def load_gguf(path, options, device, cache):
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
        return load_gguf(path, options, device, cache=False)


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
        model = load_pretrained(folder, options, device)
        code = {name: options[name] for name in ("revision", "trust_remote_code")}
        tokenizer = tokenizer_of(model, folder, code, _saved_tokenizer)
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
    """Save a model in any of several processes; transformers itself would write only in the first."""
    model.should_save_on_this_rank = lambda is_main_process: True
    model.save_pretrained(folder)
    del model.should_save_on_this_rank


def _save_tokenizer(tokenizer, folder):
    """Save a tokenizer in a form that opens quickly.

    The tokenizer classes of single models rebuild, token by token, what the saved file already holds. The general class
    reads the file, so it is named in the config if it makes the same tokenizer. With the added tokens in the
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

    model = open_checkpoint(AutoModelForCausalLM.from_pretrained, path.parent, options, gguf_file=path.name)
    _forget_quantisation(model)
    code = {name: options[name] for name in ("revision", "trust_remote_code")}
    with reading(path):
        return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, **code)


def _forget_quantisation(model):
    """Remove the traces of the quantiser from a dequantised model, which could not be saved otherwise."""
    for holder in (model.config, model):
        for name in ("quantization_config", "hf_quantizer", "quantization_method", "is_quantized"):
            if name in vars(holder):
                delattr(holder, name)


def cache_folder():
    """Folder of results that are costly to compute again: ``$LLMBRAIN_CACHE`` or ``~/.cache/llmbrain``."""
    return Path(os.environ.get("LLMBRAIN_CACHE") or Path.home() / ".cache" / "llmbrain")


def cached_copy(path):
    """Folder of the dequantised copy of a GGUF file, which need not exist yet.

    Its name changes with the bytes of the file, with the version of the reader and with the form of the copy.
    """
    import transformers

    version = hashlib.sha256(f"{transformers.__version__} {FORM}".encode()).hexdigest()
    return cache_folder() / "gguf" / f"{path.stem}-{sha256(path)[:12]}-{version[:6]}"


def _drop_older_copies(folder):
    """Delete the copies that other versions made of the same file."""
    for other in folder.parent.glob(glob.escape(folder.name.rpartition("-")[0]) + "-*"):
        if other != folder and re.fullmatch("[0-9a-f]{6}", other.name.rpartition("-")[2]):
            shutil.rmtree(other, ignore_errors=True)
