"""The command ``fingerprint``."""

import pytest
from commands import run
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        tiny_model(seed=seed, scale=6.0).save_pretrained(root / f"model-{seed}")
        tiny_tokenizer().save_pretrained(root / f"model-{seed}")
    return root


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_fingerprints_are_written_and_compared(folder, capsys):
    amounts = ["--n-texts", 4, "--n-components", 4]
    a = folder / "a.safetensors"
    code, said, _ = run(capsys, "fingerprint", folder / "model-0", "--out", a, *amounts)
    assert code == 0 and str(a) in said and a.stat().st_size < 1_000_000
    code, said, _ = run(capsys, "fingerprint", a, a)
    assert code == 0 and "one origin" in said and "score 1.000" in said and "linear CKA 1.000" in said
    code, said, _ = run(capsys, "fingerprint", folder / "model-1", a, *amounts)
    assert code == 0 and "no common origin shown" in said
    code, _, said = run(capsys, "fingerprint", "nowhere", a, "--n-texts", 5, "--n-components", 4)
    assert code == 2 and "n_texts: 4 and 5" in said  # before the model is looked for


def test_wrong_input_is_refused_before_work(folder, capsys):
    assert "must end in .safetensors" in run(capsys, "fingerprint", folder / "model-0", "--out", "x.json")[2]
    assert "There is no fingerprint" in run(capsys, "fingerprint", "a.safetensors", "b.safetensors")[2]
    assert "a fingerprint already" in run(capsys, "fingerprint", "a.safetensors")[2]
    assert "only 42 texts" in run(capsys, "fingerprint", "nowhere", "--n-texts", 50)[2]
    code, _, said = run(capsys, "fingerprint", "demo", "demo", "--out", folder / "c.safetensors")
    assert code == 2 and "belongs to one model" in said
