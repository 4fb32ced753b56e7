"""Labels given on the page decide what is lesioned, pruned and reported; the command serves the page."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from recorded import HERON

import llmbrain as lb
from llmbrain import cli
from llmbrain.networks import NetworkSet
from llmbrain.networks.labels import HandLabels
from llmbrain.pruning.recipe import networks_id


@pytest.fixture
def labelled(study):
    networks = NetworkSet.load(study)
    HandLabels.blank(networks).set(2, "accepted", "herons").set(0, "rejected").save(study, networks.name)
    return study


def test_lesions_use_accepted_networks(labelled, tiny):
    from llmbrain.pipeline import lesion_networks

    options = {"text": [HERON[::-1] * 2], "model": tiny[0], "tokenizer": tiny[1], "threshold": 1.5}
    result = lesion_networks(labelled, networks="accepted", n_controls=2, max_tokens=100, **options)
    assert set(result.table["network"]) == {"network-02"}


@pytest.mark.filterwarnings("ignore")
def test_pruning_uses_accepted_networks(labelled, tiny, tmp_path):
    tiny[0].save_pretrained(tmp_path / "model"), tiny[1].save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(HERON * 6)
    command = ["prune", "--model", str(tmp_path / "model"), "--text", str(tmp_path / "text.txt"), "--recipe", "flap",
               "--score", "network", "--max-tokens", "256", "--networks", "accepted"]  # fmt: skip
    with pytest.raises(SystemExit):
        cli.main([*command, "--out", str(tmp_path / "a")])  # of which study?
    cli.main([*command, "--study", str(labelled), "--out", str(tmp_path / "a")])
    used = json.loads((tmp_path / "a" / "llmbrain_pruning.json").read_text())["networks"]["hash"]
    assert used == networks_id(NetworkSet.load(labelled).z[[2]])


@pytest.mark.filterwarnings("ignore")
def test_reports_show_the_names(labelled):
    page = str(lb.generate_report(labelled, topography=None))
    assert "herons" in page and "rejected" in page


def test_the_command_serves_the_page_until_it_is_interrupted(made):
    command = [sys.executable, "-m", "llmbrain", "view", str(made[0]), "--no-model", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", process.stdout.readline())[0]
        found = json.load(urllib.request.urlopen(f"{address}api/study", timeout=30))
        assert len(found["networks"]) == 3 and found["state"]["state"] == "absent"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert "Traceback" not in said and process.returncode in (0, 130)
    finally:
        process.kill()


def test_the_command_says_what_is_wrong(tmp_path, capsys, made):
    for arguments, words in (
        ([str(tmp_path)], "holds no study"),
        ([str(made[0]), "--no-model", "--model", "demo"], "contradict"),
        ([str(made[0]), "--no-model", "--host", "203.0.113.7"], "Cannot listen"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(["view", *arguments, "--no-browser"])
        assert left.value.code == 2
        assert words in capsys.readouterr().err
