"""Multiple choice by likelihood, and answers in generated text."""

import re
from dataclasses import dataclass

import numpy as np

from ..arguments import checked, text, texts
from ..exceptions import CorpusError, ParameterError
from ..files import as_path
from ..registry import choose
from ..text import Window, describe_bos, encode_prompts
from ..text.reading import read_jsonl
from .losses import window_losses

NORMALISATIONS = ("none", "token", "character")


@dataclass(frozen=True)
class Question:
    """A question with several options, one of them right.

    Parameters
    ----------
    prompt : str
        The text before the option.
    options : tuple of str
        A space is inserted before an option unless the option begins, or the prompt ends, with white space.
    answer : int
        Number of the right option, from 0.
    id, kind : str
    """

    prompt: str
    options: tuple
    answer: int
    id: str = ""
    kind: str = None

    def __post_init__(self):
        options = tuple(self.options)
        if len(options) < 2 or len(set(options)) < len(options) or not all(isinstance(o, str) and o for o in options):
            raise CorpusError(f"Question {self.id!r} needs at least two different options; got {list(options)}.")
        if not isinstance(self.answer, (int, np.integer)) or not 0 <= self.answer < len(options):
            raise CorpusError(
                f"Question {self.id!r}: the answer must be the number of an option, 0 to {len(options) - 1}; "
                f"got {self.answer!r}."
            )
        object.__setattr__(self, "options", options)


def load_questions(source):
    """Read questions from a JSONL file or a list.

    Parameters
    ----------
    source : path, list of dict, or list of Question
        A row has ``prompt``, ``options`` (a list), ``answer`` (number or text of the right option), and optionally
        ``id`` and ``kind``.

    Returns
    -------
    list of Question
    """
    rows = source if isinstance(source, (list, tuple)) else [row for _, row in read_jsonl(as_path(source))]
    if not rows:
        raise CorpusError("The list of questions is empty.")
    if not all(isinstance(row, Question | dict) for row in rows):
        raise CorpusError("Every question must be a Question or a dict with prompt, options and answer.")
    return [row if isinstance(row, Question) else _question(row, i) for i, row in enumerate(rows)]


def _question(row, i):
    missing = {"prompt", "options", "answer"} - set(row)
    if missing:
        raise CorpusError(f"Question {i + 1} lacks {', '.join(sorted(missing))}. Its fields are {', '.join(row)}.")
    if not isinstance(row["prompt"], str) or not isinstance(row["options"], (list, tuple)):
        raise CorpusError(f"Question {i + 1}: the prompt must be a text and the options a list; got {row}.")
    answer, options = row["answer"], list(row["options"])
    if isinstance(answer, str):
        if answer not in options:
            raise CorpusError(f"Question {i + 1}: the answer {answer!r} is not among the options {options}.")
        answer = options.index(answer)
    return Question(row["prompt"], tuple(options), answer, str(row.get("id", f"question-{i + 1:04d}")), row.get("kind"))


def option_windows(questions, tokenizer, normalise="none", bos="auto"):
    """One window per option of every question, and what to divide each log likelihood by, shape (n_options,)."""
    choose("normalise", normalise, NORMALISATIONS)
    windows, divisors = [], []
    prompts = encode_prompts([q.prompt.rstrip() for q in questions], tokenizer, bos)
    for question, prompt in zip(questions, prompts):
        for option, whole in zip(question.options, encode_prompts(_answered(question), tokenizer, bos)):
            # the space at the end of a prompt often forms a token with the option: only what both share is prompt
            window = Window(whole, np.arange(len(whole)) >= _shared(whole, prompt))
            if not window.n_scored:
                raise CorpusError(f"Question {question.id!r}: the option {option!r} adds no token to its prompt.")
            windows.append(window)
            divisors.append({"none": 1, "token": window.n_scored, "character": len(option)}[normalise])
    return windows, np.array(divisors, dtype=float)


def _answered(question):
    """The prompt followed by each of the options."""
    apart = not question.prompt or question.prompt[-1:].isspace()
    return [question.prompt + ("" if apart or option[:1].isspace() else " ") + option for option in question.options]


def _shared(a, b):
    """Number of tokens that two sequences share at their start."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n


def margins(questions, log_likelihoods):
    """Log likelihood of the right option minus the best wrong one: (..., n_options) to (..., n_questions)."""
    result, start = [], 0
    for question in questions:
        scores = log_likelihoods[..., start : start + len(question.options)]
        wrong = np.delete(scores, question.answer, axis=-1).max(axis=-1)
        result.append(scores[..., question.answer] - wrong)
        start += len(question.options)
    return np.stack(result, axis=-1)


def multiple_choice(model, tokenizer, questions, *, normalise="none", max_batch_tokens=4096, bos="auto"):
    """Answer questions by the likelihood of their options.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    questions : path or list
        See :func:`load_questions`.
    normalise : {"none", "token", "character"}
        Divide log likelihoods by the length of the option. In lm-eval, "none" is ``acc`` and "character" is
        ``acc_norm``.
    max_batch_tokens : int
        Maximum number of tokens in a batch.
    bos : {"auto", True, False}
        Special tokens before every prompt, see :func:`llmbrain.text.leading_tokens`.

    Returns
    -------
    pandas.DataFrame
        One row per question: ``id, kind, n_options, answer, chosen, margin`` (nats), ``correct`` (0.5 for a tie),
        ``chance`` and ``bos`` (the leading special tokens, or "none").
    """
    import pandas as pd

    questions = load_questions(questions)
    windows, divisors = option_windows(questions, tokenizer, normalise, bos)
    losses = window_losses(model, windows, max_batch_tokens=max_batch_tokens)
    scores = -np.array([part.sum(dtype=np.float64) for part in losses]) / divisors
    margin = margins(questions, scores)
    ends = np.cumsum([len(q.options) for q in questions])
    chosen = [int(part.argmax()) for part in np.split(scores, ends[:-1])]
    return pd.DataFrame(
        {
            "id": [q.id for q in questions],
            "kind": [q.kind for q in questions],
            "n_options": [len(q.options) for q in questions],
            "answer": [q.answer for q in questions],
            "chosen": chosen,
            "margin": margin,
            "correct": (1.0 + np.sign(margin)) / 2,
            "chance": [1 / len(q.options) for q in questions],
            "bos": describe_bos(tokenizer, bos),
        }
    )


@checked(text=text, labels=texts)
def parse_answer(text, labels):
    """Find the label that a generated text names.

    Labels are matched as whole words, the longest first, so that "unacceptable" is not read as "acceptable" and
    "not entailment" not as "entailment". Case and white space do not matter.

    Parameters
    ----------
    text : str
    labels : sequence of str

    Returns
    -------
    str or None
        None if the text names no label, or different ones.

    Examples
    --------
    >>> parse_answer("This is unacceptable.", ["acceptable", "unacceptable"])
    'unacceptable'
    >>> parse_answer("Well, that depends.", ["acceptable", "unacceptable"]) is None
    True
    """
    ordered = sorted({label.strip() for label in labels if label.strip()}, key=len, reverse=True)
    if not ordered:
        raise ParameterError("labels must hold at least one non-empty text.")
    patterns = [r"\s+".join(map(re.escape, label.split())) for label in ordered]
    found = re.findall(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", text, flags=re.IGNORECASE)
    plain = {" ".join(label.split()).lower(): label for label in ordered}
    named = {plain[" ".join(match.split()).lower()] for match in found}
    return named.pop() if len(named) == 1 else None
