"""The attacks of the fingerprint benchmark keep a model's outputs, and the fingerprint sees through them."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import DatasetError, NumericalError, ParameterError
from llmbrain.files import with_hashes
from llmbrain.subjects.descent import compare_fingerprints
from llmbrain.subjects.fingerprints import Fingerprint, fingerprint, make_fingerprint, parts_of

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "fingerprint"
AMOUNTS = {"n_texts": 6, "n_neurons": 24}


@pytest.fixture(scope="module")
def derive():
    sys.path.insert(0, str(BENCHMARK))
    try:
        yield importlib.import_module("derive")
    finally:
        sys.path.remove(str(BENCHMARK))


@pytest.fixture(scope="module")
def base():
    """A random model with strong weights, so that its neurons are not linear."""
    model = tiny_model("llama", seed=0, scale=6.0)
    return model, tiny_tokenizer()


def logits(model):
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("attack", ["permuted", "rotated", "scaled"])
def test_attacks_keep_the_outputs_and_change_the_weights(derive, base, attack):
    model = base[0]
    changed = getattr(derive, attack)(model)
    assert torch.allclose(logits(changed), logits(model), atol=1e-3)
    own = dict(model.named_parameters())
    moved = [n for n, p in changed.named_parameters() if n in own and not torch.allclose(p, own[n], atol=1e-3)]
    assert len(moved) > 8


def test_lora_and_quantisation_do_what_they_say(derive, base, tmp_path):
    model, tokenizer = base
    path = tmp_path / "text.txt"
    path.write_text("the heron stood in the river and the boat went home again " * 40)
    tuned = derive.lora(model, tokenizer, path, rank=2, steps=2, batch=2)
    change = tuned.model.layers[0].mlp.up_proj.weight - model.model.layers[0].mlp.up_proj.weight
    assert 1 <= torch.linalg.matrix_rank(change.detach(), atol=1e-6) <= 2
    weight = derive.quantised(model, 4).model.layers[0].mlp.up_proj.weight[0]
    assert len(weight.detach().unique()) <= 16
    assert (derive.quantised(model, 8).model.layers[0].mlp.up_proj.weight[0]).detach().unique().numel() <= 256


@pytest.fixture(scope="module")
def prints(derive, base):
    model, tokenizer = base
    models = {
        "base": model, "permuted": derive.permuted(model), "rotated": derive.rotated(model),
        "scaled": derive.scaled(model), "stranger": tiny_model("llama", seed=1, scale=6.0),
    }  # fmt: skip
    return {name: fingerprint(one, tokenizer, **AMOUNTS) for name, one in models.items()}


@pytest.mark.parametrize("attack", ["permuted", "rotated", "scaled"])
def test_attacked_models_are_recognised(prints, attack):
    """Neurons change their places, signs and scales; their courses do not."""
    found = compare_fingerprints(prints["base"], prints[attack], n_draws=19)
    assert found.score > 0.99 and found.same_origin and found.p == 0.05
    assert found.cka > 0.999
    stranger = compare_fingerprints(prints["base"], prints["stranger"], n_draws=19)
    assert stranger.score < 0.6 and not stranger.same_origin and stranger.cka < found.cka


@pytest.mark.parametrize(("change", "least"), [("noisy", 0.9), ("quantised", 0.95)])
def test_changed_weights_are_recognised(derive, base, prints, change, least):
    changed = getattr(derive, change)(base[0], {"noisy": 0.1, "quantised": 4}[change])
    assert compare_fingerprints(prints["base"], fingerprint(changed, base[1], **AMOUNTS), n_draws=1).score > least


def test_the_neurons_with_the_lightest_tails_of_four_layers_are_kept():
    """Planted in heavy tails: two-valued neurons are chosen, whatever their sign and scale; constant ones are not."""
    from llmbrain.geometry import NeuronGeometry
    from llmbrain.subjects.activity import TextActivity
    from llmbrain.subjects.alignment import find_units

    texts = [" ".join(f"w{(7 * i + k) % 90}" for i in range(80)) for k in range(4)]
    rng, activity = np.random.default_rng(0), []
    for text in texts:
        values = rng.standard_normal((80, 6 * 10)) ** 3
        values[:, [3, 17]] = np.sign(rng.standard_normal((80, 2))) * [50.0, -1e-4]  # of layers 0 and 1
        values[:, [5, 25]] = 1.0
        activity.append(TextActivity(find_units(text).spans, {"mlp": values.astype(np.float32)}))
    made = make_fingerprint(activity, NeuronGeometry.from_sizes([10] * 6), texts, {"id": "planted"}, n_neurons=2)
    assert made.layers.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    words = made.words["choose"]
    assert len(words) + len(made.words["score"]) == 4 * 79  # without the first word of each text
    for column, neuron in ((0, 3), (2, 17)):
        planted = [activity[text].values["mlp"][word, neuron] for text, word in words]
        assert abs(np.corrcoef(planted, made.courses["choose"][:, column])[0, 1]) > 0.95
    assert np.ptp(np.concatenate(list(made.courses.values())).astype(int), axis=0).min() > 100


def test_a_model_is_itself_and_files_keep_everything(prints, tmp_path):
    path = prints["base"].save(tmp_path / "base.safetensors")
    again = Fingerprint.load(path)
    assert path.stat().st_size < 1_000_000 and again.info == prints["base"].info
    for part, course in prints["base"].courses.items():
        assert np.array_equal(again.courses[part], course) and again.courses[part].dtype == np.int8
    assert np.array_equal(again.layers, prints["base"].layers)
    assert np.allclose(again.activity, prints["base"].activity, rtol=1e-3, atol=1e-3)
    assert all(np.array_equal(again.words[part], rows) for part, rows in prints["base"].words.items())
    found = compare_fingerprints(path, prints["base"], n_draws=19)
    assert found.score > 0.999 and found.p == 0.05
    assert found.cka == pytest.approx(1, abs=1e-3)
    assert set(found.by_layer[0]) == {0, 1, 2} and "neurons of" in str(found)


def test_the_components_give_the_linear_cka_of_all_neurons(base, prints):
    """Two ways: from all neurons, and from what a fingerprint holds."""
    from llmbrain.subjects.activity import read_activity
    from llmbrain.subjects.alignment import align, find_units
    from llmbrain.subjects.fingerprints import standard_texts
    from llmbrain.subjects.similarity import linear_cka

    words, texts = prints["base"].words["score"], standard_texts("demo", AMOUNTS["n_texts"])
    both = []
    for model in (base[0], tiny_model("llama", seed=1, scale=6.0)):
        activity, _ = read_activity(model, base[1], texts, ("mlp",), surprisals=False)
        rows = [align(one.values["mlp"], one.spans, find_units(text)) for one, text in zip(activity, texts)]
        x = np.stack([rows[text][word] for text, word in words])
        both.append((x - x.mean(axis=0)) / x.std(axis=0))
    stored = linear_cka(prints["base"].activity, prints["stranger"].activity)
    assert stored == pytest.approx(linear_cka(*both), abs=0.02)


def test_other_tokenizers_can_be_compared(base, prints):
    other = tiny_tokenizer(add_bos=False)
    other.bos_token = None
    found = compare_fingerprints(prints["base"], fingerprint(base[0], other, **AMOUNTS), n_draws=19)
    assert found.score > 0.8  # the same weights without BOS


def test_parts_share_no_text_and_all_kinds():
    for n in (2, 5, 40):
        names = parts_of(n)
        assert len(names) == n and set(names) == {"choose", "score"}
    kinds = {part: {i % 6 for i, name in enumerate(parts_of(36)) if name == part} for part in ("choose", "score")}
    assert kinds["choose"] == kinds["score"] == set(range(6))


def test_unequal_fingerprints_are_refused(base, prints, tmp_path):
    model, tokenizer = base
    other = fingerprint(model, tokenizer, n_texts=7, n_neurons=24)
    with pytest.raises(ParameterError, match="n_texts|texts"):
        compare_fingerprints(prints["base"], other)
    with pytest.raises(DatasetError, match="There is no fingerprint"):
        Fingerprint.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="not a fingerprint"):
        Fingerprint.load(tmp_path / "bad.safetensors")
    old = Fingerprint({**prints["base"].info, "version": "0"}, *list(vars(prints["base"]).values())[1:])
    with pytest.raises(DatasetError, match="version 0"):
        Fingerprint.load(old.save(tmp_path / "old.safetensors"))


def rewritten(path, prints, change, hashed=with_hashes):
    """Write a fingerprint after a change of its description and its tensors; whoever forges it makes new hashes."""
    import json

    from safetensors import safe_open
    from safetensors.numpy import save_file

    prints["base"].save(path)
    with safe_open(path, "np") as file:
        info = json.loads(file.metadata()["llmbrain_fingerprint"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    change(info, tensors)
    tensors = {n: np.ascontiguousarray(x) for n, x in tensors.items()}
    save_file(tensors, path, {"llmbrain_fingerprint": json.dumps(hashed(info))})
    return path


def broken(name):
    def change(info, tensors):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[3] = np.nan

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda info, tensors: info.pop("model"), "no model"),
        (lambda info, tensors: info.update(options=[]), "no options"),
        (lambda info, tensors: info.update(texts={}), "texts"),
        (lambda info, tensors: info["model"].update(id="x\x1b[31m"), "no name"),
        (lambda info, tensors: tensors.pop("courses.choose"), "courses.choose is missing"),
        (lambda info, tensors: tensors.pop("layers"), "in which layers"),
        (lambda info, tensors: tensors.update(layers=tensors["layers"][:-1]), "courses.choose has the shape"),
        (lambda info, tensors: tensors.update({"activity": tensors["activity"][:-2]}), "activity has the shape"),
        (lambda info, tensors: tensors.update({"words.score": tensors["words.score"][:, :1]}), "words.score"),
        (lambda info, tensors: tensors["words.score"].__setitem__(0, tensors["words.score"][1]), "number the words"),
        (lambda info, tensors: tensors.update(more=tensors["activity"]), "more does not belong"),
        (lambda info, tensors: tensors["courses.score"].__setitem__(slice(9), 0), "content has changed"),
        (broken("activity"), "activity holds values that are not finite"),
    ],
)  # fmt: skip
def test_damaged_fingerprints_are_refused(prints, tmp_path, change, words):
    path = rewritten(tmp_path / "changed.safetensors", prints, change)
    with pytest.raises(DatasetError, match=words):
        Fingerprint.load(path)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("model", lambda info: info["model"].update(id="another/name")),
        ("model", lambda info: info["model"].update(weights_hash="0" * 16)),
        ("options", lambda info: info["options"].update(n_neurons=128)),
        ("texts", lambda info: info["texts"].update(choose="0" * 16)),
        ("KeyHashes", lambda info: info.pop("KeyHashes")),
    ],
)
def test_descriptions_that_were_edited_are_refused(prints, tmp_path, key, change):
    path = rewritten(tmp_path / "changed.safetensors", prints, lambda info, _: change(info), hashed=dict)
    with pytest.raises(DatasetError, match=f"'{key}' of its description has changed"):
        Fingerprint.load(path)


def test_only_fingerprints_are_replaced(prints, tmp_path):
    weights = tmp_path / "model.safetensors"
    tiny_model().save_pretrained(tmp_path)
    before = weights.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(weights)
    for path in (weights, link, tmp_path):
        with pytest.raises(ParameterError, match="is not replaced"):
            prints["base"].save(path)
    assert weights.read_bytes() == before
    own = prints["base"].save(tmp_path / "own.safetensors")
    assert prints["stranger"].save(own) == own and Fingerprint.load(own).info == prints["stranger"].info


def test_a_few_words_are_too_few(prints):
    whole = prints["base"]
    few = [{part: rows[:20] for part, rows in found.items()} for found in (whole.courses, whole.words)]
    with pytest.raises(ParameterError, match="share 20 words; at least 50"):
        compare_fingerprints(whole, Fingerprint(whole.info, few[0], whole.layers, whole.activity[:20], few[1]))


@pytest.mark.parametrize(("weight", "module"), [("model.norm.weight", "model.norm"), ("lm_head.weight", "lm_head")])
def test_models_whose_logits_are_not_finite_get_no_fingerprint(base, weight, module):
    """The activity of all sites is finite, and only what is predicted from it is not."""
    model = tiny_model("llama", scale=6.0)
    with torch.no_grad():
        model.get_parameter(weight).fill_(3e38)
    with pytest.raises(NumericalError, match=f"The logits are not finite.*{module}"):
        fingerprint(model, base[1], **AMOUNTS)


def test_bad_input_is_refused_before_the_model_reads(base):
    model, tokenizer = base
    with pytest.raises(ParameterError, match="n_texts=1"):
        fingerprint(model, tokenizer, n_texts=1)
    with pytest.raises(ParameterError, match="only 3 texts"):
        fingerprint(model, tokenizer, ["a b c"] * 1 + ["d e f", "g h i"], n_texts=5)
    with pytest.raises(ParameterError, match="the model's own tokenizer"):
        fingerprint(model, None, **AMOUNTS)
    with pytest.raises(ParameterError, match="at least 50 are needed"):
        fingerprint(model, tokenizer, ["The heron flew.", "A boat sank.", "Rain fell again."], n_texts=3)
