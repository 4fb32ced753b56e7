"""Single lesions: exactness, hygiene of hooks, kinds, positions."""

import contextlib
import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

from llmbrain.exceptions import GeometryMismatchError, MaskError, ParameterError, UnusedLesionError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import is_lesioned, lesion, neuron_statistics
from llmbrain.masks import NeuronMask
from llmbrain.models.identity import describe_model
from llmbrain.models.sites import find_sites

IDS = torch.randint(0, 256, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def llama():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def make_mask(model, share=0.3, seed=0, site="mlp", **kwargs):
    geometry = NeuronGeometry.from_model(model, site)
    return NeuronMask(np.random.default_rng(seed).random(geometry.n_neurons) < share, geometry, **kwargs)


def logits(model, ids=IDS, **kwargs):
    with torch.no_grad():
        return model(ids, **kwargs).logits


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def values_at(model, site="mlp", ids=IDS):
    """What the linear of each site reads (or writes), recorded by plain hooks of this test."""
    seen, handles = {}, []
    for found in find_sites(model, site):

        def keep(module, args, output=None, layer=found.layer):
            value = args[0] if output is None else output
            seen[layer] = (value[0] if isinstance(value, tuple) else value).clone()

        kind = "register_forward_pre_hook" if found.where == "input" else "register_forward_hook"
        handles.append(getattr(found.module, kind)(keep))
    try:
        logits(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    return seen


# ------------------------------------------------------------------------------------------------ exactness
def sliced(model, mask):
    """A copy of a llama or GPT-2 from which the masked neurons were cut out of the weight matrices."""
    model = copy.deepcopy(model)
    keep = [torch.from_numpy(np.flatnonzero(~part)) for part in mask.geometry.split(mask.values)]

    def cut(linear, rows=None, columns=None):
        weight = linear.weight.data if hasattr(linear, "in_features") else linear.weight.data.T
        bias = linear.bias.data if linear.bias is not None else None
        weight = weight[rows] if rows is not None else weight[:, columns]
        new = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        new.weight.data = weight.clone()
        if bias is not None:
            new.bias.data = bias[rows].clone() if rows is not None else bias.clone()
        return new

    for block, index in zip(model.get_decoder().layers if hasattr(model, "model") else model.transformer.h, keep):
        mlp = block.mlp
        if hasattr(mlp, "gate_proj"):
            mlp.gate_proj, mlp.up_proj = cut(mlp.gate_proj, rows=index), cut(mlp.up_proj, rows=index)
            mlp.down_proj = cut(mlp.down_proj, columns=index)
        else:
            mlp.c_fc, mlp.c_proj = cut(mlp.c_fc, rows=index), cut(mlp.c_proj, columns=index)
    return model


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("share", [0.02, 0.3, "layers", 1.0])
def test_zero_lesion_equals_sliced_weights(name, share):
    model = tiny_model(name)
    mask = make_mask(model, 1.1 if share == 1.0 else 0.3 if share == "layers" else share)
    if share == "layers":  # nothing in layer 0, most of layer 2
        density = np.array([0.0, 0.1, 0.9, 0.5])[mask.geometry.layer_of]
        mask = NeuronMask(np.random.default_rng(1).random(density.size) < density, mask.geometry)
    cut = sliced(model, mask)
    with lesion(model, mask):
        torch.testing.assert_close(logits(model), logits(cut), atol=1e-5, rtol=0)
        lesioned = model.generate(IDS, max_new_tokens=20, do_sample=False)
    assert torch.equal(lesioned, cut.generate(IDS, max_new_tokens=20, do_sample=False))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_zero_lesion_equals_zeroed_output_weights(name):
    model = tiny_model(name)
    mask = make_mask(model)
    zeroed = copy.deepcopy(model)
    for site, units in zip(find_sites(zeroed), mask.units):
        weight = site.module.weight.data
        columns = units + site.start
        if hasattr(site.module, "in_features"):
            weight[:, columns] = 0.0
        else:
            weight[columns] = 0.0
    with lesion(model, mask):
        torch.testing.assert_close(logits(model), logits(zeroed), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(model), logits(zeroed), atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_lesion_changes_its_own_layer_only(name):
    model = tiny_model(name)
    geometry = NeuronGeometry.from_model(model)
    before = values_at(model)
    for layer in range(4):
        mask = NeuronMask.from_names([(layer, 3), (layer, 7)], geometry)
        with lesion(model, mask):
            after = values_at(model)
        assert after[layer][..., [3, 7]].abs().max() == 0
        others = [u for u in range(48) if u not in (3, 7)]
        assert torch.equal(after[layer][..., others], before[layer][..., others])
        for earlier in range(layer):
            assert torch.equal(after[earlier], before[earlier])


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_a_lesion_of_nothing_is_bit_identical(name):
    model = tiny_model(name)
    empty, some = make_mask(model, share=-1), make_mask(model)
    for options in ({}, {"how": "scale", "value": 3.0}):
        with lesion(model, empty, allow_empty=True, **options):
            assert n_hooks(model) == 0
            changed = logits(model)
        assert torch.equal(changed, logits(model))
    for options in ({"strength": 0.0}, {"how": "scale", "value": 1.0}, {"how": "add", "value": 0.0}):
        with lesion(model, some, **options):
            changed = logits(model)
        assert torch.equal(changed, logits(model))


def test_complement_of_everything_keeps_the_model_as_it_is(llama):
    everything = make_mask(llama, share=2.0)
    with lesion(llama, ~everything, allow_empty=True):
        assert torch.equal(logits(llama), logits(llama))
    with lesion(llama, everything):
        gone = values_at(llama)
    assert all(v.abs().max() == 0 for v in gone.values())


def test_heads_are_units_of_the_attention_site(llama):
    geometry = NeuronGeometry.from_model(llama, "attention")
    mask = NeuronMask.from_heads([(1, 2), (3, 0)], geometry)
    zeroed = copy.deepcopy(llama)
    zeroed.model.layers[1].self_attn.o_proj.weight.data[:, 16:24] = 0
    zeroed.model.layers[3].self_attn.o_proj.weight.data[:, :8] = 0
    with lesion(llama, mask):
        torch.testing.assert_close(logits(llama), logits(zeroed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("site", ["attention", "mlp_output", "layer"])
def test_other_sites_are_lesioned_where_they_are_read(llama, site):
    mask = make_mask(llama, site=site)
    with lesion(llama, mask):
        after = values_at(llama, site)
    for layer, units in enumerate(mask.units):
        assert after[layer][..., units].abs().max() == 0


# ------------------------------------------------------------------------------------------------ generation
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_generation_with_cache_equals_generation_without(name):
    model = tiny_model(name)
    mask = make_mask(model)
    runs = {}
    for key, options in {"greedy": {}, "beams": {"num_beams": 3}}.items():
        with lesion(model, mask):
            runs[key] = [
                model.generate(IDS, max_new_tokens=12, do_sample=False, use_cache=cache, **options)
                for cache in (True, False)
            ]
    assert torch.equal(*runs["greedy"])
    assert torch.equal(*runs["beams"])
    assert not torch.equal(runs["greedy"][0], model.generate(IDS, max_new_tokens=12, do_sample=False))


def test_a_pipeline_is_lesioned(llama, tokenizer):
    from transformers import pipeline

    write = pipeline("text-generation", model=llama, tokenizer=tokenizer)
    options = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    mask = make_mask(llama, 0.5)
    with lesion(llama, mask):
        lesioned = write("some text", **options)[0]["generated_text"]
    cut = pipeline("text-generation", model=sliced(llama, mask), tokenizer=tokenizer)
    assert lesioned == cut("some text", **options)[0]["generated_text"]
    assert lesioned != write("some text", **options)[0]["generated_text"]


# ------------------------------------------------------------------------------------------------ hooks
def test_hooks_are_gone_after_every_exit(llama):
    mask = make_mask(llama)
    with lesion(llama, mask):
        assert n_hooks(llama) == 5  # one for each layer, and one for gradients
        logits(llama)
    assert n_hooks(llama) == 0
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        with contextlib.suppress(error), lesion(llama, mask, positions="last"):
            assert n_hooks(llama) == 7  # two more, to follow the positions
            raise error
        assert n_hooks(llama) == 0

    def tokens():
        with lesion(llama, mask):
            yield logits(llama)
            yield logits(llama)

    generator = tokens()
    next(generator)
    assert n_hooks(llama) == 5
    generator.close()
    assert n_hooks(llama) == 0
    assert not hasattr(llama, "lesion")


def test_an_error_half_way_through_entering_leaves_no_hook(llama, monkeypatch):
    broken = lesion(llama, make_mask(llama))

    def refuse(*args, **kwargs):
        raise RuntimeError("no hooks here")

    monkeypatch.setattr(broken.sites[2].module, "register_forward_pre_hook", refuse, raising=False)
    with pytest.raises(RuntimeError, match="no hooks"):
        broken.__enter__()
    assert n_hooks(llama) == 0


def test_hooks_of_others_are_left_alone(llama):
    seen = []
    module = find_sites(llama)[1].module
    outside = module.register_forward_pre_hook(lambda m, a: seen.append(float(a[0].abs().sum())))
    before = n_hooks(llama)
    with lesion(llama, make_mask(llama)):
        inside = module.register_forward_pre_hook(lambda m, a: seen.append(float(a[0].abs().sum())))
        logits(llama)
    assert n_hooks(llama) == before + 1
    assert len(seen) == 2
    assert seen[0] > seen[1]  # hooks from before see the intact values, hooks from within the lesioned ones
    outside.remove()
    inside.remove()


def test_lesions_nest_and_compose_to_the_union(llama):
    a, b = make_mask(llama, 0.2, 1), make_mask(llama, 0.2, 2)
    with lesion(llama, a | b):
        union = logits(llama)
    with lesion(llama, a), lesion(llama, b):
        nested = logits(llama)
        assert n_hooks(llama) == 10
    assert torch.equal(nested, union)
    with lesion(llama, a):
        with lesion(llama, b):
            logits(llama)
        alone = logits(llama)
    with lesion(llama, a):
        assert torch.equal(alone, logits(llama))


def test_the_inner_lesion_gets_what_the_outer_left(llama):
    mask = make_mask(llama)
    with lesion(llama, mask, how="clamp", value=2.0), lesion(llama, mask, how="scale", value=3.0):
        after = values_at(llama)
    assert torch.equal(after[1][..., mask.units[1]], torch.full_like(after[1][..., mask.units[1]], 6.0))


def test_a_lesion_can_be_entered_again_nested_in_itself_and_used_as_a_decorator(llama):
    once = lesion(llama, make_mask(llama), how="scale", value=0.5)
    with once:
        first = logits(llama)
        with once:
            assert n_hooks(llama) == 10
            assert not torch.equal(logits(llama), first)
        assert torch.equal(logits(llama), first)
    with once:
        assert torch.equal(logits(llama), first)

    @once
    def run():
        return logits(llama)

    assert torch.equal(run(), first)
    assert n_hooks(llama) == 0


# ------------------------------------------------------------------------------------------------ safety
def test_a_lesion_that_no_forward_pass_reached_is_an_error(llama):
    mask = make_mask(llama)
    with pytest.raises(UnusedLesionError, match="no forward pass"), lesion(llama, mask):
        pass
    with pytest.raises(UnusedLesionError), lesion(llama, mask):
        logits(copy.deepcopy(llama))
    with pytest.raises(ZeroDivisionError), lesion(llama, mask):  # the error of the block is the one that counts
        1 / 0  # noqa: B018
    with lesion(llama, mask, strength=0.0):  # a lesion of nothing has nothing to reach
        pass
    assert n_hooks(llama) == 0


def test_a_copy_made_inside_a_lesion_is_intact(llama):
    intact = logits(llama)
    for options in ({}, {"positions": "last"}):
        with lesion(llama, make_mask(llama), **options):
            inside = copy.deepcopy(llama)
            assert torch.equal(logits(inside), intact)
            assert not torch.equal(logits(llama), intact)
        assert torch.equal(logits(inside), intact)


def test_a_lesioned_model_can_be_told(llama):
    other = tiny_model("llama")
    assert not is_lesioned(llama)
    with lesion(llama, make_mask(llama)):
        logits(llama)
        assert is_lesioned(llama)
        assert is_lesioned(llama.model.layers[0])
        assert not is_lesioned(other)
        assert not is_lesioned(copy.deepcopy(llama))
    assert not is_lesioned(llama)


class Interrupt:
    """A trace function that raises KeyboardInterrupt at the n-th line that runs inside lesions/context.py."""

    def __init__(self, n):
        self.left, self.raised = n, False

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.endswith("lesions/context.py"):
            return None
        if event == "line" and not self.raised:
            self.left -= 1
            if self.left < 0:
                self.raised = True
                raise KeyboardInterrupt
        return self


def test_an_interrupt_at_any_line_leaves_no_active_lesion(llama):
    intact, mask, n = logits(llama), make_mask(llama), 0
    while True:
        interrupt = Interrupt(n)
        before = sys.gettrace()
        try:
            sys.settrace(interrupt)
            with lesion(llama, mask):
                sys.settrace(None)
                lesioned = logits(llama)
                sys.settrace(interrupt)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert torch.equal(logits(llama), intact), n
        assert not is_lesioned(llama), n
        if not interrupt.raised:
            break
        n += 1
    assert n > 40  # lines of entering and leaving
    assert not torch.equal(lesioned, intact)


def test_a_lesioned_model_is_neither_pruned_nor_saved(llama, tokenizer, tmp_path):
    import llmbrain as lb

    pruned = lb.prune(llama, tokenizer, ["some text to calibrate on"], 0.2, recipe="flap", measure=False)
    for model, act in (
        (llama, lambda: lb.prune(llama, tokenizer, ["some text"], 0.2)),
        (pruned.model, lambda: pruned.save_pretrained(tmp_path / "folder")),
    ):
        with lesion(model, make_mask(model)):
            logits(model)
            with pytest.raises(ParameterError, match="A lesion is active"):
                act()
    assert not (tmp_path / "folder").exists()


def test_wrapped_models_are_refused_with_advice(llama):
    mask = make_mask(llama)
    with pytest.raises(ParameterError, match="model.module"):
        lesion(torch.nn.DataParallel(llama), mask)

    class Adapter(torch.nn.Module):
        """Has the method by which PEFT wrappers are told."""

        def merge_and_unload(self):
            """Would return the merged model."""

    with pytest.raises(ParameterError, match="merge_and_unload"):
        lesion(Adapter(), mask)


# ------------------------------------------------------------------------------------------------ kinds
def test_every_kind_puts_the_value_it_says(llama):
    mask = make_mask(llama)
    before = values_at(llama)[0]
    units = mask.units[0]
    per_neuron = np.linspace(-1, 1, mask.geometry.n_neurons).astype(np.float32)
    mean = np.full(mask.geometry.n_neurons, 0.25, np.float32)
    x = before[..., units]
    expected = {
        ("zero", None, 1.0): torch.zeros_like(x),
        ("zero", None, 0.25): 0.75 * x,
        ("scale", 1.5, 1.0): 1.5 * x,
        ("scale", 3.0, 0.5): 2.0 * x,
        ("add", 1.0, 1.0): x + 1,
        ("add", 1.0, 0.5): x + 0.5,
        ("clamp", 2.0, 1.0): torch.full_like(x, 2.0),
        ("mean", None, 1.0): torch.full_like(x, 0.25),
        ("mean", None, 0.5): x / 2 + 0.125,
    }
    for (how, value, strength), target in expected.items():
        reference = mean if how == "mean" else None
        with lesion(llama, mask, how, value=value, strength=strength, reference=reference):
            after = values_at(llama)[0]
        torch.testing.assert_close(after[..., units], target)
    with lesion(llama, mask, "clamp", value=per_neuron):
        after = values_at(llama)[0]
    torch.testing.assert_close(after[0, 0, units], torch.from_numpy(per_neuron[units]))


def test_resample_takes_all_neurons_from_one_token_of_the_reference(llama):
    mask = make_mask(llama, 2.0)
    n = mask.geometry.n_neurons
    bank = (np.arange(20)[:, None] + np.zeros(n)).astype(np.float32)  # the value tells the token it came from
    with lesion(llama, mask, "resample", reference=bank, random_state=3):
        after = values_at(llama)
        again = values_at(llama)
    drawn = after[0][..., 0]
    assert len(drawn.unique()) > 5
    for layer in range(4):
        assert torch.equal(after[layer], drawn[..., None].expand_as(after[layer]))
    assert torch.equal(again[0], after[0])  # the same prompt under the same lesion
    assert len(after[0][:, :, 0].unique(dim=0)) == 1  # whatever else is in the batch
    with lesion(llama, mask, "resample", reference=bank, random_state=4):
        assert not torch.equal(values_at(llama)[0], after[0])


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_resampling_does_not_depend_on_the_cache(name):
    model = tiny_model(name)
    mask = make_mask(model)
    bank = np.random.default_rng(0).standard_normal((20, mask.values.size)).astype(np.float32) * 3
    texts = []
    for cache in (True, False):
        with lesion(model, mask, "resample", reference=bank):
            texts.append(model.generate(IDS, max_new_tokens=10, do_sample=False, use_cache=cache))
    assert torch.equal(*texts)
    assert not torch.equal(texts[0], model.generate(IDS, max_new_tokens=10, do_sample=False))


def test_reference_statistics_serve_mean_and_resample(llama, tokenizer):
    statistics = neuron_statistics(llama, tokenizer, ["a reference text of some length", "another"], n_samples=10)
    mask = make_mask(llama)
    with lesion(llama, mask, "mean", reference=statistics):
        after = values_at(llama)[2]
    torch.testing.assert_close(
        after[0, 0, mask.units[2]],
        torch.from_numpy(statistics.mean[mask.geometry.layer_slice(2)][mask.units[2]]).float(),
    )
    with lesion(llama, mask, "resample", reference=statistics):
        after = values_at(llama)[2][..., mask.units[2]].reshape(-1, mask.counts_per_layer[2])
    rows = {tuple(r) for r in statistics.samples[:, mask.geometry.layer_slice(2)][:, mask.units[2]].tolist()}
    assert {tuple(r) for r in after.tolist()} <= rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "silence"}, "Choose from 'zero'"),
        ({"how": "scale"}, "needs value"),
        ({"how": "zero", "value": 1.0}, "takes no value"),
        ({"strength": 1.5}, "between 0"),
        ({"random_state": None}, "whole number"),
        ({"how": "mean"}, "neuron_statistics"),
        ({"how": "mean", "reference": np.zeros(3)}, "n_neurons"),
        ({"how": "resample", "reference": np.zeros(192)}, "n_tokens, n_neurons"),
        ({"how": "clamp", "value": np.zeros(5)}, "one per neuron"),
        ({"how": "clamp", "value": np.nan}, "NaN"),
        ({"positions": "first"}, "prompt"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(llama, options, message):
    with pytest.raises((ParameterError, GeometryMismatchError), match=message):
        lesion(llama, make_mask(llama), **options)
    assert n_hooks(llama) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["zero", "mean", "scale", "add", "clamp", "resample"])
def test_half_precision_stays_half_precision(dtype, how):
    model = tiny_model("llama").to(dtype)
    n = 192
    options = {
        "mean": {"reference": np.zeros(n)},
        "resample": {"reference": np.zeros((4, n))},
        "zero": {},
    }.get(how, {"value": 0.3})
    with lesion(model, make_mask(model), how, strength=0.5, **options):
        assert {v.dtype for v in values_at(model).values()} == {dtype}
        assert logits(model).dtype == dtype


# ------------------------------------------------------------------------------------------------ positions
def passes_of(model, run, **options):
    """At which tokens of each pass a neuron was clamped: a list of (batch, n_tokens) lists of 0 and 1."""
    passes, mask = [], make_mask(model)
    unit, module = mask.units[0][0], find_sites(model)[0].module
    with lesion(model, mask, "clamp", value=77.0, **options):
        handle = module.register_forward_pre_hook(lambda m, a: passes.append((a[0][..., unit] == 77.0).int().tolist()))
        run()
    handle.remove()
    return passes


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_prompt_and_generated_tokens_are_told_apart(name, cache):
    model = tiny_model(name)

    def run():
        model.generate(IDS[:1, :4], max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=cache)

    prompt = passes_of(model, run, positions="prompt")
    generated = passes_of(model, run, positions="generated")
    flat = lambda p: np.ravel(p).tolist()  # noqa: E731
    if cache:
        assert [flat(p) for p in prompt] == [[1, 1, 1, 1], [0], [0], [0]]
        assert [flat(p) for p in generated] == [[0, 0, 0, 0], [1], [1], [1]]
    else:
        assert [flat(p) for p in prompt] == [[1, 1, 1, 1] + [0] * i for i in range(4)]
        assert [flat(p) for p in generated] == [[0, 0, 0, 0] + [1] * i for i in range(4)]


def test_prompt_lesion_acts_on_each_new_prompt(llama):
    def run():
        logits(llama, IDS[:1, :5])
        logits(llama, IDS[1:2, :7])
        llama.generate(IDS[:1, :3], max_new_tokens=2, min_new_tokens=2, do_sample=False)

    assert [np.sum(p) for p in passes_of(llama, run, positions="prompt")] == [5, 7, 3, 0]
    assert [np.sum(p) for p in passes_of(llama, run, positions="prompt", prompt_length=2)] == [2, 2, 2, 0]


def test_generation_is_the_same_with_and_without_cache_when_only_what_is_generated_is_lesioned(llama):
    mask = make_mask(llama, 0.5)
    texts = []
    for cache in (True, False):
        with lesion(llama, mask, positions="generated"):
            texts.append(llama.generate(IDS, max_new_tokens=12, do_sample=False, use_cache=cache))
    assert torch.equal(*texts)
    with lesion(llama, mask):
        assert not torch.equal(llama.generate(IDS, max_new_tokens=12, do_sample=False), texts[0])


def test_last_is_the_last_attended_token_of_every_row(llama):
    attention = torch.ones_like(IDS)
    attention[1, 6:] = 0  # padded on the right
    attention[2, :4] = 0  # padded on the left
    (chosen,) = passes_of(llama, lambda: logits(llama, attention_mask=attention), positions="last")
    assert [row.index(1) for row in chosen] == [10, 5, 10]
    assert np.sum(chosen) == 3


def test_a_predicate_on_token_ids_chooses_tokens(llama):
    rule = lambda ids: ids % 2 == 0  # noqa: E731
    (chosen,) = passes_of(llama, lambda: logits(llama), positions=rule)
    assert chosen == (IDS % 2 == 0).int().tolist()
    with pytest.raises(ParameterError, match="boolean tensor"), lesion(llama, make_mask(llama), positions=lambda i: i):
        logits(llama)
    with pytest.raises(ParameterError, match="embeddings"), lesion(llama, make_mask(llama), positions=rule):
        llama(inputs_embeds=torch.zeros(1, 3, 32))
    assert n_hooks(llama) == 0


def test_running_a_part_of_the_model_with_positions_is_an_error(llama):
    with pytest.raises(ParameterError, match="run on its own"), lesion(llama, make_mask(llama), positions="last"):
        llama.model.layers[0].mlp(torch.zeros(1, 3, 32))


# ------------------------------------------------------------------------------------------------ wrong masks
def test_an_empty_mask_is_refused(llama):
    with pytest.raises(MaskError, match="empty"):
        lesion(llama, make_mask(llama, -1))


def test_the_mask_of_another_model_is_refused(llama):
    with pytest.raises(GeometryMismatchError, match="4 layers of 40"):
        lesion(tiny_model("llama", intermediate_size=40), make_mask(llama))
    info = {"model": describe_model(llama)}
    named = make_mask(llama, name="net", info=info)
    lesion(llama, named)
    other = tiny_model("llama", seed=1)
    with pytest.raises(GeometryMismatchError, match="'net' was made on"):
        lesion(other, named)
    lesion(other, named, check_model=False)
    lesion(llama.to(torch.bfloat16), named)  # another precision of the same weights


def test_a_mask_of_some_layers_is_applied_to_these(llama):
    geometry = NeuronGeometry.from_sizes([48, 48], layers=[3, 1])
    mask = NeuronMask.from_names([(3, 5), (1, 6)], geometry)
    with lesion(llama, mask):
        after = values_at(llama)
    assert after[3][..., 5].abs().max() == 0
    assert after[1][..., 6].abs().max() == 0
    assert after[3][..., 6].abs().min() > 0


def test_compiled_models_are_refused(llama):
    with pytest.raises(ParameterError, match="compiled"):
        lesion(torch.compile(llama), make_mask(llama))
    llama.model.layers[1].compile()
    with pytest.raises(ParameterError, match="model.layers.1"):
        lesion(llama, make_mask(llama))


def test_summary_shows_modules_and_counts(llama):
    frame = lesion(llama, NeuronMask.from_names([(2, 1)], NeuronGeometry.from_model(llama))).summary()
    assert frame.module[2] == "model.layers.2.mlp.down_proj"
    assert frame.n_neurons.tolist() == [0, 0, 1, 0]


# ------------------------------------------------------------------------------------------------ where models run
def test_offloaded_weights_are_lesioned_alike(llama):
    accelerate = pytest.importorskip("accelerate")
    mask = make_mask(llama)
    with lesion(llama, mask):
        expected = logits(llama)
    offloaded = accelerate.cpu_offload(copy.deepcopy(llama), execution_device=torch.device("cpu"))
    with lesion(offloaded, mask):
        torch.testing.assert_close(logits(offloaded), expected)
    torch.testing.assert_close(logits(offloaded), logits(llama))


def test_inference_mode_does_not_spoil_later_gradients(llama):
    once = lesion(llama, make_mask(llama), how="clamp", value=0.1)
    llama.requires_grad_(True)
    with once:
        with torch.inference_mode():
            llama(IDS)
        llama(IDS).logits.sum().backward()
    gradient = llama.model.layers[0].mlp.up_proj.weight.grad
    assert gradient is not None
    units = make_mask(llama).units[0]
    assert gradient[units].abs().max() == 0  # clamped neurons pass nothing back


# ---------------------------------------------------------------------------------- checkpointing, threads
def gradient_of(model, loss):
    model.zero_grad()
    loss.backward()
    return model.model.layers[0].mlp.up_proj.weight.grad.clone()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_with_checkpointing_are_those_of_the_lesioned_model(llama, reentrant):
    """Inside the block they are the same as without checkpointing; after it they are an error."""
    llama.train().requires_grad_(True)
    mask = make_mask(llama)
    loss_of = lambda: llama(IDS, labels=IDS, use_cache=False).loss  # noqa: E731
    intact = gradient_of(llama, loss_of())
    with lesion(llama, mask):
        expected = gradient_of(llama, loss_of())
    assert not torch.allclose(expected, intact)
    llama.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    before = n_hooks(llama)  # transformers has one of its own
    with lesion(llama, mask):
        torch.testing.assert_close(gradient_of(llama, loss_of()), expected)
        late = loss_of()
    with pytest.raises(ParameterError, match="inside the with block"):
        late.backward()
    with lesion(llama, mask):
        body = llama.model(IDS, use_cache=False).last_hidden_state.sum()
    with pytest.raises(ParameterError, match="gradient_checkpointing_disable"), lesion(llama, mask):
        body.backward()  # another lesion does not stand for the one that is over
    torch.testing.assert_close(gradient_of(llama, loss_of()), intact)
    assert n_hooks(llama) == before


def test_checkpointing_with_positions_is_refused(llama):
    llama.train().requires_grad_(True)
    llama.gradient_checkpointing_enable()
    before = n_hooks(llama)
    with pytest.raises(ParameterError, match="positions='all'"), lesion(llama, make_mask(llama), positions="last"):
        llama(IDS, use_cache=False)
    with lesion(llama, make_mask(llama), positions="last"), torch.no_grad():
        llama(IDS, use_cache=False)
    assert n_hooks(llama) == before


def test_a_lesion_acts_in_every_thread(llama):
    mask = make_mask(llama)
    with lesion(llama, mask):
        expected = logits(llama)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: logits(llama), range(8)):
                torch.testing.assert_close(found, expected)
    with ThreadPoolExecutor(1) as pool:
        torch.testing.assert_close(pool.submit(logits, llama).result(), logits(llama))


def test_passes_at_the_same_time_are_refused_if_positions_matter(llama):
    """A thread stops in the middle of a pass while another one begins."""
    inside, go_on = threading.Event(), threading.Event()

    def stop(module, args):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            go_on.wait(60)

    handle = llama.model.layers[2].register_forward_pre_hook(stop)
    mask = make_mask(llama)
    with lesion(llama, mask, positions="last"):
        expected = logits(llama)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(logits, llama)
            assert inside.wait(60)
            with pytest.raises(ParameterError, match="Two threads"):
                logits(llama)
            go_on.set()
            torch.testing.assert_close(other.result(), expected)
        torch.testing.assert_close(logits(llama), expected)  # one after the other is allowed
        with pytest.raises(IndexError), ThreadPoolExecutor(1) as pool:
            pool.submit(logits, llama, torch.full((1, 3), 10**6)).result()
        torch.testing.assert_close(logits(llama), expected)  # also after a pass that failed
    handle.remove()
