"""GGUF files: read back tensor by tensor, and, where a build of llama.cpp is installed, run by it."""

import json
from functools import partial

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import ParameterError, UnsupportedArchitectureError
from llmbrain.pruning.formats.gguf import _tensors, permute_for_rope, write_gguf

gguf = pytest.importorskip("gguf")
quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip


def worst_difference(path, model):
    """Read a file back and compare it with the model: the largest difference of any weight."""
    import gguf

    stored = {t.name: t for t in gguf.GGUFReader(str(path)).tensors}
    worst = 0.0
    for name, tensor in _tensors(model):
        data = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)
        want = tensor.detach().float().cpu().numpy()
        assert data.shape == want.shape, name
        worst = max(worst, float(abs(data - want).max()))
    return worst


def pruned_llama(heads=False, **overrides):
    model = tiny_model("llama", hidden_size=64, intermediate_size=96, **overrides)
    options = {"context": 64, "heads": heads}
    return quick(
        model, tiny_tokenizer(add_bos=False), TEXTS, 0.3, ratio_of="decoder", allocation="global", options=options
    )


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": True}, {"rope_parameters": LLAMA3}])
def test_files_hold_the_model(heads, overrides, tmp_path):
    pruned = pruned_llama(heads, **overrides)
    pruned.save_pretrained(tmp_path / "m", format="gguf")
    path = tmp_path / "m" / "model.gguf"
    assert worst_difference(path, pruned.model) == 0
    fields = gguf.GGUFReader(str(path)).fields
    assert fields["general.architecture"].contents() == "deci"
    assert fields["deci.feed_forward_length"].contents() == pruned.summary["n_kept"]
    names = {t.name for t in gguf.GGUFReader(str(path)).tensors}
    assert ("output.weight" in names) == (not overrides.get("tie_word_embeddings", False))
    assert ("rope_freqs.weight" in names) == ("rope_parameters" in overrides)


def test_another_file_is_not_replaced(tmp_path):
    path = tmp_path / "dense.gguf"
    path.write_bytes(b"GGUF of the dense model")
    with pytest.raises(ParameterError, match="exists, and it is not replaced"):
        write_gguf(tiny_model("llama"), tiny_tokenizer(add_bos=False), path)
    assert path.read_bytes() == b"GGUF of the dense model"


def test_bfloat16_stays_bfloat16(tmp_path):
    pruned = pruned_llama()
    pruned.model.bfloat16()
    pruned.save_pretrained(tmp_path / "m", format="gguf")
    assert worst_difference(tmp_path / "m" / "model.gguf", pruned.model) == 0


def test_rows_are_paired_as_llama_cpp_rotates_them():
    """Rotating neighbouring pairs of permuted rows is rotating halves of the plain ones."""
    q = torch.randn(8, generator=torch.Generator().manual_seed(0))
    angle = torch.tensor([0.3, 1.1])
    cos, sin = angle.cos().repeat(2), angle.sin().repeat(2)
    heads = q.reshape(2, 4)
    turned = heads * cos + torch.cat([-heads[:, 2:], heads[:, :2]], 1) * sin
    pairs = permute_for_rope(q, 2).reshape(2, 2, 2)
    c, s = angle.cos(), angle.sin()
    other = torch.stack([pairs[..., 0] * c - pairs[..., 1] * s, pairs[..., 0] * s + pairs[..., 1] * c], -1)
    torch.testing.assert_close(other.reshape(-1), permute_for_rope(turned.reshape(-1), 2))


def test_other_architectures_are_refused(tmp_path):
    pruned = quick(tiny_model("gpt2"), tiny_tokenizer(), TEXTS, 0.3, options={"context": 64})
    with pytest.raises(UnsupportedArchitectureError, match="hetero"):
        pruned.save_pretrained(tmp_path / "m", format="gguf")
    assert not (tmp_path / "m").exists()


def prompt_before_a_letter(pruned):
    """Return token ids and the log-probabilities of the next token, of which the likeliest is a whole character.

    The server of llama.cpp withholds tokens that are only the beginning of a character, and their probabilities.
    """
    draws = torch.Generator().manual_seed(0)
    while True:
        ids = torch.randint(0, 250, (20,), generator=draws).tolist()
        with torch.no_grad():
            logprobs = torch.log_softmax(pruned.model(torch.tensor([ids])).logits[0, -1].float(), -1)
        if pruned.tokenizer.decode([int(logprobs.argmax())]).isascii():
            return ids, logprobs


@pytest.mark.parametrize("heads", [False, True])
def test_llama_cpp_gives_the_same_probabilities(heads, tmp_path):
    """Runs where xllamacpp (prebuilt llama.cpp) is installed."""
    llama = pytest.importorskip("xllamacpp")
    pruned = pruned_llama(heads)
    pruned.save_pretrained(tmp_path / "m", format="gguf")
    ids, want = prompt_before_a_letter(pruned)
    params = llama.CommonParams()
    params.model.path = str(tmp_path / "m" / "model.gguf")
    params.n_ctx, params.n_predict, params.warmup, params.cpuparams.n_threads = 128, 1, False, 1
    answer = llama.Server(params).handle_completions(
        {"prompt": ids, "n_predict": 1, "n_probs": 300, "logprobs": 300, "max_tokens": 1, "temperature": 0.0}
    )
    answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    listed = answer["choices"][0]["logprobs"]["content"] if "choices" in answer else answer["completion_probabilities"]
    got = {entry["id"]: entry["logprob"] for entry in listed[0]["top_logprobs"]}
    assert len(got) > 200
    assert max(abs(value - float(want[i])) for i, value in got.items()) < 0.01  # its cache is float16
