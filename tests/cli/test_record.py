"""The commands that record and that look into a model, as a user types them, on a tiny model in a folder."""

import json

import numpy as np
import pytest
import torch
from commands import run
from tiny import N_LAYERS, tiny_model, tiny_tokenizer

from llmbrain.dataset import open_recording
from llmbrain.exceptions import ParameterError, read_numbers
from llmbrain.recording import record

TEXT = "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever. " * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a text on disk."""
    root = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(root / "tiny")
    tiny_tokenizer().save_pretrained(root / "tiny")
    (root / "heron.txt").write_text(TEXT)
    (root / "chats.jsonl").write_text(
        json.dumps({"id": "one", "messages": [{"role": "system", "content": "Be terse."},
                                              {"role": "user", "content": "Hi there"}]})  # fmt: skip
        + "\n\n" + json.dumps({"text": "What is it?"}) + "\n"
    )  # fmt: skip
    return root


def record_command(capsys, folder, out, *args):
    return run(capsys, "record", "-m", folder / "tiny", "-t", folder / "heron.txt", "-o", out, *args)


def test_every_option_reaches_the_recorder(folder, tmp_path, capsys):
    code, out, err = record_command(
        capsys, folder, tmp_path / "cli", "--site", "mlp", "--site", "attention", "--layers", "0,2-3", "--every", 3,
        "--context", 48, "--warmup", 20, "--tokens-per-run", 40, "--storage", "int16", "--max-tokens", 90,
        "--batch-size", 2,
    )  # fmt: skip
    assert code == 0, err
    there = {site: open_recording(tmp_path / "cli", site) for site in ("mlp", "attention")}
    for site, runs in there.items():
        assert f"*_desc-{site}_bold.nii ({len(runs)} runs)" in out
    assert out.splitlines()[-1] == f"Next: llmbrain networks {tmp_path / 'cli'}"
    expected = record(
        tiny_model("llama"), tiny_tokenizer(), folder / "heron.txt", tmp_path / "api", site=["mlp", "attention"],
        layers=[0, 2, 3], every=3, context=48, warmup=20, tokens_per_run=40, storage="int16", max_tokens=90,
        batch_size=2, progress=False,
    )  # fmt: skip
    for site, runs in expected.items():
        assert len(runs) == len(there[site]) > 2
        for a, b in zip(runs, there[site]):
            assert a.path.read_bytes() == b.path.read_bytes()
            assert {k: a.sidecar[k] for k in ("Context", "WarmUp", "EveryNthToken")} == {
                "Context": 48, "WarmUp": 20, "EveryNthToken": 3,
            }  # fmt: skip


def test_jobs_of_an_array_fill_one_folder(folder, tmp_path, capsys):
    assert record_command(capsys, folder, tmp_path / "all", "--tokens-per-run", 60)[0] == 0
    n_runs = len(open_recording(tmp_path / "all"))
    assert n_runs > 3
    for job in (f"{n_runs}", f"1,3-{n_runs}", "2"):
        code, out, _ = record_command(
            capsys, folder, tmp_path / "jobs", "--tokens-per-run", 60, "--run-index", job, "--site", "mlp"
        )
        assert code == 0 and f"_bold.nii ({n_runs - 1 if ',' in job else 1} run" in out
    for a, b in zip(open_recording(tmp_path / "all"), open_recording(tmp_path / "jobs")):
        assert a.path.read_bytes() == b.path.read_bytes()
    code, _, err = record_command(capsys, folder, tmp_path / "jobs", "--tokens-per-run", 60, "--run-index", n_runs + 1)
    assert code == 2 and f"has the runs 1 to {n_runs}" in err


def test_chats_and_answers(folder, tmp_path, capsys):
    code, _, err = run(capsys, "record", "-m", folder / "tiny", "-t", folder / "chats.jsonl", "-o", tmp_path / "chat",
                       "--chat", "--generate", 4)  # fmt: skip
    assert code == 0, err
    events = open_recording(tmp_path / "chat").events
    assert set(events["document"]) == {"one", "chats-00003"} and set(events["phase"]) == {"prompt", "generated"}
    assert set(events["role"]) == {"system", "user", "assistant", "template"}
    assert "".join(events.loc[events["role"] == "system", "token"]) == "Be terse."
    code, _, err = record_command(capsys, folder, tmp_path / "plain", "--chat")  # a text is a message of the user
    assert code == 0, err
    roles = open_recording(tmp_path / "plain").events["role"]
    assert set(roles) == {"user", "template"} and (roles == "user").sum() > 200


def test_a_forecast_records_nothing(folder, tmp_path, capsys):
    code, out, _ = record_command(capsys, folder, tmp_path / "study", "--forecast", "--storage", "int16")
    assert code == 0 and "on disk" in out and not (tmp_path / "study").exists()
    code, full, _ = record_command(capsys, folder, tmp_path / "study", "--forecast")
    kib = [float(text.split(": ")[1].split(" KiB")[0]) for text in (out, full)]
    assert kib[1] == pytest.approx(2 * kib[0], abs=1)


def test_sites_named_by_hand(folder, tmp_path, capsys):
    code, _, err = record_command(
        capsys, folder, tmp_path / "a", "--modules", r".*\.self_attn\.o_proj", "--site", "mlp"
    )
    assert code == 0, err
    assert open_recording(tmp_path / "a")[0].sidecar["Modules"][1] == "model.layers.1.self_attn.o_proj"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--site", "nerve"], "Unknown site 'nerve'"),
        (["--layers", "7"], "layers 0 to 3"),
        (["--layers", "a-b"], "--layers 'a-b'"),
        (["--run-index", "0"], "run_index"),
        (["--storage", "float16"], "'int16'"),
        (["--every", "0"], "0 is out of range. It must be at least 1"),
        (["--context", "4096"], "at most 128"),
        (["--warmup", "128"], "warmup=128"),
        (["--tokens-per-run", "40000"], "It must be 1 to 32767"),
        (["--modules", "nothing"], "matches no module"),
        (["--generate", "0"], "--generate"),
        (["--dtype", "int4"], "dtype"),
    ],
)
def test_mistakes_are_one_line(args, says, folder, tmp_path, capsys):
    code, _, err = record_command(capsys, folder, tmp_path / "study", *args)
    assert code == 2 and says in err and "Traceback" not in err
    assert not (tmp_path / "study").exists()


def test_numbers_and_ranges():
    assert read_numbers("--layers", "0,4, 10-12") == [0, 4, 10, 11, 12] and read_numbers("--layers", None) is None
    for bad in ("", "a", "1-", "-1", "1,,2", "1-b", "5-2", "1-1000000000", "²"):
        with pytest.raises(ParameterError, match="--layers"):
            read_numbers("--layers", bad)


def test_info_lists_sites_sizes_geometry_and_weight(folder, capsys):
    code, out, _ = run(capsys, "info", folder / "tiny", "--max-tokens", 1 << 20)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert f"{N_LAYERS} layers" in out
    # 192 neurons x 4 bytes x 2^20 tokens are 0.75 GiB; heads and the stream are 32 wide.
    assert all(part in lines["mlp"] for part in ("192", "4 x 8 x 6", "0.75 GiB", "model.layers.0.mlp.down_proj"))
    assert all(part in lines["layer"] for part in ("128", "0.50 GiB", "output of model.layers.0"))
    for site in ("attention", "mlp_gate", "mlp_up", "mlp_output"):
        assert site in lines


def test_info_names_what_it_does_not_understand(tmp_path, capsys):
    tiny_model("mixtral").save_pretrained(tmp_path / "moe")
    tiny_tokenizer().save_pretrained(tmp_path / "moe")
    code, out, _ = run(capsys, "info", tmp_path / "moe")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "mixture of experts" in lines["mlp"] and "self_attn.o_proj" in lines["attention"]


def test_the_recorder_reads_what_a_user_saved(folder, tmp_path, capsys):
    """bfloat16 from the command line: the values are bfloat16's own."""
    code, _, err = record_command(capsys, folder, tmp_path / "study", "--dtype", "bfloat16", "--max-tokens", 20)
    assert code == 0, err
    array = open_recording(tmp_path / "study")[0].to_array()
    np.testing.assert_array_equal(array, torch.from_numpy(array).bfloat16().float().numpy())
