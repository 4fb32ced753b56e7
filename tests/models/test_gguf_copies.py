"""GGUF files and their copies in the cache."""

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import LLMBrainWarning, ModelNotFoundError
from llmbrain.models import describe_model, load_model


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_copy_of_a_gguf_file_is_made_again(file, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from llmbrain.models import gguf_copies

    monkeypatch.setenv("LLMBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_copies, "_dequantise", lambda *_: (tiny_model("llama"), tiny_tokenizer()))
    (tmp_path / "x.gguf").write_bytes(b"the weights")
    first, _ = load_model(tmp_path / "x.gguf")
    copy = gguf_copies.cached_copy(tmp_path / "x.gguf") / file
    copy.unlink()  # the first model reads its weights from this file
    copy.write_bytes(b"damaged")
    with pytest.warns(LLMBrainWarning, match="copy of x.gguf .* is damaged. It is discarded and made again"):
        again, _ = load_model(tmp_path / "x.gguf")
    assert describe_model(again)["weights_hash"] == describe_model(first)["weights_hash"]


def test_a_copy_opens_with_the_tokenizer_of_its_file_and_without_a_pass(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from llmbrain.models import gguf_copies, tokenizer_check

    given = tiny_tokenizer()
    given.add_tokens(["<think>"])
    monkeypatch.setenv("LLMBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_copies, "_dequantise", lambda *_: (tiny_model("llama"), given))
    (tmp_path / "x.gguf").write_bytes(b"the weights")
    _, first = load_model(tmp_path / "x.gguf")
    monkeypatch.setattr(tokenizer_check, "_loss", lambda *_: pytest.fail("the passage was read again"))
    _, again = load_model(tmp_path / "x.gguf")
    for tokenizer in (first, again):
        assert gguf_copies._fingerprint(tokenizer) == gguf_copies._fingerprint(given)
        assert repr(tokenizer.added_tokens_decoder) == repr(given.added_tokens_decoder)
        assert tokenizer("a <think> b")["input_ids"] == given("a <think> b")["input_ids"]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_gguf_file_opens_without_a_cache_that_can_be_written(damaged, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from llmbrain.models import gguf_copies

    def denied(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setenv("LLMBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_copies, "_dequantise", lambda *_: (tiny_model("llama"), tiny_tokenizer()))
    (tmp_path / "x.gguf").write_bytes(b"the weights")
    if damaged:
        load_model(tmp_path / "x.gguf")
        (gguf_copies.cached_copy(tmp_path / "x.gguf") / "config.json").write_text("{")
        monkeypatch.setattr(gguf_copies.shutil, "rmtree", denied)
    else:
        (tmp_path / "cache").write_text("a file")
    with pytest.warns(LLMBrainWarning, match="cache .* cannot be used .*opened without a copy"):
        model, _ = load_model(tmp_path / "x.gguf")
    assert describe_model(model)["weights_hash"] == describe_model(tiny_model("llama"))["weights_hash"]


@pytest.mark.parametrize("content", [b"GGUF", b"GGUFxxxx", b"nothing at all", b""])
def test_a_damaged_gguf_file_is_one_sentence(tmp_path, content):
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=r"x\.gguf"):
        load_model(tmp_path / "x.gguf", cache=False)


def test_copies_are_named_by_the_bytes_of_their_file(tmp_path, monkeypatch):
    """A file that is copied or installed again keeps its copy; a file that changes does not."""
    from llmbrain.models.gguf_copies import _drop_older_copies, cached_copy

    monkeypatch.setenv("LLMBRAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x.gguf").write_bytes(b"weights"), (tmp_path / "b" / "x.gguf").write_bytes(b"weights")
    folder = cached_copy(tmp_path / "a" / "x.gguf")
    os.utime(tmp_path / "b" / "x.gguf", (1, 1))
    assert folder == cached_copy(tmp_path / "b" / "x.gguf")
    (tmp_path / "b" / "x.gguf").write_bytes(b"Weights")
    other = cached_copy(tmp_path / "b" / "x.gguf")
    assert other != folder
    old = folder.with_name(folder.name[:-6] + "abcdef")
    mine = folder.with_name(folder.name[:-6] + "notes")
    for made in (folder, other, old, mine):
        made.mkdir(parents=True)
    _drop_older_copies(folder)
    assert sorted(folder.parent.iterdir()) == sorted([folder, other, mine])


SECOND = """
import sys
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from tiny import tiny_model
from llmbrain.models.gguf_copies import _save_model
dist.init_process_group("gloo")
if dist.get_rank() == 1:
    _save_model(tiny_model("llama"), sys.argv[2])
dist.barrier()
"""


def test_any_of_several_processes_can_make_the_copy(tmp_path):
    """transformers leaves writing to the first one; without weights in the folder, load_model refuses it."""
    (tmp_path / "second.py").write_text(SECOND)
    tests = str(Path(inspect.getfile(tiny_model)).parent)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*run, str(tmp_path / "second.py"), tests, str(tmp_path / "copy")], check=True, capture_output=True)
    tiny_tokenizer().save_pretrained(tmp_path / "copy")
    model, _ = load_model(tmp_path / "copy", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model("llama").parameters(), strict=True))
