"""Manifests: the JSON files that list the files of a result and what it was made from; and the names of results."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..exceptions import DatasetError
from .checks import read_own
from .layout import FILES, NUMBERS, RESULTS, bids_label
from .publication import recover
from .study import Study

KEY = "provenance"  # of a manifest: files, sources, settings


@dataclass(frozen=True)
class Manifest:
    """What the manifest of a result says; its files are not checked.

    See :class:`llmbrain.dataset.Result` for the attributes.
    """

    folder: object
    kind: str
    name: str
    info: dict = field(repr=False)
    files: dict = field(repr=False)
    sources: dict
    settings: dict = None

    @property
    def manifest(self):
        """Path of the JSON file."""
        return place(self.folder, RESULTS[self.kind].manifest, self.name)


def place(folder, kind, name, run=None):
    """Path of a file in a study, or in a plain folder."""
    if isinstance(folder, Study):
        entity = "site" if "{site}" in FILES[kind] else "desc"
        return folder.path(kind, **{entity: name}, **({} if run is None else {numbered(kind): run}))
    pattern = FILES[kind].rpartition("/")[2]
    end = pattern.rpartition("}_")[2] if "}_" in pattern else pattern
    return Path(folder) / "_".join(filter(None, [name, None if run is None else f"run-{run:02d}", end]))


def numbered(part):
    """The entity by which several files of a part are numbered, or None."""
    return next((entity for entity in NUMBERS if f"{{{entity}}}" in FILES[part]), None)


def find_results(folder, kind):
    """Names of the results of a kind, sorted; their files are not checked.

    Parameters
    ----------
    folder : Study
    kind : str
        A key of :data:`llmbrain.dataset.layout.RESULTS`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> find_results(Study("nowhere", "gpt2", "demo"), "networks")
    []
    """
    manifest = RESULTS[kind].manifest
    entity = "site" if "{site}" in FILES[manifest] else "desc"
    recover(folder.path(manifest, **{entity: "any"}).parent)
    return [one.entities[entity] for one in folder.find(manifest)]


def result_name(folder, kind, name=None):
    """Return the name of a result: the given one if it exists, or that of the only result of the kind.

    Raises
    ------
    DatasetError
        If there is no such result, or if several exist and ``name`` is None; the message lists them.
    """
    found, rule = find_results(folder, kind), RESULTS[kind]
    if name is not None and bids_label(name) in found:
        return bids_label(name)
    held = f"It holds {', '.join(found)}." if found else rule.remedy
    if name is not None:
        raise DatasetError(f"{folder.root} holds no {rule.what} named {name!r}. {held}")
    if len(found) == 1:
        return found[0]
    if not found:
        raise DatasetError(f"{folder.root} holds no {rule.what}. {held}")
    raise DatasetError(f"{folder.root} holds several {rule.what}: {', '.join(found)}. Choose one by name{rule.option}.")


def read_manifest(folder, kind, name):
    """Read the manifest of a result, without a look at the other files."""
    path, rule = place(folder, RESULTS[kind].manifest, name), RESULTS[kind]
    if not path.is_file():
        raise DatasetError(f"There is no {rule.what} in {path.parent}: {path.name} is missing. {rule.remedy}")
    info = read_own(path, rule.remedy)
    about = info.pop(KEY, None)
    files = about.get("files") if isinstance(about, dict) else None
    right = isinstance(files, dict) and isinstance(about.get("sources"), dict)
    if not right or not all(re.fullmatch(r"[\w.-]+", f) and isinstance(v, dict) for f, v in files.items()):
        raise DatasetError(f"{path} does not list the files and sources of the {rule.what}. {rule.remedy}")
    return Manifest(folder, kind, name, info, files, about["sources"], about.get("settings"))
