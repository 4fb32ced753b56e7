"""The study folder: names, checks, and the tools of others that read it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tiny import tiny_model, tiny_tokenizer
from validated import bids_issues

from llmbrain.dataset import FILES, Run, Study, bids_label, open_recording, read_confounds, write_result
from llmbrain.dataset.layout import RESULTS, file_name
from llmbrain.exceptions import DatasetError, GeometryMismatchError, LLMBrainError, LLMBrainWarning, ParameterError
from llmbrain.files import read_json, with_hashes, write_json
from llmbrain.models import describe_model
from llmbrain.recording import record

TEXTS = [
    'He said "no" and left.',
    "A tab\tand\na newline, a \\ and an é.",
    "On the third morning the heron ate.",
    "n/a n/a",
]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A study with two sites and three runs."""
    folder = tmp_path_factory.mktemp("studies") / "original"
    record(
        tiny_model("gpt2"),
        tiny_tokenizer(),
        TEXTS,
        folder,
        site=["mlp", "attention"],
        tokens_per_run=40,
        progress=False,
    )
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "study"))


def bold(folder, run=1, site="mlp"):
    return Study.open(folder).path("bold", run=run, site=site)


# -- names ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_has_a_name_of_its_own(kind):
    study = Study("root", "gpt2", "demo", session="main")
    entities = {"run": 1, "network": 1, "site": "mlp_gate", "desc": "canica"}
    wanted = {key: value for key, value in entities.items() if f"{{{key}}}" in FILES[kind]}
    path = study.path(kind, **wanted)
    others = {
        study.path(k, **{e: v for e, v in entities.items() if f"{{{e}}}" in FILES[k]}) for k in FILES if k != kind
    }
    assert path not in others and path.is_relative_to("root")


def test_names():
    name = file_name("bold", "gpt2", "demo", "abc", run=3, site="mlp_gate")
    assert name == "sub-gpt2/ses-abc/func/sub-gpt2_ses-abc_task-demo_run-03_desc-mlpgate_bold.nii"
    assert file_name("lesion_effects", "a", "b", desc="canica20").endswith("task-b_desc-canica20_effects.tsv")
    assert bids_label("wikitext-2 (raw)") == "wikitext2raw"
    for kind, entities, message in [
        ("nothing", {}, "Unknown kind"),
        ("bold", {}, "needs run, e.g. run=1"),
        ("metrics", {}, "needs desc, e.g. desc='canica20'"),
        ("bold", {"run": 1, "desc": "x"}, "has no desc"),
    ]:
        with pytest.raises(ParameterError, match=message):
            file_name(kind, "a", "b", **entities)


def test_a_study_may_be_made_and_gone_on_with_by_name_alone(folder):
    study = Study.open(folder)
    model = tiny_model("gpt2")
    assert Study.create(folder, describe_model(model), study.info["corpus"]["name"]) == study
    with pytest.raises(DatasetError, match="another model"):
        Study.create(folder, describe_model(tiny_model("gpt2", seed=5)), study.info["corpus"]["name"])


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"labels": {}}'])
def test_a_damaged_description_of_the_dataset_is_named(content, folder):
    """Each model describes itself, so that the dataset can still be opened; but it is not continued."""
    study = Study.open(folder)
    study.path("study_json").write_text(content)
    assert Study.open(folder) == study
    with pytest.raises(DatasetError, match=r"study\.json"):
        Study.create(folder, describe_model(tiny_model("gpt2")), study.info["corpus"]["name"])


def test_a_revision_is_the_session(tmp_path):
    model = {
        **describe_model(tiny_model("gpt2")),
        "id": "me/My-Model",
        "label": "MyModel",
        "revision": "0123456789abcdef",
    }
    study = Study.create(tmp_path / "study", model, "my corpus")
    assert (
        study.path("bold", run=1)
        .as_posix()
        .endswith(
            "sub-MyModel/ses-0123456789ab/func/sub-MyModel_ses-0123456789ab_task-mycorpus_run-01_desc-mlp_bold.nii"
        )
    )
    assert Study.open(tmp_path / "study") == study


# -- reading ----------------------------------------------------------------------------------------------------------
def test_reading_ties_file_array_and_image(original):
    runs = open_recording(original, "mlp")
    assert len(runs) == 3 and runs.paths == [str(run.path) for run in runs] and len(runs[:2]) == 2
    for run in runs:
        array = run.to_array()
        np.testing.assert_array_equal(array, run.geometry.to_array(run.img()))
        np.testing.assert_array_equal(array[2:5], run.to_array(2, 5))
        np.testing.assert_array_equal(run.geometry.to_disk(array), run.raw())
        assert array.dtype == np.float32 and len(run) == len(run.events) == run.n_tokens
    assert runs.events["run"].tolist() == [run.index for run in runs for _ in range(len(run))]
    assert "192 neurons of the site 'mlp'" in repr(runs) and "tokens" in repr(runs[0])


def test_tokens_survive_the_table(original):
    events = open_recording(original, "mlp").events
    tokenizer = tiny_tokenizer()
    for number, text in enumerate(TEXTS):
        rows = events[events["document"] == f"text-{number + 1:04d}"]
        assert tokenizer.decode(rows["token_id"].tolist()) == text
        spelled = "".join(rows["token"])
        assert "\n" not in spelled and "\t" not in spelled
    assert "".join(events.loc[events["document"] == "text-0001", "token"]) == TEXTS[0]
    raw = pd.read_csv(next(original.rglob("*run-01_events.tsv")), sep="\t")
    assert len(raw) == open_recording(original, "mlp")[0].n_tokens  # also for a reader that knows nothing of us


def test_confounds_by_path_and_by_recording(original):
    runs = open_recording(original, "mlp")
    frames = read_confounds(runs)
    pd.testing.assert_frame_equal(frames[1], read_confounds(runs.paths[1]))
    assert "sink" not in frames[0]  # constant: BOS stands before every text


# -- checks -----------------------------------------------------------------------------------------------------------
def truncate(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 4)


def overwrite(path):
    path.write_bytes(b"not an image" * 40)


def flip_layers(path):
    img = nib.load(path)
    nib.save(nib.Nifti1Image(np.array(img.dataobj), np.diag([-1, 1, 1, 1])), path)  # a copy: the file is replaced


def edit(**changes):
    """Let a sidecar say something else, as that of another run or a hostile one."""

    def change(path):
        sidecar = read_json(path.with_suffix(".json"))
        sidecar.update(changes)
        write_json(path.with_suffix(".json"), with_hashes({k: v for k, v in sidecar.items() if v is not None}))

    return change


def damage_sidecar(path):
    sidecar = read_json(path.with_suffix(".json"))
    write_json(path.with_suffix(".json"), {**sidecar, "Context": [None]})


def cut_events(path):
    events = path.with_name(path.name.split("_desc")[0] + "_events.tsv")
    events.write_text("".join(events.read_text().splitlines(True)[:-1]))


def other_geometry(path):
    sidecar = read_json(path.with_suffix(".json"))
    edit(Geometry={**sidecar["Geometry"], "sizes": [50] * 4})(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"bytes instead of \d+: it is damaged"),
        (overwrite, "is damaged"),
        (flip_layers, "not the identity"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.with_suffix(".json").write_text("{"), "not JSON"),
        (edit(NumberOfTokens=7), "its sidecar says"),
        (edit(DataType="int16"), "its sidecar says int16"),
        (edit(WeightsHash="0" * 16), "weights hash 0000"),
        (edit(Site=None), "lacks Site"),
        (damage_sidecar, "'Context' has changed since it was written"),
        (edit(Site="layer"), "named after another site than its sidecar says"),
        (lambda path: path.with_suffix(".json").write_text("[1]"), "holds list, not a JSON object"),
        (edit(Scale="/etc/passwd"), "only paths relative to its folder"),
        (edit(Scale="../../../other.nii.gz"), "lies outside of the study"),
        (edit(Scale=5), "only paths relative to its folder"),
        (edit(Run=3), "named after another run than its sidecar says"),
        (edit(Geometry={"sizes": []}), "geometry"),
        (other_geometry, "the shape"),
        (cut_events, "describes"),
        (
            lambda path: path.with_name(path.name.split("_desc")[0] + "_events.tsv").unlink(),
            "events.tsv is missing",
        ),
    ],
)
def test_damage_is_named(damage, message, folder):
    path = bold(folder, run=2)
    damage(path)
    with pytest.raises(LLMBrainError, match=message) as error:
        open_recording(folder, "mlp")
    assert "run-02" in str(error.value)
    assert Run(bold(folder, run=1)).n_tokens  # the others are as they were


def test_a_damaged_run_can_be_made_again(folder):
    path = bold(folder, run=2)
    before = path.read_bytes()
    truncate(path)
    path.with_suffix(".json").unlink()
    runs = record(
        tiny_model("gpt2"),
        tiny_tokenizer(),
        TEXTS,
        folder,
        site=["mlp", "attention"],
        tokens_per_run=40,
        progress=False,
    )
    assert path.read_bytes() == before and len(runs["mlp"]) == 3


def test_a_run_that_is_lacking_is_said(folder):
    for suffix in (".nii", ".json"):
        bold(folder, run=2).with_suffix(suffix).unlink()
    with pytest.warns(LLMBrainWarning, match="lacks run 2 of the site 'mlp'"):
        assert [run.index for run in open_recording(folder, "mlp")] == [1, 3]


def test_runs_of_two_geometries_do_not_mix(folder):
    sidecar = read_json(bold(folder).with_suffix(".json"))
    geometry = {**sidecar["Geometry"], "layers": [0, 1, 2, 9]}
    edit(Geometry=geometry)(bold(folder))
    with pytest.raises(GeometryMismatchError):
        open_recording(folder, "mlp")


@pytest.mark.parametrize(
    ("site", "message"), [(None, "attention, mlp; choose one"), ("layer", "'layer' is not recorded")]
)
def test_the_site_must_be_clear(site, message, original):
    with pytest.raises(DatasetError, match=message):
        open_recording(original, site)


def test_no_study(tmp_path):
    with pytest.raises(DatasetError, match="no study"):
        open_recording(tmp_path)
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(DatasetError, match="study.json holds list, not a JSON object"):
        open_recording(tmp_path)


@pytest.mark.parametrize("label", ["../../etc", "a/b", "", None, 3, "a_b"])
def test_labels_that_could_lead_out_of_the_study_are_refused(label, folder):
    path = Study.open(folder).path("subject_json")
    info = read_json(path)
    info["labels"]["task"] = label
    write_json(path, with_hashes(info))
    with pytest.raises(DatasetError, match="study.json cannot be read .*must consist of letters and digits"):
        Study.open(folder)


def test_a_link_may_not_lead_out_of_the_study(folder, tmp_path):
    """A scale file that is a link to a file outside is refused; one to a file inside is followed."""
    outside = tmp_path / "outside.nii.gz"
    outside.write_bytes(b"")
    link = bold(folder).parent / "link.nii.gz"
    link.symlink_to(outside)
    edit(Scale="link.nii.gz")(bold(folder))
    with pytest.raises(DatasetError, match="outside of the study"):
        _ = Run(bold(folder)).scale
    link.unlink()
    link.symlink_to(Study.open(folder).path("layers_dseg"))
    assert Run(bold(folder)).scale.shape == (192,)


# -- writing and finding ----------------------------------------------------------------------------------------------
def test_what_is_written_is_found(tmp_path):
    """Two computations: the entities given to the writer, and those the finder reads off the names."""
    study = Study.create(tmp_path / "study", describe_model(tiny_model("gpt2")), "demo")
    assert study.find("mixing") == []
    written = {}
    for desc in ("canica", "dict"):
        for run in (2, 11, 1):
            path = study.write("mixing", pd.DataFrame({"a": [run]}), run=run, desc=desc)
            written[path] = {"run": run, "desc": desc}
    assert {found.path: found.entities for found in study.find("mixing")} == written
    assert [found.entities["run"] for found in study.find("mixing", desc="dict")] == [1, 2, 11]
    assert [found.entities["desc"] for found in study.find("mixing", run=2)] == ["canica", "dict"]
    assert study.find("mixing", desc="can") == [] and study.find("metrics") == []
    assert study.read("mixing", run=11, desc="dict")["a"].tolist() == [11]
    assert study.read("metrics", desc="a") is None and study.read("metrics", "nothing", desc="a") == "nothing"
    study.write("lesion_json", {"n": 1}, desc="a")
    assert study.read("lesion_json", desc="a") == {"n": 1} and study.find("lesion_json")[0].entities == {"desc": "a"}
    study.path("lesion_json", desc="a").write_text("7")
    with pytest.raises(DatasetError, match="effects.json holds int, not a JSON object"):
        study.read("lesion_json", desc="a")


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_is_found_under_its_name(kind, tmp_path):
    study = Study(tmp_path, "gpt2", "demo", session="main")
    entities = {"run": 1, "network": 1, "site": "attention", "desc": "canica"}
    entities = {key: value for key, value in entities.items() if f"{{{key}}}" in FILES[kind]}
    path = study.path(kind, **entities)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    assert study.find(kind) == study.find(kind, **entities) == [(path, entities)]
    others = [k for k in FILES if k != kind and study.find(k)]
    assert not others


def test_a_foreign_dataset_and_a_file_are_left_alone(tmp_path):
    model = describe_model(tiny_model("gpt2"))
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.raises(DatasetError, match="did not write"):
        Study.create(tmp_path, model, "demo")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatasetError, match="is a file"):
        Study.create(tmp_path / "file", model, "demo")
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds 2024, which llmbrain did not write, and no study"):
        Study.create(tmp_path / "photos", model, "demo")
    kept = ("dataset_description.json", "file", "photos", "photos/2024")
    assert sorted(tmp_path.rglob("*")) == sorted(tmp_path / name for name in kept)
    (tmp_path / "new" / ".git").mkdir(parents=True)
    study = Study.create(tmp_path / "new", model, "demo")
    for path in study.all_files():  # as after a kill between two files
        if path != study.path("study_json"):
            path.unlink()
    assert Study.create(tmp_path / "new", model, "demo").path("readme").is_file()
    assert (tmp_path / "dataset_description.json").read_text() == "{}" and (tmp_path / "file").read_text() == "mine"


# -- the tools of others ----------------------------------------------------------------------------------------------
_SIDE = {"Description": "An image.", "Type": "ROI", "SpatialReference": "orig", "Manual": False}


def test_the_official_bids_validator_finds_nothing_with_the_strictest_settings(original, tmp_path):
    folder = shutil.copytree(original, tmp_path / "study")
    study = Study.open(folder)
    geometry, table = open_recording(folder, "mlp").geometry, pd.DataFrame({"index": [1], "name": ["a"]})
    for kind, rule in RESULTS.items():
        if "{site}" not in FILES[rule.manifest]:
            contents = {".tsv": table, ".gz": geometry.mask_img, ".json": _SIDE}
            parts = {part: contents[Path(FILES[part]).suffix] for part in rule.parts}
            numbered = [part for part in parts if re.search("{run}|{network}", FILES[part])]
            parts |= {part: {1: parts[part]} for part in numbered}
            write_result(study, kind, "canica2", parts, {})
    study.path("report").write_text("")
    assert bids_issues(folder, tmp_path) == []
    for path in study.root.rglob("*.nii*"):  # none has a space- entity, so all need it
        if "_scale" not in path.name:
            side = json.loads(path.with_name(path.name.partition(".nii")[0] + ".json").read_text())
            assert side["SpatialReference"] == "orig", path.name
    labels = {path.name.split("_desc-")[1].split("_")[0] for path in study.root.rglob("*_desc-*")}
    assert labels == {label.removeprefix("desc-") for label in study.read("descriptions")["desc_id"]}


def test_nifti_tool_accepts_every_file(original):
    tool = shutil.which("nifti_tool")
    if tool is None:
        pytest.skip("nifti_tool is not installed (Debian: apt-get install nifti-bin)")
    files = [str(path) for path in original.rglob("*.nii*")]
    assert len(files) == 11  # three runs of two sites, two masks of neurons, two layer atlases and one of heads
    out = subprocess.run([tool, "-check_hdr", "-check_nim", "-infiles", *files], capture_output=True, text=True)
    assert out.returncode == 0 and out.stdout.count("IS GOOD") == 2 * len(files), out.stdout + out.stderr


def test_nilearn_reads_it_unaided(original):
    import matplotlib.pyplot as plt
    from nilearn.image import load_img, mean_img
    from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
    from nilearn.plotting import plot_carpet

    runs = open_recording(original, "mlp")
    study = runs.study
    img = load_img(runs.paths[0])
    assert img.shape == (*runs.geometry.shape, runs[0].n_tokens) and img.header.get_zooms()[3] == 1
    assert img.header.get_xyzt_units() == ("mm", "unknown")
    assert load_img(study.path("neurons_mask")).get_fdata().sum() == runs.geometry.n_neurons
    masked = NiftiMasker(runs.geometry.mask_img, standardize=None).fit_transform(runs.paths[0])
    np.testing.assert_array_equal(masked, runs[0].to_array())
    layers = NiftiLabelsMasker(study.path("layers_dseg"), standardize=None).fit_transform(runs.paths[0])
    np.testing.assert_allclose(layers, [[p.mean() for p in runs.geometry.split(row)] for row in masked], rtol=1e-5)
    assert mean_img(img).shape == runs.geometry.shape
    figure = plot_carpet(img, mask_img=load_img(study.path("layers_dseg")), t_r=1)
    plt.close(figure)
