"""The commands that compare models: ``fingerprint``, and from ``record`` to ``compare`` and ``report --group``."""

import pytest
from commands import run
from tiny import tiny_model, tiny_tokenizer

from llmbrain.networks import CanICA
from llmbrain.recording import record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        tiny_model(seed=seed, scale=6.0).save_pretrained(root / f"model-{seed}")
        tiny_tokenizer().save_pretrained(root / f"model-{seed}")
    return root


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_fingerprints_are_written_and_compared(folder, capsys):
    amounts = ["--n-texts", 4, "--n-neurons", 16]
    a = folder / "a.safetensors"
    code, said, _ = run(capsys, "fingerprint", folder / "model-0", "--out", a, *amounts)
    assert code == 0 and str(a) in said and a.stat().st_size < 1_000_000
    code, said, _ = run(capsys, "fingerprint", a, a)
    assert code == 0 and "one origin" in said and "score 1.000" in said and "linear CKA of all neurons: 1.000" in said
    code, said, _ = run(capsys, "fingerprint", folder / "model-1", a, *amounts)
    assert code == 0 and "no common origin shown" in said
    code, _, said = run(capsys, "fingerprint", "nowhere", a, "--n-texts", 5, "--n-neurons", 16)
    assert code == 2 and "n_texts: 4 and 5" in said  # before the model is looked for


def test_wrong_input_is_refused_before_work(folder, capsys):
    assert "must end in .safetensors" in run(capsys, "fingerprint", folder / "model-0", "--out", "x.json")[2]
    assert "There is no fingerprint" in run(capsys, "fingerprint", "a.safetensors", "b.safetensors")[2]
    assert "a fingerprint already" in run(capsys, "fingerprint", "a.safetensors")[2]
    assert "only 42 texts" in run(capsys, "fingerprint", "nowhere", "--n-texts", 50)[2]
    code, _, said = run(capsys, "fingerprint", "demo", "demo", "--out", folder / "c.safetensors")
    assert code == 2 and "belongs to one model" in said


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_two_models_from_their_recordings_to_a_report_of_both(folder, tmp_path, capsys):
    """Every command is the one that the command before proposes, with what it needs added."""
    sentences = [
        "On the third morning the old heron stood in the river and ate one more of the restless fish. ",
        "A boat went home, and nobody saw it in the rain; 12 children sang all the way. ",
    ]
    corpora = {
        "texts": [2 * "".join(sentences[i % 2 :] + sentences[: i % 2]) for i in range(4)],
        "held": [f"The heron saw {i} boats in the rain and went home." for i in range(3)],
    }
    for name, texts in corpora.items():
        (tmp_path / name).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / name / f"{i}.txt").write_text(text)
    out = tmp_path / "two"
    for seed in (0, 1):
        model, label = folder / f"model-{seed}", f"m{seed}"
        chosen = f" --subject {label}" if seed else ""  # one model needs no choice

        def follow(command, *options, chosen=chosen):
            code, said, error = run(capsys, *command, *options)
            assert code == 0, error
            return said.splitlines()[-1].removeprefix("Next: llmbrain ").removesuffix(chosen)

        record = ("record", "--model", model, "--text", tmp_path / "texts", "--out", out, "--subject", label)
        assert follow(record) == f"networks {out}"
        assert follow(("networks", out, "--subject", label, "--n-components", 3)) == f"lesion {out}"
        lesion = ("lesion", out, "--subject", label, "--model", model, "--text", tmp_path / "held")
        assert follow(lesion, "--threshold", 1.5, "--n-controls", 2, "--control", "layer") == f"report {out}"
    code, said, _ = run(capsys, "compare", out, "--n-draws", 5)
    assert code == 0 and "match_effect" in said and said.splitlines()[-1] == f"Next: llmbrain report {out} --group"
    assert run(capsys, "report", out, "--group")[0] == 0
    code, said, _ = run(capsys, "report", out, "--subject", "m0")
    assert code == 0 and said.splitlines()[-1] == f"Next: llmbrain view {out} --subject m0"
    for page in (out / "report.html", out / "sub-m0_task-texts_report.html"):
        assert "effect of the match&#x27;s lesion" in page.read_text(encoding="utf-8")
    code, _, said = run(capsys, "report", out)
    assert code == 2 and "holds several models: sub-m0, sub-m1" in said


# -- what compare and fingerprint refuse -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def recorded(folder, tmp_path_factory):
    """Record a model under a label, and find its networks; returns the folder of the dataset."""
    root = tmp_path_factory.mktemp("refused")

    def make(name, seed=0, label="a", texts=TEXTS, **options):
        model, tokenizer = tiny_model(seed=seed, scale=6.0), tiny_tokenizer()
        recording = record(model, tokenizer, texts, root / name, subject=label, progress=False, **options)
        CanICA(n_components=3, n_init=1, random_state=0).fit(recording).networks_.save(recording.study)
        return root / name

    return make


TEXTS = [
    f"{i} old herons stood in the river and ate {i + 2} fish. A boat went home in the rain. " * 3 for i in range(6)
]


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
@pytest.mark.parametrize(
    ("name", "second", "reason"),
    [
        ("text", {"texts": [text.upper() for text in TEXTS]}, "is another text than in the other models"),
        ("documents", {"texts": TEXTS[:1]}, "share 1 documents; a comparison needs two"),
        ("site", {"site": "layer"}, "different sites"),
        ("every", {"every": 2}, "recorded with every=2"),
        ("label", {"label": "a", "seed": 1}, "Two studies have the label sub-a"),
    ],
)
def test_compare_refuses_studies_that_do_not_fit(recorded, capsys, name, second, reason):
    first = recorded(f"{name}-first")
    other = recorded(f"{name}-second", **{"label": "b", **second})
    code, said, error = run(capsys, "compare", first, other, "--n-draws", 5)
    assert code == 2 and reason in error and not said
    assert not list(first.rglob("*comparison*"))


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_compare_needs_two_models(recorded, tmp_path, capsys):
    code, _, error = run(capsys, "compare", recorded("alone"))
    assert code == 2 and "holds one model (sub-a)" in error
    code, _, error = run(capsys, "compare", tmp_path)
    assert code == 2 and "holds no study" in error


def test_record_refuses_another_text_and_another_model_under_one_label(folder, tmp_path, capsys):
    for name, text in {"a": TEXTS[0], "b": TEXTS[1]}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    out = tmp_path / "taken"

    def record_command(seed, text, label):
        command = ("record", "--model", folder / f"model-{seed}", "--text", tmp_path / f"{text}.txt", "--out", out)
        code, _, error = run(capsys, *command, "--subject", label)
        return code, error.splitlines()[-1]

    assert record_command(0, "a", "one")[0] == 0
    code, error = record_command(1, "b", "two")
    assert code == 2 and "holds a study of another corpus" in error
    code, error = record_command(1, "a", "one")
    assert code == 2 and "holds a study of another model" in error and "--subject" in error
    assert [path.name for path in out.glob("sub-*")] == ["sub-one"]


def test_a_model_without_a_tokenizer_gets_no_fingerprint(tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "bare")
    code, _, error = run(capsys, "fingerprint", tmp_path / "bare", "--n-texts", 4, "--n-neurons", 16)
    assert code == 2 and "tokenizer" in error


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_fingerprints_of_other_texts_or_another_version_are_refused(folder, tmp_path, capsys):
    amounts = ["--n-texts", 4, "--n-neurons", 16]
    files = {}
    for name, texts in {"a": TEXTS[:4], "b": [text.upper() for text in TEXTS[:4]]}.items():
        (tmp_path / name).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / name / f"{i}.txt").write_text(text)
        files[name] = tmp_path / f"{name}.safetensors"
        command = ("fingerprint", folder / "model-0", "--out", files[name], "--text", tmp_path / name)
        assert run(capsys, *command, *amounts)[0] == 0
    code, _, error = run(capsys, "fingerprint", files["a"], files["b"])
    assert code == 2 and "are of other texts" in error
    old = files["a"].read_bytes()
    new = old.replace(rb"\"version\": \"3\"", rb"\"version\": \"1\"")
    assert new != old
    files["a"].write_bytes(new)
    code, _, error = run(capsys, "fingerprint", files["a"], files["b"])
    assert code == 2 and "has version 1 of the format; this llmbrain reads version 3" in error
