"""Folders that load: per-layer widths, one width, or zero-padded; never half written."""

from pathlib import Path

import numpy as np

from ..exceptions import ModelNotFoundError, ParameterError
from ..files import atomic_dir, read_json, write_json, write_text
from ..lesions.context import refuse_lesioned
from ..models.surgery import attention_writers, prunable_mlps
from .formats.card import model_card
from .formats.hetero import save_hetero
from .formats.padded import save_padded, save_uniform

__all__ = ["FORMATS", "check_format", "load_pruned", "save_pruned"]

FORMATS = ("hetero", "uniform", "padded", "gguf")
MARKER = "llmbrain_pruning.json"
SUBNETWORK = "llmbrain_subnetwork.safetensors"


def save_pruned(pruned, folder, *, format="hetero", tokenizer=None, results=None):
    """Write a pruned model into a folder; an old folder stays until the new one is complete.

    Parameters
    ----------
    pruned : PrunedModel
    folder : path-like
    format : {"hetero", "uniform", "padded", "gguf"}
        ``hetero`` keeps the width of every layer: ``llmbrain.load_model`` opens it, and transformers with
        ``trust_remote_code=True``. ``uniform`` needs equal widths and loads anywhere. ``padded`` fills up to the widest
        layer with zeros, which changes no logit, and loads anywhere. ``gguf`` writes one file for llama.cpp.
    tokenizer : transformers tokenizer, optional
    results : pandas.DataFrame, optional
        Measured table for the model card.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ParameterError
        For an unknown format, or a model that the format cannot hold; the message says which can.
    """
    if format not in FORMATS:
        raise ParameterError(f"Unknown format {format!r}; choose from {', '.join(FORMATS)}.")
    refuse_lesioned(pruned.model, "saved")
    tokenizer = tokenizer or pruned.tokenizer
    with atomic_dir(folder) as part:
        if format == "gguf":
            from .formats.gguf import write_gguf

            write_gguf(pruned.model, tokenizer, part / "model.gguf")
        else:
            {"hetero": save_hetero, "uniform": save_uniform, "padded": save_padded}[format](pruned.model, part)
            if tokenizer is not None:
                tokenizer.save_pretrained(part)
        _save_provenance(pruned, part, format)
        write_text(part / "README.md", model_card(pruned, format, results))
    return Path(folder)


def check_format(model, format, *, allocation, compensation, options=None, **_):
    """Refuse a format that will not hold the result, before the work of pruning.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Dense.
    format : str
    allocation, compensation, options
        What it will be pruned with, see :func:`llmbrain.pruning.recipe.choose_recipe`.

    Raises
    ------
    ParameterError, UnsupportedArchitectureError
    """
    if format not in FORMATS:
        raise ParameterError(f"Unknown format {format!r}; choose from {', '.join(FORMATS)}.")
    if format == "gguf":
        from .formats.gguf import check_writable

        check_writable(model)
    if format == "uniform" and not (isinstance(allocation, str) and allocation == "uniform"):
        raise ParameterError(
            "format='uniform' needs one width in all layers: prune with allocation='uniform', or save with "
            "format='padded' or 'hetero'."
        )
    if format in ("uniform", "padded") and compensation in ("bias", "affine"):
        linears = [("mlp_bias", part.writer) for part in prunable_mlps(model)]
        if (options or {}).get("refit_attention"):
            linears += [("attention_bias", part.writer) for part in attention_writers(model) if part is not None]
        for switch, linear in linears:
            if linear.bias is None and getattr(model.config.get_text_config(), switch, None) is None:
                raise ParameterError(
                    f"{type(model).__name__} has no place for the biases that compensation={compensation!r} makes. "
                    "Save with format='hetero', or prune with compensation='ridge', which makes none."
                )


def load_pruned(folder, *, dtype="float32", device="cpu"):
    """Open a folder written by :func:`save_pruned`, with the account of how it was made.

    Parameters
    ----------
    folder : path-like
    dtype, device : str

    Returns
    -------
    PrunedModel

    Raises
    ------
    ModelNotFoundError
        If the folder holds no pruned model of llmbrain.
    """
    from safetensors.numpy import load_file

    from ..geometry import NeuronGeometry
    from ..models.loading import load_model
    from .prune import PrunedModel

    folder = Path(folder)
    if not (folder / MARKER).is_file():
        raise ModelNotFoundError(f"{folder} holds no pruned model of llmbrain ({MARKER} is missing).")
    summary = read_json(folder / MARKER)
    arrays = load_file(folder / SUBNETWORK)
    model, tokenizer = load_model(folder, dtype=dtype, device=device)
    geometry = NeuronGeometry.from_dict(summary["geometry"])
    n_layers = len(geometry.sizes)
    kept = [arrays[f"layers.{i}.kept"] for i in range(n_layers)]
    scores = [arrays[f"layers.{i}.score"] for i in range(n_layers)] if "layers.0.score" in arrays else None
    import pandas as pd

    table = pd.DataFrame({k: [np.nan if v is None else v for v in c] for k, c in summary["layers"].items()})
    return PrunedModel(model, tokenizer, kept, geometry, table, scores, summary)


def _save_provenance(pruned, part, format):
    from safetensors.numpy import save_file

    arrays = {f"layers.{i}.kept": np.asarray(k, dtype=np.int64) for i, k in enumerate(pruned.kept)}
    if pruned.scores is not None:
        arrays.update({f"layers.{i}.score": np.asarray(s, dtype=np.float64) for i, s in enumerate(pruned.scores)})
    save_file(arrays, part / SUBNETWORK)
    layers = {
        k: [None if isinstance(v, float) and np.isnan(v) else v for v in column]
        for k, column in pruned.summary["layers"].items()
    }
    write_json(
        part / MARKER, {**pruned.summary, "layers": layers, "format": format, "geometry": pruned.geometry.to_dict()}
    )
