"""The networks of one of several recorded sites, as a user types it."""

import numpy as np
import pytest
from commands import run
from tiny import tiny_model, tiny_tokenizer

from llmbrain import cli
from llmbrain.dataset import open_recording
from llmbrain.exceptions import ParameterError
from llmbrain.networks import NetworkSet

TEXT = "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever. " * 4


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with two sites, and the model it was recorded from."""
    root = tmp_path_factory.mktemp("sites")
    tiny_model("llama").save_pretrained(root / "tiny")
    tiny_tokenizer().save_pretrained(root / "tiny")
    (root / "heron.txt").write_text(TEXT)
    given = ["-m", root / "tiny", "-c", root / "heron.txt", "-o", root / "study", "--tokens-per-run", 150]
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
        networks = NetworkSet.load(study)
        assert networks.geometry == open_recording(study, site).geometry and len(networks) == 2
        code, out, err = run(
            capsys, "lesion", study, "--text", study.parent / "heron.txt", "--model", study.parent / "tiny",
            "--threshold", 1.5, "--n-controls", 2, "--max-tokens", 60, "--how", "mean",
        )  # fmt: skip
        assert code == 0, err
        assert "network-00" in out
        assert run(capsys, "report", study)[0] == 0
        html = next(study.rglob("*report.html")).read_text(encoding="utf-8")
        assert f"site “{site}”" in html


@pytest.mark.filterwarnings("ignore")
def test_site_and_recording_must_agree(study):
    from llmbrain.pipeline import find_networks

    recording = open_recording(study, "attention")
    with pytest.raises(ParameterError, match="site='mlp', but the recording is of the site 'attention'"):
        find_networks(recording, site="mlp")
    found = find_networks(recording, n_components=2, n_init=1)
    again = find_networks(study, site="attention", n_components=2, n_init=1)
    np.testing.assert_array_equal(found.maps, again.maps)


@pytest.mark.filterwarnings("ignore")
def test_metrics_follow_the_threshold(study, capsys):
    """Sizes and flags are those of the masks at the same threshold."""
    for threshold in (1, 5):
        args = ("--n-components", 2, "--n-repeats", 0, "--site", "mlp", "--threshold", threshold)
        assert run(capsys, "networks", study, *args)[0] == 0
        networks = NetworkSet.load(study)
        sizes = [int(mask.count) for mask in networks.masks(float(threshold))]
        assert networks.metrics["n_neurons"].tolist() == sizes and networks.info["threshold"] == threshold
