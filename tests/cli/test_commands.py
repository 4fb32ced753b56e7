"""The command line: help that reads as one text, errors without a traceback, every command on the real model."""

import subprocess
import sys

import pytest

from llmbrain import __version__
from llmbrain.dataset import Study, find_results

COMMANDS = [
    "run", "record", "networks", "lesion", "prune", "grid", "evaluate", "compare", "fingerprint", "view", "report",
    "merge", "info",
]  # fmt: skip


def llmbrain(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "llmbrain.cli", *map(str, args)], capture_output=True, text=True, timeout=500, **kwargs
    )


def test_help_names_every_command():
    done = llmbrain("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    done = llmbrain(command, "--help")
    assert done.returncode == 0
    assert done.stdout.splitlines()[2].strip().endswith((".", ";", ",", "on")) or "Usage" in done.stdout
    assert "--help" in done.stdout


def test_no_command_is_cut_short_in_the_list():
    for args in (["--help"], []):
        done = llmbrain(*args)
        assert done.returncode == 0 and done.stderr == ""
        assert "..." not in done.stdout.split("Commands:")[1]
    assert llmbrain("--version").stdout.strip() == f"llmbrain {__version__}"


def test_unexpected_errors_have_no_traceback_either(monkeypatch, capsys):
    from llmbrain import cli, pipeline

    def fail(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(pipeline, "describe_environment", fail)
    with pytest.raises(SystemExit) as left:
        cli.main(["info"])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "out of luck" in said and "--debug" in said and "Traceback" not in said
    with pytest.raises(SystemExit) as left:
        cli.main(["info", "--debug"])
    said = capsys.readouterr().err
    assert left.value.code == 1 and "Traceback" in said and "unexpected RuntimeError: out of luck" in said


def test_a_kind_of_lesion_and_its_value_reach_the_study(monkeypatch, tmp_path, capsys):
    from types import SimpleNamespace

    from llmbrain import cli, pipeline

    got = {}

    def lesions(study, **options):
        got.update(options)
        return SimpleNamespace(summary=lambda: "a summary")

    monkeypatch.setattr(pipeline, "lesion_networks", lesions)
    monkeypatch.setattr("llmbrain.cli.study._pattern", lambda *_: "files")
    monkeypatch.setattr("llmbrain.dataset.as_study", lambda study: study)
    monkeypatch.setattr("llmbrain.dataset.result_name", lambda *_: "canica20")
    cli.main(["lesion", str(tmp_path), "--how", "scale", "--value", "2", "--strength", "0.5"])
    assert (got["how"], got["value"], got["strength"]) == ("scale", 2.0, 0.5)
    out = capsys.readouterr().out
    assert "a summary" in out and "Wrote files" in out and f"Next: llmbrain report {tmp_path}" in out


def test_info_gives_versions():
    done = llmbrain("info")
    assert done.returncode == 0
    assert f"llmbrain {__version__}" in done.stdout
    assert "torch" in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nonsense"], "No such command"),
        (["record", "--model", "demo"], "--out"),
        (["record", "--text", "no/such/file.txt", "--out", "x"], "no/such/file.txt"),
        (["networks", "no-study"], "no-study"),
        (["report", "no-study"], "no-study"),
        (["evaluate", "./no-model"], "no-model"),
        (["prune", "--out", "x", "--ratio", "1.5"], "ratio"),
        (["run", "--out", "x", "--ratio", "0"], "ratio"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(args, says, tmp_path):
    done = llmbrain(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path):
    done = llmbrain("report", "no-study", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "\nllmbrain: " in done.stderr


def test_debug_alone_shows_the_help(capsys):
    from llmbrain import cli

    cli.main(["--debug"])
    assert "Usage" in capsys.readouterr().out


@pytest.mark.demo
@pytest.mark.usefixtures("demo_model")
def test_the_whole_path_on_the_real_model(tmp_path):
    """record, networks, lesions, pruning, report; then again, when everything is done already."""
    study = tmp_path / "study"
    done = llmbrain("run", "--quick", "--out", study)
    assert done.returncode == 0, done.stderr[-3000:]
    report = study / "report.html"
    assert str(report) in done.stdout
    html = report.read_text(encoding="utf-8")
    assert "http" not in html.replace("https://doi.org", "").split("<style")[0]
    for section in ("networks", "lesion", "pruning", "methods"):
        assert f'id="{section}' in html
    names = {kind: find_results(Study.open(study), kind) for kind in ("networks", "lesions", "pruning")}
    assert names == {"networks": ["canica8"], "lesions": ["canica8"], "pruning": ["canica8"]}
    before = {p: p.stat().st_mtime_ns for p in study.rglob("*.nii*")}
    again = llmbrain("run", "--quick", "--out", study)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("done before") == 3
    assert {p: p.stat().st_mtime_ns for p in study.rglob("*.nii*")} == before
    assert llmbrain("info", study, "--check-all").returncode == 0

    other = llmbrain("record", "--text", __file__, "--out", study)
    assert other.returncode == 2
    assert "holds a study of another corpus" in other.stderr

    without_value = llmbrain("lesion", study, "--how", "scale")
    assert without_value.returncode == 2
    assert "'scale' needs value=" in without_value.stderr
