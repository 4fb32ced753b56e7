"""Broken tokenizers are noticed, and those that work raise no warning."""

import warnings

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from tokenizers import Regex, normalizers

from llmbrain.exceptions import LLMBrainWarning, ModelNotFoundError
from llmbrain.files import read_json, write_json
from llmbrain.models import load_model
from llmbrain.models.tokenizer_check import PASSAGE, SAMPLE, Losses, check_bos, check_predictions, check_tokenizer


def big_tokenizer(pieces, **normalisation):
    """A tokenizer with a large vocabulary that knows letters and some pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*letters, *pieces])}
    vocabulary |= {f"<{i}>": i for i in range(len(vocabulary), 6000)}
    merges = [(piece[:-1], piece[-1]) for piece in pieces]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalisation:
        tokenizer.normalizer = normalizers.Replace(*normalisation["replace"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def prefixes(words):
    return sorted({word[:n] for word in words for n in range(2, len(word) + 1)}, key=len)


def test_a_tokenizer_that_spells_letter_by_letter_is_noticed():
    with pytest.warns(LLMBrainWarning, match="spells letter by letter"):
        check_tokenizer(big_tokenizer([]))


def test_a_tokenizer_that_loses_text_is_noticed():
    words = [f"Ġ{word}" for word in SAMPLE.split()]
    with pytest.warns(LLMBrainWarning, match="does not return the text"):
        check_tokenizer(big_tokenizer(prefixes(words), replace=("e", "")))


def test_a_tokenizer_that_loses_all_white_space_is_noticed():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "")
    with pytest.warns(LLMBrainWarning, match="does not return the text"):
        check_tokenizer(tokenizer)


@pytest.mark.parametrize("damage", [{"model_max_length": "x"}, {"tokenizer_class": "BertTokenizer"}])
def test_a_tokenizer_that_cannot_read_is_one_sentence(damage, tmp_path):
    import llmbrain as lb

    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    settings = read_json(tmp_path / "tokenizer_config.json")
    write_json(tmp_path / "tokenizer_config.json", {**settings, **damage})
    with pytest.raises(ModelNotFoundError, match="cannot read plain English.*pass another tokenizer"):
        lb.load_model(tmp_path)


def test_a_bos_token_beyond_the_vocabulary_is_not_read(tmp_path):
    tokenizer = tiny_tokenizer(add_bos=False)
    tokenizer.add_special_tokens({"bos_token": "<new>"})
    assert tokenizer.bos_token_id == 300
    check_bos(tiny_model("llama"), tokenizer)


def test_a_tokenizer_that_returns_nothing_is_noticed(tmp_path):
    """All steps of opening a model, which compare losses with and without BOS."""
    import llmbrain as lb

    tokenizer = tiny_tokenizer(add_bos=False)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("."), "")
    with pytest.warns(LLMBrainWarning, match="does not return the text"):
        lb.load_model(tiny_model("llama"), tokenizer=tokenizer)


def test_tokenizers_that_work_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = tiny_tokenizer()
        assert check_tokenizer(tokenizer) is tokenizer
        check_tokenizer(big_tokenizer(prefixes([f"Ġ{word}" for word in SAMPLE.split()])))


@pytest.mark.demo
def test_the_tokenizer_of_the_demo_works(demo_model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tokenizer(demo_model[1])


@pytest.fixture(scope="module")
def reader():
    """A small model that has learned the passage by heart, from its first position on."""
    model, tokenizer = tiny_model("gpt2", n_positions=512), tiny_tokenizer()
    ids = torch.tensor([tokenizer(PASSAGE, add_special_tokens=False)["input_ids"]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def test_a_bos_token_that_harms_is_forgotten(reader):
    tokenizer = tiny_tokenizer(add_bos=False)
    with pytest.warns(LLMBrainWarning, match="does not add it, and the model predicts worse with it"):
        check_bos(reader, tokenizer)
    assert tokenizer.bos_token is None
    given = tiny_tokenizer(add_bos=False)
    with pytest.warns(LLMBrainWarning, match="Use bos=False"):
        check_bos(reader, given, own=False)
    assert given.bos_token is not None


def test_a_bos_token_that_does_no_harm_or_is_added_stays(reader):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model, adds in ((tiny_model("llama"), False), (reader, True)):
            tokenizer = tiny_tokenizer(add_bos=adds)
            check_bos(model, tokenizer)
            assert tokenizer.bos_token is not None


def test_a_model_worse_than_chance_is_noticed(reader):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_predictions(reader, tiny_tokenizer())
        check_predictions(tiny_model("llama"), tiny_tokenizer())
    rows = reader.get_output_embeddings().weight.data
    rows.copy_(rows.flip(0))  # the words of another vocabulary
    with pytest.warns(LLMBrainWarning, match="worse than chance"):
        check_predictions(reader, tiny_tokenizer())
    rows.copy_(rows.flip(0))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"a": "b"}'])
def test_losses_are_computed_once_and_kept_in_a_file(content, reader, tmp_path, monkeypatch):
    file = tmp_path / "losses.json"
    if content is not None:
        file.write_text(content)
    first = Losses(reader, file)([1, 2, 3], 1)
    assert first == Losses(reader)([1, 2, 3], 1) and first != Losses(reader)([1, 2, 3], 2)
    monkeypatch.setattr("llmbrain.models.tokenizer_check._loss", lambda *_: -1.0)
    assert Losses(reader, file)([1, 2, 3], 1) == first
    assert Losses(reader, file)([1, 2, 4], 1) == Losses(reader.to(torch.bfloat16), file)([1, 2, 3], 1) == -1
    reader.float()
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert Losses(reader, file)([1, 2, 3], 1) == -1


@pytest.mark.demo
def test_the_demo_keeps_its_bos_token(demo_model):
    model, tokenizer = demo_model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_predictions(model, tokenizer)
        check_bos(model, tokenizer)
    assert tokenizer.bos_token == "<|im_start|>"


def test_a_pruned_folder_is_read_like_the_model_before_it(reader, tmp_path):
    reader.save_pretrained(tmp_path)
    tiny_tokenizer(add_bos=False).save_pretrained(tmp_path)
    with pytest.warns(LLMBrainWarning, match="It is not used"):
        assert load_model(tmp_path)[1].bos_token is None
    bos = tiny_tokenizer().bos_token
    write_json(tmp_path / "llmbrain_pruning.json", {"bos": bos})  # calibrated with it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model(tmp_path)[1].bos_token == bos
