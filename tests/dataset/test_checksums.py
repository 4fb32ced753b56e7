"""Content of runs: checksums that are taken while recording, and what they find."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run as run_command
from tiny import tiny_model, tiny_tokenizer

from llmbrain.dataset import Study, check_content, check_run, open_recording
from llmbrain.dataset.checksums import SAMPLES, checksums, sampled, volume_sums
from llmbrain.exceptions import DatasetError
from llmbrain.files import read_json, with_hashes, write_json
from llmbrain.recording import record

TEXT = "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever. " * 9


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A study with two runs of 200 tokens and more, stored as int16."""
    folder = tmp_path_factory.mktemp("content") / "study"
    options = {"tokens_per_run": 200, "context": 64, "storage": "int16", "progress": False}
    record(tiny_model("llama"), tiny_tokenizer(), [TEXT], folder, **options)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "study"))


def bold(folder, number=1):
    return Study.open(folder).path("bold", run=number)


def overwrite(path, start, stop, values=b"\0"):
    """Overwrite a stretch of a file, given as shares of its data."""
    size = path.stat().st_size - 352
    with open(path, "r+b") as file:
        file.seek(352 + int(start * size))
        n = int(stop * size) - int(start * size)
        file.write((values * n)[:n])


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("n_voxels", [8, 9, 10, 12])
def test_every_changed_value_changes_the_sum_of_its_volume(dtype, n_voxels):
    rng = np.random.default_rng(0)
    values = (100 * rng.normal(size=(5, n_voxels))).astype(dtype)
    before = volume_sums(values)
    for token in range(5):
        for voxel in range(n_voxels):
            changed = values.copy()
            changed[token, voxel] += 1
            assert (volume_sums(changed) != before).tolist() == [k == token for k in range(5)]


def test_sums_do_not_depend_on_how_a_run_is_written(original):
    """Two computations: piece by piece while recording, and of the whole file."""
    for one in open_recording(original):
        assert checksums(volume_sums(one.raw())) == one.sidecar["Checksums"]


def test_samples_are_spread_over_the_run():
    assert sampled(5).tolist() == [0, 1, 2, 3, 4] and sampled(1).tolist() == [0]
    numbers = sampled(4000)
    assert numbers[0] == 0 and numbers[-1] == 3999 and len(numbers) == SAMPLES and np.diff(numbers).max() <= 64


@pytest.mark.parametrize(("start", "stop"), [(0, 0.5), (0.5, 1), (0.4, 0.4 + 1 / SAMPLES + 0.005)])
def test_a_zeroed_stretch_is_found_by_the_quick_check(start, stop, folder):
    overwrite(bold(folder), start, stop)
    check_run(bold(folder))  # the header and the size are right
    with pytest.raises(DatasetError, match="run-01.*is damaged: its activations have changed"):
        check_content(bold(folder))
    check_content(bold(folder, 2))


def test_one_byte_is_found_by_the_thorough_check(folder):
    path = bold(folder)
    with open(path, "r+b") as file:
        file.seek(352 + 2 * 192 * 1 + 10)  # in the second volume, which is no sample
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    check_content(path)
    with pytest.raises(DatasetError, match="is damaged"):
        check_content(path, thorough=True)


def swap_events(path):
    events = path.with_name(path.name.split("_desc")[0] + "_events.tsv")
    lines = events.read_text().splitlines(True)
    lines[1], lines[2] = lines[2], lines[1]
    events.write_text("".join(lines))


def other_scale(path):
    study = Study.open(path.parents[2])
    scale = study.path("scale")
    geometry = open_recording(study)[0].geometry
    geometry.to_img(2 * geometry.to_array(scale)).to_filename(scale)


@pytest.mark.parametrize(
    ("damage", "message"), [(swap_events, "events.tsv does not fit"), (other_scale, "scale.nii.gz has changed")]
)
def test_what_belongs_to_a_run_is_checked_too(damage, message, folder):
    damage(bold(folder))
    with pytest.raises(DatasetError, match=message):
        open_recording(folder)


def test_networks_are_not_found_on_a_damaged_run(folder):
    from llmbrain.pipeline import find_networks

    overwrite(bold(folder, 2), 0.5, 1)
    with pytest.raises(DatasetError, match="run-02.*is damaged.*Remove the run's files and record again"):
        find_networks(folder, n_components=2, progress=False)


@pytest.mark.parametrize("site", ["mlp", "attention"])
@pytest.mark.parametrize("damage", [overwrite, None])
def test_nothing_is_recorded_beside_a_damaged_run(damage, site, folder, monkeypatch):
    """Finished runs stay, and runs of other sites share their events: both must be whole, before the model reads."""
    model, options = tiny_model("llama"), {"tokens_per_run": 200, "context": 64, "storage": "int16", "progress": False}
    bold(folder).with_suffix(".json").unlink()  # there is work to do
    if damage is None:
        swap_events(bold(folder, 2))
    else:
        overwrite(bold(folder, 2), 0.5, 1)
    monkeypatch.setattr(model, "forward", None)
    with pytest.raises(DatasetError, match="run-02.*Remove the run's files and record again"):
        record(model, tiny_tokenizer(), [TEXT], folder, site=site, **options)
    assert not bold(folder).with_suffix(".json").exists()


def test_activations_of_a_damaged_run_are_not_read(folder):
    overwrite(bold(folder), 0.5, 1)
    recording = open_recording(folder)
    with pytest.raises(DatasetError, match="run-01.*is damaged"):
        recording[0].to_array(0, 1)
    assert recording[1].to_array(0, 1).any()


@pytest.mark.filterwarnings("ignore")
def test_info_names_damaged_and_stale_files(folder, capsys):
    from llmbrain.pipeline import find_networks

    find_networks(folder, n_components=2, n_init=1, progress=False)
    code, out, _ = run_command(capsys, "info", folder)
    assert code == 0 and "site mlp: 4 runs" in out and "networks canica2: " in out
    assert "The activations were not read" in out
    for flag in ("--check", "--check-all"):
        code, out, _ = run_command(capsys, "info", folder, flag)
        assert code == 0 and "No file is damaged." in out
    overwrite(bold(folder), 0, 0.5)
    sidecar = read_json(bold(folder, 2).with_suffix(".json"))
    write_json(bold(folder, 2).with_suffix(".json"), with_hashes({**sidecar, "Checksums": {"Sample": "x", "All": "y"}}))
    bold(folder, 3).with_suffix(".json").write_text("{")
    study = Study.open(folder)
    study.path("metrics", desc="canica2").unlink()
    study.path("profile", desc="canica2").write_text("of an earlier analysis")
    assert run_command(capsys, "info", folder)[0] == 2  # the metrics are missing
    code, out, err = run_command(capsys, "info", folder, "--check")
    assert code == 2 and "4 files are damaged" in err
    assert "run-01_desc-mlp_bold.nii is damaged" in out and "run-02_desc-mlp_bold.nii is damaged" in out
    assert "canica2_metrics.tsv is missing" in out and "run-03_desc-mlp_bold.json is not JSON" in out


def test_a_run_whose_recording_was_stopped_is_unfinished_and_not_damaged(folder, capsys):
    bold(folder, 2).with_suffix(".json").unlink()  # it is written last
    code, out, _ = run_command(capsys, "info", folder, "--check")
    assert code == 0 and "site mlp: 3 runs" in out
    assert "Unfinished:" in out and "run-02_desc-mlp_bold.nii has no description" in out


def test_info_wants_a_study_to_check(tmp_path, capsys):
    code, _, err = run_command(capsys, "info", tmp_path, "--check")
    assert code == 2 and "--check needs a study folder" in err
