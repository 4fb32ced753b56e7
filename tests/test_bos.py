"""One BOS policy: six stations give the same loss for the same tokens."""

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.evaluation import generate_texts, minimal_pairs, multiple_choice, window_losses
from llmbrain.evaluation.perplexity import perplexity_report
from llmbrain.lesions import LossTask
from llmbrain.pruning.calibration import calibration_windows
from llmbrain.text import MinimalPair

TEXT = "the cat sat on the mat and then it rained all day"
OTHER = "the cat sat on the hat"


def make_tokenizer(kind):
    tokenizer = tiny_tokenizer(add_bos=kind == "adds")
    if kind == "none":
        tokenizer.bos_token = None
    return tokenizer


CASES = [(kind, bos) for kind in ("adds", "has", "none") for bos in ("auto", True, False)]
CASES.remove(("none", True))  # refused, see test_tokens.py


@pytest.mark.parametrize(("kind", "bos"), CASES)
def test_the_same_tokens_have_the_same_loss_at_every_station(kind, bos, tmp_path):
    model, tokenizer = tiny_model("llama"), make_tokenizer(kind)
    report = perplexity_report(model, tokenizer, TEXT, 128, bos=bos)
    expected, n = report["nats_per_token"], report["n_tokens"]
    n_text = len(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    headed = kind != "none" and bos is not False
    assert report["bos"] == ("<s>" if headed else "none")
    assert n == n_text - (not headed)
    found = {}

    task = LossTask([TEXT], bos=bos, by_kind=False).prepare(model, tokenizer)
    sums = np.array([[part.sum(dtype=np.float64) for part in window_losses(model, task.sequences)]])
    found["loss task"] = float(task.values(sums)[0, 0])
    assert task.info["bos"] == report["bos"]

    pairs = minimal_pairs(model, tokenizer, [MinimalPair(TEXT, OTHER, "a", "0")], bos=bos)
    found["minimal pair"] = -pairs.good[0] / n
    assert pairs.bos[0] == report["bos"]

    question = {"prompt": "", "options": [TEXT, OTHER], "answer": 0}
    choice = multiple_choice(model, tokenizer, [question], bos=bos)
    found["multiple choice"] = -(choice.margin[0] + pairs.bad[0]) / n
    assert choice.bos[0] == report["bos"]

    windows = calibration_windows(tokenizer, [TEXT], context=128, bos=bos)
    found["calibration"] = float(np.concatenate(window_losses(model, windows)).mean(dtype=np.float64))

    runs = lb.record(model, tokenizer, [TEXT], tmp_path / "study", bos=bos, progress=False)
    surprisal = runs.events["surprisal"]
    found["recording"] = float(surprisal.mean())
    assert int(surprisal.notna().sum()) == n
    assert runs[0].sidecar["LeadingTokens"] == report["bos"]

    for station, loss in found.items():
        assert loss == pytest.approx(expected, abs=1e-5), station

    # generation: the log probability of the token that follows in the text
    prompt = "the cat sat on the mat"
    logits = []
    handle = model.register_forward_hook(lambda module, args, output: logits.append(output.logits[0, -1]))
    generate_texts(model, tokenizer, prompt, max_new_tokens=1, bos=bos)
    handle.remove()
    n_prompt = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    follows = tokenizer(TEXT, add_special_tokens=False)["input_ids"][n_prompt]
    nats = -float(torch.log_softmax(logits[0], -1)[follows])
    assert nats == pytest.approx(float(surprisal.iloc[n_prompt]), abs=1e-5)


def test_long_texts_have_the_same_loss_in_windows():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    text = TEXT + ". " + OTHER + ". "
    report = perplexity_report(model, tokenizer, text * 6, 48)
    task = LossTask([text * 6], context=48, by_kind=False).prepare(model, tokenizer)
    sums = np.array([[part.sum(dtype=np.float64) for part in window_losses(model, task.sequences)]])
    windows = calibration_windows(tokenizer, [text * 6], context=48)
    losses = np.concatenate(window_losses(model, windows))
    assert report["n_windows"] == len(windows) == len(task.sequences) > 3
    assert float(task.values(sums)[0, 0]) == pytest.approx(report["nats_per_token"], abs=1e-5)
    assert float(losses.mean(dtype=np.float64)) == pytest.approx(report["nats_per_token"], abs=1e-5)


def test_tokenized_texts_take_no_bos(tmp_path):
    from llmbrain.recording import conversations

    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    chats = conversations(["hello there"], tokenizer)
    with pytest.raises(lb.exceptions.ParameterError, match="already tokenized"):
        lb.record(model, tokenizer, chats, tmp_path, bos=False, progress=False)
