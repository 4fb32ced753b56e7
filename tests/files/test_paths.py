"""Paths that users give: what cannot be one is refused with one sentence, wherever it is given."""

import os

import numpy as np
import pytest

import llmbrain as lb
from llmbrain.dataset import Run, find_studies, read_confounds
from llmbrain.exceptions import LLMBrainError, ParameterError
from llmbrain.files import as_path, write_text
from llmbrain.networks.labels import HandLabels
from llmbrain.pipeline import find_networks
from llmbrain.pruning import load_pruned, merge_grid
from llmbrain.subjects.fingerprints import Fingerprint
from llmbrain.topography import Topography
from llmbrain.viewer.explorer import Explorer

GEOMETRY = lb.NeuronGeometry((4, 4))
MASK = lb.NeuronMask(np.ones(8, bool), GEOMETRY)
WRONG = {
    "nothing": None, "a number": 5, "true": True, "bytes": b"a", "a list": ["a"], "an array": np.zeros(2), "empty": "",
    "a type": str, "NUL": "a\0b",
}  # fmt: skip
TAKERS = {
    "as_path": as_path,
    "find_studies": find_studies,
    "find_networks": find_networks,
    "Explorer": Explorer,
    "Run": Run,
    "read_confounds": read_confounds,
    "labels": lambda path: HandLabels.load(path, None, "canica3"),
    "a mask": lb.NeuronMask.load,
    "saving a mask": MASK.save,
    "an order": Topography.load,
    "a fingerprint": Fingerprint.load,
    "a grid": merge_grid,
    "a pruned model": load_pruned,
    "a text": lb.load_corpus,
    "a report": lb.generate_report,
    "an output": lambda path: write_text(path, "x"),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_what_is_no_path_is_refused(taker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in WRONG.items():
        if (taker, name) != ("a text", "a list"):
            with pytest.raises(LLMBrainError):
                TAKERS[taker](value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["nothing", "bytes", "an array"])
def test_wrong_kinds_are_type_errors_too(wrong):
    with pytest.raises(TypeError, match="is not a path"):
        as_path(WRONG[wrong])


def test_names_that_are_no_utf8_are_kept(tmp_path):
    path = tmp_path / os.fsdecode(b"bad\xff\xfe.txt")
    assert write_text(path, "x") == path and path.read_text() == "x"
    with pytest.raises(ParameterError, match="NUL"):
        as_path(tmp_path / "a\0b")
