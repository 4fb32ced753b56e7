"""Folders that hold a study, and those that may."""

from pathlib import Path

from ..exceptions import DatasetError
from ..files import as_path, check_apart
from .layout import FILES


def check_study_folder(root, inputs=()):
    """Refuse a folder that a study cannot be written to: one that holds files and no study. Hidden files may stay.

    Parameters
    ----------
    root : path-like
        It may be missing.
    inputs : sequence
        What is read; the folder may not lie in it, see :func:`llmbrain.files.check_apart`.

    Raises
    ------
    DatasetError, ParameterError
    """
    root = as_path(root)
    file = next((p for p in (root, *root.parents) if p.exists() and not p.is_dir()), None)
    if file is not None:
        raise DatasetError(f"{file} is a file. Choose a folder.")
    check_apart(root, inputs, around=False)
    if not root.is_dir() or holds_study(root):
        return
    foreign = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if foreign:
        raise DatasetError(
            f"{root} holds {foreign[0]}, which llmbrain did not write, and no study. Choose a new or an empty folder."
        )


def model_files(root):
    """The ``study.json`` of every model and checkpoint of a dataset, sorted."""
    return sorted([*Path(root).glob("sub-*/study.json"), *Path(root).glob("sub-*/ses-*/study.json")])


def holds_study(root):
    """Whether a folder holds the description of a study."""
    return (as_path(root) / FILES["study_json"]).is_file() or bool(model_files(root))
