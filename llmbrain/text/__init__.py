"""Texts, and the tokens they become.

``documents`` holds `Document` and `Corpus`; ``loading`` gets them from wherever they lie, with ``reading`` for the
files themselves; ``tokens`` turns them into token ids and ``batching`` into padded batches; ``stimuli`` reads the
minimal pairs and localizers that ship with the package.
Importing this package imports neither torch nor transformers.
"""

from .batching import Batch, batches, padding_id
from .corpus import as_corpus, load_corpus
from .documents import Corpus, Document
from .reading import data_path
from .stimuli import LOCALIZERS, MinimalPair, list_minimal_pairs, load_localizer, load_minimal_pairs, shuffle_words
from .tokens import TokenizedDocument, encode

__all__ = [
    "LOCALIZERS",
    "Batch",
    "Corpus",
    "Document",
    "MinimalPair",
    "TokenizedDocument",
    "as_corpus",
    "batches",
    "data_path",
    "encode",
    "list_minimal_pairs",
    "load_corpus",
    "load_localizer",
    "load_minimal_pairs",
    "padding_id",
    "shuffle_words",
]
