"""Tasks: the contract of every member, and tasks by name."""

import harnessed
import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import ParameterError
from llmbrain.lesions import TASKS, LossTask
from llmbrain.lesions.tasks import as_tasks

TEXTS = ["some text about cats and the dogs they met", "another text, of numbers 1 2 3 and of signs"]
QUESTIONS = [{"prompt": f"The cat {i} sat", "options": [" yes", " no"], "answer": i % 2} for i in range(3)]


def mean_logit(model, tokenizer):
    """A number that depends on the model."""
    with torch.no_grad():
        return model(torch.arange(6)[None]).logits[0, :, 0].numpy()


ARGUMENTS = {
    "loss": {"text": TEXTS},
    "minimal_pairs": {"n_pairs": 1},
    "multiple_choice": {"questions": QUESTIONS},
    "callable": {"function": mean_logit},
    "generation": {"prompts": ["some text", "more"], "measure": "distinct_1", "max_new_tokens": 3},
    "answers": {"questions": QUESTIONS, "max_new_tokens": 2},
    "harness": {"task": "cats"},
}


@pytest.fixture(scope="module")
def tiny():
    return tiny_model("llama"), tiny_tokenizer()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_the_contract(tiny, name, tmp_path):
    more = {}
    if name == "harness":
        pytest.importorskip("lm_eval", reason="lm-eval (pip install 'llmbrain[eval]') is not installed")
        more = {"task_manager": harnessed.cats(tmp_path)[0]}
    task = TASKS[name](**ARGUMENTS[name], **more)
    assert set(TASKS[name].needs) <= set(ARGUMENTS[name])
    prepared, again = task.prepare(*tiny), task.prepare(*tiny)
    assert bool(prepared.sequences) == (prepared.call is None)
    if prepared.call is not None:
        assert prepared.key == again.key or more  # a manager of lm-eval cannot be described
        rows = np.stack([prepared.call(*tiny) for _ in range(2)])
        np.testing.assert_array_equal(rows[0], rows[1])
        values = prepared.take(rows)
    else:
        sums = np.random.default_rng(0).random((2, len(prepared.sequences)))
        values = prepared.values(sums)
        np.testing.assert_allclose(prepared.values(sums[:1]), values[:1])
        for one, other in zip(prepared.sequences, again.sequences):
            np.testing.assert_array_equal(one.ids, other.ids)
    n = values.shape[1]
    assert len(prepared.items) == len(prepared.kinds) == len(prepared.weights) == n
    assert next(iter(prepared.groups)) == prepared.name
    assert all(members.max() < n for members in prepared.groups.values())
    assert len(set(prepared.items[: len(prepared.groups[prepared.name])])) == len(prepared.groups[prepared.name])


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_passed_by_name_if_they_need_nothing(name):
    needs = TASKS[name].needs
    if needs:
        with pytest.raises(ParameterError, match=f"needs {needs[0]}"):
            as_tasks(name)
    else:
        assert as_tasks(name)[0].name == name
        assert as_tasks([name, LossTask(TEXTS, "other")])[0].name == name


def test_strings_that_are_no_names_are_texts():
    assert as_tasks(TEXTS)[0].text == TEXTS
    assert as_tasks(TEXTS[:1])[0].text == TEXTS[:1]
