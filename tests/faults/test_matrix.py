"""The kinds of faults that were tried against the package, and the tests that show that each holds."""

import ast
import sys
import tempfile
from pathlib import Path

import pytest

from llmbrain.dataset import Study
from llmbrain.exceptions import ParameterError
from llmbrain.pipeline.sources import heldout_of
from llmbrain.text import load_corpus

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the matrix is a script, too

import matrix

TESTS = Path(__file__).resolve().parents[1]
KINDS = {
    "images that were flipped, permuted or cropped": [
        "test_geometry.py::test_images_whose_voxels_are_not_where_they_were_written_are_refused",
        "networks/test_inputs.py::test_runs_whose_layers_are_reversed_or_moved_are_refused",
        "networks/test_result.py::test_maps_that_were_reoriented_are_refused",
        "dataset/test_study.py::test_damage_is_named",
        "test_house.py::test_only_one_module_opens_images",
    ],
    "damaged images": ["test_images.py::test_damaged_images_are_named"],
    "values that are not finite": [
        "models/test_finite.py::test_the_first_module_is_found_in_every_architecture",
        "evaluation/test_losses.py::test_losses_that_are_not_finite_are_an_error_that_names_the_module",
        "lesions/test_batched.py::test_the_module_or_the_lesion_that_is_not_finite_is_named",
        "pruning/test_walk.py::test_a_model_that_is_not_finite_is_not_pruned",
        "recording/test_capture.py::test_surprisals_that_are_not_finite_are_not_written",
    ],
    "hostile text in tables and JSON": [
        "files/test_tables.py::test_every_text_survives_a_table",
        "files/test_contents.py::test_every_text_survives_json",
    ],
    "output folders": [
        "files/test_outputs.py::test_nothing_else_is_replaced",
        "files/test_outputs.py::test_outputs_do_not_overlap_inputs",
        "files/test_leftovers.py::test_a_kill_between_the_renames_loses_nothing",
    ],
    "files of one result that do not fit": [
        "dataset/test_results.py::test_files_that_do_not_belong_together_are_refused",
        "dataset/test_results.py::test_an_image_may_not_lose_its_last_run",
        "dataset/test_results.py::test_a_plain_folder_holds_a_result_too",
    ],
    "results of earlier or other networks": [
        "faults/test_mixtures.py::test_lesions_of_earlier_networks_are_not_shown",
        "faults/test_mixtures.py::test_tables_of_stability_do_not_outlive_their_networks",
        "faults/test_mixtures.py::test_networks_side_by_side_are_lesioned_by_name",
        "faults/test_mixtures.py::test_done_before_means_with_the_same_settings_and_sources",
        "faults/test_mixtures.py::test_lesions_of_the_networks_of_another_study_are_not_shown",
    ],
    "recordings that changed or grew": [
        "faults/test_mixtures.py::test_networks_of_a_run_that_was_recorded_again",
        "faults/test_mixtures.py::test_networks_of_a_recording_that_has_grown",
        "faults/test_mixtures.py::test_networks_outlive_the_runs_and_a_move",
    ],
    "results and masks of another model": [
        "dataset/test_results.py::test_results_of_another_model_are_stale",
        "faults/test_mixtures.py::test_a_localizer_of_another_model_is_not_shown",
        "faults/test_mixtures.py::test_another_model_is_not_pruned_by_these_networks",
    ],
    "kills while a result is published": [
        "dataset/test_results.py::test_a_kill_at_any_rename_leaves_the_old_or_the_new_result",
        "dataset/test_results.py::test_an_exception_before_publication_leaves_the_old_result",
        "dataset/test_results.py::test_a_journal_that_leads_outside_is_ignored",
        "faults/test_mixtures.py::test_a_kill_at_any_rename_leaves_the_old_or_the_new_lesions",
    ],
    "damaged runs": [
        "dataset/test_checksums.py::test_a_zeroed_stretch_is_found_by_the_quick_check",
        "dataset/test_checksums.py::test_one_byte_is_found_by_the_thorough_check",
        "dataset/test_checksums.py::test_networks_are_not_found_on_a_damaged_run",
        "dataset/test_checksums.py::test_info_names_damaged_and_stale_files",
    ],
    "damaged checkpoints": ["lesions/test_batched.py::test_an_interrupted_run_goes_on_where_it_stopped"],
    "wrapped, compiled and checkpointed models, threads": [
        "models/test_wrappers.py::test_wrappers_are_refused_with_what_to_do",
        "models/test_wrappers.py::test_distributed_models_are_refused",
        "models/test_wrappers.py::test_compiled_models_are_lesioned_and_pruned_before_they_are_compiled",
        "lesions/test_context.py::test_gradients_with_checkpointing_are_those_of_the_lesioned_model",
        "lesions/test_context.py::test_checkpointing_with_positions_is_refused",
        "lesions/test_context.py::test_a_lesion_acts_in_every_thread",
        "lesions/test_context.py::test_passes_at_the_same_time_are_refused_if_positions_matter",
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
        heldout_of(foreign, None)
    for name, part in (("own", demo), ("part", demo[:3])):
        known = [document.hash[:16] for document in part]
        own = Study.create(tmp_path / name, model, {"name": "demo", "hash": part.hash, "document_hashes": known})
        assert heldout_of(own, None).hash == load_corpus("demo", split="heldout").hash


def test_attacks_are_judged():
    """An attack that breaks something is counted as what it broke."""

    def wrong():
        raise matrix.Wrong("another number")

    def crash():
        raise ZeroDivisionError("oops")

    assert matrix.judge(lambda: None) is None
    assert matrix.judge(wrong) == ("silently wrong", "another number")
    assert matrix.judge(crash)[0] == "unclear" and "ZeroDivisionError" in matrix.judge(crash)[1]
    row = {"cases": 3, "held": 1, "lost": 0, "silently wrong": 1, "unclear": 1}
    assert matrix.table({"a kind": row}).splitlines()[-1] == "| all | 3 | 1 | 0 | 1 | 1 |"


# -- a few attacks of each kind; `make faults` tries the others -------------------------------------------------------
FEW = {
    "hooks": 10,
    "damaged files of a study": 3,
    "values of other kinds in JSON files and tables": 2,
    "inputs that may not be read": 4,
    "interrupted work": 2,
}
WRITERS = {  # of these kinds all attacks on a writer, or a few on a writer that takes longer
    "kill at every rename": (matrix.renames.kills_at_renames, {"labels": None, "mask": None, "networks": 3}),
    "full disks": (matrix.disks.full_disks, {"labels": None, "fingerprint": 2}),
    "files that cannot grow": (matrix.disks.limited_files, {"labels": None, "grid": 1}),
    "places": (matrix.places.places, {"mask": None, "fingerprint": 3}),
}
RANDOM = ("kill -9 at random moments", "Ctrl-C at random moments")


@pytest.fixture(scope="module")
def room():
    with tempfile.TemporaryDirectory(prefix="llmbrain-faults-") as folder:  # users without rights must reach it
        yield matrix.Room(folder)


@pytest.mark.parametrize("kind", [kind for kind in matrix.KINDS if kind not in (*RANDOM, *WRITERS)])
def test_attacks_hold(room, kind):
    cases = matrix.cases(kind, room, FEW.get(kind, 2))
    if not cases and not matrix.places.package_is_open():
        pytest.skip("the package lies in a private folder, which users without rights cannot read")
    assert cases
    broken = {name: matrix.judge(attack) for name, attack in cases}
    room.clean()
    assert not {name: outcome for name, outcome in broken.items() if outcome}


@pytest.mark.parametrize("kind", WRITERS)
def test_attacks_on_writers_hold(room, kind):
    attacks, few = WRITERS[kind]
    if kind == "full disks" and not matrix.disks.can_mount(room.fresh()):
        pytest.skip("needs root, to mount a small file system")
    broken = {}
    for writer, most in few.items():
        chosen = matrix.chosen(attacks(room, [writer]), most)
        broken |= {f"{writer}: {name}": matrix.judge(attack) for name, attack in chosen}
        room.clean()
    assert not {name: outcome for name, outcome in broken.items() if outcome}


def test_the_matrix_resumes(tmp_path):
    """Cases that held are not tried again; counts are those of all cases in the file."""
    log = matrix.Log(tmp_path / "log.jsonl")
    for name, outcome in {"a": None, "b": "lost"}.items():
        log.add("a kind", name, outcome)
    log = matrix.Log(tmp_path / "log.jsonl")
    assert [log.holds("a kind", name) for name in "abc"] == [True, False, False]
    log.add("a kind", "b", None)
    counts = {"cases": 2, "held": 2, "lost": 0, "silently wrong": 0, "unclear": 0}
    assert matrix.Log(tmp_path / "log.jsonl").rows() == {"a kind": counts}
