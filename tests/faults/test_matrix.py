"""The kinds of faults that were tried against the package, and the tests that show that each holds."""

import ast
from pathlib import Path

import pytest

from llmbrain.dataset import Study
from llmbrain.exceptions import ParameterError
from llmbrain.pipeline.stations import _heldout_of
from llmbrain.text import load_corpus

TESTS = Path(__file__).resolve().parents[1]
KINDS = {
    "images that were flipped, permuted or cropped": [
        "test_geometry.py::test_images_whose_voxels_are_not_where_they_were_written_are_refused",
        "networks/test_inputs.py::test_runs_whose_layers_are_reversed_or_moved_are_refused",
        "networks/test_result.py::test_maps_that_were_reoriented_are_refused",
        "dataset/test_study.py::test_damage_is_named",
        "test_house.py::test_only_the_geometry_opens_images",
    ],
    "damaged images": ["test_geometry.py::test_damaged_images_are_named"],
    "values that are not finite": [
        "models/test_finite.py::test_the_first_module_is_found_in_every_architecture",
        "evaluation/test_losses.py::test_losses_that_are_not_finite_are_an_error_that_names_the_module",
        "lesions/test_batched.py::test_the_module_or_the_lesion_that_is_not_finite_is_named",
        "pruning/test_walk.py::test_a_model_that_is_not_finite_is_not_pruned",
        "recording/test_capture.py::test_surprisals_that_are_not_finite_are_not_written",
    ],
    "hostile text in tables and JSON": [
        "test_files.py::test_every_text_survives_a_table",
        "test_files.py::test_every_text_survives_json",
    ],
    "output folders": [
        "test_files.py::test_nothing_else_is_replaced",
        "test_files.py::test_outputs_do_not_overlap_inputs",
        "test_files.py::test_a_kill_between_the_renames_loses_nothing",
    ],
    "corpora of the same name": ["faults/test_matrix.py::test_a_foreign_corpus_called_demo_needs_its_own_text"],
}


@pytest.mark.parametrize(("kind", "test"), [(kind, test) for kind, tests in KINDS.items() for test in tests])
def test_every_kind_has_its_test(kind, test):
    path, name = test.split("::")
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, kind


def test_a_foreign_corpus_called_demo_needs_its_own_text(tmp_path):
    model, demo = {"id": "tiny", "weights_hash": "abc"}, load_corpus("demo")
    foreign = Study.create(
        tmp_path / "foreign", model, {"name": "demo", "hash": "0" * 64, "document_hashes": ["0" * 16]}
    )
    with pytest.raises(ParameterError, match="held-out text"):
        _heldout_of(foreign, None)
    for name, part in (("own", demo), ("part", demo[:3])):
        known = [document.hash[:16] for document in part]
        own = Study.create(tmp_path / name, model, {"name": "demo", "hash": part.hash, "document_hashes": known})
        assert _heldout_of(own, None).hash == load_corpus("demo", split="heldout").hash
