"""Atomic files: each file is written next to its destination and renamed, so an interrupted run damages nothing."""

from .atomic import atomic_dir, atomic_path, publish
from .contents import as_read, fill, read_json, save_img, sha256, write_any, write_json, write_text
from .keyhashes import KEY_HASHES, changed_key, with_hashes
from .leftovers import discard_leftovers, sibling
from .outputs import (
    check_apart,
    check_output_figure,
    check_output_folder,
    check_output_table,
    mark_folder,
    sample_hash,
)
from .paths import as_path
from .tables import read_tsv, write_tsv

__all__ = [
    "KEY_HASHES",
    "as_path",
    "as_read",
    "atomic_dir",
    "atomic_path",
    "changed_key",
    "check_apart",
    "check_output_figure",
    "check_output_folder",
    "check_output_table",
    "discard_leftovers",
    "fill",
    "mark_folder",
    "publish",
    "read_json",
    "read_tsv",
    "sample_hash",
    "save_img",
    "sha256",
    "sibling",
    "with_hashes",
    "write_any",
    "write_json",
    "write_text",
    "write_tsv",
]
