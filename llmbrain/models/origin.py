"""Where a model comes from: an id that resolves on the hub, and its licence, as far as its files say so."""

import contextlib
import os
import re
import weakref
from pathlib import Path

from .gguf_reader import quick_reader

# What load_model opened. Nothing is stored on the model itself, so a copy of it has no entry.
_SOURCES = weakref.WeakKeyDictionary()
_DEMO = {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def remember_source(model, source):
    """Note from which file, folder or hub id a model was opened; ``"demo"`` for the demo model."""
    _SOURCES[model] = str(source)


def source_of(model):
    """Return the file, folder or hub id that a model was opened from, or an empty text."""
    known = _SOURCES.get(model) if hasattr(model, "named_parameters") else None
    return known or str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")


def origin_of(model):
    """Find out where a model comes from: ``base_model``, an id on the hub, and ``license``; None for what is not known.

    For a folder or a GGUF file, its own description is used; for a hub id, the card in the cache.
    """
    source = source_of(model)
    found = {"base_model": None, "license": None}
    if source == "demo":
        return dict(_DEMO)
    if source.endswith(".gguf") and os.path.isfile(source):
        return found | _of_gguf(Path(source))
    if os.path.isdir(source):
        return found | _of_card(Path(source) / "README.md")
    if _HUB_ID.fullmatch(source):
        return found | _of_card(_cached_card(source)) | {"base_model": source}
    return found


def _cached_card(name):
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "README.md")
    return Path(path) if isinstance(path, str) else None


def _of_card(path):
    """Licence and base model in the head of a model card."""
    if path is None or not path.is_file():
        return {}
    from huggingface_hub import metadata_load

    known = {}
    with contextlib.suppress(Exception):  # a damaged head says nothing
        known = metadata_load(path) or {}
    base = known.get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    licence = known.get("license")
    return {
        "base_model": base if isinstance(base, str) and _HUB_ID.fullmatch(base) else None,
        "license": licence if isinstance(licence, str) else None,
    }


def _of_gguf(path):
    """Licence and repository in the metadata of a GGUF file."""
    fields = quick_reader()(path).fields

    def text(*names):
        for name in names:
            if name in fields:
                with contextlib.suppress(Exception):
                    return str(fields[name].contents())
        return None

    url = text("general.base_model.0.repo_url", "general.source.repo_url", "general.repo_url") or ""
    base = url.removeprefix("https://huggingface.co/").strip("/")
    base = base or text("general.source.huggingface.repository") or ""
    return {"base_model": base if _HUB_ID.fullmatch(base) else None, "license": text("general.license")}
