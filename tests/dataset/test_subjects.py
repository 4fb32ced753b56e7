"""Datasets of several models and checkpoints: added, listed, chosen, moved, merged, incomplete."""

import shutil
from pathlib import Path

import pytest
from commands import run
from tiny import tiny_model, tiny_tokenizer
from validated import bids_issues

from llmbrain.dataset import Study, find_studies, open_recording
from llmbrain.exceptions import DatasetError
from llmbrain.files import read_tsv
from llmbrain.networks import CanICA
from llmbrain.recording import record

TEXTS = ["On the third morning the heron ate.", "A boat went home, and nobody saw it in the rain."]


def add(folder, name="gpt2", seed=0, texts=TEXTS, **options):
    return record(tiny_model(name, seed=seed), tiny_tokenizer(), texts, folder, progress=False, **options)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two checkpoints of one model, and another model."""
    folder = tmp_path_factory.mktemp("datasets") / "original"
    add(folder, session="base")
    add(folder, seed=1, session="tuned")
    add(folder, "llama", session="base")
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "moved"))


def test_models_and_checkpoints_are_listed(folder):
    names = ["sub-GPT2LMHeadModel_ses-base", "sub-GPT2LMHeadModel_ses-tuned", "sub-LlamaForCausalLM_ses-base"]
    assert [study.name for study in find_studies(folder)] == names
    people = read_tsv(folder / "participants.tsv")
    assert people["participant_id"].tolist() == ["sub-GPT2LMHeadModel", "sub-LlamaForCausalLM"]
    sessions = read_tsv(folder / "sub-GPT2LMHeadModel" / "sub-GPT2LMHeadModel_sessions.tsv")
    assert sessions["session_id"].tolist() == ["ses-base", "ses-tuned"] and sessions["weights_hash"].nunique() == 2
    with pytest.raises(DatasetError, match="several models: sub-GPT2LMHeadModel_ses-base, .* Choose one with subject="):
        Study.open(folder)
    for subject in ("LlamaForCausalLM", "sub-LlamaForCausalLM"):
        assert Study.open(folder, subject).name == names[2]
    tuned = Study.open(folder, session="ses-tuned")
    assert tuned.name == names[1] and open_recording(tuned).n_tokens == open_recording(tuned)[0].n_tokens
    with pytest.raises(DatasetError, match="holds no sub-x. Choose from sub-GPT2LMHeadModel_ses-base"):
        Study.open(folder, "x")


def test_what_was_recorded_stays_untouched(folder):
    before = {p: p.read_bytes() for p in (folder / "sub-GPT2LMHeadModel").rglob("*") if p.is_file()}
    add(folder, "llama", seed=1, session="tuned")
    assert {p: p.read_bytes() for p in before} == before
    assert len(find_studies(folder)) == 4


def test_two_models_with_one_label_are_refused(folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(DatasetError, match="another model .* session= "):
        add(folder, seed=5, session="base")
    with pytest.raises(DatasetError, match="either sessions or none"):
        add(folder)
    with pytest.raises(DatasetError, match="another corpus"):
        add(folder, "llama", seed=9, texts=TEXTS[:1], session="other")
    assert sorted(folder.rglob("*")) == before


def test_datasets_can_be_merged_and_incomplete(folder, tmp_path):
    add(tmp_path / "other", "qwen2", session="base")
    shutil.copytree(tmp_path / "other" / "sub-Qwen2ForCausalLM", folder / "sub-Qwen2ForCausalLM")
    shutil.rmtree(folder / "sub-GPT2LMHeadModel")
    assert [study.subject for study in find_studies(folder)] == ["LlamaForCausalLM", "Qwen2ForCausalLM"]
    add(folder, "llama", seed=1, session="tuned")  # the tables follow what is there
    people = read_tsv(folder / "participants.tsv")["participant_id"].tolist()
    assert people == ["sub-LlamaForCausalLM", "sub-Qwen2ForCausalLM"]
    (folder / "study.json").unlink()
    assert open_recording(Study.open(folder, "Qwen2ForCausalLM")).n_tokens > 0
    (folder / "sub-Qwen2ForCausalLM").rename(folder / "sub-renamed")
    with pytest.raises(DatasetError, match="lies in the folder of another model"):
        find_studies(folder)


def test_results_of_models_do_not_meet(folder):
    llama, base = Study.open(folder, "LlamaForCausalLM"), Study.open(folder, "GPT2LMHeadModel", "base")
    for study in (llama, base):
        CanICA(n_components=2, n_init=1, random_state=0).fit(open_recording(study)).networks_.save(study)
    kinds = ("components", "report", "lesion_unfinished", "subject_report")
    paths = [{k: s.path(k, desc="a") if k == "components" else s.path(k) for k in kinds} for s in (llama, base)]
    assert paths[0]["report"] == paths[1]["report"]
    assert all(paths[0][kind] != paths[1][kind] for kind in kinds if kind != "report")


def test_commands_take_labels(folder, capsys):
    options = ["--n-components", 2, "--n-repeats", 0]
    code, _, said = run(capsys, "networks", folder, *options)
    assert code == 2 and "several models" in said and "--subject" in said
    code, said, _ = run(capsys, "networks", folder, *options, "--subject", "GPT2LMHeadModel", "--session", "tuned")
    assert code == 0
    assert Study.open(folder, session="tuned").find("components") and not Study.open(
        folder, session="base", subject="LlamaForCausalLM"
    ).find("components")
    code, said, _ = run(capsys, "report", folder, "--session", "tuned")
    assert code == 0 and (folder.rglob("*_report.html").__next__()).name.startswith("sub-GPT2LMHeadModel_ses-tuned")
    code, said, _ = run(capsys, "info", folder)
    assert code == 0 and said.count("mlp") >= 3
    code, said, _ = run(capsys, "info", folder, "--subject", "LlamaForCausalLM")
    assert code == 0 and "GPT2" not in said


def test_the_official_bids_validator_finds_nothing_with_the_strictest_settings(folder, tmp_path):
    assert bids_issues(folder, tmp_path) == []


def test_places_in_the_text_are_recorded(folder):
    events = open_recording(Study.open(folder, "LlamaForCausalLM")).events
    for document, text in zip(events["document"].unique(), TEXTS):
        rows = events[events["document"] == document]
        assert "".join(text[int(a) : int(b)] for a, b in zip(rows["start"], rows["stop"])) == text
