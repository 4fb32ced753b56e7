"""Results: files that belong together are published at once, checked when they are opened, and know their sources.

Every station writes its result with :func:`write_result` and reads it with :func:`open_result`. One JSON file of the
result, its manifest, lists the other files with their hashes and counts, and the hashes of what they were made from.
"""

import gzip
import json
import warnings
from pathlib import Path

from .. import __version__
from ..exceptions import DatasetError, StaleResultWarning
from ..files import read_tsv, sha256, with_hashes
from .checks import read_own
from .frame import label_text
from .layout import FILES, RESULTS, bids_label
from .manifests import KEY, Manifest, numbered, place, read_manifest, result_name
from .publication import publish_together, recover
from .staleness import stale_reason
from .study import Study


class Result(Manifest):
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

    @property
    def paths(self):
        """Paths of all files, the manifest last."""
        return [*(self.manifest.with_name(file) for file in self.files), self.manifest]

    def path(self, part, run=None):
        """Path of a part, whether the result has it or not."""
        return place(self.folder, part, self.name, run)

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
        return read_own(path) if path.suffix == ".json" else read_tsv(path, dtype=dtype)

    @property
    def stale(self):
        """See :func:`llmbrain.dataset.staleness.stale_reason`."""
        return stale_reason(self)

    def warn_if_stale(self):
        """Warn if the result no longer belongs to the study; returns the result."""
        reason = self.stale
        if reason:
            warnings.warn(reason, StaleResultWarning, stacklevel=3)
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
        :meth:`llmbrain.dataset.Recording.source`, or a list of these), ``networks`` (list of
        :attr:`llmbrain.NetworkSet.hash`), and any others. These four are compared with the study when the result is
        opened, and so are ``others`` (label of another model of the dataset -> hash of its networks) and ``lesions``
        (label of a model -> what :func:`llmbrain.dataset.staleness.lesions_of` returns).
    settings : dict, optional
        Settings that the result depends on; see :func:`is_done`.

    Returns
    -------
    Result
    """
    contents = {
        place(folder, part, name, run): with_hashes(content) if isinstance(content, dict) else content
        for part, run, content in _flat(parts)
    }

    def describe(written):
        files = {path.name: {"sha256": sha256(part), **_count(part)} for path, part in written.items()}
        about = {"llmbrain": __version__, "result": kind, "name": name, "files": files}
        # BIDS asks for both; images have no space- entity, because voxels are neurons of the study's model
        space = {"Description": label_text(kind, name), "SpatialReference": "orig"}
        space |= {"Type": "ROI"} if any(path.name.endswith("_mask.nii.gz") for path in written) else {}
        if not any(".nii" in path.name for path in written):
            space = {}
        return with_hashes({**space, **info, KEY: about | {"sources": sources or {}, "settings": settings}})

    manifest = place(folder, RESULTS[kind].manifest, name)
    if isinstance(folder, Study):
        _describe(folder, kind, bids_label(name))
    publish_together(manifest, contents, describe, lambda: _existing(folder, kind, name))
    return _result(folder, kind, name)


def _describe(study, kind, name):
    label = name + (kind if "{site}" in FILES[RESULTS[kind].manifest] else "")
    study.describe_label(label, label_text(kind, name))


def _flat(parts):
    """List the parts as ``(kind, number of the run or network, content)``."""
    for part, content in parts.items():
        if isinstance(content, dict) and numbered(part):
            yield from ((part, run, one) for run, one in content.items())
        elif content is not None:
            yield part, None, content


def _existing(folder, kind, name):
    """Files of the kinds that a result may have, under its name."""
    if not isinstance(folder, Study):
        return [path for part in RESULTS[kind].parts if (path := place(folder, part, name)).is_file()]
    found = []
    for part in RESULTS[kind].parts:
        entity = "site" if "{site}" in FILES[part] else "desc"
        found += [one.path for one in folder.find(part, **{entity: name})]
    return found


# ------------------------------------------------------------------------------------------------ reading
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
    result = _result(folder, kind, name)
    for file, facts in result.files.items():
        _check_file(result, result.manifest.with_name(file), facts)
    return result


def _result(folder, kind, name):
    return Result(**vars(read_manifest(folder, kind, name)))


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
        except Exception:  # gzip, zlib and nibabel raise many kinds for damaged files
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
