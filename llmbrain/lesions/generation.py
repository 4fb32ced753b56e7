"""Texts that a lesioned model generates: side by side with the intact ones, and as tasks."""

import contextlib

import numpy as np
import pandas as pd

from ..evaluation.generation import generate_texts, text_metrics
from ..evaluation.harness import harness
from ..evaluation.multiple_choice import load_questions, parse_answer
from ..exceptions import ParameterError
from ..registry import choose
from .context import lesion
from .tasks import TASKS, CallableTask

MEASURES = {"repetition": False, "loop": False, "distinct_1": True, "distinct_2": True}  # whether higher is better


def side_by_side(model, tokenizer, prompts, masks, *, lesion_options=None, **options):
    """Generate texts with the intact and the lesioned model from the same prompts.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    prompts : str or list of str
    masks : NeuronMask, list of NeuronMask, or dict of str to NeuronMask
        They are lesioned one after the other.
    lesion_options : dict, optional
        ``how``, ``value``, ``strength``, ``positions`` and others, see :func:`llmbrain.lesion`.
    **options
        Passed to :func:`llmbrain.evaluation.generate_texts`.

    Returns
    -------
    pandas.DataFrame
        One row per prompt and condition (``intact`` first): ``condition`` and the columns of
        :func:`llmbrain.evaluation.text_metrics`. ``frame.pivot(index="prompt", columns="condition", values="text")``
        puts the texts side by side.
    """
    if hasattr(masks, "geometry"):
        masks = [masks]
    if not isinstance(masks, dict):
        masks = {m.name or f"lesion-{i + 1}": m for i, m in enumerate(masks)}
    # make every lesion before the first text is written, so that a wrong mask fails early
    lesions = {name: lesion(model, mask, **(lesion_options or {})) for name, mask in masks.items()}
    frames = []
    for name, context in {"intact": contextlib.nullcontext(), **lesions}.items():
        with context:
            frame = text_metrics(generate_texts(model, tokenizer, prompts, **options))
        frame.insert(0, "condition", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@TASKS.register("generation", needs=("prompts",))
def generation_task(prompts, measure="repetition", *, name=None, **options):
    """Make a task for :class:`LesionStudy`: how repetitive the texts are that the model generates.

    Parameters
    ----------
    prompts : list of str
        One item each.
    measure : {"repetition", "loop", "distinct_1", "distinct_2"}
        See :func:`llmbrain.evaluation.text_metrics`. Texts too short for the measure are counted separately.
    name : str, optional
    **options
        Passed to :func:`llmbrain.evaluation.generate_texts`.
    """
    choose("measure", measure, MEASURES)

    def written(model, tokenizer):
        frame = text_metrics(generate_texts(model, tokenizer, prompts, **options))
        return frame[measure].to_numpy(dtype=float)

    name, unit = name or f"text_{measure}", f"share ({measure})"
    return CallableTask(written, name, higher_is_better=MEASURES[measure], unit=unit)


@TASKS.register("answers", needs=("questions",), source="questions")
def answer_task(questions, *, name="answers", parse=parse_answer, max_new_tokens=12, **options):
    """Make a task for :class:`LesionStudy`: questions that the model answers in generated text.

    Parameters
    ----------
    questions : path or list of Question
        See :func:`llmbrain.evaluation.load_questions`; the options are the labels that an answer can have.
    name : str
    parse : callable
        ``parse(text, labels)`` returns a label, or None if the text has none or several.
    max_new_tokens : int
    **options
        Passed to :func:`llmbrain.evaluation.generate_texts`, for example ``chat=True``.

    Returns
    -------
    CallableTask
        The share of wrong answers among those that could be read. The group ``NAME unread`` is the share of the others.
    """
    questions = load_questions(questions)

    def answered(model, tokenizer):
        prompts = [q.prompt for q in questions]
        texts = generate_texts(model, tokenizer, prompts, max_new_tokens=max_new_tokens, **options)
        wrong = []
        for question, written in zip(questions, texts):
            label = parse(written.text, [option.strip() for option in question.options])
            right = question.options[question.answer].strip()
            wrong.append(np.nan if label is None else float(label != right))
        return np.array(wrong)

    return CallableTask(answered, name, unit="error rate")


@TASKS.register("harness", needs=("task",), source="task")
def harness_task(task, metric="acc", *, name=None, **options):
    """Make a task for :class:`LesionStudy` from one metric of one lm-eval task (needs ``llmbrain[eval]``).

    Parameters
    ----------
    task : str
    metric : str
        Name in lm-eval, such as ``acc``, ``acc_norm``, ``word_perplexity``.
    name : str, optional
    **options
        Passed to :func:`llmbrain.evaluation.harness`.
    """

    def number(model, tokenizer):
        frame = harness(model, tokenizer, task, **options)
        rows = frame[frame["metric"] == metric]
        if rows.empty:
            raise ParameterError(
                f"lm-eval's {task} has no metric {metric!r}; it has {', '.join(set(frame['metric']))}."
            )
        return float(rows["value"].iloc[0])

    lower_is_better = any(word in metric for word in ("perplexity", "ppl", "bits"))
    return CallableTask(number, name or task, higher_is_better=not lower_is_better, unit=metric)
