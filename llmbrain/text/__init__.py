"""Texts, and the tokens and windows they become.

``documents`` holds `Document` and `Corpus`; ``corpus`` loads them from any source, with ``reading`` for the files;
``tokens`` turns them into token ids and ``windows`` into what a model reads; ``stimuli`` reads the minimal pairs and
localizers of the package. Importing this package imports neither torch nor transformers.
"""

from .corpus import as_corpus, load_corpus
from .documents import Corpus, Document
from .reading import data_path
from .spans import token_spans
from .stimuli import LOCALIZERS, MinimalPair, list_minimal_pairs, load_localizer, load_minimal_pairs, shuffle_words
from .tokens import TokenizedDocument, describe_bos, encode, encode_prompts, leading_tokens
from .windows import Batch, Window, batches, cut_windows, group_windows, pad, padding_id, text_windows

__all__ = [
    "LOCALIZERS",
    "Batch",
    "Corpus",
    "Document",
    "MinimalPair",
    "TokenizedDocument",
    "Window",
    "as_corpus",
    "batches",
    "cut_windows",
    "data_path",
    "describe_bos",
    "encode",
    "encode_prompts",
    "group_windows",
    "leading_tokens",
    "list_minimal_pairs",
    "load_corpus",
    "load_localizer",
    "load_minimal_pairs",
    "pad",
    "padding_id",
    "shuffle_words",
    "text_windows",
    "token_spans",
]
