"""Results: files that belong together are published at once, checked when they are opened, and know their sources.

Every station writes its result with :func:`write_result` and reads it with :func:`open_result`. One JSON file of the
result, its manifest, lists the other files with their hashes and counts, and the hashes of what they were made from.
"""

import gzip
import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from .. import __version__
from ..exceptions import DatasetError, StaleResultWarning
from ..files import read_tsv, sha256
from .checks import read_object
from .frame import label_text
from .layout import FILES, NUMBERS, RESULTS, bids_label
from .publication import publish_together, recover
from .study import Study

__all__ = ["Result", "find_results", "is_done", "open_result", "result_name", "write_result"]

KEY = "provenance"  # of a manifest: files, sources, settings


@dataclass(frozen=True)
class Result:
    """A result whose files were checked.

    Attributes
    ----------
    folder : Study or pathlib.Path
    kind : str
        A key of :data:`llmbrain.dataset.layout.RESULTS`.
    name : str or None
        The ``desc-`` (of atlases: ``site-``) label; None only in a plain folder.
    info : dict
        What the station wrote into the manifest.
    files : dict
        Name of each file -> its ``sha256`` and number of ``rows`` or ``volumes``.
    sources : dict
        Hashes of what the result was made from, see :func:`write_result`.
    settings : dict or None
        The settings of the station, by which it knows a result that it made before.
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
        return _place(self.folder, RESULTS[self.kind].manifest, self.name)

    @property
    def paths(self):
        """Paths of all files, the manifest last."""
        return [*(self.manifest.with_name(file) for file in self.files), self.manifest]

    def path(self, part, run=None):
        """Path of a part, whether the result has it or not."""
        return _place(self.folder, part, self.name, run)

    def has(self, part, run=None):
        """Whether the result has a part."""
        return self.path(part, run).name in self.files

    def runs(self, part):
        """Numbers of the runs for which the result has a part, in order."""
        kept = [one.entities["run"] for one in self.folder.find(part, desc=self.name) if one.path.name in self.files]
        return sorted(kept)

    def read(self, part, run=None, *, dtype=None):
        """Read a table or a JSON file of the result; None if the result has no such part."""
        if not self.has(part, run):
            return None
        path = self.path(part, run)
        return read_object(path) if path.suffix == ".json" else read_tsv(path, dtype=dtype)

    @property
    def stale(self):
        """See :func:`llmbrain.dataset.staleness.stale_reason`."""
        from .staleness import stale_reason

        return stale_reason(self)

    def warn_if_stale(self, stacklevel=3):
        """Warn if the result no longer belongs to the study; returns the result."""
        reason = self.stale
        if reason:
            warnings.warn(reason, StaleResultWarning, stacklevel=stacklevel)
        return self


# ------------------------------------------------------------------------------------------------ writing
def write_result(folder, kind, name, parts, info, *, sources=None, settings=None):
    """Write all files of a result at once; an earlier result of the same kind and name is replaced as a whole.

    Parameters
    ----------
    folder : Study or path-like
        A study, or a plain folder, where only the ends of the names are used.
    kind : str
        A key of :data:`llmbrain.dataset.layout.RESULTS`.
    name : str or None
        Name of the result in the file names; None only in a plain folder.
    parts : dict
        Kind of file -> table (DataFrame), image, dict or text; ``{number: content}`` for files of
        runs and of single networks; None for none.
    info : dict
        Further content of the manifest.
    sources : dict, optional
        Hashes of what the result was made from: ``weights`` (of the model), ``text``, ``recording`` (from
        :meth:`llmbrain.dataset.Recording.source`), ``networks`` (list of :attr:`llmbrain.NetworkSet.hash`), and any
        others. These four are compared with the study when the result is opened, and so are ``others`` (label of
        another model of the dataset -> hash of its networks) and ``lesions`` (label of a model -> what
        :func:`llmbrain.dataset.staleness.lesions_of` returns).
    settings : dict, optional
        Settings that the result depends on; see :func:`is_done`.

    Returns
    -------
    Result
    """
    contents = {_place(folder, part, name, run): content for part, run, content in _flat(parts)}

    def describe(written):
        files = {path.name: {"sha256": sha256(part), **_count(part)} for path, part in written.items()}
        about = {"llmbrain": __version__, "result": kind, "name": name, "files": files}
        # BIDS asks for both; images have no space- entity, because voxels are neurons of the study's model
        space = {"Description": label_text(kind, name), "SpatialReference": "orig"}
        space |= {"Type": "ROI"} if any(path.name.endswith("_mask.nii.gz") for path in written) else {}
        if not any(".nii" in path.name for path in written):
            space = {}
        return {**space, **info, KEY: about | {"sources": sources or {}, "settings": settings}}

    manifest = _place(folder, RESULTS[kind].manifest, name)
    if isinstance(folder, Study):
        _describe(folder, kind, bids_label(name))
    publish_together(manifest, contents, describe, lambda: _existing(folder, kind, name))
    return read_manifest(folder, kind, name)


def _describe(study, kind, name):
    label = name + (kind if "{site}" in FILES[RESULTS[kind].manifest] else "")
    study.describe_label(label, label_text(kind, name))


def _flat(parts):
    """List the parts as ``(kind, number of the run or network, content)``."""
    for part, content in parts.items():
        if isinstance(content, dict) and _numbered(part):
            yield from ((part, run, one) for run, one in content.items())
        elif content is not None:
            yield part, None, content


def _numbered(part):
    """The entity by which several files of a part are numbered, or None."""
    return next((entity for entity in NUMBERS if f"{{{entity}}}" in FILES[part]), None)


def _existing(folder, kind, name):
    """Files of the kinds that a result may have, under its name."""
    if not isinstance(folder, Study):
        return [path for part in RESULTS[kind].parts if (path := _place(folder, part, name)).is_file()]
    found = []
    for part in RESULTS[kind].parts:
        entity = "site" if "{site}" in FILES[part] else "desc"
        found += [one.path for one in folder.find(part, **{entity: name})]
    return found


def _place(folder, kind, name, run=None):
    """Path of a file in a study, or in a plain folder."""
    if isinstance(folder, Study):
        entity = "site" if "{site}" in FILES[kind] else "desc"
        return folder.path(kind, **{entity: name}, **({} if run is None else {_numbered(kind): run}))
    pattern = FILES[kind].rpartition("/")[2]
    end = pattern.rpartition("}_")[2] if "}_" in pattern else pattern
    return Path(folder) / "_".join(filter(None, [name, None if run is None else f"run-{run:02d}", end]))


# ------------------------------------------------------------------------------------------------ reading
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


def open_result(folder, kind, name=None):
    """Open a result and check all its files: their hashes, and the number of their rows or volumes.

    Parameters
    ----------
    folder : Study or path-like
    kind : str
        A key of :data:`llmbrain.dataset.layout.RESULTS`.
    name : str, optional
        Needed if the study holds several results of this kind; see :func:`result_name`.

    Returns
    -------
    Result
        :attr:`Result.stale` says whether it still belongs to the study.

    Raises
    ------
    DatasetError
        If there is no such result, or a file is missing, damaged or of another write; the message names the file and
        says what to do.
    """
    if isinstance(folder, Study):
        name = result_name(folder, kind, name)
    else:
        recover(Path(folder))
    result = read_manifest(folder, kind, name)
    for file, facts in result.files.items():
        _check_file(result, result.manifest.with_name(file), facts)
    return result


def read_manifest(folder, kind, name):
    path, rule = _place(folder, RESULTS[kind].manifest, name), RESULTS[kind]
    if not path.is_file():
        raise DatasetError(f"There is no {rule.what} in {path.parent}: {path.name} is missing. {rule.remedy}")
    info = read_object(path)
    about = info.pop(KEY, None)
    files = about.get("files") if isinstance(about, dict) else None
    right = isinstance(files, dict) and isinstance(about.get("sources"), dict)
    if not right or not all(re.fullmatch(r"[\w.-]+", f) and isinstance(v, dict) for f, v in files.items()):
        raise DatasetError(f"{path} does not list the files and sources of the {rule.what}. {rule.remedy}")
    return Result(folder, kind, name, info, files, about["sources"], about.get("settings"))


def _check_file(result, path, facts):
    what = f"the {RESULTS[result.kind].what}{f' {result.name!r}' if result.name else ''}"
    remedy = RESULTS[result.kind].remedy
    if not path.is_file():
        raise DatasetError(f"{path} is missing, a part of {what}. {remedy}")
    if sha256(path) == facts.get("sha256"):
        return
    differ = [f"it has {n} {unit} instead of {facts[unit]}" for unit, n in _count(path).items() if facts.get(unit) != n]
    how = differ[0] if differ else "its content has changed since"
    raise DatasetError(f"{path} does not fit {result.manifest.name}: {how}. {remedy}")


def _count(path):
    """Number of rows of a table or of volumes of an image; nothing for other files, or if it cannot be read."""
    if path.suffix == ".tsv":
        with open(path, "rb") as file:
            return {"rows": sum(1 for _ in file) - 1}
    if path.name.endswith((".nii", ".nii.gz")):
        import nibabel as nib

        try:
            with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
                shape = nib.Nifti1Header.from_fileobj(file, check=False).get_data_shape()
        except (OSError, EOFError, ValueError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError):
            return {}
        return {"volumes": int(shape[3]) if len(shape) > 3 else 1}
    return {}


def is_done(folder, kind, name, settings):
    """Whether a result exists, is whole, fits its sources in the study, and was made with the same settings."""
    try:
        found = open_result(folder, kind, name)
    except DatasetError:
        return False
    return found.settings == json.loads(json.dumps(settings)) and not found.stale
