"""Generated text and its measures."""

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.evaluation import generate_texts, text_metrics
from llmbrain.evaluation.generation import GeneratedText, distinct_n, longest_loop
from llmbrain.exceptions import ParameterError
from llmbrain.models.inputs import longest_context

PROMPTS = ["one prompt", "a longer prompt of more tokens", "two prompt"]


def test_prompts_together_give_what_each_gives_alone(tiny):
    together = generate_texts(*tiny, PROMPTS, max_new_tokens=10)
    for prompt, text in zip(PROMPTS, together):
        (alone,) = generate_texts(*tiny, prompt, max_new_tokens=10)
        assert alone.ids.tolist() == text.ids.tolist()
        assert (text.prompt, alone.text) == (prompt, text.text)


def test_no_more_tokens_than_the_model_reads(tiny):
    longest = longest_context(tiny[0])
    with pytest.raises(ParameterError, match=f"more than the {longest}"):
        generate_texts(*tiny, PROMPTS, max_new_tokens=longest)


def test_sampling_is_seeded_and_leaves_torch_s_generator_alone(tiny):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = generate_texts(*tiny, PROMPTS, max_new_tokens=10, sample=True, random_state=1)
    again = generate_texts(*tiny, PROMPTS, max_new_tokens=10, sample=True, random_state=1)
    other = generate_texts(*tiny, PROMPTS, max_new_tokens=10, sample=True, random_state=2)
    assert torch.equal(before, torch.get_rng_state())
    assert [t.text for t in first] == [t.text for t in again]
    assert [t.text for t in first] != [t.text for t in other]


def test_the_end_of_a_text_is_cut_and_told(monkeypatch):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    (whole,) = generate_texts(model, tokenizer, PROMPTS[0], max_new_tokens=8)
    assert not whole.ended
    end = int(whole.ids[5])
    monkeypatch.setattr(model.generation_config, "eos_token_id", [257, end])
    (cut,) = generate_texts(model, tokenizer, PROMPTS[0], max_new_tokens=8)
    assert cut.ended
    assert cut.ids.tolist() == whole.ids[: whole.ids.tolist().index(end)].tolist()


def test_chat_uses_the_template_or_says_there_is_none(tiny):
    model, tokenizer = tiny
    chat, plain = (generate_texts(model, tokenizer, "hi there", max_new_tokens=5, chat=c)[0] for c in (True, False))
    assert chat.ids.tolist() != plain.ids.tolist()
    with pytest.raises(ParameterError, match="chat template"):
        generate_texts(model, tiny_tokenizer(chat=False), "hi", chat=True)
    with pytest.raises(ParameterError, match="random_state=-1"):
        generate_texts(model, tokenizer, "hi", random_state=-1)
    for bad in ([], [3]):
        with pytest.raises(ParameterError, match="at least one string"):
            generate_texts(model, tokenizer, bad)


def test_metrics_of_text_by_hand():
    assert distinct_n([1, 2, 3], 1) == 1.0
    assert distinct_n([1, 1, 1, 1], 2) == pytest.approx(1 / 3)
    assert distinct_n([1, 2, 3, 4, 1, 2, 3, 4], 4) == pytest.approx(4 / 5)
    assert np.isnan(distinct_n([1], 2))
    assert longest_loop([1, 1, 1]) == 3
    assert longest_loop([5, 1, 2, 3, 1, 2, 3, 1, 9]) == 7
    assert longest_loop([]) == 0
    frame = text_metrics(
        [GeneratedText("p", "t", np.array([1, 1, 1, 1]), False), GeneratedText("p", "", np.array([]), True)]
    )
    assert frame.loop.tolist() == [1.0, 0.0]
    assert frame.n_tokens.tolist() == [4, 0]
    with pytest.raises(ParameterError, match="n=0"):
        text_metrics([], n=0)


@pytest.mark.parametrize(("bos", "head"), [("auto", "<s>"), (False, "none")])
def test_texts_and_their_table_state_the_leading_tokens(tiny, bos, head):
    texts = generate_texts(*tiny, PROMPTS, max_new_tokens=2, bos=bos)
    assert [t.bos for t in texts] == text_metrics(texts).bos.tolist() == [head] * len(PROMPTS)
