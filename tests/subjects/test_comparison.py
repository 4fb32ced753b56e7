"""Models of a dataset are compared by what they do on the same words, and a copy of a model keeps all its networks."""

import shutil

import numpy as np
import pytest
from commands import run
from tiny import tiny_model, tiny_tokenizer

from llmbrain.dataset import Study, open_recording, open_result
from llmbrain.exceptions import DatasetError
from llmbrain.lesions import LesionStudy, LossTask
from llmbrain.masks import NeuronMask
from llmbrain.networks import CanICA
from llmbrain.recording import record
from llmbrain.reporting import generate_group_report, generate_report
from llmbrain.subjects.comparison import Comparison, _read, align_studies, compare_studies, example_words
from llmbrain.text import Corpus, Document

SENTENCES = [
    "On the third morning the old heron stood in the river and ate one more of the restless fish. ",
    "A boat went home, and nobody saw it in the rain; 12 children sang all the way. ",
    "def add(a, b): return a + b  # the sum of two numbers, 3 and 4. ",
]
TEXTS = ["".join(SENTENCES[(i + j) % 3] for j in range(3)) for i in range(6)]


def add(folder, model, tokenizer=None, texts=TEXTS, fit=True, **options):
    recording = record(model, tokenizer or tiny_tokenizer(), texts, folder, progress=False, **options)
    if fit:
        CanICA(n_components=4, n_init=2, random_state=0).fit(recording).networks_.save(recording.study)
    return recording.study


def bytes_only():
    """A tokenizer that cuts the same text into other tokens."""
    from tokenizers import models

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.model = models.BPE(vocab=tokenizer.get_vocab(), merges=[])
    return tokenizer


pytestmark = pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A model, a copy of it under another label, and a model that is not related and has another tokenizer."""
    folder = tmp_path_factory.mktemp("datasets") / "three"
    add(folder, tiny_model("llama"), subject="first")
    add(folder, tiny_model("llama"), subject="copy")
    add(folder, tiny_model("gpt2", seed=3), bytes_only(), subject="other")
    return folder


@pytest.fixture(scope="module")
def found(dataset):
    return compare_studies([Study.open(dataset, name) for name in ("first", "copy", "other")], n_draws=19)


def test_a_copy_keeps_everything_and_a_stranger_does_not(found):
    fates = found.fates().set_index(["model", "other"])
    assert fates.loc[("sub-first", "sub-copy")].tolist() == [4, 0, 0]
    assert fates.loc[("sub-first", "sub-other"), "kept"] < 4
    table = found.similarity
    assert table.loc["sub-first", "sub-copy"] > 0.999 > 0.9 > table.loc["sub-first", "sub-other"]
    assert found.tree.groups(2) == [["sub-first", "sub-copy"], ["sub-other"]]
    assert (found.shared["n_kept"] >= 1).all() and found.shared["words"].str.len().min() > 5


def test_words_are_those_of_the_texts_whatever_the_tokenizer(dataset):
    from llmbrain.networks import NetworkSet
    from llmbrain.subjects import find_units

    studies = [Study.open(dataset, name) for name in ("first", "other")]
    aligned = align_studies(studies, [NetworkSet.load(study) for study in studies])
    assert aligned.words == [word for text in TEXTS for word in find_units(text).names]
    assert [len(course) for course in aligned.courses] == [len(aligned.words)] * 2
    events = [study.recording().events for study in studies]
    assert len(events[0]) < len(events[1])  # though the tokens differ
    total = np.mean([e["surprisal"].sum() for e in events])
    assert aligned.surprisal.sum() < total and aligned.surprisal.sum() > 0.7 * total  # white space is in no word


def test_models_with_a_damaged_run_are_not_compared(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "copy")
    studies = [Study.open(folder, name) for name in ("first", "copy")]
    with open(studies[1].run_paths()[0], "r+b") as file:
        file.seek(-4000, 2)
        file.write(bytes(4000))
    with pytest.raises(DatasetError, match="sub-copy.*is damaged"):
        compare_studies(studies, n_draws=5)


def test_tables_are_kept_and_shown(found, dataset):
    study = Study.open(dataset, "first")
    found.save(study)
    again = Comparison.of_result(open_result(study, "comparison"))
    assert again.fates().equals(found.fates()) and np.allclose(again.similarity, found.similarity)
    for page in (generate_report(study, topography=None), generate_report(again, topography=None)):
        assert "Compared with other models" in str(page) and "sub-other" in str(page)
        assert found.shared["words"][0].split()[0] in str(page)


def lesion(study, model, change=None, **options):
    """Save the lesions of all networks of a study."""
    from llmbrain.networks import NetworkSet

    masks = NetworkSet.load(study).masks(1.5)
    tasks = [LossTask(["The heron saw a boat in the rain and went home."], max_tokens=12)]
    lesions = LesionStudy((change or list)(masks), tasks, n_controls=2, controls=["layer"], random_state=0, **options)
    lesions.run(model, tiny_tokenizer(), progress=False).save(study)


def test_lesions_of_matched_networks_stand_side_by_side(dataset, found, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "copy")
    studies = [Study.open(folder, name) for name in ("first", "copy")]
    lesion(studies[0], tiny_model("llama"))
    assert "effect" not in compare_studies(studies, n_draws=5).pairs
    lesion(studies[1], tiny_model("llama"))
    compared = compare_studies(studies, n_draws=5)
    pairs = compared.pairs
    assert np.allclose(pairs["effect"], pairs["match_effect"], atol=1e-4) and pairs["effect"].notna().all()
    assert "effect" not in found.pairs and compared.info["notes"] == []
    assert "effect of the match&#x27;s lesion" in str(generate_report(compared, topography=None))
    compared.save(studies[0])
    assert open_result(studies[0], "comparison").stale == ""
    lesion(studies[1], tiny_model("llama"), how="mean")
    assert "the lesions of sub-copy have changed since" in open_result(studies[0], "comparison").stale


def test_only_lesions_of_single_networks_count(dataset, tmp_path):
    """A set made from several networks is none of them, whatever its name ends in."""
    folder = shutil.copytree(dataset, tmp_path / "copy")
    studies = [Study.open(folder, name) for name in ("first", "copy")]

    def with_union(masks):
        union = masks[0] | masks[1]
        return [NeuronMask(union.values, union.geometry, "network-00 or network-03", masks[0].info), *masks[:2]]

    for study in studies:
        lesion(study, tiny_model("llama"), with_union)
    pairs = compare_studies(studies, n_draws=5).pairs
    assert set(pairs.loc[pairs["effect"].notna(), "network"]) == {0, 1}


def test_lesions_of_another_kind_are_not_compared(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "copy")
    studies = [Study.open(folder, name) for name in ("first", "copy")]
    lesion(studies[0], tiny_model("llama"))
    lesion(studies[1], tiny_model("llama"), how="mean")
    compared = compare_studies(studies, n_draws=5)
    assert "effect" not in compared.pairs
    (note,) = compared.info["notes"]
    said = "The lesions of sub-first and sub-copy are not compared"
    assert note.startswith(said) and said in str(generate_report(compared, topography=None))


def test_example_words_are_those_that_drive_a_course():
    words = ["sea", "7", "and", "9", "sea", "7", "boat"] * 10
    course = np.array([float(word.isdigit()) for word in words])
    assert set(example_words(course, words, 2).split()) == {"7", "9"}
    assert set(example_words(-course, words, 2).split()) == {"7", "9"}


def test_the_command_and_the_report_of_the_group(dataset, capsys):
    code, said, _ = run(capsys, "compare", dataset, "--n-draws", 5, "--confounds", "none")
    assert code == 0 and "kept" in said and "sub-other" in said and "--group" in said
    code, said, _ = run(capsys, "report", dataset, "--group")
    page = (dataset / "report.html").read_text(encoding="utf-8")
    assert code == 0 and "report.html" in said
    assert all(f"sub-{name}" in page for name in ("first", "copy", "other")) and "LlamaForCausalLM" in page
    shared = Comparison.of_result(open_result(Study.open(dataset, "copy"), "comparison")).shared  # first by its label
    assert shared["words"][0].split()[0] in page
    assert "leave out" in run(capsys, "report", dataset, "--group", "--subject", "copy")[2].lower()
    assert run(capsys, "compare", dataset, "--confounds", "positions")[0] == 2


def test_a_report_of_the_group_needs_a_comparison_of_present_networks(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        study = add(tmp_path / "two", tiny_model("llama", seed=seed), subject=name)
    with pytest.raises(DatasetError, match="holds no comparison of its present networks. None has been made"):
        generate_group_report(tmp_path / "two")
    compare_studies(tmp_path / "two", n_draws=5).save(Study.open(tmp_path / "two", "a"))
    assert "sub-b" in str(generate_group_report(tmp_path / "two"))
    CanICA(n_components=3, n_init=2, random_state=1).fit(open_recording(study)).networks_.save(study, "canica4")
    with pytest.raises(DatasetError, match="networks of sub-b .* no longer holds"):
        generate_group_report(tmp_path / "two")
    with pytest.raises(DatasetError, match="at least two"):
        generate_group_report(add(tmp_path / "one", tiny_model("llama"), fit=False).root)


def test_documents_of_a_kind_are_on_both_sides(tmp_path):
    """Kinds that alternate must not divide the halves: the other half would hold other kinds of text only."""
    from llmbrain.networks import NetworkSet
    from llmbrain.subjects.matching import alternate_documents

    texts = Corpus([Document(f"{text} end{i}", f"{i}", f"kind {i % 2}") for i, text in enumerate(TEXTS)], "kinds")
    studies = [add(tmp_path, tiny_model("llama", seed=i), texts=texts, subject=f"m{i}") for i in range(2)]
    aligned = align_studies(studies, [NetworkSet.load(study) for study in studies])
    half = alternate_documents(aligned.documents)
    for side in (half, ~half):
        ends = [word for word, there in zip(aligned.words, side) if there and word.startswith("end")]
        assert len(ends) == 3 and {int(word[3:]) % 2 for word in ends} == {0, 1}


def test_bad_input_is_refused(dataset, tmp_path):
    llama = tiny_model("llama")
    first = Study.open(dataset, "first")
    with pytest.raises(DatasetError, match="holds one model"):
        compare_studies(add(tmp_path / "one", llama).root)
    with pytest.raises(DatasetError, match="Two studies have the label sub-first"):
        compare_studies([first, first])
    with pytest.raises(DatasetError, match="share 0 documents|another text"):
        compare_studies([first, add(tmp_path / "other", llama, texts=TEXTS[::-1], subject="x")])
    with pytest.raises(DatasetError, match="share 1 documents"):
        compare_studies([first, add(tmp_path / "short", llama, texts=TEXTS[:1], subject="x")])
    with pytest.raises(DatasetError, match="different sites"):
        compare_studies([first, add(tmp_path / "site", llama, site="layer", subject="x")])
    with pytest.raises(DatasetError, match="every=2"):
        compare_studies([first, add(tmp_path / "every", llama, every=2, subject="x")])
    with pytest.raises(DatasetError, match="sub-x: .* holds no networks"):
        compare_studies([first, add(tmp_path / "bare", llama, fit=False, subject="x")])


# -- studies whose files do not belong together -----------------------------------------------------------------------
def remove_run(study, number):
    for kind in ("bold", "bold_json", "events"):
        study.path(kind, run=number).unlink()


def test_courses_are_those_of_their_own_run(tmp_path):
    """Networks of the second run, where the first run is as long as the second: lengths alone would not tell."""
    from llmbrain import open_recording
    from llmbrain.networks import NetworkSet

    add(tmp_path / "a", tiny_model("llama"), fit=False, tokens_per_run=250, context=64)
    recording = open_recording(tmp_path / "a")
    study, part = recording.study, recording[1:2]
    CanICA(n_components=3, n_init=1, random_state=0).fit(part).networks_.save(study)
    found = NetworkSet.load(study)
    whole = _read(study, found)
    remove_run(study, 1)
    assert found.info["runs"] == [2] and list(whole) == list(_read(study, found))
    kept = part[0].events
    assert sum(len(one["tokens"]) for one in whole.values()) == len(kept)
    assert [t for one in whole.values() for t in one["tokens"]] == kept["token"].tolist()
    found.info["runs"] = [9]
    with pytest.raises(DatasetError, match="do not fit any recorded run"):
        _read(study, found)
    found.info["runs"], found.time_courses = [2], [found.time_courses[0][:-1]]
    with pytest.raises(DatasetError, match="do not fit run 2"):
        _read(study, found)


def test_networks_that_the_recording_has_outgrown_are_not_compared(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "copy")
    study = Study.open(folder, "copy")
    sidecar = study.path("bold_json", run=1)
    sidecar.write_text(sidecar.read_text().replace('"All": "', '"All": "0'))
    with pytest.raises(DatasetError, match=r"the recording has changed since \(run 1\)"):
        compare_studies([Study.open(folder, "first"), study], n_draws=5)


def test_a_comparison_with_earlier_networks_of_another_model_is_stale(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "copy")
    first, other = Study.open(folder, "first"), Study.open(folder, "copy")
    compare_studies([first, other], n_draws=5).save(first)
    assert open_result(first, "comparison").stale == ""
    CanICA(n_components=3, n_init=1, random_state=1).fit(other.recording()).networks_.save(other, "canica4")
    assert "networks of sub-copy" in open_result(first, "comparison").stale
    page = generate_report(first, topography=None)
    assert "Compared with other models" not in str(page) and "sub-copy" in str(page)
