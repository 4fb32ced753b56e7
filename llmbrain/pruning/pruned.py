"""A pruned model, and how it is saved and opened."""

from pathlib import Path

import numpy as np

from ..dataset.checks import read_own
from ..exceptions import ModelNotFoundError
from ..files import as_path, atomic_dir, check_output_folder, mark_folder, sample_hash, write_text
from ..geometry import NeuronGeometry
from ..models.checkpoints import PRUNED_MARKER
from ..models.lesioned import refuse_lesioned
from ..parallel import main_process
from .formats import FORMATS
from .formats.card import gain_in_words, model_card

SUBNETWORK = "llmbrain_subnetwork.safetensors"


class PrunedModel:
    """A smaller model with a description of how it was made.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        The smaller model; an ordinary model in every other way.
    tokenizer : transformers tokenizer
    kept : list of numpy.ndarray of int
        Neurons of the dense model that each layer kept.
    geometry : NeuronGeometry
        Of the neurons of the dense model, to which ``kept`` refers.
    table : pandas.DataFrame
        One row per layer.
    scores : list of numpy.ndarray or None
        Score of every neuron of the dense model, layer by layer.
    summary : dict
        Recipe, ratios of neurons and parameters, bytes, calibration hash, seed, versions, as plain values.
    kept_heads : list of numpy.ndarray of int or None
        Query heads that each layer kept, if heads were pruned.
    format : str
        The format for which it was checked, and in which it is saved by default.
    saved : dict or None
        Bytes, number of files and type of the weights of the folder that was written last.
    """

    def __init__(self, model, tokenizer, kept, geometry, table, scores, summary, kept_heads=None):
        self.model, self.tokenizer = model, tokenizer
        self.kept, self.kept_heads, self.geometry = kept, kept_heads, geometry
        self.table, self.scores, self.summary = table, scores, summary
        self.format, self.saved = "hetero", None

    def __repr__(self):
        s = self.summary
        return (
            f"PrunedModel({s['neurons_removed']:.1%} of the neurons, {s['total_parameters_removed']:.1%} of all "
            f"parameters removed; {s['score']} + {s['allocation']} + {s['compensation']})"
        )

    def describe(self):
        """Describe what was removed and what it cost, in a few lines of text."""
        s, quality, speed = self.summary, self.summary.get("quality"), self.summary.get("speed")
        lines = [
            f"recipe: {s['recipe']} ({s['score']} + {s['allocation']} + {s['compensation']}), "
            f"{s['calibration_tokens']:,} calibration tokens",
            *(
                f"{label}: {s[key + '_before']:,} -> {s[key + '_after']:,} (-{s[key + '_removed']:.1%})"
                for label, key in (("MLP neurons", "neurons"), ("parameters", "total_parameters"), ("bytes", "bytes"))
            ),
            f"neurons kept per layer: {min(s['n_kept']):,} to {max(s['n_kept']):,}",
        ]
        if quality:
            ratio = quality["perplexity_after"] / quality["perplexity_before"]
            lines.append(
                f"perplexity: {quality['perplexity_before']:.2f} -> {quality['perplexity_after']:.2f} ({ratio:.3f} x) "
                f"on {quality['n_tokens']:,} tokens of {quality['text']}"
            )
        if self.saved:
            lines.append(f"saved: {self.saved['bytes'] / 1e6:,.1f} MB, weights in {self.saved['dtype']}")
            if self.saved["dtype"] in ("float32", "float64"):
                lines[-1] += "; load the model with dtype='bfloat16' (--dtype bfloat16) for a smaller folder"
        lines += [line for line in (gain_in_words(speed, what) for what in ("prefill", "decode")) if speed and line]
        return "\n".join(lines)

    @property
    def mask(self):
        """The removed neurons as a :class:`llmbrain.NeuronMask`."""
        from ..masks import NeuronMask

        values = np.ones(self.geometry.n_neurons, dtype=bool)
        for i, kept in enumerate(self.kept):
            values[self.geometry.layer_slice(i)][kept] = False
        return NeuronMask(values, self.geometry, name="removed")

    def save_pretrained(self, folder, format=None, *, tokenizer=None, results=None):
        """Write the model into a folder.

        An earlier pruned model in the folder is replaced when the new one is complete. Nothing else is replaced. Of
        several processes, the first one writes it.

        Parameters
        ----------
        folder : path-like
        format : {"hetero", "uniform", "padded", "gguf"}, optional
            Default: the one that was given to :func:`llmbrain.prune`, else ``hetero``. ``hetero`` keeps the width of
            every layer: ``llmbrain.load_model`` opens it, and transformers with ``trust_remote_code=True``. ``uniform``
            needs equal widths and loads anywhere. ``padded`` adds zeros up to the widest layer, which changes no logit,
            and loads anywhere. ``gguf`` writes one file for llama.cpp.
        tokenizer : transformers tokenizer, optional
            Saved with the model; default the one it was pruned with.
        results : pandas.DataFrame, optional
            Measured table for the model card.

        Returns
        -------
        pathlib.Path

        Raises
        ------
        ParameterError
            For an unknown format, a model that the format cannot hold, or a folder with anything else in it.
        """
        format, tokenizer = format or self.format, tokenizer or self.tokenizer
        writer = FORMATS[format]
        refuse_lesioned(self.model, "saved")
        if not main_process():
            return as_path(folder)
        check_output_folder(folder, PRUNED_MARKER, inputs=[getattr(self.model.config, "_name_or_path", "")])
        with atomic_dir(folder) as part:
            writer(self.model, tokenizer, part)
            if tokenizer is not None and not writer.own_tokenizer:
                tokenizer.save_pretrained(part)
            self._save_arrays(part)
            files = [path for path in part.rglob("*") if path.is_file()]
            dtype = str(self.model.dtype).removeprefix("torch.")
            size = {"bytes": sum(path.stat().st_size for path in files), "n_files": len(files), "dtype": dtype}
            write_text(part / "README.md", model_card(self, format, results, size))
            mark_folder(part, PRUNED_MARKER, {**self._plain_summary(), "format": format})
        self.saved = size
        return Path(folder)

    def _save_arrays(self, folder):
        from safetensors.numpy import save_file

        arrays = {f"layers.{i}.kept": np.asarray(k, dtype=np.int64) for i, k in enumerate(self.kept)}
        for i, s in enumerate(self.scores or []):
            arrays[f"layers.{i}.score"] = np.asarray(s, dtype=np.float64)
        for i, h in enumerate(self.kept_heads or []):
            arrays[f"layers.{i}.kept_heads"] = np.asarray(h, dtype=np.int64)
        save_file(arrays, folder / SUBNETWORK)

    def _plain_summary(self):
        """The summary with None for NaN, which JSON does not have."""
        layers = {
            k: [None if isinstance(v, float) and np.isnan(v) else v for v in column]
            for k, column in self.summary["layers"].items()
        }
        return {**self.summary, "layers": layers, "geometry": self.geometry.to_dict()}


def load_pruned(folder, *, dtype="auto", device="auto"):
    """Open a folder written by :meth:`PrunedModel.save_pretrained`, with the description of how it was made.

    Parameters
    ----------
    folder : path-like
    dtype, device : str
        See :func:`llmbrain.load_model`.

    Returns
    -------
    PrunedModel

    Raises
    ------
    ModelNotFoundError
        If the folder holds no pruned model of llmbrain.
    """
    import pandas as pd
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from ..models.loading import load_model

    folder = as_path(folder)
    if not (folder / PRUNED_MARKER).is_file():
        raise ModelNotFoundError(f"{folder} holds no pruned model of llmbrain ({PRUNED_MARKER} is missing).")
    summary = read_own(folder / PRUNED_MARKER)
    files = summary.pop("files", {})
    try:
        arrays, made = load_file(folder / SUBNETWORK), sample_hash(folder / SUBNETWORK)
    except (SafetensorError, OSError) as error:
        raise ModelNotFoundError(f"{folder / SUBNETWORK} cannot be read ({error}). Prune the model again.") from error
    if made != files.get(SUBNETWORK):
        raise ModelNotFoundError(f"{folder / SUBNETWORK} has changed since it was written. Prune the model again.")
    model, tokenizer = load_model(folder, dtype=dtype, device=device)
    geometry = NeuronGeometry.from_dict(summary["geometry"])

    def each(name):
        found = [arrays.get(f"layers.{i}.{name}") for i in range(len(geometry.sizes))]
        return None if found[0] is None else found

    table = pd.DataFrame({k: [np.nan if v is None else v for v in c] for k, c in summary["layers"].items()})
    return PrunedModel(model, tokenizer, each("kept"), geometry, table, each("score"), summary, each("kept_heads"))
