"""Where and when a lesion acts: sites, kinds and positions, in single lesions and in whole studies."""

import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.evaluation import window_losses
from llmbrain.exceptions import ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import KINDS, CallableTask, Edit, LesionStudy, LossTask, MultipleChoiceTask, lesion
from llmbrain.lesions.batched import Passes, condition_losses
from llmbrain.masks import NeuronMask
from llmbrain.models.sites import SITES, find_sites
from llmbrain.text import Window

IDS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
TEXTS = ["some text about cats and the dogs they met", "another text, of numbers 1 2 3 and of signs"]
QUESTIONS = [
    {"prompt": f"The cat number {i} sat", "options": ["on the mat", "under", "for it"], "answer": i % 3}
    for i in range(4)
]


@pytest.fixture(scope="module")
def tiny():
    return tiny_model("llama"), tiny_tokenizer()


def some_masks(model):
    """Two random sets of a fifth of the neurons."""
    geometry, rng = NeuronGeometry.from_model(model), np.random.default_rng(3)
    return [NeuronMask(rng.random(geometry.n_neurons) < 0.2, geometry, f"n{i}") for i in range(2)]


@pytest.fixture(scope="module")
def masks(tiny):
    return some_masks(tiny[0])


def odd(ids):
    """Tokens of odd number."""
    return ids % 2 == 1


# ------------------------------------------------------------------------------------------------ sites and kinds
def value_at(model, site, ids):
    """What stands at a site when the model has run, seen by a plain hook of this test."""
    seen = []

    def keep(module, args, output=None):
        value = args[0] if output is None else output
        seen.append((value[0] if isinstance(value, tuple) else value).detach().clone())

    kind = "register_forward_pre_hook" if site.where == "input" else "register_forward_hook"
    handle = getattr(site.module, kind)(keep)
    with torch.no_grad():
        model(ids)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("name", SITES)
def test_every_kind_does_at_every_site_and_position_what_it_says(tiny, name, how):
    model, _ = tiny
    geometry = NeuronGeometry.from_model(model, name)
    rng = np.random.default_rng(1)
    inside = rng.random(geometry.n_neurons) < 0.3
    mask = NeuronMask(inside & (geometry.layer_of == 2), geometry)
    site, units = find_sites(model, name)[2], mask.units[2]
    sample = rng.standard_normal((1, geometry.n_neurons)).astype(np.float32)  # one token, so that any draw is this one
    x = value_at(model, site, IDS)
    old, given = x[..., units], torch.from_numpy(sample[0][mask.values])
    if how == "retain":
        mask = ~mask
    target = {
        "zero": 0 * old, "retain": 0 * old, "mean": given.expand_as(old), "resample": given.expand_as(old),
        "scale": 1.5 * old, "add": old + 0.5, "clamp": torch.full_like(old, -0.25),
    }[how]  # fmt: skip
    options = {"scale": {"value": 1.5}, "add": {"value": 0.5}, "clamp": {"value": -0.25}}.get(how, {})
    options |= {"mean": {"reference": sample[0]}, "resample": {"reference": sample}}.get(how, {})
    there = {"all": torch.ones(IDS.shape, dtype=torch.bool), "prompt": torch.ones(IDS.shape, dtype=torch.bool)}
    there |= {"generated": ~there["all"], "last": torch.arange(9).expand(2, 9) == 8, odd: odd(IDS)}
    for rule, where in there.items():
        with lesion(model, mask, how, positions=rule, strength=0.5, **options):
            new = value_at(model, site, IDS)
        expected = x.clone()
        expected[..., units] = torch.where(where[..., None], 0.5 * (old + target), old)
        torch.testing.assert_close(new, expected)


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("how", KINDS)
def test_every_kind_keeps_the_contract_of_a_lesion(how, positions):
    """Hooks come and go, nothing stays behind, the type is kept, and strength 0 is bit-identical."""
    model = tiny_model("llama").to(torch.bfloat16)
    mask = some_masks(model)[0]
    sample = np.random.default_rng(1).standard_normal((3, mask.values.size)).astype(np.float32)
    options = {k: {"value": 0.5} for k in ("scale", "add", "clamp")}.get(how, {})
    options |= {"mean": {"reference": sample[0]}, "resample": {"reference": sample}}.get(how, {})
    state = {name: set(vars(module)) for name, module in model.named_modules()}

    def run():
        with torch.no_grad():
            return model(IDS).logits

    def n_hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    intact, once = run(), lesion(model, mask, how, positions=positions, **options)
    assert n_hooks() == 0  # nothing happens before the block is entered
    with once:
        first = run()
        with pytest.raises(ZeroDivisionError), once:
            1 / 0  # noqa: B018
        assert torch.equal(run(), first)
    for error in (RuntimeError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), once:
            raise error
        assert n_hooks() == 0
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, intact)
    assert torch.equal(run(), intact)
    with lesion(model, mask, how, positions=positions, strength=0.0, **options):
        assert torch.equal(run(), intact)
    with pytest.raises(IndexError), once:  # an error in the model itself
        model(torch.full((1, 3), 10**6))
    assert n_hooks() == 0
    assert {name: set(vars(module)) for name, module in model.named_modules()} == state


# ------------------------------------------------------------------------------------------------ scored sequences
def scored():
    rng = np.random.default_rng(2)
    return [Window(rng.integers(0, 256, n), np.arange(n) >= start) for n, start in ((9, 4), (6, 5), (12, 1))]


def place(rule, sequence):
    """The same positions by a rule on one sequence alone."""
    start, n = int(sequence.scored.argmax()), torch.arange(len(sequence))[None]
    rules = {"prompt": n < start, "generated": n >= start, "last": n >= start - 1}
    return (lambda ids: rules[rule]) if rule in rules else rule


@pytest.mark.parametrize("rule", ["prompt", "generated", "last", odd])
@pytest.mark.parametrize(("mode", "name"), [("prefix", "gpt2"), ("rows", "bloom"), ("single", "opt"), ("rows", "opt")])
def test_batched_conditions_act_where_single_lesions_act(mode, name, rule):
    model, parts = tiny_model(name), scored()
    masks = some_masks(model)
    for how, value in (("zero", None), ("scale", 3.0)):
        edits = [Edit(mask, how, value=value) for mask in masks]
        got = condition_losses(model, find_sites(model), parts, edits, Passes(60, mode, rule))
        for row, mask in zip(got[1:], masks):
            for found, part in zip(row, parts):
                with lesion(model, mask, how, value=value, positions=place(rule, part)):
                    assert found == pytest.approx(window_losses(model, [part])[0].sum(), abs=1e-4)


def test_a_study_restricts_its_lesions_to_positions(tiny, masks):
    tasks = [MultipleChoiceTask(QUESTIONS, measure="margin", by_kind=False)]
    effects = {}
    for rule in ("all", "prompt", "generated", "last", odd):
        study = LesionStudy(masks, tasks, n_controls=2, controls=("layer",), options={"positions": rule})
        result = study.run(*tiny, progress=False)
        effects[rule] = result.matrix("effect").to_numpy().ravel()
        assert result.info["lesion"]["positions"] == (rule if isinstance(rule, str) else "odd")
    for one, other in (("all", "prompt"), ("prompt", "generated"), ("generated", "last"), ("all", odd)):
        assert not np.allclose(effects[one], effects[other])


def test_functions_of_the_model_are_lesioned_at_the_same_positions(tiny, masks):
    seen = []

    def generated(model, tokenizer):
        seen.append(model.generate(IDS[:1, :4], max_new_tokens=6, do_sample=False)[0].tolist())
        return float(len(seen))

    study = LesionStudy(
        masks[:1], CallableTask(generated), n_controls=1, controls=("layer",), how="scale",
        options={"positions": "generated", "value": 30.0},
    )  # fmt: skip
    study.run(*tiny, progress=False)
    with lesion(tiny[0], masks[0], "scale", value=30.0, positions="generated"):
        expected = tiny[0].generate(IDS[:1, :4], max_new_tokens=6, do_sample=False)[0].tolist()
    assert seen[1] == expected
    assert seen[0] != expected


def test_positions_that_mean_nothing_are_refused_before_any_work(tiny, masks):
    for rule in ("prompt", "generated", "last"):
        with pytest.raises(ParameterError, match="needs a prompt, but loss scores whole texts"):
            LesionStudy(masks, LossTask(TEXTS), options={"positions": rule}).forecast(*tiny)
        over_doses = LesionStudy(masks, TEXTS, 1, ["layer"], options={"positions": rule, "doses": "strength"})
        with pytest.raises(ParameterError, match="needs a prompt"):
            over_doses.forecast(*tiny)
    for bad in ("first", 3, None):
        with pytest.raises(ParameterError, match="Choose from 'all', 'prompt'|must be whole numbers"):
            LesionStudy(masks, LossTask(TEXTS), options={"positions": bad}).forecast(*tiny)
    with pytest.raises(ParameterError, match="boolean tensor"):
        LesionStudy(masks, LossTask(TEXTS), options={"positions": lambda ids: ids}).run(*tiny, progress=False)


def test_a_dose_acts_at_positions_too(tiny, masks):
    task = LossTask(TEXTS, by_kind=False)
    made = [
        LesionStudy(masks, task, n_controls=1, controls=("layer",), options={"positions": odd, **more})
        for more in ({"doses": {"strength": (1.0,)}}, {})
    ]
    curve, expected = (study.run(*tiny, progress=False) for study in made)
    expected = expected.table.effect
    np.testing.assert_allclose(curve.table.effect, expected, atol=1e-6)


def test_another_position_is_another_study_for_a_checkpoint(tiny, masks, tmp_path):
    path, effects = tmp_path / "part.npz", []
    for rule in ("all", odd):
        study = LesionStudy(masks, LossTask(TEXTS), n_controls=1, controls=("layer",), options={"positions": rule})
        effects.append(study.run(*tiny, progress=False, checkpoint=path).table.effect.to_numpy())
    assert not np.allclose(*effects)


# ------------------------------------------------------------------------------------------------ compiled wrappers
def test_a_compiled_wrapper_made_elsewhere_is_lesioned_too(masks):
    model = tiny_model("llama")
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        intact = compiled(IDS).logits
        with lesion(model, masks[0]):
            expected, got = model(IDS).logits, compiled(IDS).logits
        after = compiled(IDS).logits
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, intact)
    torch.testing.assert_close(after, intact)


# ------------------------------------------------------------------------------------------------ positions by number
def test_listed_positions_equal_a_rule_that_chooses_them(tiny, masks):
    model, _ = tiny

    def chosen(ids):
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[:, [1, 4]] = True
        return where

    with torch.no_grad():
        with lesion(model, masks[0], positions=[4, 1]):
            ours = model(IDS).logits
        with lesion(model, masks[0], positions=chosen):
            theirs = model(IDS).logits
    assert torch.equal(ours, theirs) and not torch.equal(ours, model(IDS).logits)


def test_listed_positions_do_not_count_padding_on_the_left(tiny, masks):
    """A padded row is lesioned where the same text without padding is, also when it is read in parts."""
    model, _ = tiny
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), IDS[:1]], 1)
    attended = torch.tensor([[0] * 3 + [1] * 9])
    place = attended.cumsum(-1).sub(1).clamp_min(0)
    with torch.no_grad(), lesion(model, masks[0], positions=[2, 7]):
        plain = model(IDS[:1]).logits
        whole = model(padded, attention_mask=attended, position_ids=place).logits[:, 3:]
        first = model(padded[:, :8], attention_mask=attended[:, :8], position_ids=place[:, :8], use_cache=True)
        rest = model(
            padded[:, 8:], attention_mask=attended, position_ids=place[:, 8:], past_key_values=first.past_key_values
        )
    torch.testing.assert_close(whole, plain)
    torch.testing.assert_close(torch.cat([first.logits[:, 3:], rest.logits], 1), plain)


def test_a_study_at_listed_positions_equals_single_lesions(tiny, masks):
    model, tokenizer = tiny
    task = LossTask(TEXTS, by_kind=False)
    options = {"positions": [2, 3, 5], "importance": "norm"}
    study = LesionStudy(masks, [task], n_controls=2, controls=["layer"], options=options)
    result = study.run(model, tokenizer, progress=False)
    windows = task.prepare(model, tokenizer).sequences
    intact = sum(part.sum() for part in window_losses(model, windows))
    n_tokens = sum(window.n_scored for window in windows)
    for mask, effect in zip(masks, result.table["effect"]):
        with lesion(model, mask, positions=[2, 3, 5]):
            lesioned = sum(part.sum() for part in window_losses(model, windows))
        assert (lesioned - intact) / n_tokens == pytest.approx(effect, abs=1e-5)
    assert result.info["lesion"]["positions"] == "tokens 2, 3, 5"


@pytest.mark.parametrize("positions", [[-1], [0.5], [], 3, [[1]], ["a"], "nowhere"])
def test_wrong_positions_are_one_sentence(positions, tiny, masks):
    with pytest.raises(ParameterError, match="position"):
        lesion(tiny[0], masks[0], positions=positions)


# ------------------------------------------------------------------------------------------------ several sites
def test_a_mask_of_two_sites_equals_two_lesions(tiny):
    model, _ = tiny
    a = NeuronMask.from_names([(0, 1), (2, 5)], model, name="a")
    b = NeuronMask.from_heads([(1, 0)], model, name="b")
    with torch.no_grad():
        with lesion(model, a | b):
            ours = model(IDS).logits
        with lesion(model, a), lesion(model, b):
            theirs = model(IDS).logits
    assert torch.equal(ours, theirs) and not torch.equal(ours, model(IDS).logits)


@pytest.mark.parametrize("how", ["zero", "retain", "mean"])
def test_masks_of_two_sites_in_one_study_are_tested_as_in_their_own(how, tiny):
    """Effects, and controls from the network's own site, do not depend on the other networks of the study."""
    model, tokenizer = tiny
    a = NeuronMask.from_names([(0, 1), (2, 5), (2, 7)], model, name="a")
    b = NeuronMask.from_heads([(1, 0), (3, 2)], model, name="b")
    rest = {"n_controls": 3, "how": how, "reference": ["a text to refer to, of some length"], "random_state": 0}

    def run(masks):
        return LesionStudy(masks, [LossTask(TEXTS, by_kind=False)], **rest).run(model, tokenizer, progress=False)

    together = run([a, b])
    for k, mask in enumerate([a, b]):
        alone, rows = run([mask]).table, together.table.query("network == @mask.name")
        np.testing.assert_allclose(rows["effect"], alone["effect"], atol=1e-5)
        assert (rows["n_neurons"] == mask.count).all()
        if k == 0:  # the seeds of the controls depend on the place of the network in the study
            np.testing.assert_allclose(rows["control_mean"], alone["control_mean"], atol=1e-5)
    assert (together.controls.query("network == 'b'")["n_neurons"] == b.count).all()


def test_the_controls_of_a_mask_of_two_sites_match_it_in_each(tiny):
    model, tokenizer = tiny
    both = NeuronMask.from_names([(0, 1), (2, 5)], model, name="a") | NeuronMask.from_heads([(1, 0)], model, name="b")
    study = LesionStudy([both], [LossTask(TEXTS)], n_controls=4, controls=["layer"], reference=TEXTS, random_state=0)
    design = study._design(model, tokenizer)
    drawn = [condition.mask for condition in design.conditions if condition.family]
    assert len(drawn) == 4
    for control in drawn:
        assert control.counts_per_layer.tolist() == both.counts_per_layer.tolist() and not (control & both).count
        assert control.own_sites().geometry == both.geometry


# ------------------------------------------------------------------------------------------------ reference
@pytest.mark.parametrize("how", ["mean", "resample"])
def test_a_reference_is_text_a_corpus_or_a_recording(how, tiny, masks, tmp_path):
    """All of them give what their statistics give."""
    import llmbrain as lb
    from llmbrain.lesions import neuron_statistics

    model, tokenizer = tiny
    recording = lb.record(model, tokenizer, TEXTS, out=tmp_path / "study", progress=False)
    expected = neuron_statistics(model, tokenizer, TEXTS, n_samples=1000)
    found = []
    # a recording holds the same tokens in another order, so resampling draws others
    for reference in (expected, TEXTS, lb.load_corpus(TEXTS), *([recording] if how == "mean" else [])):
        with torch.no_grad(), lesion(model, masks[0], how=how, reference=reference, tokenizer=tokenizer):
            found.append(model(IDS).logits)
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], atol=1e-4, rtol=1e-4)


def test_a_text_without_tokenizer_is_one_sentence(tiny, masks):
    with pytest.raises(ParameterError, match="tokenizer=tokenizer"):
        lesion(tiny[0], masks[0], how="mean", reference=TEXTS)


@pytest.mark.parametrize("positions", [[500], "generated"])
def test_positions_that_no_token_has_are_named(tiny, masks, positions):
    import llmbrain as lb
    from llmbrain.exceptions import LLMBrainWarning

    model, _ = tiny
    named = pytest.warns(LLMBrainWarning, match="The lesion changed nothing: its positions=")
    with named, lb.lesion(model, masks[0], positions=positions):
        model(torch.tensor([[1, 2, 3]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", LLMBrainWarning)
        with lb.lesion(model, masks[0], positions=[1]):
            model(torch.tensor([[1, 2, 3]]))
