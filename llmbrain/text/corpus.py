"""Loading corpora: the demo, files, folders, JSONL, lists of strings, hub datasets."""

import os
import warnings
from collections import Counter
from itertools import chain, zip_longest
from pathlib import Path

from ..exceptions import CorpusError, LLMBrainWarning, ParameterError, check_count
from .documents import Corpus, Document, first_names
from .reading import data_path, read_jsonl, read_text, shorten

DEMO_SPLITS = ("train", "heldout", "all")


def load_corpus(source="demo", *, split=None, name=None, limit=None):
    """Load texts from any source.

    Parameters
    ----------
    source : str, path, list or Corpus, default="demo"
        One of

        - ``"demo"``: the corpus that ships with the package (six kinds of text, English);
        - a text file (UTF-8): one document;
        - a ``.jsonl`` file: one document per line, an object with ``text`` and optionally ``id`` and ``kind``;
        - a folder: every file that is not hidden, one document each (a ``.jsonl`` file: one document per line). The
          name of the first sub-folder is the kind. Kinds alternate, so that the first documents cover all of them;
        - a list of strings or of `Document`;
        - ``"hub:owner/dataset[/config][:split[:field]]"``: a dataset of the Hugging Face hub (needs
          ``pip install llmbrain[hub]``). The defaults are the split "train" and the field "text".
    split : str, optional
        For the demo ``"train"`` (the default there), ``"heldout"`` or ``"all"``; for a folder, the sub-folder of that
        name; for a hub dataset, its split. Other sources have no split.
    name : str, optional
        Name of the corpus. Taken from the source by default.
    limit : int, optional
        Keep only the first ``limit`` documents.

    Returns
    -------
    corpus : Corpus
        Documents with unique ids.

    Raises
    ------
    CorpusError
        If the source is not found, is empty, is not text (NUL bytes, not UTF-8), or has a row without text.
    ParameterError
        If ``split`` or ``limit`` is not possible for this source.

    Examples
    --------
    >>> sorted(load_corpus("demo").kinds)
    ['arithmetic', 'code', 'dialogue', 'encyclopaedic', 'instructions', 'narrative']
    >>> load_corpus(["The kettle sings.", "Rain again."], name="kitchen").ids
    ['text-0001', 'text-0002']
    """
    check_count("limit", limit, optional=True)
    documents, default_name = _documents(source, split, limit)
    return Corpus(documents[:limit], default_name if name is None else name)


def as_corpus(texts):
    """Turn texts in any form into a `Corpus`.

    Parameters
    ----------
    texts : Corpus, Document, list of str, list of Document, str or path
        A string is a source as in `load_corpus` ("demo", a path, "hub:..."), not a text. Pass a single text as a list
        of one string.

    Returns
    -------
    corpus : Corpus
        The same object if ``texts`` is a `Corpus`.

    Raises
    ------
    CorpusError
        As in `load_corpus`.

    Examples
    --------
    >>> as_corpus(["One text."])
    Corpus('texts', 1 document)
    """
    if isinstance(texts, Corpus):
        return texts
    if isinstance(texts, Document):
        return Corpus([texts], name=texts.id)
    return load_corpus(texts)


def is_demo(source):
    """Whether a source of text is the corpus that ships with the package."""
    return isinstance(source, str) and source == "demo"


def load_heldout(source="demo"):
    """Load text to measure on: of the demo its held-out part, of any other source all of it."""
    return load_corpus("demo", split="heldout") if is_demo(source) else as_corpus(source)


def _documents(source, split, limit):
    """Read the documents of any source, and the default name of the corpus."""
    if isinstance(source, Corpus):
        _refuse_split(split, "a Corpus")
        return list(source.documents), source.name
    if isinstance(source, (list, tuple)):
        _refuse_split(split, "a list")
        return _from_list(source), "texts"
    if not isinstance(source, (str, os.PathLike)):
        raise CorpusError(
            f"Cannot read texts from an object of type {type(source).__name__}. Allowed: 'demo', a text file, a .jsonl "
            "file, a folder, a list of strings, a Corpus, or 'hub:owner/dataset/config:split:field'."
        )
    if source == "demo":
        return _demo(split), "demo"
    if isinstance(source, str) and source.startswith("hub:"):
        return _from_hub(source, split, limit)
    path = _existing(source)
    if path.is_dir():
        return _from_folder(path, split), path.resolve().name or "texts"
    _refuse_split(split, "a single file")
    if path.suffix.lower() == ".jsonl":
        return _from_jsonl(path), path.stem
    return [Document(read_text(path), id=path.stem)], path.stem


def _refuse_split(split, what):
    """Refuse a split for a source without splits."""
    if split is not None:
        raise ParameterError(
            f"split={split!r}: {what} has no splits. Leave it out, or use Corpus.split to split at random."
        )


def _existing(source):
    """Return the path of an existing file or folder."""
    shown = str(source)
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    try:
        path = Path(source).expanduser()
        if path.exists():
            return path
    except (OSError, ValueError, RuntimeError):  # too long for a file name, or with NUL bytes: probably a text
        pass
    raise CorpusError(
        f"No file or folder {shown!r}. Give the path of a text file, a .jsonl file or a folder, or 'demo'; "
        "to use the text itself, pass it in a list: [text]."
    )


def _demo(split):
    """Read the shipped corpus."""
    split = "train" if split is None else split
    if split not in DEMO_SPLITS:
        raise ParameterError(
            f"split={split!r}: the demo corpus has the splits 'train' and 'heldout' (and 'all' for both)."
        )
    parts = ("train", "heldout") if split == "all" else (split,)
    return [d for part in parts for d in _from_folder(data_path("demo", part), None)]


def _from_list(items):
    """Turn strings into documents; documents are passed through."""
    if not items:
        raise CorpusError("The list of texts is empty; at least one text is needed.")
    documents = []
    for i, item in enumerate(items, start=1):
        if isinstance(item, Document):
            documents.append(item)
        elif isinstance(item, str):
            documents.append(Document(item, id=f"text-{i:04d}"))
        else:
            raise CorpusError(f"Item {i} of the list is of type {type(item).__name__}; a list of texts holds strings.")
    return documents


def _from_jsonl(path, prefix=None, kind=None):
    """Turn the rows of a JSONL file into documents."""
    documents = []
    prefix = path.stem if prefix is None else prefix
    for number, row in read_jsonl(path):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            found = "no field 'text'" if "text" not in row else f"'text' is {shorten(text)}"
            raise CorpusError(f"{path}, line {number}: {found} (fields: {first_names(row)}). Every row needs a text.")
        row_id = row.get("id")
        row_kind = row.get("kind", kind)
        documents.append(
            Document(
                text,
                id=f"{prefix}-{number:05d}" if row_id is None else str(row_id),
                kind=None if row_kind is None else str(row_kind),
            )
        )
    return documents


def _from_folder(folder, split):
    """Turn the files of a folder into documents; the kinds alternate."""
    if split is not None:
        if not (folder / str(split)).is_dir():
            raise ParameterError(f"split={split!r}: the folder {folder} has no sub-folder of that name.")
        folder = folder / str(split)
    files = _files_in(folder)
    if not files:
        raise CorpusError(f"The folder {folder} has no file that is not hidden. Put text files into it.")
    stems = Counter(path.relative_to(folder).with_suffix("") for path in files)
    by_kind = {}
    for path in files:
        relative = path.relative_to(folder)
        kind = relative.parts[0] if len(relative.parts) > 1 else None
        bare = relative.with_suffix("")
        key = (bare if stems[bare] == 1 else relative).as_posix()
        if path.suffix.lower() == ".jsonl":
            documents = _from_jsonl(path, prefix=key, kind=kind)
        else:
            documents = [Document(read_text(path), id=key, kind=kind)]
        for document in documents:
            by_kind.setdefault(document.kind, []).append(document)
    turns = zip_longest(*by_kind.values())
    return [d for d in chain.from_iterable(turns) if d is not None]


def _files_in(folder):
    """All files of a folder and its sub-folders that are not hidden, sorted; what cannot be listed is an error."""

    def refuse(error):
        raise error

    found = []
    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [Path(where, name) for name in names if not name.startswith((".", "__"))]
    return sorted(path for path in found if path.is_file())


def _from_hub(source, split, limit):
    """Turn the rows of a hub dataset into documents."""
    where, _, rest = source[len("hub:") :].partition(":")
    own_split, _, field = rest.partition(":")
    owner, _, tail = where.partition("/")
    dataset, _, config = tail.partition("/")
    path = f"{owner}/{dataset}" if dataset else owner
    if not path:
        raise CorpusError(f"{source!r} names no dataset. The form is 'hub:owner/dataset/config:split:field'.")
    split, field = split or own_split or "train", field or "text"
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise CorpusError(
            f"Reading {source!r} needs the package 'datasets'. Install it with: pip install llmbrain[hub]"
        ) from error
    try:
        # with a limit, rows are streamed, so that ten documents do not need a download of millions
        rows = load_dataset(path, config or None, split=split, streaming=limit is not None)
    except Exception as error:
        raise CorpusError(
            f"The hub dataset {path!r} (config {config or None!r}, split {split!r}) could not be loaded: {error}"
        ) from error
    documents, n_empty = [], 0
    for i, row in enumerate(rows):
        if field not in row:
            raise CorpusError(f"{source!r} has no field {field!r}. Its fields are {first_names(row)}.")
        if not isinstance(row[field], str) or not row[field].strip():
            n_empty += 1
            continue
        documents.append(Document(row[field], id=f"{split}-{i:07d}"))
        if limit is not None and len(documents) == limit:
            break
    if n_empty:
        warnings.warn(f"{source!r}: {n_empty} rows without text were skipped.", LLMBrainWarning, stacklevel=4)
    return documents, path.rpartition("/")[2]
