"""The recorder: every token once, in order, with the right numbers, whatever the batches, windows and accidents."""

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, HEADS, HIDDEN, N_LAYERS, tiny_model, tiny_tokenizer

from llmbrain import NeuronGeometry
from llmbrain.dataset import open_recording
from llmbrain.exceptions import (
    CorpusError,
    DatasetError,
    NumericalWarning,
    ParameterError,
    RecordingError,
    UnsupportedArchitectureError,
)
from llmbrain.files import save_img
from llmbrain.models import describe_model, find_sites, site_hooks
from llmbrain.recording import conversations, forecast, generated, record
from llmbrain.recording.capture import surprisal
from llmbrain.recording.sources import Material
from llmbrain.recording.windows import plan_recording
from llmbrain.text import Corpus, Document, TokenizedDocument, encode

TEXTS = [
    "The other hero entered the house.",
    "It is a note.",
    "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever.",
    "def add(a, b):\n\treturn a + b\n",
]


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def alone(model, ids, site="mlp"):
    """Activations and surprisals of one sequence by itself, the plain way."""
    seen = {}
    sites = find_sites(model, site)
    ids = torch.from_numpy(np.asarray(ids))[None]
    with (
        torch.no_grad(),
        site_hooks(sites, lambda i, x: seen.__setitem__(i, x.reshape(-1, x.shape[-1]).clone())),
    ):
        logits = model(input_ids=ids, use_cache=False).logits
    nats = -logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return torch.cat([seen[i] for i in range(len(sites))], 1).float().numpy(), np.append(np.nan, nats.numpy())


def quiet(model, tokenizer, corpus, out=None, **options):
    return record(model, tokenizer, corpus, out, progress=False, **options)


# -- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("pad", ["<pad>", None, "</s>"])
def test_a_batch_of_unequal_texts_equals_one_by_one(name, pad, tmp_path):
    model, tokenizer = tiny_model(name), tiny_tokenizer(pad_token=pad)
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "study")
    rows, nats = [], []
    for document in encode(TEXTS, tokenizer):
        values, surprise = alone(model, document.ids)
        rows.append(values[~document.is_special])
        nats.append(surprise[~document.is_special])
    np.testing.assert_allclose(runs[0].to_array(), np.concatenate(rows), atol=1e-5)
    np.testing.assert_allclose(runs.events["surprisal"], np.concatenate(nats), atol=1e-4)


def test_pad_token_id_zero(llama, tmp_path):
    """0 is a token id like any other; an `if pad_token_id` would take it for none."""
    tokenizer = tiny_tokenizer(pad_token="!")
    assert tokenizer.pad_token_id == 0
    runs = quiet(llama, tokenizer, ["It is so", "a long and restless note on the heron"], tmp_path / "study")
    values, _ = alone(llama, encode(["It is so"], tokenizer)[0].ids)
    np.testing.assert_allclose(runs[0].to_array()[: len(values) - 1], values[1:], atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_and_several_sites_in_one_pass(name, tokenizer, tmp_path):
    model = tiny_model(name)
    calls = []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(1))
    recordings = quiet(model, tokenizer, TEXTS, tmp_path / "study", site=["mlp", "attention", "mlp_output", "layer"])
    handle.remove()
    assert len(calls) == 1 and list(recordings) == ["mlp", "attention", "mlp_output", "layer"]
    document = encode(TEXTS, tokenizer)[2]
    at = recordings["mlp"].events["document"] == document.id
    for site, runs in recordings.items():
        assert runs.site == site
        values, _ = alone(model, document.ids, site)
        np.testing.assert_allclose(runs[0].to_array()[at], values[~document.is_special], atol=1e-5, rtol=1e-4)


def test_recording_changes_no_output(llama, tokenizer, tmp_path):
    ids = torch.arange(40)[None]
    before = llama(ids).logits
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.modules())
    llama.train()
    quiet(llama, tokenizer, TEXTS, tmp_path / "study")
    assert llama.training
    llama.eval()
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.modules())
    torch.testing.assert_close(llama(ids).logits, before, rtol=0, atol=0)


def test_dropout_is_off_while_recording(tokenizer, tmp_path):
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    model.train()
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "study")
    values, _ = alone(model.eval(), encode(TEXTS, tokenizer)[0].ids)
    np.testing.assert_allclose(runs[0].to_array()[: len(values) - 1], values[1:], atol=1e-5)


def test_surprisal_in_chunks_is_cross_entropy():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 100, 50), torch.randint(50, (2, 100))
    places = [np.array([0, 1, 40, 99]), np.arange(3, 90)]
    got = surprisal(logits, ids, places).numpy()
    whole = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 50), ids[:, 1:].reshape(-1), reduction="none")
    whole = np.concatenate([np.full((2, 1), np.nan), whole.reshape(2, 99).numpy()], 1)
    np.testing.assert_allclose(got, np.concatenate([whole[0, places[0]], whole[1, places[1]]]), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_to_the_bit(dtype, tokenizer, tmp_path):
    model = tiny_model("llama").to(dtype)
    runs = quiet(model, tokenizer, TEXTS[:1], tmp_path / "study")
    document = encode(TEXTS[:1], tokenizer)[0]
    values, _ = alone(model, document.ids)
    np.testing.assert_array_equal(runs[0].to_array(), values[1:])
    assert runs[0].sidecar["ModelDataType"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_and_not_written(value, tokenizer, tmp_path):
    model = tiny_model("llama")

    def break_one(module, args, output):
        output = output.clone()
        output[1, 20, 5] = value  # the second row of the batch is the second longest text
        return output

    model.model.layers[2].mlp.act_fn.register_forward_hook(break_one)
    document = encode(TEXTS, tokenizer)[3]
    with pytest.raises(
        RecordingError, match=rf"Layer 2 \(model.layers.2.mlp.down_proj\), unit 5, is .*{value}"
    ) as error:
        quiet(model, tokenizer, TEXTS, tmp_path / "study")
    assert f"token 20 ({document.tokens[20]!r}) of document 'text-0004'" in str(error.value)
    assert not list((tmp_path / "study").rglob("*bold*"))


def test_overflow_in_float16_says_what_to_do(tokenizer, tmp_path):
    model = tiny_model("llama", scale=4.0).to(torch.float16)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight *= 3e3
        model.model.layers[2].mlp.gate_proj.weight *= 3e3
    with pytest.raises(RecordingError, match=r"Layer 2 .*float16. Load the model with dtype='bfloat16'"):
        quiet(model, tokenizer, TEXTS, tmp_path / "study")


# -- tokens -----------------------------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60), st.integers(0, 1)), min_size=1, max_size=8),
    st.integers(4, 40),
    st.integers(1, 90),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(2, 200)),
)
def test_a_plan_records_each_token_of_each_document_once(shapes, context, tokens_per_run, every, max_tokens):
    documents, k = [], 0
    for head, body, tail in shapes:
        n = head + body + tail
        special = np.array([True] * head + [False] * body + [True] * tail)
        documents.append(TokenizedDocument(np.arange(k, k + n), [""] * n, special, f"d{k}"))
        k += n
    plan = plan_recording(
        documents,
        context=context,
        warmup=context // 4,
        tokens_per_run=tokens_per_run,
        max_tokens=max_tokens,
        every=every,
    )
    expected = [
        (d, t)
        for d, document in enumerate(documents)
        for t in np.flatnonzero(~document.is_special)
        if (t - shapes[d][0]) % every == 0
    ][:max_tokens]
    got = [(w.document, t) for run in plan.runs for w in run.windows for t in w.kept_positions]
    assert got == expected
    for run in plan.runs:
        assert 0 < run.n_tokens <= tokens_per_run
        assert run.rows == list(np.cumsum([0] + [len(w.places) for w in run.windows[:-1]]))
        for window in run.windows:
            np.testing.assert_array_equal(
                window.ids[window.kept], documents[window.document].ids[window.kept_positions]
            )
            assert len(window) <= context


def test_runs_end_with_documents_where_they_can():
    documents = [TokenizedDocument(np.arange(n), [""] * n, np.zeros(n, bool), str(n)) for n in (30, 40, 25, 100, 5)]
    plan = plan_recording(documents, context=64, warmup=16, tokens_per_run=70)
    assert [[w.document for w in run.windows] for run in plan.runs] == [[0, 1], [2], [3], [3, 4]]
    assert [run.n_tokens for run in plan.runs] == [70, 25, 64, 41]


def test_a_window_gives_what_the_model_sees_in_it(llama, tokenizer, tmp_path):
    """A long document in windows: every token equals a plain pass over exactly its window, BOS at its head."""
    text = " ".join(TEXTS) * 3
    runs = quiet(llama, tokenizer, [text], tmp_path / "study", context=64, warmup=24, tokens_per_run=100)
    document = encode([text], tokenizer)[0]
    events, values = runs.events, np.concatenate([run.to_array() for run in runs])
    assert events["position"].tolist() == list(range(1, len(document)))
    assert (events.loc[events["window"] > 0, "window_position"] >= 24 + 1).all()
    for number, rows in events.groupby("window"):
        last, seen = int(rows["position"].iloc[-1]), int(rows["window_position"].iloc[-1])
        ids = document.ids[: last + 1] if number == 0 else np.append(256, document.ids[last - seen + 1 : last + 1])
        expected, nats = alone(llama, ids)
        np.testing.assert_allclose(values[rows.index], expected[rows["window_position"]], atol=1e-5)
        np.testing.assert_allclose(rows["surprisal"], nats[rows["window_position"]], atol=1e-4)
    assert len(runs) > 1 and runs.n_tokens == len(document) - 1


def test_a_longer_warmup_brings_tokens_closer_to_the_whole_document(llama, tokenizer, tmp_path):
    text = " ".join(TEXTS)[:110]
    whole, _ = alone(llama, encode([text], tokenizer)[0].ids)
    errors = []
    for warmup in (0, 16, 40):
        run = quiet(llama, tokenizer, [text], tmp_path / str(warmup), context=48, warmup=warmup)[0]
        errors.append(np.abs(run.to_array() - whole[1:]).mean())
    assert errors[0] > errors[1] > errors[2]


def test_events_say_what_each_token_is(llama, tokenizer, tmp_path):
    corpus = Corpus([Document(TEXTS[0], "hero", "story"), Document(TEXTS[3], "add", "code")], name="my corpus")
    runs = quiet(llama, tokenizer, corpus, tmp_path / "study")
    events = runs.events
    assert len(events) == runs.n_tokens
    assert events["onset"].tolist() == list(range(len(events))) and set(events["duration"]) == {1}
    assert "".join(events.loc[events["document"] == "hero", "token"]) == TEXTS[0]
    assert set(events["kind"]) == {"story", "code"} and 256 not in set(events["token_id"])
    counts = events["token_id"].value_counts()
    np.testing.assert_allclose(events["log_frequency"], np.log(counts[events["token_id"]] / len(events)), atol=1e-5)
    assert not events["sink"].any() and events["surprisal"].notna().all()
    assert set(json.loads(runs.study.path("events_json").read_text())) >= set(events.columns) - {"run"}


def test_without_bos_the_first_token_is_marked_as_a_sink(llama, tmp_path):
    tokenizer = tiny_tokenizer(add_bos=False)
    tokenizer.bos_token = None
    runs = quiet(llama, tokenizer, TEXTS[:2], tmp_path / "study")
    first = runs.events["position"] == 0
    assert first.sum() == 2 and (runs.events["sink"] == first).all()
    assert (runs.events["surprisal"].isna() == first).all()
    confounds = runs.confounds()[0]
    assert np.isfinite(confounds.to_numpy()).all() and list(confounds) == [
        "position", "sink", "log_frequency", "surprisal"
    ]  # fmt: skip


def test_special_tokens_on_request(llama, tokenizer, tmp_path):
    """BOS at the head of every document, once, whatever the windows; all other tokens as without it."""
    plain = quiet(llama, tokenizer, TEXTS, tmp_path / "plain", context=32)
    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "study", context=32, special_tokens=True)
    events = runs.events
    special = events["token_id"] == 256
    assert special.sum() == len(TEXTS) and (special == (events["position"] == 0)).all()
    assert (events["sink"] == special).all() and (events["log_frequency"].isna() == special).all()
    np.testing.assert_array_equal(runs[0].to_array()[~special], plain[0].to_array())
    values, _ = alone(llama, encode(TEXTS, tokenizer)[1].ids)
    first = events.index[events["document"] == "text-0002"][0]
    np.testing.assert_allclose(runs[0].to_array()[first], values[0], atol=1e-5)
    assert np.isfinite(runs.confounds()[0].to_numpy()).all() and runs[0].sidecar["SpecialTokens"] is True
    with pytest.raises(DatasetError, match="special_tokens=True there, False now"):
        quiet(llama, tokenizer, TEXTS, tmp_path / "study", context=32)


def test_confounds_go_into_nilearn(llama, tokenizer, tmp_path):
    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "study", tokens_per_run=128)
    confounds = runs.confounds(["log_position", "surprisal"])
    assert [len(c) for c in confounds] == [run.n_tokens for run in runs]
    cleaned = runs.geometry.masker(standardize="zscore_sample").fit_transform(runs.paths[0], confounds=confounds[0])
    correlation = np.corrcoef(cleaned.T, confounds[0].T)[:-2, -2:]
    assert np.abs(correlation).max() < 1e-3
    with pytest.raises(ParameterError, match="nothing"):
        runs.confounds(["nothing"])


def test_fewer_tokens_and_layers(llama, tokenizer, tmp_path):
    full = quiet(llama, tokenizer, TEXTS, tmp_path / "full")[0].to_array()
    few = quiet(llama, tokenizer, TEXTS, tmp_path / "few", max_tokens=33)
    assert few.n_tokens == 33
    np.testing.assert_allclose(few[0].to_array(), full[:33], atol=1e-5)
    third = quiet(llama, tokenizer, TEXTS, tmp_path / "third", every=3, layers=[1, 3])
    assert third.geometry.layers == (1, 3) and set(third.events["position"] % 3) == {1}
    rows = (open_recording(tmp_path / "full").events["position"] - 1) % 3 == 0
    expected = np.concatenate([full[:, 48:96], full[:, 144:]], 1)[rows]
    np.testing.assert_allclose(third[0].to_array(), expected, atol=1e-5)


def test_head_labels_of_the_attention_site(tokenizer, tmp_path):
    runs = quiet(tiny_model("gpt2"), tokenizer, TEXTS[:1], tmp_path / "study", site="attention")
    assert runs.geometry.n_heads == (HEADS,) * N_LAYERS
    labels = runs.geometry.to_array(runs.study.path("heads_dseg", site="attention"))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(1, 17), HIDDEN // HEADS))


# -- what is recorded besides plain texts -----------------------------------------------------------------------------
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


def test_no_chat_template():
    with pytest.raises(ParameterError, match="no chat template"):
        conversations(["Hi"], tiny_tokenizer(chat=False))


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


@pytest.mark.demo
def test_the_demo_model(demo_model, tmp_path):
    model, tokenizer = demo_model
    texts = ["The octopus has three hearts and blue blood.", "for i in range(3):\n    print(i)"]
    runs = quiet(model, tokenizer, texts, tmp_path / "study", site=["mlp", "attention"])
    document = encode(texts, tokenizer)[1]
    for site, n_neurons in (("mlp", 46080), ("attention", 30 * 576)):
        assert runs[site].geometry.n_neurons == n_neurons
        values, nats = alone(model, document.ids, site)
        at = runs[site].events["document"] == "text-0002"
        scale = np.abs(values).max()
        np.testing.assert_allclose(runs[site][0].to_array()[at], values[~document.is_special], atol=1e-5 * scale)
        np.testing.assert_allclose(runs[site].events["surprisal"][at], nats[~document.is_special], atol=1e-3)
    assert runs["attention"].geometry.n_heads == (9,) * 30


# -- storage ----------------------------------------------------------------------------------------------------------
def test_int16_keeps_each_neuron_to_a_fraction_of_its_range(llama, tokenizer, tmp_path):
    full = quiet(llama, tokenizer, TEXTS, tmp_path / "full")[0].to_array()
    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "half", storage="int16")
    assert runs[0].img().get_data_dtype() == np.int16
    step = runs[0].scale
    assert (step >= np.abs(full).max(0) / 4096 - 1e-9).all()
    assert (np.abs(runs[0].to_array() - full) <= 0.51 * step + 1e-7).all()
    float_file, int_file = (Path(r[0].path).stat().st_size - 352 for r in (open_recording(tmp_path / "full"), runs))
    assert float_file == 2 * int_file


def test_int16_says_what_it_cut(llama, tokenizer, tmp_path):
    options = {"storage": "int16", "tokens_per_run": 60}
    first = quiet(llama, tokenizer, TEXTS, tmp_path / "study", run_index=1, **options)
    assert first[0].sidecar["ClippedValues"] == 0
    path = first.study.path("scale")
    save_img(path, first.geometry.to_img(first[0].scale / 1000))  # as if the first texts had been far quieter
    with pytest.warns(NumericalWarning, match="too large for int16"):
        second = quiet(llama, tokenizer, TEXTS, tmp_path / "study", run_index=2, **options)
    assert second[0].sidecar["ClippedValues"] == (np.abs(second[0].raw()) == 32767).sum() > 0


def test_int16_without_its_factors_is_refused(llama, tokenizer, tmp_path):
    runs = quiet(llama, tokenizer, TEXTS, tmp_path / "study", storage="int16")
    path = runs.study.path("scale")
    whole = path.read_bytes()
    for damage, message in (
        (lambda: path.unlink(), "scale.nii.gz is missing: it holds the factor"),
        (lambda: path.write_bytes(whole[: len(whole) // 2]), "is not a NIfTI file"),
        (lambda: path.write_bytes(b"nothing"), "is not a NIfTI file"),
        (lambda: save_img(path, NeuronGeometry.from_sizes([48] * 2).to_img(np.ones(96))), "the shape"),
    ):
        damage()
        with pytest.raises(DatasetError, match=message):
            open_recording(tmp_path / "study")
    path.write_bytes(whole)
    assert open_recording(tmp_path / "study").n_tokens == runs.n_tokens


def test_padding_voxels_stay_zero(tokenizer, tmp_path):
    runs = quiet(tiny_model("llama", intermediate_size=47), tokenizer, TEXTS[:1], tmp_path / "study")
    volume = np.asarray(runs[0].img().dataobj)
    assert volume.shape[:3] == runs.geometry.shape and runs.geometry.n_voxels > runs.geometry.n_neurons
    assert not volume[~runs.geometry.is_neuron].any() and volume[runs.geometry.is_neuron].any()


def test_the_forecast_is_right(llama, tokenizer, tmp_path):
    said = forecast(llama, tokenizer, TEXTS, site=["mlp", "layer"])
    assert said.peak_memory == 4 * (192 + 128 + 300) * sum(len(d) for d in encode(TEXTS, tokenizer))
    recordings = quiet(llama, tokenizer, TEXTS, tmp_path / "study", site=["mlp", "layer"])
    size = sum(run.path.stat().st_size for runs in recordings.values() for run in runs)
    assert said.bytes == size and said.n_tokens == recordings["mlp"].n_tokens
    assert "192 neurons (mlp), 128 neurons (layer)" in str(said) and said.to_dict()["n_runs"] == 1


def test_the_command_line_of_progress(llama, tokenizer, tmp_path, capsys):
    record(llama, tokenizer, TEXTS, tmp_path / "study")
    captured = capsys.readouterr()
    assert "on disk, about" in captured.out and "1 runs, " in captured.out and "func/*desc-mlp*" in captured.out
    assert "token" in captured.err


def test_a_temporary_folder_if_none_is_given(llama, tokenizer):
    runs = quiet(llama, tokenizer, TEXTS)
    assert Path(runs.paths[0]).is_file() and "llmbrain-" in str(runs.root)


# -- accidents --------------------------------------------------------------------------------------------------------
def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.mark.filterwarnings("ignore:.*too large for int16")
def test_an_interrupt_leaves_what_is_finished_and_resuming_ends_with_the_same_bytes(tokenizer, tmp_path):
    model = tiny_model("llama")
    options = {"tokens_per_run": 90, "site": ["mlp", "attention"], "storage": "int16"}
    quiet(model, tokenizer, TEXTS * 3, tmp_path / "whole", **options)
    calls = []

    def interrupt(module, args):
        calls.append(1)
        if len(calls) == 11:  # the first calls only look at how large the activations are
            raise KeyboardInterrupt

    handle = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        quiet(model, tokenizer, TEXTS * 3, tmp_path / "study", **options)
    handle.remove()
    done = open_recording(tmp_path / "study", "mlp")
    assert 0 < len(done) < len(open_recording(tmp_path / "whole", "mlp"))
    assert not [name for name in files_of(tmp_path / "study") if ".part." in name]
    before = {run.path: run.path.stat().st_mtime_ns for run in done}
    quiet(model, tokenizer, TEXTS * 3, tmp_path / "study", **options)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    a, b = files_of(tmp_path / "study"), files_of(tmp_path / "whole")
    assert {k for k in a if not k.endswith(".lock")} == set(b)
    assert all(a[k] == b[k] for k in b)


SCRIPT = """
    import sys, time
    sys.path.insert(0, {tests!r})
    from tiny import tiny_model, tiny_tokenizer
    from llmbrain.recording import record
    model = tiny_model("llama")
    model.register_forward_pre_hook(lambda module, args: time.sleep({pause}))
    record(model, tiny_tokenizer(), {texts!r}, {out!r}, tokens_per_run=90, progress=False, **{options!r})
"""


def start(out, pause=0.0, **options):
    tests = os.path.dirname(os.path.abspath(inspect.getfile(tiny_model)))
    code = SCRIPT.format(tests=tests, texts=TEXTS * 3, out=str(out), pause=pause, options=options)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment)


def wait_for(path, pattern, n=1, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if len(list(Path(path).rglob(pattern))) >= n:
            return
        time.sleep(0.02)
    raise AssertionError(f"{pattern} did not appear in {path}")


def test_kill_9_in_the_middle_of_a_run(llama, tokenizer, tmp_path):
    quiet(llama, tokenizer, TEXTS * 3, tmp_path / "whole", tokens_per_run=90)
    process = start(tmp_path / "study", pause=0.3)
    try:
        wait_for(tmp_path / "study", "sub-*run-02*bold.json")
        wait_for(tmp_path / "study", ".*run-03*.part.nii")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(open_recording(tmp_path / "study")) >= 2
    quiet(llama, tokenizer, TEXTS * 3, tmp_path / "study", tokens_per_run=90)
    a, b = files_of(tmp_path / "study"), files_of(tmp_path / "whole")
    assert set(a) == set(b)
    assert all(a[name] == b[name] for name in b)


def test_processes_share_the_runs(llama, tokenizer, tmp_path):
    """Two processes at once, one that has every other run to do and one that wants all: as if one had done it."""
    n_runs = len(quiet(llama, tokenizer, TEXTS * 3, tmp_path / "whole", tokens_per_run=90))
    even = list(range(2, n_runs + 1, 2))
    pair = [start(tmp_path / "both", 0.1, run_index=even), start(tmp_path / "both", 0.1)]
    for numbers in (range(2, n_runs + 1, 2), range(1, n_runs + 1, 2), n_runs):  # meanwhile, one after the other
        runs = quiet(llama, tokenizer, TEXTS * 3, tmp_path / "array", tokens_per_run=90, run_index=numbers)
        assert [run.index for run in runs] == ([n_runs] if numbers == n_runs else list(numbers))
    assert [process.wait(timeout=120) for process in pair] == [0, 0]
    expected = files_of(tmp_path / "whole")
    for name in ("array", "both"):
        assert files_of(tmp_path / name) == expected


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Peak memory after a recording of 20 MB and after one of 200 MB, in a process of its own."""
    tests = os.path.dirname(os.path.abspath(inspect.getfile(tiny_model)))
    code = f"""
        import resource, sys
        sys.path.insert(0, {tests!r})
        from tiny import tiny_model, tiny_tokenizer
        from llmbrain.recording import record
        model = tiny_model("llama", intermediate_size=1536, num_hidden_layers=8, max_position_embeddings=512)
        text = "On the third morning the old heron stood in the river. " * 9
        for n in (1, 1, 10):  # the first one also loads what is imported late
            out = f"{{sys.argv[1]}}/{{n}}"
            runs = record(model, tiny_tokenizer(), [text] * 4 * n, out, batch_size=4, progress=False)
            size = sum(run.path.stat().st_size for run in runs)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, size / 2**20)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    _, (peak_small, size_small), (peak_large, size_large) = np.array(out.stdout.split(), float).reshape(3, 2)
    assert size_large == pytest.approx(10 * size_small, rel=0.01) and size_small > 40
    assert peak_large - peak_small < 0.1 * (size_large - size_small)


# -- places -----------------------------------------------------------------------------------------------------------
def test_cpu_offload_records_the_same(tokenizer, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("llama")
    expected = quiet(model, tokenizer, TEXTS, tmp_path / "plain")[0].to_array()
    accelerate.cpu_offload(model, execution_device="cpu")
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "plain")  # the same model: nothing to do
    assert describe_model(model)["weights_hash"] == runs.study.info["model"]["weights_hash"]
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "offloaded")
    np.testing.assert_array_equal(runs[0].to_array(), expected)


def test_a_device_map_with_disk_records_the_same(tokenizer, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("llama")
    expected = quiet(model, tokenizer, TEXTS, tmp_path / "plain")[0].to_array()
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    places |= {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(N_LAYERS)}
    model = accelerate.dispatch_model(model, places, offload_dir=str(tmp_path / "weights"), main_device="cpu")
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "dispatched")
    np.testing.assert_array_equal(runs[0].to_array(), expected)


# -- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": []}, "name one site"),
        ({"site": ["mlp", "mlp"]}, "several different"),
        ({"layers": [7]}, "layers 0 to 3"),
        ({"layers": []}, "layers 0 to 3"),
        ({"context": 4096}, "at most 128 tokens"),
        ({"context": 1}, "context=1"),
        ({"warmup": 128}, "warmup=128"),
        ({"warmup": -1}, "warmup=-1"),
        ({"tokens_per_run": 40000}, "at most 32767 volumes"),
        ({"tokens_per_run": 0}, "tokens_per_run=0"),
        ({"max_tokens": 1}, "max_tokens=1"),
        ({"every": 0}, "every=0"),
        ({"every": True}, "every=True"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"storage": "float16"}, "'int16'"),
        ({"run_index": 5}, "runs 1 to 1"),
        ({"run_index": []}, "runs 1 to 1"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_written(options, message, llama, tokenizer, tmp_path):
    with pytest.raises(ParameterError, match=message):
        quiet(llama, tokenizer, TEXTS, tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "demo"}, "model is str; .*load_model"),
        ({"model": "base"}, r"LlamaModel does not predict the next token \(embed_tokens"),
        ({"model": "bert"}, "BertForMaskedLM does not predict"),
        ({"model": "few"}, "has a token 2[0-9]+, but the model has 260 tokens"),
        ({"tokenizer": None}, "tokenizer is NoneType"),
        ({"tokenizer": "model"}, "tokenizer is LlamaForCausalLM"),
        ({"site": None}, "Unknown site None"),
        ({"sites": 5}, "sites=5: give a regular"),
        ({"sites": [1, 2]}, "give a regular"),
        ({"run_index": "1"}, "runs 1 to 1"),
        ({"run_index": 1.0}, "runs 1 to 1"),
        ({"storage": "nothing"}, "'int16'"),
        ({"storage": np.float64}, "'int16'"),
    ],
)
def test_wrong_things_are_named(change, message, llama, tokenizer, tmp_path):
    import transformers

    use = {"model": llama, "tokenizer": tokenizer, **change}
    if use["model"] in ("base", "bert", "few"):
        sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
        use["model"] = {
            "base": lambda: llama.model,
            "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**sizes, num_hidden_layers=2)),
            "few": lambda: tiny_model("llama", vocab_size=260),
        }[use["model"]]()
    if use["tokenizer"] == "model":
        use["tokenizer"] = llama
    model, tokenizer = use.pop("model"), use.pop("tokenizer")
    with pytest.raises((ParameterError, UnsupportedArchitectureError), match=message):
        quiet(model, tokenizer, TEXTS, tmp_path / "study", **use)
    assert not (tmp_path / "study").exists()


def test_a_compiled_model_is_recorded_all_the_same(llama, tokenizer, tmp_path):
    runs = quiet(torch.compile(llama, backend="eager"), tokenizer, TEXTS, tmp_path / "study")
    values, _ = alone(llama, encode(TEXTS, tokenizer)[0].ids)
    np.testing.assert_allclose(runs[0].to_array()[: len(values) - 1], values[1:], atol=1e-5)


def test_a_full_disk_is_noticed_before_it_starts(llama, tokenizer, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(RecordingError, match=r"needs .* KiB, .* 1000 B left.*int16"):
        quiet(llama, tokenizer, TEXTS, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_short_documents_are_refused(llama, tokenizer, tmp_path):
    with pytest.raises(CorpusError, match="at least 2"):
        quiet(llama, tokenizer, ["A good text.", "x"], tmp_path / "study")
    special = TokenizedDocument(np.array([256, 257]), ["", ""], np.ones(2, bool), "special")
    with pytest.raises(CorpusError, match="No token"):
        quiet(llama, tokenizer, Material([special], {"name": "x", "hash": "y"}), tmp_path / "study")


def other_tokens():
    """A tokenizer that cuts the same text into other tokens."""
    from tokenizers import models

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.model = models.BPE(vocab=tokenizer.get_vocab(), merges=[])
    return tokenizer


def test_another_study_in_the_folder_is_refused_untouched(llama, tokenizer, tmp_path):
    quiet(llama, tokenizer, TEXTS, tmp_path / "study")
    before = files_of(tmp_path / "study")
    other = tiny_model("llama", seed=1)
    for model, corpus, options, message in [
        (other, TEXTS, {}, "another model"),
        (llama, TEXTS[:2], {}, "another corpus"),
        (llama, TEXTS, {"tokens_per_run": 50}, "tokens_per_run=4096 there, 50 now"),
        (llama, TEXTS, {"layers": [1, 2]}, r"of the layers \[0, 1, 2, 3\] .* of the layers \[1, 2\]"),
        (llama, TEXTS, {"sites": r".*\.o_proj"}, "Use the same layers and modules"),
        (llama, TEXTS, {"storage": "int16"}, "storage='float32' there, 'int16' now"),
        (llama, TEXTS, {"tokenizer": tiny_tokenizer(add_bos=False, pad_token=None)}, None),  # the same tokens
        (llama, TEXTS, {"tokenizer": other_tokens()}, "tokens_hash"),
    ]:
        use = options.pop("tokenizer", tokenizer)
        with pytest.raises(DatasetError, match=message) if message else contextlib.nullcontext():
            quiet(model, use, corpus, tmp_path / "study", **options)
        assert files_of(tmp_path / "study") == before


def test_a_site_that_is_not_reached_is_named(tokenizer, tmp_path):
    model = tiny_model("llama")
    model.spare = torch.nn.ModuleList([torch.nn.Linear(4, 4)])
    with pytest.raises(RecordingError, match="spare.0 was not reached"):
        quiet(model, tokenizer, TEXTS, tmp_path / "study", sites={0: "spare.0"})
