"""Results that do not belong together are never shown together."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from killing import end_at_step
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.dataset import Study, find_results, open_result
from llmbrain.dataset.checksums import checksums, volume_sums
from llmbrain.exceptions import DatasetError, GeometryMismatchError, StaleResultWarning
from llmbrain.files import read_json, with_hashes, write_json
from llmbrain.lesions import LesionResult
from llmbrain.networks import NetworkSet
from llmbrain.pipeline import find_networks, lesion_networks
from llmbrain.reporting.report import Report

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "error::llmbrain.exceptions.StaleResultWarning")
TEXT = "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever. " * 6
HELDOUT = ["The hero entered the house and ate the note.", "It is a note that the heron read in the river."]
RECORDING = {"tokens_per_run": 150, "context": 64, "progress": False}


@pytest.fixture(scope="module")
def tiny():
    return tiny_model("llama"), tiny_tokenizer()


@pytest.fixture(scope="module")
def original(tiny, tmp_path_factory):
    """A study with networks and lesions of them."""
    folder = tmp_path_factory.mktemp("mixtures") / "study"
    lb.record(*tiny, [TEXT], folder, **RECORDING)
    networks(folder)
    lesions(folder, tiny)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "study"))


def networks(folder, **options):
    return find_networks(folder, **{"n_components": 3, "n_init": 1, "threshold": 1.5, "progress": False, **options})


def lesions(folder, tiny, **options):
    given = {"text": HELDOUT, "threshold": 1.5, "n_controls": 2, "max_tokens": 40, **options}
    return lesion_networks(folder, model=tiny[0], tokenizer=tiny[1], **given)


def shown(folder, name=None):
    """The report of a study, with the stations that read results."""
    report = Report.of_study(Study.open(folder), networks=name)
    for station in ("networks", "lesions", "doses", "localizers", "order", "pruning"):
        _ = report[station]
    return report


def rerecord(folder, run):
    """Give a run other activations, as a recording on another machine would."""
    path = Study.open(folder).path("bold", run=run)
    values = np.memmap(path, np.float32, "r+", 352)
    values *= 1.5
    values.flush()
    sidecar = read_json(path.with_suffix(".json"))
    sums = volume_sums(lb.dataset.Run(path).raw())
    write_json(path.with_suffix(".json"), with_hashes({**sidecar, "Checksums": checksums(sums)}))


# -- the networks are found again -------------------------------------------------------------------------------------
def test_lesions_of_earlier_networks_are_not_shown(folder, tiny):
    assert shown(folder)["lesions"] is not None
    before = NetworkSet.load(folder)
    networks(folder, random_state=1)
    after = NetworkSet.load(folder)
    assert after.hash != before.hash
    report = shown(folder)
    assert report["networks"].networks.hash == after.hash and report["lesions"] is None
    (line,) = [line for line in report.absent if "lesion" in line and "no longer holds" in line]
    assert before.hash in line and after.hash in line and "llmbrain lesion" in line
    with pytest.warns(StaleResultWarning, match="no longer holds"):
        LesionResult.load(Study.open(folder))
    lesions(folder, tiny)
    assert shown(folder)["lesions"] is not None


def test_the_same_networks_keep_their_lesions(folder):
    """What a result was made from decides, not when."""
    networks(folder)
    networks(folder, threshold=2.0)
    networks(folder, name="copy")
    assert shown(folder, "canica3")["lesions"] is not None


def test_tables_of_stability_do_not_outlive_their_networks(folder):
    networks(folder, n_repeats=2)
    study = Study.open(folder)
    assert shown(folder)["networks"].stability is not None and study.find("stability")
    assert shown(folder)["lesions"] is not None  # evidence does not change the maps
    networks(folder)
    assert shown(folder)["networks"].stability is None and not study.find("stability") and not study.find("tokens")


def test_networks_side_by_side_are_lesioned_by_name(folder, tiny):
    networks(folder, method="dictlearning")
    assert find_results(Study.open(folder), "networks") == ["canica3", "dictlearning3"]
    with pytest.raises(DatasetError, match=r"canica3, dictlearning3. Choose one by name \(--networks\)"):
        lesions(folder, tiny)
    lesions(folder, tiny, networks="dictlearning3")
    both = {name: shown(folder, name) for name in ("canica3", "dictlearning3")}
    for name, report in both.items():
        own = NetworkSet.load(folder, name)
        assert report["networks"].networks.hash == own.hash
        assert report["lesions"].info["networks"] == [own.hash]
    tables = [report["lesions"].table["effect"].tolist() for report in both.values()]
    assert tables[0] != tables[1]


def test_done_before_means_with_the_same_settings_and_sources(folder, tiny, capsys):
    for seed, done in ((0, True), (1, False), (1, True), (0, False)):
        networks(folder, random_state=seed, resume=True)
        assert ("done before" in capsys.readouterr().out) == done
    lesions(folder, tiny, resume=True)
    assert "done before" in capsys.readouterr().out  # the maps of seed 0 are back
    for changed in ({"text": HELDOUT[:1]}, {"threshold": 1.2}, {"how": "mean"}, {"n_controls": 3}):
        lesions(folder, tiny, resume=True, **changed)
        assert "done before" not in capsys.readouterr().out, changed


# -- the recording changes --------------------------------------------------------------------------------------------
def test_networks_of_a_run_that_was_recorded_again(folder, tiny, capsys):
    rerecord(folder, 2)
    with pytest.raises(DatasetError, match=r"canica3.*the recording has changed since \(run 2\). Find them again"):
        lesions(folder, tiny)
    report = shown(folder)
    assert report["networks"] is None and report["lesions"] is None and report["recording"] is not None
    assert any("has changed since (run 2)" in line for line in report.absent)
    networks(folder, resume=True)
    assert "done before" not in capsys.readouterr().out and shown(folder)["networks"] is not None


def test_a_run_that_was_recorded_again_with_the_same_bytes(folder, tiny):
    study = Study.open(folder)
    for kind in ("bold", "bold_json", "events"):
        study.path(kind, run=2).unlink()
    assert shown(folder)["networks"] is not None  # a run that was removed contradicts nothing
    lb.record(*tiny, [TEXT], folder, **RECORDING)
    assert shown(folder)["lesions"] is not None


def test_networks_of_a_recording_that_has_grown(tmp_path, tiny):
    folder = tmp_path / "study"
    lb.record(*tiny, [TEXT], folder, run_index=[1, 2], **RECORDING)
    networks(folder)
    lb.record(*tiny, [TEXT], folder, **RECORDING)
    with pytest.raises(DatasetError, match=r"the recording has grown since \(run 3"):
        lesions(folder, tiny)
    part = lb.open_recording(folder)[:2]
    networks(part)  # a part of all runs, on purpose
    assert shown(folder)["networks"] is not None


def test_networks_outlive_the_runs_and_a_move(folder, tmp_path):
    """Runs are large; a study may be passed on without them, under another name."""
    study = Study.open(shutil.move(folder, tmp_path / "renamed"))
    for one in [*study.find("bold"), *study.find("bold_json")]:
        one.path.unlink()
    assert open_result(study, "networks").stale == "" and open_result(study, "lesions").stale == ""


# -- results of other models ------------------------------------------------------------------------------------------
def test_a_localizer_of_another_model_is_not_shown(folder):
    from llmbrain.networks.localizer.localize import Localization

    study = Study.open(folder)
    geometry, model = study.recording().geometry, study.info["model"]
    z = np.linspace(-4, 4, geometry.n_neurons)
    items = pd.DataFrame({"item": list("abcd"), "condition": ["code", "code", "prose", "prose"]})
    for weights, is_shown in ((model["weights_hash"], True), ("0" * 16, False)):
        info = {"unit": "item", "model": {**model, "weights_hash": weights}}
        Localization(z, z, np.abs(z) < 2, (np.abs(z) < 2) * 1.0, ("code", "prose"), items, info).save(study, geometry)
        report = shown(folder)
        assert (report["localizers"] is not None) == is_shown
    assert any("0000" in line and "this study is of" in line for line in report.absent)


def test_another_model_is_not_pruned_by_these_networks(folder, tiny):
    found = NetworkSet.load(folder)
    other = tiny_model("llama", seed=5)
    options = {"ratio": 0.2, "recipe": "fast", "score": "network", "options": {"context": 32}, "progress": False}
    with pytest.raises(GeometryMismatchError, match="found on .*but this model has the weights"):
        lb.prune(other, tiny[1], [TEXT], networks=found, **options)
    lb.prune(tiny[0], tiny[1], [TEXT], networks=found, **options)
    lb.prune(other, tiny[1], [TEXT], networks=found.z, **options)  # on purpose


def test_lesions_of_the_networks_of_another_study_are_not_shown(folder, tmp_path, tiny):
    """Two studies of one model; the files of one are copied into the other."""
    other = tmp_path / "other"
    lb.record(*tiny, [TEXT.replace("heron", "crane")], other, **RECORDING)
    networks(other)
    for path in Study.open(folder).path("metrics", desc="x").parent.glob("*_desc-canica3_*"):
        if path.name.split("_")[-1] in ("effects.json", "effects.tsv", "controls.tsv", "items.tsv"):
            shutil.copy(path, Study.open(other).path("metrics", desc="x").parent)
    report = shown(other)
    assert report["networks"] is not None and report["lesions"] is None
    assert any("no longer holds" in line for line in report.absent)


# -- kills ------------------------------------------------------------------------------------------------------------
def test_a_kill_at_any_rename_leaves_the_old_or_the_new_lesions(original, tmp_path, tiny):
    """The child ends at its n-th rename or deletion, with nothing run after it; then another process reads."""
    old = LesionResult.load(Study.open(original))
    new = LesionResult(old.table.assign(effect=7.0), old.controls.iloc[:5], old.items.assign(effect=7.0), old.info)
    seen = []
    for n in range(40):
        study = Study.open(shutil.copytree(original, tmp_path / f"study-{n}"))
        child = os.fork()
        if not child:
            end_at_step(n)
            new.save(study, "canica3")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = LesionResult.load(Study.open(study.root))
        fits = [len(found.controls) == len(one.controls) and found.items.equals(one.items) for one in (old, new)]
        effects = [np.allclose(found.table["effect"], one.table["effect"]) for one in (old, new)]
        assert fits == effects and sum(fits) == 1
        seen.append(fits[1])
        new.save(study, "canica3")
        assert len(LesionResult.load(study).controls) == 5
        assert not [path for path in study.root.rglob("*") if ".part." in path.name]
        if code == 0:
            break
    assert code == 0 and seen == sorted(seen) and not seen[0] and seen[-1]
