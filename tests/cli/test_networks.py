"""The networks of one of several recorded sites, as a user types it."""

import numpy as np
import pytest
from commands import run
from tiny import tiny_model, tiny_tokenizer

from llmbrain import cli
from llmbrain.dataset import Study, open_recording
from llmbrain.exceptions import ParameterError
from llmbrain.networks import NetworkSet
from llmbrain.pipeline.finding import METHODS

TEXT = "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever. " * 4


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with two sites, and the model it was recorded from."""
    root = tmp_path_factory.mktemp("sites")
    tiny_model("llama").save_pretrained(root / "tiny")
    tiny_tokenizer().save_pretrained(root / "tiny")
    (root / "heron.txt").write_text(TEXT)
    given = ["-m", root / "tiny", "-t", root / "heron.txt", "-o", root / "study", "--tokens-per-run", 150]
    cli.main([str(a) for a in ("record", *given, "--site", "mlp", "--site", "attention")])
    return root / "study"


@pytest.mark.filterwarnings("ignore")
def test_site_of_the_networks_is_that_of_lesions_and_report(study, capsys):
    few = ("--n-components", 2, "--n-repeats", 0)
    code, _, err = run(capsys, "networks", study, *few)
    assert code == 2 and "attention, mlp" in err and "--site" in err
    code, _, err = run(capsys, "networks", study, *few, "--site", "layer")
    assert code == 2 and "'layer' is not recorded" in err and "attention, mlp" in err
    for site in ("attention", "mlp"):  # not only the one that comes first
        code, out, err = run(capsys, "networks", study, *few, "--site", site)
        assert code == 0, err
        name = {"attention": "canica2attention", "mlp": "canica2"}[site]
        networks = NetworkSet.load(study, name)
        assert networks.geometry == open_recording(study, site).geometry and len(networks) == 2
        code, out, err = run(
            capsys, "lesion", study, "--networks", name, "--text", study.parent / "heron.txt",
            "--model", study.parent / "tiny", "--threshold", 1.5, "--n-controls", 2, "--max-tokens", 60,
            "--how", "mean",
        )  # fmt: skip
        assert code == 0, err
        assert "network-00" in out and "intact" in out and out.splitlines()[-1] == f"Next: llmbrain report {study}"
        assert run(capsys, "report", study, "--networks", name)[0] == 0
        html = next(study.rglob("*report.html")).read_text(encoding="utf-8")
        assert f"site “{site}”" in html and 'id="lesions"' in html
    assert "is of other networks than canica2" in html
    for command in ("lesion", "report"):
        code, _, err = run(capsys, command, study)
        assert code == 2 and "several networks: canica2, canica2attention. Choose one by name (--networks)" in err
    code, _, err = run(capsys, "report", study, "--networks", "canica3")
    assert code == 2 and "no networks named 'canica3'. It holds canica2, canica2attention" in err


@pytest.mark.filterwarnings("ignore")
def test_site_and_recording_must_agree(study):
    from llmbrain.pipeline import find_networks

    recording = open_recording(study, "attention")
    with pytest.raises(ParameterError, match="site='mlp', but the recording is of the site 'attention'"):
        find_networks(recording, site="mlp")
    found = find_networks(recording, n_components=2, n_init=1)
    again = find_networks(study, site="attention", n_components=2, n_init=1)
    np.testing.assert_array_equal(found.maps, again.maps)


@pytest.mark.parametrize("name", ["", " ", "ä", "..", "脳", "my-nets", "a_1"])
def test_names_that_would_be_changed_are_refused(study, name, capsys):
    """Different ones would be the same name in the files, and the second set would replace the first."""
    code, _, said = run(
        capsys, "networks", study, "--site", "mlp", "--n-components", 2, "--n-repeats", 0, "--name", name
    )
    assert code == 2 and f"name={name!r}" in said


@pytest.mark.filterwarnings("ignore")
def test_metrics_follow_the_threshold(study, capsys):
    """Sizes and flags are those of the masks at the same threshold."""
    for threshold in (1, 5):
        args = ("--n-components", 2, "--n-repeats", 0, "--site", "mlp", "--threshold", threshold)
        assert run(capsys, "networks", study, *args)[0] == 0
        networks = NetworkSet.load(study, "canica2")
        sizes = [int(mask.count) for mask in networks.masks(float(threshold))]
        assert networks.metrics["n_neurons"].tolist() == sizes and networks.info["threshold"] == threshold


@pytest.mark.filterwarnings("ignore")
def test_own_masks_tasks_controls_and_positions_reach_the_lesions(study, tmp_path, capsys):
    """Masks of two sites and a file without sidecar; the table is that of the same study in Python."""
    import json

    import llmbrain as lb
    from llmbrain.lesions import LesionResult, LesionStudy, LossTask, MinimalPairTask

    model, tokenizer = lb.load_model(study.parent / "tiny")
    a = lb.NeuronMask.from_names([(0, 1), (2, 3)], model, name="a")
    b = lb.NeuronMask.from_heads([(1, 0)], model, name="b")
    pairs = [("the heron stood in the river", "the heron stood in a river"), ("it ate one fish", "it ate one fishes")]
    rows = [{"sentence_good": good, "sentence_bad": bad} for good, bad in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = ("--mask", a.save(tmp_path / "a.nii.gz"), "--mask", b.save(tmp_path / "b.nii.gz"))
    args += ("--task", f"minimal_pairs={tmp_path / 'pairs.jsonl'}", "--task", "loss", "--control", "layer")
    args += ("--positions", "1,3-5", "--n-controls", 2, "--text", study.parent / "heron.txt", "--max-tokens", 60)
    code, out, err = run(capsys, "lesion", study, "-m", study.parent / "tiny", *args)
    assert code == 0, err
    assert "*_desc-masks_*" in out
    found = LesionResult.load(Study.open(study), "masks").table
    expected = LesionStudy(
        [a, b], [MinimalPairTask(pairs), LossTask(lb.load_corpus(study.parent / "heron.txt"), max_tokens=60)], 2,
        ["layer"], reference={"mlp": open_recording(study, "mlp"), "attention": open_recording(study, "attention")},
        options={"positions": [1, 3, 4, 5]}, random_state=0,
    ).run(model, tokenizer, progress=False).table  # fmt: skip
    assert found["network"].tolist() == expected["network"].tolist() and set(found["family"]) == {"layer"}
    np.testing.assert_allclose(found["effect"], expected["effect"], atol=1e-6)
    np.testing.assert_allclose(found["control_mean"], expected["control_mean"], atol=1e-6)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--mask", "no-file.nii.gz"], "no-file.nii.gz"),
        (["--mask", "no-mask.txt"], "no-mask.txt"),
        (["--task", "lost"], "Did you mean 'loss'"),
        (["--task", "multiple_choice"], "multiple_choice=FILE"),
        (["--task", "generation"], "make it in Python"),
        (["--task", "callable=x.py"], "takes no file"),
        (["--task", "minimal_pairs="], "names no file"),
        (["--control", "layers"], "layers"),
        (["--positions", "first"], "--positions"),
        (["--positions", "prompt"], "needs a prompt"),
        (["--n-networks", "0"], "--n-networks"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_masks_tasks_and_controls_are_one_sentence(args, says, study, capsys, monkeypatch):
    run(capsys, "networks", study, "--n-components", 2, "--n-repeats", 0, "--site", "mlp", "--threshold", 1.5)
    given = ("--networks", "canica2", "--text", study.parent / "heron.txt", "-m", study.parent / "tiny")
    given += ("--threshold", 1.5)
    code, _, said = run(capsys, "lesion", study, *given, *args)
    assert code == 2 and says in said and "Traceback" not in said and "unexpected" not in said


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore")
def test_every_method_is_one_of_the_command(method, study, capsys):
    code, _, said = run(
        capsys, "networks", study, "--site", "mlp", "--n-components", 2, "--n-repeats", 0, "--method", method
    )
    assert code == 0 and len(NetworkSet.load(study, f"{method}2")) == 2
    code, _, said = run(capsys, "networks", study, "--site", "mlp", "--method", method + "x")
    assert code == 2 and f"Did you mean '{method}'" in said
