"""Lesion studies: planted causality, whole studies, double dipping, files and checkpoints."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from held import REFERENCE, TEXTS
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import DatasetError, DoubleDippingWarning, GeometryMismatchError, MaskError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import (
    CallableTask,
    LesionResult,
    LesionStudy,
    LossTask,
    MinimalPairTask,
    MultipleChoiceTask,
    StudyOptions,
    lesion,
    neuron_statistics,
)
from llmbrain.lesions.design import Design
from llmbrain.masks import NeuronMask, masks_from_maps
from llmbrain.text import Corpus, Document, MinimalPair

LETTERS, DIGITS, SIGNS = "ABCDEFGH", "01234567", ";:,.!?-+*/=<>()"
CARRIERS = 24  # neurons of each ability, half of them in each layer


# ------------------------------------------------------------------------------------------------ planted causality
def planted_model():
    """A model of known anatomy: 24 neurons know that letters follow letters, 24 that digits follow digits.

    Attention writes nothing. Each of 31 characters has an axis of the residual stream of its own. The carriers of an
    ability fire at its tokens, all with the token's own strength, and push the logits of the ability's tokens up. The
    other neurons fire at random tokens and write noise. Of signs no neuron knows anything.
    """
    tokenizer = tiny_tokenizer()
    tokens = [tokenizer.convert_tokens_to_ids(c) for c in LETTERS + DIGITS + SIGNS]
    model = tiny_model("llama", num_hidden_layers=2, intermediate_size=96, tie_word_embeddings=False)
    rng = np.random.default_rng(0)
    embed, head = np.zeros((300, 32)), np.zeros((300, 32))
    embed[:, 31] = 1.0
    for i, token in enumerate(tokens):
        embed[token], head[token, i] = np.eye(32)[i], 1.0
    carriers = {"letters": [], "digits": []}
    strength = rng.uniform(0.5, 1.5, 16)
    for layer in range(2):
        gate, up, down = rng.normal(0, 0.3, (96, 32)), rng.normal(0, 0.3, (96, 32)), rng.normal(0, 0.3, (32, 96))
        half = CARRIERS // 2
        chosen = rng.choice(96, 2 * half, replace=False)
        for name, part, units in (("letters", slice(0, 8), chosen[:half]), ("digits", slice(8, 16), chosen[half:])):
            gate[units], up[units], down[:, units] = 0.0, 0.0, 0.0
            gate[units, part], up[units, part] = strength[part], 1.0
            down[part, units] = 0.08
            carriers[name] += [(layer, int(u)) for u in units]
        block = model.model.layers[layer]
        for linear, weight in zip((block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj), (gate, up, down)):
            linear.weight.data = torch.tensor(weight, dtype=torch.float32)
        block.self_attn.o_proj.weight.data.zero_()
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.data.fill_(1.0)
    model.model.norm.weight.data.fill_(0.6)
    model.model.embed_tokens.weight.data = torch.tensor(embed, dtype=torch.float32)
    model.lm_head.weight.data = torch.tensor(head, dtype=torch.float32)
    return model, tokenizer, carriers


def planted_corpus(seed, n=8, n_signs=6, name="planted"):
    rng, number = np.random.default_rng(seed), itertools.count()
    return Corpus(
        [
            Document("".join(rng.choice(list(kind), 40)), f"{label}-{next(number)}", label)
            for _ in range(n)
            for label, kind in (("letters", LETTERS), ("digits", DIGITS), *[("signs", SIGNS)] * n_signs)
        ],
        name,
    )


@pytest.fixture(scope="module")
def planted():
    return planted_model()


def test_planted_abilities_are_found_and_confirmed_by_lesion(planted, tmp_path):
    import llmbrain as lb

    model, tokenizer, carriers = planted
    geometry = NeuronGeometry.from_model(model)
    truth = {name: NeuronMask.from_names(units, geometry, name) for name, units in carriers.items()}
    recording = lb.record(model, tokenizer, planted_corpus(1), out=tmp_path / "study", progress=False)
    masks = lb.CanICA(n_components=4, random_state=0).fit(recording).masks(threshold=1.8)
    best = {
        name: max(masks, key=lambda m, t=true: (m & t).count / max(1, (m | t).count)) for name, true in truth.items()
    }
    for name, true in truth.items():
        assert (best[name] & true).count / (best[name] | true).count > 0.7, name
    networks = [NeuronMask(best[name].values, geometry, name, best[name].info) for name in truth]
    # sets that carry nothing: they must not come out as networks that matter
    others = np.flatnonzero(~(truth["letters"] | truth["digits"]).values)
    for k in range(2):
        values = np.zeros(geometry.n_neurons, bool)
        values[np.random.default_rng(k).choice(others, CARRIERS, replace=False)] = True
        networks.append(NeuronMask(values, geometry, f"noise-{k}"))
    study = LesionStudy(
        networks,
        tasks=[LossTask(planted_corpus(2, n_signs=1))],
        n_controls=60,
        reference=planted_corpus(3),
        random_state=0,
    )
    result = study.run(model, tokenizer, progress=False)
    for family in ("layer", "layer+importance"):
        table = result.table[result.table.family == family].set_index(["network", "task"])
        for name, other in (("letters", "digits"), ("digits", "letters")):
            own, foreign = table.loc[name, f"loss:{name}"], table.loc[name, f"loss:{other}"]
            assert own.effect > 0.3
            assert own.ci_low > 0.2
            assert own.p == pytest.approx(1 / 61)
            assert own.z > 4
            assert foreign.effect < 0.05
        for name in ("noise-0", "noise-1"):
            assert table.loc[name, "loss"].q > 0.05


# ------------------------------------------------------------------------------------------------ whole studies


@pytest.fixture(scope="module")
def maps(tiny):
    return np.random.default_rng(0).standard_normal((3, NeuronGeometry.from_model(tiny[0]).n_neurons))


@pytest.fixture(scope="module")
def masks(tiny, maps):
    return masks_from_maps(maps, NeuronGeometry.from_model(tiny[0]), 1.8)


def run(tiny, masks, tasks=TEXTS, **kwargs):
    options = {"n_controls": 4, "reference": REFERENCE, **kwargs}
    return LesionStudy(masks, tasks, **options).run(*tiny, progress=False)


def test_effects_of_a_study_are_those_of_single_lesions(tiny, masks):
    from llmbrain.evaluation import token_losses

    model, tokenizer = tiny
    result = run(tiny, masks)
    intact = token_losses(model, tokenizer, TEXTS)
    for mask in masks:
        with lesion(model, mask):
            lesioned = token_losses(model, tokenizer, TEXTS)
        effects = [a.mean() - b.mean() for a, b in zip(lesioned, intact)]
        own = result.items[(result.items.network == mask.name) & (result.items.task == "held")]
        np.testing.assert_allclose(own.effect, effects, atol=1e-5)
        total = np.concatenate(lesioned).mean() - np.concatenate(intact).mean()
        row = result.table[(result.table.network == mask.name) & (result.table.task == "held")].iloc[0]
        assert row.effect == pytest.approx(total, abs=1e-5)
        assert row.ci_low <= row.effect <= row.ci_high
        assert row.n_neurons == mask.count
    assert result.tasks == ["held", "held:a", "held:b"]


def test_controls_of_a_study_are_matched_and_their_effects_are_their_own(tiny, masks):
    result = run(tiny, masks, controls=("layer", ("layer", "importance"), "random", "layer+kurtosis"))
    draws = result.controls[result.controls.task == "held"]
    assert draws.groupby(["network", "family"]).size().eq(4).all()
    assert set(draws.family) == {"layer", "layer+importance", "random", "layer+kurtosis"}
    assert draws.overlap.max() == 0
    sizes = draws.groupby("network").n_neurons.agg(["min", "max"])
    for mask in masks:
        assert sizes.loc[mask.name].tolist() == [mask.count] * 2
    spread = draws.groupby("family").importance_ratio.std()
    assert spread["layer+importance"] < spread["layer"]


def test_all_families_run_in_one_study(tiny, masks, maps):
    families = ("random", "layer", "layer+importance", "permuted", "others", "anti", "top", "top+norm")
    result = run(tiny, masks, controls=families, options={"maps": maps})
    assert set(result.table.family) == set(families)
    others = result.controls[(result.controls.family == "others") & (result.controls.task == "held")]
    effects = result.matrix("effect")["held"]
    for mask in masks:
        got = others[others.network == mask.name].effect.tolist()
        assert got == pytest.approx([effects[m.name] for m in masks if m.name != mask.name])
    top = result.table[result.table.family == "top"]
    assert top.n_controls.eq(1).all()
    assert top.p.isna().all()


def test_one_seed_gives_bit_identical_results_and_another_gives_others(tiny, masks):
    first, again, other = run(tiny, masks), run(tiny, masks), run(tiny, masks, random_state=1)
    pd.testing.assert_frame_equal(first.table, again.table)
    pd.testing.assert_frame_equal(first.controls, again.controls)
    assert not np.allclose(first.controls.effect, other.controls.effect)
    np.testing.assert_array_equal(first.items.effect, other.items.effect)


def test_controls_do_not_depend_on_which_other_networks_are_studied(tiny, masks):
    both, alone = run(tiny, masks[:2]), run(tiny, masks[:1])
    pick = lambda r: r.controls[r.controls.network == masks[0].name].effect.to_numpy()  # noqa: E731
    np.testing.assert_allclose(pick(both), pick(alone), atol=1e-6)


def test_heads_are_compared_with_heads(tiny):
    geometry = NeuronGeometry.from_model(tiny[0], "attention")
    heads = [
        NeuronMask.from_heads([(0, 1), (2, 3)], geometry, "pair"),
        NeuronMask.from_heads([(1, 0)], geometry, "one"),
    ]
    families = ("random", "layer", ("layer", "importance"), "permuted", "top")
    study = LesionStudy(heads, TEXTS, n_controls=3, controls=families, reference=REFERENCE)
    for condition in Design(study, *tiny, StudyOptions()).conditions:
        assert len(condition.mask.heads) == len(heads[condition.network].heads), condition.family
    assert study.run(*tiny, progress=False).table.effect.abs().min() > 0


@pytest.mark.parametrize("mode", ["rows", "single"])
def test_all_modes_give_the_same_table(tiny, masks, mode):
    got = run(tiny, masks, options={"mode": mode}).table
    expected = run(tiny, masks).table
    pd.testing.assert_frame_equal(got, expected, atol=2e-5)


def test_half_precision_products_move_the_effects_little(tiny, masks):
    exact, rough = run(tiny, masks), run(tiny, masks, options={"autocast": "bfloat16"})
    assert rough.info["autocast"] == "bfloat16"
    difference = (rough.table.effect - exact.table.effect).abs()
    assert 0 < difference.max() < 0.02
    for options in ({"autocast": "int4"}, {"mode": "fast"}):
        with pytest.raises(ParameterError, match="Unknown"):
            run(tiny, masks, options=options)


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_mean_and_resample_studies_take_their_values_from_the_reference(tiny, masks, how):
    model, tokenizer = tiny
    reference = neuron_statistics(model, tokenizer, REFERENCE, n_samples=50)
    result = run(tiny, masks, how=how, reference=reference, controls=("layer",))
    assert result.table.effect.abs().max() > 0
    if how == "mean":
        from llmbrain.evaluation import token_losses

        with lesion(model, masks[0], "mean", reference=reference):
            lesioned = np.concatenate(token_losses(model, tokenizer, TEXTS)).mean()
        intact = np.concatenate(token_losses(model, tokenizer, TEXTS)).mean()
        assert result.matrix("effect").iloc[0, 0] == pytest.approx(lesioned - intact, abs=1e-5)


def test_amplification_is_a_study_too(tiny, masks):
    result = run(tiny, masks, how="scale", options={"value": 2.0, "alternative": "two-sided"}, controls=("layer",))
    assert result.info["lesion"] == {"how": "scale", "value": 2.0, "strength": 1.0, "positions": "all"}
    assert result.info["alternative"] == "two-sided"


def test_keeping_a_network_alone_is_a_study_too(tiny, masks):
    result = run(tiny, masks, how="retain", controls=("layer",))
    assert (result.info["lesion"]["how"], result.info["alternative"]) == ("retain", "less")
    silenced = run(tiny, [NeuronMask((~m).values, m.geometry, m.name) for m in masks], controls=("random",))
    np.testing.assert_allclose(result.matrix("effect"), silenced.matrix("effect"), atol=1e-6)
    draws = result.controls[result.controls.task == "held"]
    assert draws.n_neurons.tolist() == np.repeat([m.count for m in masks], 4).tolist()  # as many are kept
    row = result.table.iloc[0]
    lower = (draws[draws.network == row.network].effect <= row.effect).sum()
    assert row.p == pytest.approx((1 + lower) / 5)


def test_selectivity_covers_kinds_of_text_phenomena_and_localizer_conditions(tiny, masks):
    from llmbrain.lesions import double_dissociations, selectivity
    from llmbrain.text import load_localizer

    tasks = [
        LossTask(TEXTS, "loss"),
        LossTask(load_localizer("language")[:8], "language"),
        LossTask(load_localizer("arithmetic")[:8], "arithmetic", max_tokens=60),
        MinimalPairTask("all", "pairs", n_pairs=2),
    ]
    result = run(tiny, masks, tasks, controls=("layer",))
    frame = selectivity(result)
    kinds = {t.split(":")[0] for t in frame.task}
    assert kinds == {"loss", "language", "arithmetic", "pairs"}
    assert {"language:sentences", "language:shuffled", "pairs:npi_licensing"} <= set(frame.task)
    assert len(frame) == len(masks) * frame.task.nunique()
    assert frame.q.notna().all()
    assert frame.q_pooled.notna().all()
    assert (frame.p_pooled.min() < frame.p.min()) or frame.p.min() == 1 / 5
    assert set(double_dissociations(result, n_bootstrap=50).columns) >= {"task_1", "task_2", "q"}


def test_blimp_is_a_task_as_it_is_published(tiny, masks):
    import os
    from pathlib import Path

    folder = Path(os.environ.get("LLMBRAIN_BENCHMARK_DATA", "")) / "blimp"
    if not folder.is_dir():
        pytest.skip("BLiMP (the folder blimp in LLMBRAIN_BENCHMARK_DATA) is not there")
    result = run(
        tiny, masks[:1], [MinimalPairTask(folder, "blimp", "accuracy", n_pairs=2)], controls=("layer",), n_controls=2
    )
    assert len(result.tasks) == 1 + len(list(folder.glob("*.jsonl")))
    assert "blimp:transitive" in result.tasks
    assert result.table.set_index("task").intact.between(0, 1).all()


def test_tasks_of_every_sort_run_together(tiny, masks):
    questions = [{"prompt": "The sky is", "options": ["blue", "green"], "answer": 0}] * 3
    calls = []

    def length(model, tokenizer):
        calls.append(1)
        return [model(torch.arange(5)[None]).logits.std().item(), 1.0]

    tasks = [
        LossTask(TEXTS, name="text", by_kind=False, max_tokens=60),
        MinimalPairTask([MinimalPair("a b", "a c", "x", "0"), MinimalPair("a b d", "a c d", "x", "0")], by_kind=False),
        MultipleChoiceTask(questions, measure="margin"),
        CallableTask(length, higher_is_better=True),
    ]
    result = run(tiny, masks, tasks, controls=("layer",))
    assert result.tasks == ["text", "minimal_pairs", "multiple_choice", "length"]
    assert len(calls) == 1 + 3 + 3 * 4  # intact, networks, controls
    items = result.items[(result.items.task == "length") & (result.items.network == masks[0].name)]
    with lesion(tiny[0], masks[0]):
        lesioned = length(*tiny)[0]
    assert items.effect.iloc[0] == pytest.approx(length(*tiny)[0] - lesioned, abs=1e-6)
    assert items.effect.iloc[1] == 0.0


def test_likelihood_tasks_agree_with_the_functions_of_the_evaluation_room(tiny, masks):
    from llmbrain.evaluation import minimal_pairs, multiple_choice

    model, tokenizer = tiny
    questions = [{"prompt": "The sky is", "options": ["blue", "a green thing", "7"], "answer": 1, "id": "q"}]
    tasks = [
        MinimalPairTask(n_pairs=2, measure="accuracy", name="pairs"),
        MinimalPairTask(n_pairs=2, name="margins"),
        MultipleChoiceTask(questions, measure="margin", normalise="character"),
    ]
    items = run(tiny, masks[:1], tasks, controls=("layer",)).items
    with lesion(model, masks[0]):
        pairs, choice = (
            minimal_pairs(model, tokenizer, n_pairs=2),
            multiple_choice(model, tokenizer, questions, normalise="character"),
        )
    got = {t: items[items.task == t] for t in ("pairs", "margins", "multiple_choice")}
    value = {t: (frame.intact + frame.effect).to_numpy() for t, frame in got.items()}
    np.testing.assert_allclose(value["pairs"], 1 - pairs.correct, atol=1e-6)
    np.testing.assert_allclose(value["margins"], -pairs.margin, atol=1e-4)
    np.testing.assert_allclose(value["multiple_choice"], -choice.margin, atol=1e-4)


def test_answers_that_cannot_be_read_count_apart(tiny, masks):
    """Three questions: the second cannot be read on the intact model, the third under every lesion."""
    calls = []

    def answers(model, tokenizer):
        model(torch.arange(3)[None])  # a lesion that nothing reaches is an error
        calls.append(1)
        return [1.0, np.nan, 0.0] if len(calls) == 1 else [0.0, 1.0, np.nan]

    task = CallableTask(answers, "answers", higher_is_better=True)
    result = run(tiny, masks[:1], [task], controls=("layer",))
    table = result.table.set_index("task")
    assert result.tasks == ["answers", "answers unread"]
    assert table.n_items.to_dict() == {"answers": 1, "answers unread": 3}
    assert table.effect["answers"] == pytest.approx(1.0)  # of the one item that was read both times
    assert table.intact["answers"] == pytest.approx(0.5)
    assert table.intact["answers unread"] == pytest.approx(1 / 3)
    assert table.effect["answers unread"] == pytest.approx(0.0)
    assert result.info["tasks"]["answers"]["n_unread"] == {"intact": 1, "most": 1}
    assert result.items[result.items.task == "answers"].effect.isna().tolist() == [False, True, True]
    assert (result.controls[result.controls.task == "answers"].effect == 1.0).all()


def test_nothing_read_is_no_effect_at_all(tiny, masks):
    calls = []

    def answers(model, tokenizer):
        model(torch.arange(3)[None])  # a lesion that nothing reaches is an error
        calls.append(1)
        return [1.0, 0.0] if len(calls) == 1 else [np.nan, np.nan]

    row = run(tiny, masks[:1], [CallableTask(answers, "a")], controls=("layer",)).table.iloc[0]
    assert np.isnan(row[["effect", "ci_low", "z", "p", "q"]].astype(float)).all()
    assert (row.n_items, row.n_controls) == (0, 0)


def test_questions_are_answered_in_the_model_s_own_words(tiny, masks, monkeypatch):
    from llmbrain.evaluation.generation import GeneratedText
    from llmbrain.lesions import answer_task, generation

    written = iter([["It is yes.", "no", "who knows"], ["no", "yes or no", "no"], ["yes", "no", "no"]])

    def write(model, tokenizer, prompts, **options):
        model(torch.arange(3)[None])
        return [GeneratedText(p, t, np.arange(2), True) for p, t in zip(prompts, next(written))]

    monkeypatch.setattr(generation, "generate_texts", write)
    rows = [{"prompt": f"Question {i}?", "options": [" yes", " no"], "answer": a} for i, a in enumerate((0, 1, 1))]
    result = run(tiny, masks[:1], [answer_task(rows)], controls=("layer",), n_controls=1)
    items = result.items[result.items.task == "answers"]
    np.testing.assert_array_equal(items.intact, [0.0, 0.0, np.nan])
    np.testing.assert_array_equal(items.effect, [1.0, np.nan, np.nan])
    assert result.controls.set_index("task").effect["answers"] == 0.0
    assert result.table.set_index("task").effect["answers unread"] == 0.0  # one before, one after


def test_forecast_counts_the_work_without_doing_it(tiny, masks, monkeypatch):
    families = ("layer", "layer+importance", "others", "top")
    study = LesionStudy(masks, [LossTask(TEXTS, by_kind=False)], 5, families, reference=REFERENCE)
    with monkeypatch.context() as patch:
        patch.setattr(type(tiny[0]), "forward", None)  # the model is not run
        forecast = study.forecast(*tiny)
    assert (
        forecast["n_conditions"] == 1 + 3 * (1 + 2 * 5 + 1) == 1 + len(Design(study, *tiny, StudyOptions()).conditions)
    )
    assert forecast["n_token_forwards"] == forecast["n_conditions"] * forecast["n_tokens"]
    assert "33 of controls" in forecast["text"]


def test_the_token_budget_of_a_task_is_spread_over_the_documents(tiny):
    prepared = LossTask(TEXTS, max_tokens=60).prepare(*tiny)
    assert prepared.weights.tolist() == [10.0] * 6
    assert LossTask(TEXTS, max_tokens=6).prepare(*tiny).weights.size == 3


def test_default_task_is_the_held_out_demo_corpus(tiny, masks):
    from llmbrain.lesions.tasks import as_tasks

    prepared = as_tasks(None)[0].prepare(*tiny)
    assert prepared.info["corpus"] == "demo"
    assert "loss:code" in prepared.groups


# ------------------------------------------------------------------------------------------------ guards
def test_double_dipping_is_warned_of_and_written_down(tiny, masks):
    for kwargs in (
        {"options": {"fitted_on": TEXTS}},
        {"options": {"fitted_on": TEXTS[2:3]}},
        {"options": {"fitted_on": [TEXTS.hash]}},
        {"reference": TEXTS},
    ):
        with pytest.warns(DoubleDippingWarning, match="Double dipping"):
            result = run(tiny, masks[:1], **kwargs)
        assert len(result.info["warnings"]) == 1
        assert "Double dipping" in result.summary()
    for info in ({"corpus_hash": TEXTS.hash}, {"document_hashes": [TEXTS[1].hash[:16]]}):
        marked = NeuronMask(masks[0].values, masks[0].geometry, "a", info)
        with pytest.warns(DoubleDippingWarning, match="networks"):
            run(tiny, [marked])
    with pytest.warns(DoubleDippingWarning, match="networks"):  # of two masks, one knows its text
        run(tiny, [marked | masks[1]])


def test_networks_of_a_recording_bring_their_text_to_the_study(tmp_path):
    import llmbrain as lb
    from llmbrain.networks import NetworkSet

    tiny = tiny_model("llama"), tiny_tokenizer()
    fit = Corpus([Document(t.text * 3, t.id) for t in TEXTS], "fit")
    recording = lb.record(*tiny, fit, out=tmp_path / "study", progress=False)
    networks = lb.CanICA(n_components=3, n_init=2, random_state=0).fit(recording).networks_
    networks.set_threshold(1.5).save(tmp_path / "study")
    one_of_them = Corpus([fit[2], Document("a text that no network saw", "new")], "test")
    for given in (networks, networks.masks(2.0), NetworkSet.load(tmp_path / "study")):
        study = LesionStudy(given, one_of_them, n_controls=2, controls=("layer",), reference=REFERENCE)
        with pytest.warns(DoubleDippingWarning, match="that the networks come from .1 texts in common"):
            assert study.run(*tiny, progress=False).info["warnings"]
    study = LesionStudy(masks_from_maps(networks.z, networks.geometry, 1.5), one_of_them, 2, reference=recording)
    with pytest.warns(DoubleDippingWarning, match="that the importances and reference values come from"):
        study.run(*tiny, progress=False)
    curve = LesionStudy(networks, one_of_them, 1, ["layer"], options={"doses": {"strength": (1.0,)}})
    with pytest.warns(DoubleDippingWarning, match="networks"):
        assert curve.run(*tiny, progress=False).info["warnings"]
    study = LesionStudy(networks, one_of_them[1:], n_controls=2, controls=("layer",), reference=REFERENCE)
    result = study.run(*tiny, progress=False)
    assert result.info["warnings"] == []
    assert result.info["double_dipping_checked"]


def test_other_text_raises_no_warning(tiny, masks, recwarn):
    result = run(tiny, masks[:1], options={"fitted_on": REFERENCE_CORPUS})
    assert not [w for w in recwarn if issubclass(w.category, DoubleDippingWarning)]
    assert result.info["warnings"] == []
    assert result.info["double_dipping_checked"]
    assert not run(tiny, masks[:1]).info["double_dipping_checked"]


REFERENCE_CORPUS = Corpus([Document("a text of its own", "r")], "reference")


def test_bad_studies_are_refused_before_any_work(tiny, masks):
    geometry = masks[0].geometry
    empty = NeuronMask(np.zeros(geometry.n_neurons, bool), geometry, "hollow")
    other = NeuronMask(np.ones(40, bool), NeuronGeometry.from_sizes([20, 20]), "other")
    cases = [
        ({"masks": [masks[0], empty]}, MaskError, "hollow"),
        ({"masks": []}, MaskError, "at least one"),
        ({"masks": [masks[0], masks[0]]}, MaskError, "different names"),
        ({"masks": [masks[0], other]}, GeometryMismatchError, "other"),
        ({"masks": [other]}, GeometryMismatchError, "other"),
        ({"controls": ("columns",)}, ParameterError, "Choose from 'random'"),
        ({"controls": ("layer+size",)}, ParameterError, "Unknown importance 'size'"),
        ({"controls": ("layer", "layer")}, ParameterError, "once"),
        ({"controls": ("anti",)}, ParameterError, "maps"),
        ({"n_controls": 0}, ParameterError, "at least 1"),
        ({"options": {"speed": 3}}, ParameterError, "speed"),
        ({"how": "sleep"}, ParameterError, "Choose from 'zero'"),
        ({"tasks": []}, ParameterError, "at least one"),
        ({"tasks": [LossTask(TEXTS), LossTask(TEXTS)]}, ParameterError, "different names"),
        ({"tasks": [3]}, ParameterError, "a callable"),
    ]
    for kwargs, error, message in cases:
        options = {"masks": masks, "tasks": TEXTS, **kwargs}
        with pytest.raises(error, match=message):
            run(tiny, options.pop("masks"), options.pop("tasks"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"alternativ": "less"}}, "Unknown options"),
        ({"options": {"alternative": "bigger"}}, "Unknown alternative 'bigger'"),
        ({"options": {"n_bootstrap": 0}}, "n_bootstrap=0: it must be a whole number"),
        ({"options": {"level": 95}}, "level must be a coverage"),
        ({"options": {"importance": "x"}}, "Choose from 'fluctuation'"),
        ({"random_state": None}, "random_state must be a whole number"),
        ({"random_state": -1}, "random_state must be a whole number"),
        ({"tasks": "no such file"}, "No file or folder"),
    ],
)
def test_what_would_fail_late_is_said_early(tiny, masks, options, message):
    from llmbrain.exceptions import LLMBrainError

    with pytest.raises(LLMBrainError, match=message):
        LesionStudy(masks, **{"tasks": TEXTS, **options}).forecast(*tiny)


def test_lesions_take_masks_and_loaded_models_alone(tiny, masks):
    for wrong in (masks[0].values, [masks[0]], None):
        with pytest.raises(MaskError, match="one NeuronMask"):
            lesion(tiny[0], wrong)
    with pytest.raises(ParameterError, match="loaded model"):
        lesion("demo", masks[0])
    with pytest.raises(ParameterError, match="must return a finite number"):
        run(tiny, masks[:1], [lambda model, tokenizer: "good"], controls=("layer",))


# ------------------------------------------------------------------------------------------------ files, checkpoints
def test_results_are_saved_and_read_again(tiny, masks, tmp_path):
    result = run(tiny, masks)
    paths = result.save(tmp_path / "lesions")
    loaded = LesionResult.load(tmp_path / "lesions")
    for name in ("table", "controls", "items"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(result, name))
    assert loaded.info == json.loads(json.dumps(result.info))
    assert {p.suffix for p in paths} == {".tsv", ".json"}
    with pytest.raises(DatasetError, match="missing"):
        LesionResult.load(tmp_path / "elsewhere")


def test_results_lie_in_the_study_folder(tiny, masks, tmp_path):
    import llmbrain as lb

    model, tokenizer = tiny
    recording = lb.record(model, tokenizer, REFERENCE, out=tmp_path / "study", progress=False)
    result = run(tiny, masks, controls=("layer",))
    paths = result.save(recording.study)
    assert all(tmp_path in p.parents for p in paths)
    assert LesionResult.load(lb.Study.open(tmp_path / "study")).networks == result.networks


def test_an_interrupted_study_goes_on_where_it_stopped(tiny, masks, tmp_path, monkeypatch):
    from llmbrain.lesions import batched

    model, tokenizer = tiny
    path = tmp_path / "kept.npz"
    study = LesionStudy(masks, TEXTS, n_controls=4, reference=REFERENCE, options={"max_batch_tokens": 400})
    whole = study.run(model, tokenizer, progress=False)
    passes, original = [], batched._PASSES["prefix"]

    def interrupted(*args):
        passes.append(1)
        if len(passes) == 5:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setitem(batched._PASSES, "prefix", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run(model, tokenizer, progress=False, checkpoint=path)
    done = len(passes)
    resumed = study.run(model, tokenizer, progress=False, checkpoint=path)
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    again = len(passes)
    study.run(model, tokenizer, progress=False, checkpoint=path)
    assert len(passes) - again <= 1  # the trial of the mode alone
    assert done == 5


def test_merged_shares_are_the_study_of_one_process_bit_for_bit(tiny, masks, tmp_path, monkeypatch):
    from llmbrain.lesions import batched
    from llmbrain.lesions.checkpoint import check_shares

    def bytes_of_some(model, tokenizer):
        """As many numbers as an item has, one of them an answer that cannot be read."""
        return np.append(model(torch.arange(6)[None]).logits[0, :2, 0].detach().numpy(), np.nan)

    tasks, path = [TEXTS, CallableTask(bytes_of_some, name="bytes")], tmp_path / "kept.npz"
    options = {"max_batch_tokens": 400}
    study = LesionStudy(masks, tasks, n_controls=4, reference=REFERENCE, options=options)
    whole = study.run(*tiny, progress=False)
    for share in ("3/3", "1/3"):
        study.run_share(*tiny, share, path, progress=False)
    with pytest.raises(DatasetError, match="lacks the shares 2/3"):
        check_shares(path, (None, "bytes"))
    other = LesionStudy(masks, tasks, n_controls=4, reference=REFERENCE, random_state=1, options=options)
    other.run_share(*tiny, "2/3", path, progress=False)
    with pytest.raises(DatasetError, match="shares 2/3 are of another study"):
        check_shares(path, (None, "bytes"))
    study.run_share(*tiny, "2/3", path, progress=False)
    check_shares(path, (None, "bytes"))
    monkeypatch.setattr("llmbrain.lesions.scoring.row_mode", lambda *_: "prefix")
    monkeypatch.setitem(batched._PASSES, "prefix", lambda *_: 1 / 0)  # nothing is left to be measured
    merged = study.run(*tiny, progress=False, checkpoint=path)
    for name in ("table", "controls", "items"):
        pd.testing.assert_frame_equal(getattr(merged, name), getattr(whole, name), check_exact=True)
    study.run_share(*tiny, "1/4", path, progress=False)
    with pytest.raises(DatasetError, match="different splits: of 3 and of 4"):
        check_shares(path)
    with pytest.raises(ParameterError, match=r"900 shares were started for \d+ conditions"):
        study.run_share(*tiny, "1/900", path, progress=False)


def test_functions_go_on_where_they_were_interrupted(tiny, masks, tmp_path):
    calls, stop = [], [2]

    def score(model, tokenizer):
        if len(calls) == stop[0]:
            raise KeyboardInterrupt
        calls.append(1)
        return model(torch.arange(6)[None]).logits[0, :3, 0].detach().numpy()

    path = tmp_path / "part.npz"
    study = LesionStudy(masks[:1], CallableTask(score, name="a score"), n_controls=2, controls=("layer",))
    with pytest.raises(KeyboardInterrupt):
        study.run(*tiny, progress=False, checkpoint=path)
    assert (tmp_path / "part.a-score.npz").is_file()
    # the list that the function encloses has changed, so it is another function: nothing of the old one is used
    stop[0] = 99
    study.run(*tiny, progress=False, checkpoint=path)
    assert len(calls) == 2 + 4


def test_a_function_is_known_again_by_its_code_and_what_it_encloses(tiny, masks, tmp_path, monkeypatch):
    from llmbrain.lesions import generation, generation_task

    task = generation_task(["some text", "more"], "distinct_1", max_new_tokens=3)
    study = LesionStudy(masks[:1], task, n_controls=2, controls=("layer",))
    whole = study.run(*tiny, progress=False)
    count, real = [], generation.generate_texts

    def write(*args, **kwargs):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(generation, "generate_texts", write)
    with pytest.raises(KeyboardInterrupt):
        study.run(*tiny, progress=False, checkpoint=tmp_path / "part.npz")
    again = LesionStudy(
        masks[:1], generation_task(["some text", "more"], "distinct_1", max_new_tokens=3), n_controls=2,
        controls=("layer",),
    )  # fmt: skip
    result = again.run(*tiny, progress=False, checkpoint=tmp_path / "part.npz")
    assert len(count) == 3 + 2  # two of four conditions were done
    pd.testing.assert_frame_equal(result.table, whole.table)
    other = LesionStudy(masks[:1], generation_task(["some text"], "loop"), n_controls=2, controls=("layer",))
    other.run(*tiny, progress=False, checkpoint=tmp_path / "part.npz")
    assert len(count) == 5 + 4


def test_masks_without_a_name_are_numbered_as_masks():
    from llmbrain.lesions.design import named_masks

    geometry = NeuronGeometry.from_sizes([4, 4])
    masks = [NeuronMask(np.arange(8) == k, geometry, name) for k, name in enumerate(("mine", "", ""))]
    assert [mask.name for mask in named_masks(masks)[0]] == ["mine", "mask-02", "mask-03"]
