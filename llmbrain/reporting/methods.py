"""The methods paragraph and its references, written from what was really run."""

import platform
from importlib import metadata

import numpy as np

from ..plotting.pruning import split_dense
from .references import CITED_AS, REFERENCES

__all__ = ["bibtex", "methods_text", "versions"]

PACKAGES = ("llmbrain", "nilearn", "scikit-learn", "torch", "transformers", "numpy", "scipy", "nibabel")


def versions(recorded=None):
    """Versions of what takes part.

    Parameters
    ----------
    recorded : dict, optional
        Those written down when the data were made; they win over those installed now.

    Returns
    -------
    dict
    """
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found.update(recorded or {})
    return found


def methods_text(data):
    """Write the methods of a report, one paragraph a station, and collect what they cite.

    Parameters
    ----------
    data : ReportData
        Only what it holds is described.

    Returns
    -------
    paragraphs : list of str
    cited : list of str
        Keys of :data:`REFERENCES`, in order of appearance.
    """
    cite = _Citations()
    writers = (_recording, _order, _networks, _drivers, _display, _localizers, _lesions, _doses, _pruning)
    paragraphs = [text for text in (write(data, cite) for write in writers) if text]
    seen = versions(data.sidecar.get("LibraryVersions"))
    used = ", ".join(f"{name} {version}" for name, version in seen.items())
    paragraphs.append(f"Software: {used}{cite('transformers', 'sklearn', 'nilearn')}.")
    return paragraphs, cite.keys


def bibtex(keys):
    """BibTeX entries of references.

    Parameters
    ----------
    keys : sequence of str
        Keys of :data:`REFERENCES`.

    Returns
    -------
    str
    """
    return "\n\n".join(REFERENCES[k] for k in keys)


class _Citations:
    def __init__(self):
        self.keys = []

    def __call__(self, *keys):
        self.keys += [k for k in keys if k not in self.keys]
        return f" ({'; '.join(CITED_AS[k] for k in keys)})"


def _recording(data, cite):
    if not data.sidecar:
        return ""
    side, geometry = data.sidecar, data.recorded or data.geometry
    name = data.model.get("id", side.get("ModelID", "a model"))
    revision = data.model.get("revision")
    where = f", revision {revision[:12]}" if revision else ""
    weights = f", weights {data.model['weights_hash']}" if data.model.get("weights_hash") else ""
    n_documents = data.events["document"].nunique()
    kind, dtype = data.model.get("architecture", "decoder"), side.get("ModelDataType", "unknown")
    corpus = side.get("Corpus", data.corpus.get("name", ""))
    corpus_hash = _hash(side.get("CorpusHash") or data.corpus.get("hash"))
    n_runs = f"{len(data.runs)} {'run' if len(data.runs) == 1 else 'runs'}"
    text = (
        f"The language model {name} ({kind}{where}{weights}; {dtype} weights) read {n_documents} documents of the "
        f"corpus “{corpus}”{corpus_hash}. At each of {len(data.events)} tokens the {geometry.n_neurons} neurons of the "
        f"site “{geometry.site}” ({geometry.n_layers} layers) were recorded in {side.get('DataType', 'float32')}, in "
        f"{n_runs} laid out after BIDS{cite('bids')}."
    )
    if side.get("Context"):
        text += f" The model read at most {side['Context']} tokens at once"
        text += (
            f", of which the first {side['WarmUp']} of each later window only gave context."
            if side.get("WarmUp")
            else "."
        )
    return text + " Special tokens and padding were left out. Repetition time means one token."


def _order(data, cite):
    known = [info for _, _, info in data.orders if info.get("n_components")]
    if not known:
        return ""
    at = known[0].get("reproduced_at", 0.7)
    return (
        f"The number of networks was chosen from {len(data.orders[0][1])} candidates as the one of which most networks "
        f"were found again in the other half of the text (absolute correlation at least {at:g}), among those "
        "of which at least half were."
    )


def _localizers(data, cite):
    if not data.localizers:
        return ""
    what = "; ".join(" against ".join(found.contrast) for found in data.localizers)
    unit = next((found.info["unit"] for found in data.localizers if found.info.get("unit")), "item")
    return (
        f"Localizers{cite('localizer', 'llmlocalizer')} contrasted {what} at every neuron with a general linear model, "
        f"the {unit} being the unit of inference, at a false discovery rate of 5 %{cite('fdr')}. Their overlap with "
        "networks was compared with neurons permuted within layers."
    )


def _doses(data, cite):
    texts = []
    for dose in data.doses:
        info = dose.info or {}
        over = str(info.get("over", "strength")).replace("_", " ")
        doses = ", ".join(f"{d:g}" for d in info.get("doses", []))
        text = f"Effects were measured over the {over} of the lesion{f' ({doses})' if doses else ''}"
        family = next(iter(info.get("family") or {}), None)
        if info.get("n_controls"):
            text += f", for networks and {info['n_controls']} controls of each{f' (“{family}”)' if family else ''}"
        texts.append(text + ".")
    return " ".join(texts)


def _networks(data, cite):
    if data.networks is None:
        return ""
    info = dict(data.networks.info or {})
    method = str(info.get("method") or info.get("estimator") or info.get("algorithm") or "")
    n = len(data.networks.maps)
    lowered = method.lower()
    if "dict" in lowered:
        text = f"Networks were found by dictionary learning{cite('dictlearning')} with {n} atoms"
    elif "ica" in lowered:
        how = f"CanICA{cite('canica')}, FastICA{cite('fastica')}"
        text = f"Networks were found by group independent component analysis ({how}) with {n} components"
    else:
        text = f"{n} networks were decomposed"
    if "ica" in lowered or "dict" in lowered:
        text = text.replace("Networks were found", f"Functional networks{cite('liunetworks')} were found", 1)
    parameters = {**info, **(info.get("parameters") or {})}
    names = {
        "engine": "engine {}",
        "n_init": "{} starts",
        "random_state": "seed {}",
        "scope": "scope {}",
        "alpha": "alpha {}",
    }
    settings = [form.format(parameters[key]) for key, form in names.items() if parameters.get(key) is not None]
    text += f" ({', '.join(settings)})." if settings else "."
    converged = info.get("converged")
    if converged is not None and not np.all(converged):
        text += " The decomposition did not converge; its networks are to be read with care."
    if parameters.get("standardize") not in (None, False):
        text += " Every neuron was z-scored within its run."
    text += f" Maps were z-scored over neurons; a neuron belongs to a network where |z| > {data.threshold:g}."
    text += " No smoothing was applied."
    metrics = data.networks.metrics
    if data.stability is not None or (
        metrics is not None and "stability" in metrics and metrics["stability"].notna().any()
    ):
        text += f" Stability compares repeated decompositions, after ICASSO{cite('icasso')}."
    return text


def _drivers(data, cite):
    if data.interpretation is None:
        return ""
    text = (
        "Time courses of networks were correlated with token classes, position, frequency and surprisal; p comes from "
        "circular shifts within runs and is corrected for all pairs by the largest correlation"
        f"{cite('westfall')}. Candidate names follow from these correlations and are suggestions."
    )
    if data.engagement is not None:
        text += " Kinds of text were compared by permuting kinds over documents."
    return text


def _display(data, cite):
    if data.topography is None:
        return ""
    info = data.topography.info
    how = {
        "transport": "by optimal transport of neurons, placed between the anchors of their loadings, to the sheet",
        "hilbert": "along a Hilbert curve, by dominant loading",
    }.get(info.get("method"), "by similarity")
    source = info.get("source") or "their loadings"
    return (
        f"For display only, neurons were ordered within each layer {how}, computed from {source} "
        f"(seed {info.get('seed', 'not recorded')}). No statistic depends on this order."
    )


def _lesions(data, cite):
    if data.lesion is None:
        return ""
    table, info = data.lesion.table, dict(getattr(data.lesion, "info", None) or {})
    how = (info.get("lesion") or {}).get("how") or info.get("how", "zero")
    hows = {"zero": "set to zero", "mean": "clamped to their mean", "resample": "exchanged with those of other tokens"}
    n_controls = int(table["n_controls"].max()) if "n_controls" in table else 0
    families = [str(f) for f in dict.fromkeys(table["family"])] if "family" in table else []
    done = hows.get(str(how), f"treated with “{how}”")
    n = table["network"].nunique()
    text = f"Each of {n} networks was lesioned: its neurons were {done} while the model read"
    tasks = [str(t) for t in dict.fromkeys(table["task"])] if "task" in table else []
    text += f" ({', '.join(tasks[:8])}{', …' if len(tasks) > 8 else ''})." if tasks else " held-out text."
    if n_controls:
        known = info.get("families") or {}
        against = "; ".join(f"“{f}”, {known[f]}" if f in known else f"matched by {f}" for f in families)
        text += (
            f" Each was compared with up to {n_controls} control sets of neurons{f' ({against})' if against else ''}; "
            f"p = (1 + number of controls at least as harmful) / (controls + 1){cite('permutation')}"
        )
        text += (
            f", and q controls the false discovery rate over the networks of one task and family{cite('fdr')}."
            if "q" in table
            else "."
        )
        if "q_pooled" in table and table["q_pooled"].notna().any():
            text += f" Pooled p and q rank the standardised effect among the controls of all networks{cite('storey')}."
    if info.get("threshold") is not None:
        text += f" Lesioned neurons have |z| > {info['threshold']:g}."
    if info.get("random_state") is not None:
        text += f" Seed {info['random_state']}."
    return text


def _pruning(data, cite):
    if data.pruning is None and data.pruned is None:
        return ""
    if data.pruning is None:
        summary = data.pruned.summary
        parts = [
            f"{k.replace('_', ' ')} {summary[k]}"
            for k in ("score", "allocation", "compensation", "ratio")
            if k in summary
        ]
        text = f"MLP neurons were removed for good ({', '.join(parts)})."
        if summary.get("calibration_tokens"):
            used = f"{summary['calibration_tokens']} tokens{_hash(summary.get('calibration_hash'))}"
            text += f" Statistics were taken on {used}; nothing was trained."
        seed = summary.get("random_state")
        return text + (f" Seed {seed}." if seed is not None else "")
    table, _ = split_dense(data.pruning)
    scores = [str(s) for s in dict.fromkeys(table["score"])] if "score" in table else []
    keys = {"wanda": "wanda", "flap": "flap", "network": "liupruning"}
    known = [key for name, key in keys.items() if any(name in s.lower() for s in scores)]
    ratios = ", ".join(f"{100 * r:g} %" for r in sorted(set(table["ratio"]))) if "ratio" in table else "several shares"
    of = data.prune_info.get("ratio_of")
    text = f"MLP neurons were removed for good at {ratios}{f' of all {of}' if of else ''}"
    text += f" by the scores {', '.join(scores)}{cite(*known) if known else ''}" if scores else ""
    seeds = table["seed"].nunique() if "seed" in table else 0
    text += f", with {seeds} {'seed' if seeds == 1 else 'seeds'}" if seeds else ""
    for role, verb in (("calibration", "statistics were taken on"), ("evaluation", "perplexity was measured on")):
        used = data.prune_info.get(role)
        if used:
            text += f"; {verb} {used.get('n_tokens', 'all')} tokens of “{used.get('corpus')}”{_hash(used.get('hash'))}"
    settings = (data.prune_info.get("variants") or {}).values()
    if any(s.get("propagation") == "sequential" for s in settings):
        text += "; “sequential” statistics are taken anew behind the layers that are pruned already"
    if any(s.get("token_weights") == "stream" for s in settings):
        text += "; “weighted” least squares count each token relative to the power of its residual stream"
    seed = data.prune_info.get("random_state")
    text += "; perplexity is the exponential of the mean loss a token in nats on held-out text."
    return text + (f" Seed {seed}." if seed is not None else "")


def _hash(value):
    return f" (hash {str(value)[:16]})" if value else ""
