"""Generated text of lesioned models: side by side, and as tasks."""

import harnessed
import numpy as np
import pytest
from tiny import tiny_model

from llmbrain.evaluation import generate_texts, text_metrics
from llmbrain.exceptions import LLMBrainError, NumericalError, ParameterError
from llmbrain.lesions import (
    LesionStudy,
    generation_task,
    harness_task,
    lesion,
    side_by_side,
)

PROMPTS = ["one prompt", "a longer prompt of more tokens", "two prompt"]


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
    with pytest.raises(ParameterError, match="Unknown measure"):
        generation_task(PROMPTS, "beauty")


def test_harness_says_how_to_install_lm_eval_or_runs_a_task_under_a_lesion(tiny, masks, tmp_path):
    from llmbrain.evaluation import harness, multiple_choice

    try:
        manager, rows = harnessed.cats(tmp_path)
    except ImportError:
        with pytest.raises(LLMBrainError, match=r"llmbrain\[eval\]"):
            harness(*tiny, "arc_easy")
        return
    questions = [{"prompt": r["question"], "options": r["options"], "answer": r["answer"]} for r in rows]
    expected = multiple_choice(*tiny, questions).correct.mean()
    with pytest.raises(ParameterError, match="cannot run dogs"):
        harness(*tiny, "dogs", task_manager=manager)
    frame = harness(*tiny, "cats", task_manager=manager)
    assert frame.set_index("metric").value["acc"] == pytest.approx(expected)
    with lesion(tiny[0], masks[0], how="scale", value=8.0):
        lesioned = multiple_choice(*tiny, questions).correct.mean()
    task = harness_task("cats", task_manager=manager)
    study = LesionStudy(masks[:1], [task], n_controls=2, controls=("layer",)).run(*tiny, progress=False)
    assert study.table.intact.iloc[0] == pytest.approx(expected)
    with lesion(tiny[0], masks[0], how="scale", value=8.0):
        assert task.function(*tiny) == pytest.approx(lesioned)
    broken = tiny_model("llama")
    broken.lm_head.weight.data.fill_(3e38)
    with pytest.raises(NumericalError, match="The logits"):
        task.function(broken, tiny[1])  # lm-eval would count one of the answers as chosen
