"""Open checkpoints of a folder or of the hub, and their tokenizers; errors say what is missing or damaged."""

import contextlib
import errno
import importlib.util
import os
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..exceptions import LLMBrainError, ModelNotFoundError, ParameterError
from ..files import read_json
from .devices import as_device
from .heterogeneous import load_heterogeneous

PRUNED_MARKER = "llmbrain_pruning.json"


def load_pretrained(source, options, device):
    """Open the model of a folder, pruned ones included, or of the hub."""
    from transformers import AutoModelForCausalLM

    if os.path.isdir(source):  # False for names that are too long
        _check_folder(Path(source))
    else:
        _check_hub(str(source), options["revision"])
    if os.path.isfile(Path(source) / PRUNED_MARKER):
        return open_checkpoint(load_heterogeneous, source, options).to(as_device(device))
    if device == "auto" and as_device(device).type != "cpu" and importlib.util.find_spec("accelerate"):
        return open_checkpoint(AutoModelForCausalLM.from_pretrained, source, options, device_map="auto")
    return open_checkpoint(AutoModelForCausalLM.from_pretrained, source, options).to(as_device(device))


def open_checkpoint(load, source, options, **more):
    """Open a checkpoint, or raise if it is damaged or does not hold exactly the weights of the model."""
    name = more.get("gguf_file") or str(source)
    with reading(name):
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
    _refuse_integers(model, Path(source), name)
    return model


def _refuse_integers(model, folder, name):
    """Refuse whole numbers as weights of a model that is not quantized; libraries turn them into floats."""
    if getattr(model.config, "quantization_config", None) is not None:
        return
    known = {key for key, weight in model.named_parameters() if weight.is_floating_point()}
    known |= {key.partition(".")[2] for key in known}  # some checkpoints leave out the name of the model's body
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                kinds = {key: file.get_slice(key).get_dtype() for key in known.intersection(file.keys())}
        except SafetensorError:  # not of the checkpoint, which has been read by now
            continue
        wrong = sorted(key for key, kind in kinds.items() if kind == "BOOL" or kind.startswith(("I", "U")))
        if wrong:
            raise ModelNotFoundError(
                f"The checkpoint of {name!r} holds whole numbers or booleans as weights, and its config no "
                f"quantization: {_few(wrong)}. Get a complete copy of the model."
            )


@contextlib.contextmanager
def reading(name):
    """Turn whatever libraries raise for damaged files into one sentence that names the model."""
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
        with reading(folder):
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


def tokenizer_of(model, tokenizer, options, read=None):
    """Open a tokenizer by its source, by default that of the model; a loaded one is returned unchanged."""
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


def _few(names):
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _not_found(source, why):
    return ModelNotFoundError(
        f"No model was found under {str(source)!r}: {why}. Give a hub id such as 'HuggingFaceTB/SmolLM2-135M', "
        "a folder that holds config.json and safetensors, a .gguf file, or 'demo'."
    )
