"""Conversations and generated text."""

import tracemalloc

import numpy as np
import pytest
import torch
from recorded import alone, quiet
from tiny import N_LAYERS, tiny_model, tiny_tokenizer

from llmbrain.exceptions import (
    CorpusError,
    ParameterError,
)
from llmbrain.models import find_sites, site_hooks
from llmbrain.recording import conversations, generated
from llmbrain.recording.sources import texts
from llmbrain.text import encode


def test_chat_templates_mark_the_roles(llama, tokenizer, tmp_path):
    chats = [
        [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Hi there"},
         {"role": "assistant", "content": "Hi."}],
        "What is it?",
    ]  # fmt: skip
    runs = quiet(llama, tokenizer, conversations(chats, tokenizer), tmp_path / "study")
    events = runs.events
    for role, document, text in [
        ("system", "chat-0001", "Be terse."), ("user", "chat-0001", "Hi there"), ("assistant", "chat-0001", "Hi."),
        ("user", "chat-0002", "What is it?"),
    ]:  # fmt: skip
        rows = events[(events["role"] == role) & (events["document"] == document)]
        assert "".join(rows["token"]) == text
    assert (events["role"] == "template").any() and not events["token_id"].isin([256, 257]).any()
    values, _ = alone(llama, tokenizer(tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is it?"}], tokenize=False), add_special_tokens=False).input_ids)  # fmt: skip
    row = events.index[events["document"] == "chat-0002"][0]
    np.testing.assert_allclose(runs[0].to_array()[row], values[events["position"][row]], atol=1e-5)


def test_messages_that_occur_in_the_template_are_told_apart(tokenizer):
    """A message that says "user" is not the header "user"; repeated messages and spaces around them are no problem."""
    said = [("user", "user"), ("assistant", "s"), ("user", "user"), ("assistant", " s ")]
    chat = [{"role": role, "content": content} for role, content in said]
    document = conversations([chat], tokenizer).documents[0]
    marked = [(role, token) for role, token in zip(document.columns["role"], document.tokens) if role != "template"]
    for role, text in (("user", "user" * 2), ("assistant", "s s ")):
        assert "".join(token for r, token in marked if r == role) == text
    assert [r for i, (r, _) in enumerate(marked) if i == 0 or marked[i - 1][0] != r] == ["user", "assistant"] * 2
    trimming = tiny_tokenizer()
    trimming.chat_template = trimming.chat_template.replace("m['content']", "m['content'] | trim")
    document = conversations([chat], trimming).documents[0]
    text = "".join(t for r, t in zip(document.columns["role"], document.tokens) if r == "assistant")
    assert text == "ss"
    trimming.chat_template = trimming.chat_template.replace("| trim", "| upper")
    with pytest.raises(CorpusError, match="chat-0001.*changes or drops"):
        conversations([chat], trimming)


def test_a_tokenizer_that_cannot_say_where_its_tokens_stand(tokenizer):
    class Slow:
        chat_template = tokenizer.chat_template
        apply_chat_template = tokenizer.apply_chat_template

        def __call__(self, *args, **kwargs):
            raise NotImplementedError

    with pytest.raises(ParameterError, match="fast tokenizer"):
        conversations(["Hi"], Slow())


@pytest.mark.parametrize(
    ("chats", "message"),
    [([[{"role": "user"}]], "list of"), ([[]], "list of"), ([[{"role": "user", "content": " "}]], "drops")],
)
def test_a_bad_conversation_is_named(chats, message, tokenizer):
    with pytest.raises(CorpusError, match=f"chat-0001.*{message}"):
        conversations(chats, tokenizer)


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ messages[0].a.b.c }}", "{% if %}"])
def test_a_chat_template_that_fails_is_named(template):
    """Templates come with the model; the sandbox of transformers stops the first one."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(CorpusError, match="the tokenizer's chat template fails"):
        conversations([[{"role": "user", "content": "The cat"}]], tokenizer)


def test_no_chat_template():
    with pytest.raises(ParameterError, match="no chat template"):
        conversations(["Hi"], tiny_tokenizer(chat=False))


@pytest.mark.parametrize("n", [127, 10**12])
def test_more_tokens_than_the_model_reads_are_refused_before_any_is_generated(tokenizer, n):
    """Ten to the twelfth tokens would take years, and a model of 128 positions would write noise."""
    model = tiny_model("llama")
    with pytest.raises(ParameterError, match=f"{n} new ones are more than the 128"):
        generated(model, tokenizer, ["It is", "On the third morning"], max_new_tokens=n)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("seed", [None, 3])
def test_generation_is_recorded_as_it_happened(name, seed, tokenizer, tmp_path):
    """What one pass over prompt and answer gives is what passed by while the answer was generated, with its cache."""
    model = tiny_model(name)
    prompts = ["On the third morning", "It is"]
    material = generated(model, tokenizer, prompts, max_new_tokens=8, random_state=seed, eos_token_id=None)
    runs = quiet(model, tokenizer, material, tmp_path / "study")
    events = runs.events
    sites = find_sites(model)
    for number, (prompt, identity) in enumerate(zip(encode(prompts, tokenizer), ["text-0001", "text-0002"])):
        passed = {i: [] for i in range(N_LAYERS)}
        ids = torch.from_numpy(prompt.ids)[None]
        with (
            site_hooks(sites, lambda i, x, p=passed: p[i].append(x.reshape(-1, x.shape[-1]).clone())),
            torch.no_grad(),
        ):
            torch.manual_seed((seed or 0) + number)
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=seed is not None,
                                 eos_token_id=None, pad_token_id=0)[0].numpy()  # fmt: skip
        whole = torch.cat([torch.cat(passed[i]) for i in range(N_LAYERS)], 1).numpy()
        rows = events[events["document"] == identity]
        new = rows[rows["phase"] == "generated"]
        assert set(rows.loc[rows["position"] < len(prompt), "phase"]) == {"prompt"}
        kept = [t for t in range(len(prompt), len(out)) if out[t] not in (256, 257, 258)]
        assert set(new["position"]) <= set(kept) and (out[new["position"]] == new["token_id"]).all()
        inside = rows[rows["position"] < len(whole)]
        np.testing.assert_allclose(runs[0].to_array()[inside.index], whole[inside["position"]], atol=1e-4)
    assert (events["phase"] == "generated").any()


def test_a_model_answers_a_chat(llama, tokenizer, tmp_path):
    chats = conversations(["What is it?", "Who is there?"], tokenizer, add_generation_prompt=True)
    answered = generated(llama, tokenizer, chats, max_new_tokens=5, eos_token_id=None)
    events = quiet(llama, tokenizer, answered, tmp_path / "study").events
    new = events[events["phase"] == "generated"]
    assert 0 < len(new) <= 10 and set(new["role"]) == {"assistant"}
    assert "".join(events.loc[events["role"] == "user", "token"]) == "What is it?Who is there?"
    with pytest.raises(ParameterError, match="max_new_tokens=0"):
        generated(llama, tokenizer, chats, max_new_tokens=0)


def test_a_tokenized_text_takes_few_bytes_per_token(tokenizer):
    """Places of tokens as lists of numbers took 70 bytes per token."""
    words = ["the cat", "of a house", "that is on an island", "near the road", "to town"]
    corpus = [" ".join(np.random.default_rng(i).choice(words, 300)) for i in range(10)]
    texts(corpus, tokenizer)
    tracemalloc.start()
    material = texts(corpus, tokenizer)
    n_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_bytes / sum(len(document.ids) for document in material.documents) < 40
