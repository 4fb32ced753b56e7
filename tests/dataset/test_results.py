"""Results are published as a whole, checked when they are opened, and know what they were made from."""

import gzip
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from killing import end_at_step

from llmbrain.dataset import Study, find_results, is_done, open_result, result_name, write_result
from llmbrain.exceptions import DatasetError, StaleResultWarning
from llmbrain.files import read_json, with_hashes, write_json
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import NetworkSet

GEOMETRY = NeuronGeometry.from_sizes([50, 60])
MODEL = {"id": "tiny", "weights_hash": "abc", "architecture": "x"}


@pytest.fixture
def study(tmp_path):
    return Study.create(tmp_path / "study", MODEL, {"name": "texts", "hash": "h"})


def networks(seed=0, n=3, n_courses=2):
    rng = np.random.default_rng(seed)
    courses = [rng.normal(size=(9, n)) for _ in range(n_courses)]
    return NetworkSet(
        rng.laplace(size=(n, 110)) ** 3, GEOMETRY, info={"method": "CanICA", "model": MODEL}, time_courses=courses
    )


def table(n_rows, seed=0):
    return pd.DataFrame({"network": range(n_rows), "iq": np.random.default_rng(seed).random(n_rows)})


# -- damage -----------------------------------------------------------------------------------------------------------
def shorten(path):
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))


def reorder(path):
    header, *rows = path.read_text().splitlines(True)
    path.write_text("".join([header, *rows[::-1]]))


def drop_volume(path):
    maps = GEOMETRY.to_array(path)
    GEOMETRY.to_img(maps[:-1]).to_filename(path)


def of_another_write(path):
    """The file of other networks, as if a process had been killed between two renames."""
    other = Study.create(path.parents[3] / "other", MODEL, {"name": "texts", "hash": "h"})
    networks(seed=1).save(other)
    shutil.copy(other.root / path.relative_to(path.parents[2]), path)


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        ("components", drop_volume, "has 2 volumes instead of 3"),
        ("components", of_another_write, "content has changed"),
        ("components", os.remove, "is missing"),
        ("components", lambda path: path.write_bytes(b"x"), "content has changed"),
        ("components", lambda path: path.write_bytes(b""), "content has changed"),
        ("components", lambda path: path.write_bytes(gzip.compress(b"short")), "content has changed"),
        ("components", lambda path: path.write_bytes(path.read_bytes()[:12] + b"\xff" * 99), "content has changed"),
        ("metrics", shorten, "has 2 rows instead of 3"),
        ("metrics", reorder, "content has changed"),
        ("metrics", of_another_write, "content has changed"),
        ("mixing", shorten, "has 8 rows instead of 9"),
        ("mixing", of_another_write, "content has changed"),
        ("components_json", os.remove, "holds no networks"),
        ("components_json", of_another_write, "content has changed"),
        ("components_json", lambda path: write_json(path, {"n_networks": 3}), "lacks KeyHashes"),
        ("components_json", lambda path: write_json(path, {**read_json(path), "hash": 4}), "'hash' has changed since"),
        ("components_json", lambda path: write_json(path, with_hashes({"n_networks": 3})), "does not list"),
        ("components_json", lambda path: write_json(path, with_hashes(
            {"provenance": {"files": {"../x": {}}, "sources": {}}})), "does not list"),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together_are_refused(part, damage, message, study):
    networks().save(study)
    path = study.path(part, desc="canica3", **({"run": 2} if part == "mixing" else {}))
    damage(path)
    with pytest.raises(DatasetError, match=message) as error:
        NetworkSet.load(study)
    assert "llmbrain networks" in str(error.value)
    other = (part, damage) == ("components_json", of_another_write)
    named = study.path("components", desc="canica3") if other else path
    assert named.name in str(error.value) or "holds no networks" in str(error.value)
    networks().save(study)  # a repeated call makes it whole
    assert NetworkSet.load(study).hash == networks().hash


def test_an_image_may_not_lose_its_last_run(study):
    networks().save(study)
    study.path("mixing", run=2, desc="canica3").unlink()
    with pytest.raises(DatasetError, match="run-02.*is missing, a part of the networks 'canica3'"):
        NetworkSet.load(study)


# -- one result is published at once ----------------------------------------------------------------------------------
class Killed(BaseException):
    """Stands for a kill: nothing that runs afterwards may clean up."""


def state(study):
    """Hash of the networks that a reader sees, and their table of stability; or the message of the refusal."""
    result = open_result(study, "networks", "canica3")
    found = NetworkSet.of_result(result)
    stability = result.read("stability")
    return found.hash, None if stability is None else len(stability), len(found.time_courses)


def test_a_kill_at_any_rename_leaves_the_old_or_the_new_result(tmp_path):
    """In a child process that ends at its n-th rename or deletion, with nothing run after it."""
    old, new = networks(0), networks(1, n_courses=1)
    seen, n = [], 0
    while True:
        study = Study.create(tmp_path / f"study-{n}", MODEL, {"name": "texts", "hash": "h"})
        old.save(study, tables={"stability": table(3)})
        child = os.fork()
        if not child:
            end_at_step(n)
            new.save(study)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seen.append(state(Study.open(study.root)))
        assert seen[-1] in ((old.hash, 3, 2), (new.hash, None, 1))
        new.save(study)  # a repeated call completes, and cleans up
        assert state(study) == (new.hash, None, 1)
        left = [path.name for path in study.root.rglob("*") if ".part." in path.name]
        assert not left and not study.find("stability") and len(study.find("mixing")) == 1
        if code == 0:
            break
        n += 1
    assert n > 7 and {hash for hash, *_ in seen} == {old.hash, new.hash}
    switched = [hash for hash, *_ in seen].index(new.hash)
    assert all(hash == new.hash for hash, *_ in seen[switched:])  # at one moment, and for good


def test_an_exception_before_publication_leaves_the_old_result(study):
    networks(0).save(study)
    before = {path: path.read_bytes() for path in study.all_files()}
    with pytest.raises(TypeError):
        write_result(study, "networks", "canica3", {"metrics": table(3)}, {"bad": object()})
    assert {path: path.read_bytes() for path in study.all_files()} == before
    assert not [path.name for path in study.root.rglob("*") if ".part." in path.name]


def test_an_interrupted_result_in_a_read_only_folder_is_an_error(study, monkeypatch):
    networks(0).save(study)
    journal = study.path("components_json", desc="canica3")
    write_json(journal.with_name(f".next.part.{journal.name}"), {"manifest": journal.name})

    def deny(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("llmbrain.dataset.publication.FileLock", deny)
    with pytest.raises(DatasetError, match="cannot be written"):
        NetworkSet.load(study)


def test_a_journal_that_leads_outside_is_ignored(study, tmp_path):
    networks(0).save(study)
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    manifest = study.path("components_json", desc="canica3")
    hostile = {"manifest": manifest.name, "content": {}, "moves": {}, "obsolete": ["../../../victim.txt"]}
    write_json(manifest.with_name(f".next.part.{manifest.name}"), hostile)
    assert NetworkSet.load(study).hash == networks(0).hash and victim.read_text() == "mine"


# -- names and sources ------------------------------------------------------------------------------------------------
def test_results_are_chosen_by_name(study):
    assert find_results(study, "networks") == []
    with pytest.raises(DatasetError, match=r"holds no networks. Find them again \(llmbrain networks\)"):
        result_name(study, "networks")
    networks(0).save(study)
    assert result_name(study, "networks") == "canica3"
    networks(1).save(study, "my own")
    assert find_results(study, "networks") == ["canica3", "myown"]
    assert NetworkSet.load(study, "my own").hash == networks(1).hash
    with pytest.raises(DatasetError, match="several networks: canica3, myown. Choose one by name"):
        NetworkSet.load(study)


def test_done_before_means_the_same_settings_sources_and_bytes(study):
    settings = {"seed": 1, "ratios": (0.1, 0.2)}
    assert not is_done(study, "networks", "canica3", settings)
    networks().save(study, settings=settings)
    assert is_done(study, "networks", "canica3", settings)
    assert not is_done(study, "networks", "canica3", {**settings, "seed": 2})
    reorder(study.path("metrics", desc="canica3"))
    assert not is_done(study, "networks", "canica3", settings)


def test_results_of_replaced_networks_are_stale(study):
    networks(0).save(study)
    sources = {"weights": "abc", "networks": [networks(0).hash]}
    parts = {"dose_effects": table(3), "dose_controls": table(5)}
    write_result(study, "doses", "a", parts, {}, sources=sources)
    assert open_result(study, "doses", "a").stale == ""
    networks(0).save(study, "renamed")
    networks(1).save(study)
    assert open_result(study, "doses", "a").stale == ""  # the networks are still there, under another name
    networks(2).save(study, "renamed")
    result = open_result(study, "doses", "a")
    assert f"made from networks (hash {networks(0).hash}) that the study no longer holds" in result.stale
    assert "canica3" in result.stale and "'a'" in result.stale
    with pytest.warns(StaleResultWarning, match="no longer holds"):
        result.warn_if_stale()


def test_results_of_another_model_are_stale(study, tmp_path):
    """Files that were copied from the study of another model, and masks of a localizer."""
    other = Study.create(tmp_path / "other", {**MODEL, "weights_hash": "xyz"}, {"name": "texts", "hash": "h"})
    networks(0).save(study)
    for path in study.path("metrics", desc="canica3").parent.glob("*canica3*"):
        target = other.root / path.relative_to(study.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with pytest.warns(StaleResultWarning, match="weights hash abc, but this study is of xyz"):
        NetworkSet.load(other)


def test_a_moved_study_is_the_same(study, tmp_path):
    networks(0).save(study, settings={"a": 1})
    moved = Study.open(shutil.move(study.root, tmp_path / "elsewhere" / "renamed"))
    assert is_done(moved, "networks", "canica3", {"a": 1})
    assert str(tmp_path) not in moved.path("components_json", desc="canica3").read_text()
    copied = shutil.copytree(moved.root, tmp_path / "copy")
    assert NetworkSet.load(copied).hash == networks(0).hash


def test_the_manifest_is_written_for_people_too(study):
    import hashlib

    paths = networks(0).save(study, tables={"stability": table(3)}, settings={"seed": 0})
    about = read_json(paths[-1])["provenance"]
    assert about["result"] == "networks" and about["settings"] == {"seed": 0}
    assert list(about["files"]) == [path.name for path in paths[:-1]]
    for path in paths[:-1]:
        facts = about["files"][path.name]
        assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        counts = {"components": 3, "metrics": 3, "stability": 3, "mixing": 9, "mask": 1, "dseg": 1}
        counts |= {"dseg": 4} if path.suffix == ".tsv" else {}  # three networks, and none of them
        n = None if path.suffix == ".json" else counts[path.name.split("_")[-1].split(".")[0]]
        assert facts.get("rows", facts.get("volumes")) == n


def test_a_plain_folder_holds_a_result_too(tmp_path):
    parts = {"lesion_effects": table(3), "lesion_controls": table(4), "lesion_items": table(5)}
    paths = write_result(tmp_path / "lesions", "lesions", None, parts, {"n": 1}).paths
    assert [path.name for path in paths] == ["effects.tsv", "controls.tsv", "items.tsv", "effects.json"]
    assert len(open_result(tmp_path / "lesions", "lesions").read("lesion_items")) == 5
    shorten(tmp_path / "lesions" / "items.tsv")
    with pytest.raises(DatasetError, match="has 4 rows instead of 5. Run it again"):
        open_result(tmp_path / "lesions", "lesions")
