"""The replication scripts run from end to end on a tiny model, without nilearn and nibabel."""

import runpy
import sys
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer

from llmbrain.files import read_json, read_tsv

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks" / "replication"
OPTIONS = ["--fit-tokens", "1200", "--test-tokens", "200", "--n-controls", "2", "--components", "4", "--n-init", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("replication")
    tiny_model("llama", max_position_embeddings=1024).save_pretrained(path / "model")
    tiny_tokenizer().save_pretrained(path / "model")
    return path


def run(monkeypatch, folder, script, *options):
    monkeypatch.setattr(sys, "argv", [script, *options])
    monkeypatch.syspath_prepend(str(SCRIPTS))
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


@pytest.mark.parametrize(
    ("name", "table", "columns"),
    [
        ("lesions", "lesions_effects", {"control_max", "q"}),
        ("retain_only", "retain_only_effects", {"retained", "share"}),
        ("amplification", "amplification_chosen", {"gain", "q"}),
        ("recurrence", "recurrence_templates", {"null_many", "share"}),
    ],
)
def test_every_script_leaves_its_tables_and_a_statement(monkeypatch, folder, name, table, columns):
    options = ["--model", str(folder / "model"), "--threshold", "2", "--out", str(folder / "out"), "--device", "cpu"]
    options += ["--choose-tokens", "100", "--gains", "1.5", "3"] if name == "amplification" else []
    run(monkeypatch, folder, f"{name}.py", *options, *OPTIONS)
    assert columns <= set(read_tsv(folder / "out" / f"{table}.tsv").columns)
    info = read_json(folder / "out" / f"{name}.json")
    assert "Printed" in info["note"]
    assert str(folder) not in str(info)  # no path of a machine


def test_the_page_is_made_of_what_is_there(monkeypatch, folder):
    if not (folder / "out" / "lesions.json").is_file():
        pytest.skip("the scripts were not run before")
    run(monkeypatch, folder, "report.py", str(folder / "out"), "--out", str(folder / "page.md"))
    page = (folder / "page.md").read_text()
    assert page.startswith("# The first paper")
    experiments = {f.name for f in (folder / "out").glob("*.json")} - {"lesions_effects.json"}
    assert page.count("\n## ") == len(experiments) + 1 and "\n## In short\n\n|  | " in page
