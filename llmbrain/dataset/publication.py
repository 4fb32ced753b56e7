"""Publication: all files of a result are renamed together, or none.

A result is published in three steps. All files are first written under temporary names. Then a journal with the new
manifest and the list of renames is published; from now on the new result counts. Last, the files are renamed. A process
that is killed before the journal leaves the old result; after it, whoever opens the result next finishes the renames.
"""

import contextlib
import re

from filelock import FileLock

from ..exceptions import DatasetError
from ..files import discard_leftovers, fill, publish, read_json, sibling, write_json

_JOURNAL = ".next.part."  # begins the name of a journal; the name of the manifest follows
_LOCK = ".results.lock"


def publish_together(manifest, contents, describe, obsolete):
    """Write files and the manifest that names them; readers see all of them, or what was there before.

    ``contents`` maps the path of each file to its content. ``describe(written)`` returns the content of the manifest;
    ``written`` has the temporary path of each file. ``obsolete()`` returns paths of an earlier result; those that are
    not written again are deleted. The manifest is published last.
    """
    folder = manifest.parent
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _finish(folder)
        journal = folder / (_JOURNAL + manifest.name)
        discard_leftovers(contents)
        written = {path: sibling(path) for path in contents}
        try:
            for path, content in contents.items():
                _fill(written[path], content, path)
            plan = {
                "manifest": manifest.name,
                "content": describe(written),
                "moves": {part.name: path.name for path, part in written.items()},
                "obsolete": [path.name for path in obsolete() if path not in contents],
            }
            write_json(journal, plan)
        except BaseException:  # no file has its final name yet
            journal.unlink(missing_ok=True)
            for part in written.values():
                part.unlink(missing_ok=True)
            raise
        _finish(folder)


def _fill(part, content, path):
    try:
        fill(part, content)
    except OSError as error:
        if error.filename in (None, str(part)):  # a full disk names no file
            error.filename = str(path)
        raise


def recover(folder):
    """Finish what a killed process has published; in a read-only folder this raises an error.

    Raises
    ------
    DatasetError
        If the folder cannot be written.
    """
    if not folder.is_dir() or not any(folder.glob(_JOURNAL + "*.json")):
        return
    try:
        with _locked(folder):
            _finish(folder)
    except OSError as error:
        raise DatasetError(
            f"A result in {folder} was interrupted while it was published, and the folder cannot be written "
            f"({error.strerror or error}). Open the study once where it can be written."
        ) from error


def _finish(folder):
    """Rename the files of results that were published completely, but not renamed: their process was killed."""
    for path in sorted(folder.glob(_JOURNAL + "*.json")):
        journal = _read_journal(path)
        if journal is not None:
            for part, final in journal["moves"].items():
                if (folder / part).is_file():  # else it is renamed already
                    publish(folder / part, folder / final)
            write_json(folder / journal["manifest"], journal["content"])
            for name in journal["obsolete"]:
                (folder / name).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _read_journal(path):
    """Content of a journal, or None if it is damaged or names a file outside of its folder."""
    try:
        journal = read_json(path)
        names = [journal["manifest"], *journal["obsolete"], *journal["moves"], *journal["moves"].values()]
        plain = all(isinstance(name, str) and re.fullmatch(r"(?!\.\.?$)[^/\\\0]+", name) for name in names)
        right = plain and isinstance(journal["content"], dict) and path.name == _JOURNAL + journal["manifest"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return journal if right else None


@contextlib.contextmanager
def _locked(folder):
    """Hold the lock of a folder's results; the operating system releases it if the process is killed."""
    with FileLock(folder / _LOCK):
        yield
