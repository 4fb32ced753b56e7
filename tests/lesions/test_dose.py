"""Dose and response, selectivity, double dissociations, texts side by side."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.evaluation import generate_texts, text_metrics, token_losses
from llmbrain.evaluation.generation import GeneratedText, distinct_n, longest_loop, repetition_n
from llmbrain.exceptions import LLMBrainError, MaskError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import (
    LesionResult,
    LesionStudy,
    LossTask,
    double_dissociations,
    generation_task,
    harness_task,
    lesion,
    selectivity,
    side_by_side,
)
from llmbrain.masks import masks_from_maps
from llmbrain.text import Corpus, Document

TEXTS = Corpus(
    [Document(f"some text about {i} cats and the dogs they met", f"d{i}", "ab"[i % 2]) for i in range(6)], "held"
)
REFERENCE = ["another text that is here for reference only, and nothing else", "and one more text"]


@pytest.fixture(scope="module")
def tiny():
    return tiny_model("llama"), tiny_tokenizer()


@pytest.fixture(scope="module")
def maps(tiny):
    return np.random.default_rng(0).standard_normal((2, NeuronGeometry.from_model(tiny[0]).n_neurons))


@pytest.fixture(scope="module")
def masks(tiny, maps):
    return masks_from_maps(maps, NeuronGeometry.from_model(tiny[0]), 1.5)


def curve(tiny, masks, over, doses, **kwargs):
    settings = {"tasks": LossTask(TEXTS), "n_controls": 4, "controls": ["layer+importance"], "reference": REFERENCE}
    options = {"doses": {over: doses}, **kwargs}
    return LesionStudy(masks, **settings, options=options).run(*tiny, progress=False)


def mean_loss(tiny):
    return np.concatenate(token_losses(*tiny, TEXTS)).mean()


# ------------------------------------------------------------------------------------------------ dose and response
@pytest.mark.parametrize(
    ("over", "doses", "options"),
    [
        ("strength", (0.0, 0.5, 1.0), lambda dose: {"strength": dose}),
        ("gain", (0.5, 1.0, 2.0), lambda dose: {"how": "scale", "value": dose}),
    ],
)
def test_each_dose_is_the_lesion_of_that_dose(tiny, masks, over, doses, options):
    got = curve(tiny, masks, over, doses).table
    intact = mean_loss(tiny)
    for mask in masks:
        for dose in doses:
            with lesion(tiny[0], mask, **options(dose)):
                expected = mean_loss(tiny) - intact
            row = got[(got.network == mask.name) & (got[over] == dose)].iloc[0]
            assert row.effect == pytest.approx(expected, abs=1e-5)
            assert row.n_neurons == mask.count


def test_nothing_happens_at_strength_0_and_gain_1(tiny, masks):
    for over, dose in (("strength", 0.0), ("gain", 1.0)):
        result = curve(tiny, masks, over, (dose,))
        np.testing.assert_allclose(result.table.effect, 0, atol=1e-6)
        np.testing.assert_allclose(result.controls.effect, 0, atol=1e-6)


def test_a_control_is_one_set_along_the_whole_curve(tiny, masks):
    both, alone = curve(tiny, masks, "strength", (0.5, 1.0)).controls, curve(tiny, masks, "strength", (1.0,)).controls
    pd.testing.assert_series_equal(
        both[both.strength == 1.0].effect.reset_index(drop=True), alone.effect.reset_index(drop=True), atol=1e-6
    )


@pytest.mark.parametrize(("over", "doses"), [("threshold", (1.0, 2.0)), ("n_neurons", (5, 20))])
def test_doses_of_size_take_the_neurons_they_say(tiny, masks, maps, over, doses):
    got = curve(tiny, masks, over, doses, maps=maps)
    z = np.abs(maps)
    for row in got.table.itertuples():
        k = [m.name for m in masks].index(row.network)
        expected = (z[k] > row.threshold).sum() if over == "threshold" else row.n_neurons
        assert row.n_neurons == expected
    if over == "threshold":
        sizes = got.table.set_index(["network", over]).n_neurons
        assert all(row.n_neurons == sizes[row.network, row.threshold] for row in got.controls.itertuples())
    assert got.controls.groupby(["network", over]).size().eq(4).all()
    assert (got.table.control_low <= got.table.control_high).all()


def test_bad_doses_are_refused(tiny, masks, maps):
    for over, doses, error, message in [
        ("size", (1,), ParameterError, "Choose from 'strength'"),
        ("strength", (2.0,), ParameterError, "gain"),
        ("strength", (), ParameterError, "at least one"),
        ("threshold", (9.0,), MaskError, "leave this threshold out"),
        ("n_neurons", (10**6,), ParameterError, "number of neurons"),
    ]:
        with pytest.raises(error, match=message):
            curve(tiny, masks, over, doses, maps=maps)
    with pytest.raises(ParameterError, match="need the maps"):
        curve(tiny, masks, "threshold", (1.0,))


def test_a_curve_may_match_by_importances_of_ones_own(tiny, masks):
    own = np.arange(masks[0].geometry.n_neurons, dtype=float)
    result = curve(tiny, masks, "strength", (1.0,), importance=own)
    assert result.info["family"]["layer+importance"].endswith("importance: given")
    assert result.table.n_controls.eq(4).all()


def test_dose_curves_can_be_drawn(tiny, masks, tmp_path):
    from llmbrain.plotting import plot_dose_response

    plot_dose_response(curve(tiny, masks, "strength", (0.0, 1.0)).table, x="strength", output_file=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


# ------------------------------------------------------------------------------------------------ selectivity
def made_up(effects, n_items=12, noise=0.05, seed=0):
    """A result in which the networks have the given mean effects on the tasks, ``{network: {task: effect}}``."""
    rng = np.random.default_rng(seed)
    items, table, draws = [], [], []
    for task in next(iter(effects.values())):
        shared = rng.normal(0, 1, n_items)  # documents differ more than lesions do; pairing takes it out
        for network, row in effects.items():
            effect = row[task] + shared + rng.normal(0, noise, n_items)
            for i in range(n_items):
                items.append((network, task, f"{task}-{i}", 1.0, 3.0, effect[i]))
            table.append((network, task, "layer", effect.mean(), row[task] / 0.1, 0.01 if row[task] > 0.3 else 0.5))
    columns = ["network", "task", "family", "effect", "z", "p"]
    table = pd.DataFrame(table, columns=columns).assign(ci_low=0.0, ci_high=0.0, control_max=0.0, q=0.5)
    items = pd.DataFrame(items, columns=["network", "task", "item", "weight", "intact", "effect"])
    return LesionResult(table, pd.DataFrame(draws), items)


PLANTED = {
    "code-net": {"loss:code": 0.8, "loss:prose": 0.1, "loss:talk": 0.2},
    "prose-net": {"loss:code": 0.1, "loss:prose": 0.7, "loss:talk": 0.2},
    "broad-net": {"loss:code": 0.9, "loss:prose": 0.8, "loss:talk": 0.9},
}


def test_a_planted_double_dissociation_is_found_and_a_common_drop_is_not():
    found = double_dissociations(made_up(PLANTED))
    sure = found[found.q < 0.05]
    pairs = {tuple(sorted((r.network_1, r.network_2))) for r in sure.itertuples()}
    assert pairs == {("code-net", "prose-net")}
    first = sure.iloc[0]
    assert (first.network_1, first.task_1, first.network_2, first.task_2) == (
        "code-net",
        "loss:code",
        "prose-net",
        "loss:prose",
    )
    assert first.interaction == pytest.approx(0.7 + 0.6, abs=0.1)
    assert first.beyond_controls
    assert first.effect_11 - first.effect_21 == pytest.approx(0.7, abs=0.1)


def test_items_that_were_not_read_count_for_neither_network():
    result, whole = made_up(PLANTED), double_dissociations(made_up(PLANTED)).iloc[0]
    largest = result.items[result.items.task == "loss:code"].groupby("network").effect.idxmax()
    result.items.loc[largest["code-net"], "effect"] = np.nan  # a document that is hard for every network
    first = double_dissociations(result).iloc[0]
    assert (first.network_1, first.task_1) == ("code-net", "loss:code")
    assert first.q < 0.05
    assert first.interaction == pytest.approx(whole.interaction, abs=0.05)


def test_no_dissociation_is_found_in_noise():
    nothing = {f"n{k}": {"loss:a": 0.2, "loss:b": 0.2, "loss:c": 0.2} for k in range(4)}
    hits = [(double_dissociations(made_up(nothing, seed=s), n_bootstrap=1000).q < 0.05).any() for s in range(20)]
    assert sum(hits) <= 2


def test_selectivity_compares_a_task_with_the_others_of_the_network():
    frame = selectivity(made_up(PLANTED)).set_index(["network", "task"])
    assert frame.loc[("code-net", "loss:code"), "selectivity"] == pytest.approx(8.0 - 1.5)
    assert frame.loc[("broad-net", "loss:code"), "selectivity"] == pytest.approx(9.0 - 8.5)
    assert frame.q.max() <= 1
    with pytest.raises(ParameterError, match="no control family"):
        selectivity(made_up(PLANTED), family="random")
    with pytest.raises(ParameterError, match="no task"):
        double_dissociations(made_up(PLANTED), tasks=["x", "loss:code"])
    with pytest.raises(ParameterError, match="two networks"):
        double_dissociations(made_up(PLANTED), networks=["code-net"])


def test_selectivity_of_a_real_study_can_be_drawn(tiny, masks, tmp_path):
    from llmbrain.plotting import plot_selectivity

    result = LesionStudy(masks, [LossTask(TEXTS)], n_controls=5, controls=("layer",)).run(*tiny, progress=False)
    frame = selectivity(result)
    assert set(frame.task) == {"loss:a", "loss:b"}
    double_dissociations(result, n_bootstrap=200)
    plot_selectivity(frame, value="z", output_file=tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 1000


# ------------------------------------------------------------------------------------------------ generated text
PROMPTS = ["one prompt", "a longer prompt of more tokens", "two prompt"]


def test_prompts_together_give_what_each_gives_alone(tiny):
    together = generate_texts(*tiny, PROMPTS, max_new_tokens=10)
    for prompt, text in zip(PROMPTS, together):
        (alone,) = generate_texts(*tiny, prompt, max_new_tokens=10)
        assert alone.ids.tolist() == text.ids.tolist()
        assert (text.prompt, alone.text) == (prompt, text.text)


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
    for bad in ([], [3]):
        with pytest.raises(ParameterError, match="list of strings"):
            generate_texts(model, tokenizer, bad)


def test_metrics_of_text_by_hand():
    assert distinct_n([1, 2, 3], 1) == 1.0
    assert distinct_n([1, 1, 1, 1], 2) == pytest.approx(1 / 3)
    assert repetition_n([1, 2, 3, 4, 1, 2, 3, 4], 4) == pytest.approx(1 / 5)
    assert np.isnan(distinct_n([1], 2))
    assert longest_loop([1, 1, 1]) == 3
    assert longest_loop([5, 1, 2, 3, 1, 2, 3, 1, 9]) == 7
    assert longest_loop([]) == 0
    frame = text_metrics(
        [GeneratedText("p", "t", np.array([1, 1, 1, 1]), False), GeneratedText("p", "", np.array([]), True)]
    )
    assert frame.loop.tolist() == [1.0, 0.0]
    assert frame.n_tokens.tolist() == [4, 0]


def test_texts_side_by_side_are_those_of_each_lesion(tiny, masks):
    frame = side_by_side(*tiny, PROMPTS, masks, max_new_tokens=12, lesion_options={"how": "scale", "value": 3.0})
    table = frame.pivot(index="prompt", columns="condition", values="text").loc[PROMPTS]
    assert table.intact.tolist() == [t.text for t in generate_texts(*tiny, PROMPTS, max_new_tokens=12)]
    with lesion(tiny[0], masks[1], how="scale", value=3.0):
        assert table[masks[1].name].tolist() == [t.text for t in generate_texts(*tiny, PROMPTS, max_new_tokens=12)]


def test_repetition_is_a_task_of_a_study(tiny, masks):
    task = generation_task(PROMPTS, "distinct_1", max_new_tokens=6)
    result = LesionStudy(masks[:1], [task], n_controls=2, controls=("layer",)).run(*tiny, progress=False)
    own = result.items.set_index("item").effect
    with lesion(tiny[0], masks[0]):
        lesioned = text_metrics(generate_texts(*tiny, PROMPTS, max_new_tokens=6)).distinct_1
    intact = text_metrics(generate_texts(*tiny, PROMPTS, max_new_tokens=6)).distinct_1
    np.testing.assert_allclose(own, intact - lesioned)  # fewer different tokens are worse
    with pytest.raises(ParameterError, match="must be one of repetition"):
        generation_task(PROMPTS, "beauty")


# ------------------------------------------------------------------------------------------------ lm-eval
def test_harness_says_how_to_install_lm_eval_or_runs_a_task_under_a_lesion(tiny, masks, tmp_path):
    try:
        import lm_eval  # noqa: F401
        from lm_eval.tasks import TaskManager
    except ImportError:
        from llmbrain.evaluation import harness

        with pytest.raises(LLMBrainError, match=r"llmbrain\[eval\]"):
            harness(*tiny, "arc_easy")
        return
    import json

    rows = [{"question": f"The cat number {i} sat", "options": ["on", "under"], "answer": i % 2} for i in range(6)]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (tmp_path / "cats.yaml").write_text(
        "task: cats\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path / 'q.jsonl'}\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{question}}'\ndoc_to_choice: '{{options}}'\ndoc_to_target: answer\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    from llmbrain.evaluation import harness, multiple_choice

    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    questions = [{"prompt": r["question"], "options": r["options"], "answer": r["answer"]} for r in rows]
    expected = multiple_choice(*tiny, questions).correct.mean()
    frame = harness(*tiny, "cats", task_manager=manager)
    assert frame.set_index("metric").value["acc"] == pytest.approx(expected)
    with lesion(tiny[0], masks[0], how="scale", value=8.0):
        lesioned = multiple_choice(*tiny, questions).correct.mean()
    task = harness_task("cats", task_manager=manager)
    study = LesionStudy(masks[:1], [task], n_controls=2, controls=("layer",)).run(*tiny, progress=False)
    assert study.table.intact.iloc[0] == pytest.approx(expected)
    with lesion(tiny[0], masks[0], how="scale", value=8.0):
        assert task.function(*tiny) == pytest.approx(lesioned)
