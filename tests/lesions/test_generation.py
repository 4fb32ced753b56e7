"""Generated text of lesioned models: side by side, and as tasks."""

import numpy as np
import pytest

from llmbrain.evaluation import generate_texts, text_metrics
from llmbrain.exceptions import LLMBrainError, ParameterError
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
