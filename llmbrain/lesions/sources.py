"""Sources of lesion results: the model, the networks, and the texts of the tasks."""

from ..dataset import Study, find_results
from ..dataset.manifests import read_manifest
from ..dataset.staleness import own_recordings


def lesioned_networks(masks):
    """Hashes of the networks that masks come from, sorted; empty for other masks."""
    return sorted({mask.info["networks"] for mask in masks if mask.info.get("networks")})


def describe_reference(statistics):
    """Describe the text that importances and reference values come from; None without statistics."""
    if statistics is None:
        return None
    return public(statistics.info) | {"n_tokens": statistics.n_tokens}


def public(info):
    """Return a description without the hashes of its documents, which can be many."""
    return {k: v for k, v in info.items() if k != "document_hashes"}


def sources_of(info, study):
    """What a lesion result was made from, from its description; see :func:`llmbrain.dataset.write_result`."""
    tasks = info.get("tasks") or {}
    return {
        "weights": (info.get("model") or {}).get("weights_hash"),
        "networks": info.get("networks") or [],
        "recording": own_recordings(study, (info.get("reference") or {}).get("recording") or []),
        "text": {name: about["corpus_hash"] for name, about in tasks.items() if about.get("corpus_hash")},
    }


def derived_name(study, info, default):
    """Name of the study's networks that were lesioned; the default if the study does not hold them, or is none."""
    if not isinstance(study, Study):
        return None
    for name in find_results(study, "networks"):
        if read_manifest(study, "networks", name).info.get("hash") in (info.get("networks") or []):
            return name
    return default
