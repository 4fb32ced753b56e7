"""The commands ``prune`` and ``grid``."""

import importlib
import importlib.util

import pandas as pd
import pytest
from commands import run
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.files import read_tsv

SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def files(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model.save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    (folder / "text.txt").write_text("\n".join(SENTENCES))
    (folder / "test.txt").write_text("\n".join(SENTENCES[:4]))
    return folder


def command(*args):
    from llmbrain import cli

    cli.main(list(map(str, args)))


def test_the_command_prune_takes_networks_and_formats(files, tmp_path, capsys):
    common = ["--model", files / "tiny", "--text", files / "text.txt", "--recipe", "fast", "--ratio", 0.5]
    common += ["--max-tokens", 200]
    command("prune", *common, "--out", tmp_path / "a", "--networks", "joint", "--allocation", "networks")
    told = lb.pruning.load_pruned(tmp_path / "a").summary["networks"]
    assert told["kind"] == "joint" and told["read"] and told["n_tokens"] <= 200
    out = capsys.readouterr().out
    assert "recipe: fast, changed: allocation=networks" in out and "MLP neurons: 192 -> 96 (-50.0%)" in out
    assert out.splitlines()[-2:] == [f"Wrote {tmp_path / 'a'}", f"Next: llmbrain evaluate {tmp_path / 'a'}"]
    command("prune", *common, "--out", tmp_path / "b", "--format", "uniform", "--compensation", "ridge", "--test-text",
            files / "test.txt")  # fmt: skip
    assert "perplexity: " in capsys.readouterr().out
    summary = lb.pruning.load_pruned(tmp_path / "b").summary
    assert summary["allocation"] == "uniform" and len(set(summary["n_kept"])) == 1
    command("prune", *common, "--out", tmp_path / "c", "--networks", "layers")
    assert "nothing reads it" in capsys.readouterr().err
    command("evaluate", tmp_path / "b", "--text", files / "test.txt", "--context", 64)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Next: read {tmp_path / 'b' / 'README.md'}")


@pytest.mark.filterwarnings("ignore")
def test_the_command_prune_reads_the_networks_of_a_study_by_name(files, tmp_path, capsys):
    from commands import run

    from llmbrain.pipeline import find_networks
    from llmbrain.pruning.recipe import networks_id

    model, tokenizer = lb.load_model(files / "tiny")
    lb.record(model, tokenizer, files / "text.txt", tmp_path / "study", tokens_per_run=300, progress=False)
    found = {n: find_networks(tmp_path / "study", n_components=n, n_init=1, progress=False) for n in (2, 3)}
    args = ["prune", "--model", files / "tiny", "--text", files / "text.txt", "--recipe", "fast", "--ratio", 0.5]
    args += ["--score", "network", "--max-tokens", 200, "--out", tmp_path / "a", "--study", tmp_path / "study"]
    code, _, err = run(capsys, *args)
    assert code == 2 and "canica2, canica3. Choose one by name (--networks)" in err
    command(*args, "--networks", "canica3")
    told = lb.pruning.load_pruned(tmp_path / "a").summary["networks"]
    assert told["hash"] == networks_id(found[3]) != networks_id(found[2])
    args[args.index("--out") + 1] = tmp_path / "study" / "a"
    code, _, err = run(capsys, *args, "--networks", "canica3")
    assert code == 2 and "overlaps the input" in err


def test_the_command_grid_has_what_run_grid_has(files, tmp_path, capsys):
    common = ["grid", "--model", files / "tiny", "--text", files / "text.txt", "--test-text"]
    common += [files / "test.txt", "--ratios", "0.2,0.4", "--context", 32, "--compensations", "none"]
    out, figure = tmp_path / "g.tsv", tmp_path / "g.png"
    command(*common, "--scores", "random,flap,network", "--allocations", "uniform", "--seeds", "0,3", "--networks",
            "layers", "--figure", figure, "--out", out)  # fmt: skip
    table = read_tsv(out)
    assert len(table) == 1 + 2 * (2 + 1 + 2) and sorted(table.seed.unique()) == [0, 3] and figure.stat().st_size > 1000
    out = tmp_path / "h.tsv"
    command(*common, "--scores", "flap", "--allocations", "power", "--heads", "--ratio-of", "decoder", "--out", out)
    table = read_tsv(out)
    assert table.ratio_of.unique().tolist() == ["decoder"]
    assert table.decoder_removed[1:].tolist() == pytest.approx([0.2, 0.4], abs=0.04)
    capsys.readouterr()
    for wrong, says in ((["--heads"], "decoder"), (["--figure", "g.nothing"], "png"), (["--seeds", "x"], "--seeds")):
        with pytest.raises(SystemExit):
            command(*common, *wrong, "--out", tmp_path / "i.tsv")
        assert says in capsys.readouterr().err
    assert not (tmp_path / "i.tsv").exists()


def test_the_command_grid_asks_the_minimal_pairs_that_ship(files, tmp_path, monkeypatch):
    asked = []
    module = importlib.import_module("llmbrain.evaluation.minimal_pairs")

    def few(model, tokenizer, which, bos):
        asked.append(which)
        return pd.DataFrame({"uid": ["a", "a", "b"], "correct": [True, False, True]})

    monkeypatch.setattr(module, "minimal_pairs", few)
    command("grid", "--model", files / "tiny", "--text", files / "text.txt", "--test-text", files / "test.txt",
            "--ratios", "0.2", "--scores", "flap", "--allocations", "uniform", "--compensations", "none", "--context",
            32, "--minimal-pairs", "--out", tmp_path / "g.tsv")  # fmt: skip
    assert asked == ["all", "all"] and read_tsv(tmp_path / "g.tsv").minimal_pairs.tolist() == [0.75, 0.75]


@pytest.mark.parametrize("content", ["my notes\n", "score\tname\n1\tme\n", ""])
def test_the_command_grid_replaces_nothing_foreign(content, files, tmp_path, capsys, monkeypatch):
    """A text, another table, an empty file and a folder are refused before any work."""
    monkeypatch.setattr("llmbrain.models.load_model", lambda *args, **kwargs: 1 / 0)
    (tmp_path / "mine.tsv").write_text(content)
    for out in (tmp_path / "mine.tsv", tmp_path):
        with pytest.raises(SystemExit):
            command("grid", "--model", files / "tiny", "--text", files / "text.txt", "--out", out)
        assert "it is not replaced. choose another file" in " ".join(capsys.readouterr().err.split()).lower()
    assert (tmp_path / "mine.tsv").read_text() == content


@pytest.mark.parametrize("inside", ["thesis.txt", "study/dataset_description.json"])
def test_the_command_prune_replaces_nothing_foreign(inside, files, tmp_path, capsys, monkeypatch):
    """A folder with other files, the model's own folder and what lies in it are refused before any work."""
    monkeypatch.setattr("llmbrain.models.load_model", lambda *args, **kwargs: 1 / 0)
    foreign = tmp_path / "out" / inside
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    common = ["prune", "--model", files / "tiny", "--text", files / "text.txt", "--recipe", "fast"]
    for out in (tmp_path / "out", tmp_path / "link", files / "tiny", files / "tiny" / "smaller", files / "text.txt"):
        with pytest.raises(SystemExit):
            command(*common, "--out", out)
        assert "Choose another" in capsys.readouterr().err
    assert foreign.read_text() == "mine" and (files / "tiny" / "config.json").is_file()


@pytest.mark.parametrize("command", ["prune", "grid"])
@pytest.mark.parametrize("option", ["--subject", "--session"])
def test_a_label_needs_a_study(command, option, tmp_path, capsys):
    code, _, said = run(capsys, command, "--out", tmp_path / "out", option, "x")
    assert code == 2 and "Add --study" in said and not (tmp_path / "out").exists()
