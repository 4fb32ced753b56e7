"""Multiple choice by likelihood, and the reading of answers from generated text."""

import re
from dataclasses import dataclass

import numpy as np

from ..exceptions import CorpusError, ParameterError
from .losses import ScoredSequence, sequence_losses

__all__ = [
    "Question",
    "load_questions",
    "margins",
    "multiple_choice",
    "option_sequences",
    "parse_answer",
    "score_answers",
]

NORMALISATIONS = ("none", "token", "character")


@dataclass(frozen=True)
class Question:
    """A question with options, one of them right.

    Parameters
    ----------
    prompt : str
        What stands before the option.
    options : tuple of str
        With the space that separates them from the prompt, if any; one is put in front where neither side has it.
    answer : int
        Number of the right option.
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
                f"Question {self.id!r}: the answer is the number of an option, 0 to {len(options) - 1}; "
                f"got {self.answer!r}."
            )
        object.__setattr__(self, "options", options)


def load_questions(source):
    """Read questions from a JSONL file, dictionaries, or :class:`Question` objects.

    Parameters
    ----------
    source : path or list
        Fields of a row: ``prompt``, ``options`` (a list), ``answer`` (number of the option, or its text), and where
        known ``id`` and ``kind``.

    Returns
    -------
    list of Question
    """
    if isinstance(source, (list, tuple)):
        rows = list(source)
    else:
        from ..text.corpus import read_jsonl

        rows = [row for _, row in read_jsonl(source)]
    if not rows:
        raise CorpusError("There is no question.")
    return [row if isinstance(row, Question) else _question(row, i) for i, row in enumerate(rows)]


def _question(row, i):
    missing = {"prompt", "options", "answer"} - set(row)
    if missing:
        raise CorpusError(f"Question {i + 1} lacks {', '.join(sorted(missing))}; it has {', '.join(row)}.")
    answer, options = row["answer"], list(row["options"])
    if isinstance(answer, str):
        if answer not in options:
            raise CorpusError(f"Question {i + 1}: the answer {answer!r} is not among the options {options}.")
        answer = options.index(answer)
    return Question(row["prompt"], tuple(options), answer, str(row.get("id", f"question-{i + 1:04d}")), row.get("kind"))


def option_sequences(questions, tokenizer, normalise="none"):
    """Put every option of every question behind its prompt, with the option's tokens counted.

    Parameters
    ----------
    questions : list of Question
    tokenizer : transformers tokenizer
    normalise : {"none", "token", "character"}

    Returns
    -------
    sequences : list of ScoredSequence
    divisors : float array of shape (n_options_in_all,)
        What the log likelihoods are divided by.
    """
    if normalise not in NORMALISATIONS:
        raise ParameterError(f"normalise={normalise!r} is unknown; choose from {', '.join(NORMALISATIONS)}.")
    bos = getattr(tokenizer, "bos_token_id", None)
    sequences, divisors = [], []
    for question in questions:
        for option in question.options:
            gap = "" if question.prompt[-1:].isspace() or option[:1].isspace() or not question.prompt else " "
            whole = _ids(tokenizer, question.prompt + gap + option, bos)
            # a prompt that ends in a space is often one token with the option: what both share is the prompt
            prompt = _ids(tokenizer, question.prompt.rstrip(), bos)
            start = _shared(whole, prompt)
            counted = np.arange(len(whole)) >= start
            sequence = ScoredSequence(whole, counted)
            if not sequence.n_counted:
                raise CorpusError(f"Question {question.id!r}: the option {option!r} adds no token to its prompt.")
            sequences.append(sequence)
            divisors.append({"none": 1, "token": sequence.n_counted, "character": len(option)}[normalise])
    return sequences, np.array(divisors, dtype=float)


def _ids(tokenizer, text, bos):
    ids = list(tokenizer(text, verbose=False)["input_ids"]) if text else []
    if bos is not None and ids[:1] != [bos]:
        ids.insert(0, bos)
    return np.asarray(ids, dtype=np.int64)


def _shared(a, b):
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n


def margins(questions, log_likelihoods):
    """Log likelihood of the right option minus that of the best wrong one.

    Parameters
    ----------
    questions : list of Question
    log_likelihoods : array of shape (..., n_options_in_all)

    Returns
    -------
    array of shape (..., n_questions)
    """
    result, start = [], 0
    for question in questions:
        scores = log_likelihoods[..., start : start + len(question.options)]
        wrong = np.delete(scores, question.answer, axis=-1).max(axis=-1)
        result.append(scores[..., question.answer] - wrong)
        start += len(question.options)
    return np.stack(result, axis=-1)


def multiple_choice(model, tokenizer, questions, *, normalise="none", max_batch_tokens=4096):
    """Answer questions by the likelihood of their options.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    questions : path or list
        See :func:`load_questions`.
    normalise : {"none", "token", "character"}
        What log likelihoods are divided by (lm-eval's ``acc`` is "none", ``acc_norm`` divides by length).
    max_batch_tokens : int
        Most tokens of a batch.

    Returns
    -------
    pandas.DataFrame
        A row a question: ``id, kind, n_options, answer, chosen, margin`` (nats), ``correct`` (0.5 for a tie),
        ``chance``.
    """
    import pandas as pd

    questions = load_questions(questions)
    sequences, divisors = option_sequences(questions, tokenizer, normalise)
    losses = sequence_losses(model, sequences, max_batch_tokens=max_batch_tokens)
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
        }
    )


def parse_answer(text, labels):
    """Find which label a generated text gives; None if none or several.

    Labels are looked for as whole words, the longest first, so that "unacceptable" is never read as "acceptable" and
    "not entailment" never as "entailment". Case and white space do not matter.

    Parameters
    ----------
    text : str
    labels : sequence of str

    Returns
    -------
    str or None
        The label; None where the text has no label, or different ones.

    Examples
    --------
    >>> parse_answer("This is unacceptable.", ["acceptable", "unacceptable"])
    'unacceptable'
    >>> parse_answer("Well, that depends.", ["acceptable", "unacceptable"]) is None
    True
    """
    ordered = sorted({label.strip() for label in labels if label.strip()}, key=len, reverse=True)
    if not ordered:
        raise ParameterError("labels holds no text to look for.")
    patterns = [r"\s+".join(map(re.escape, label.split())) for label in ordered]
    found = re.findall(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", text, flags=re.IGNORECASE)
    plain = {" ".join(label.split()).lower(): label for label in ordered}
    named = {plain[" ".join(match.split()).lower()] for match in found}
    return named.pop() if len(named) == 1 else None


def score_answers(texts, answers, labels):
    """Compare generated answers with the right ones; what cannot be read counts apart.

    Parameters
    ----------
    texts : sequence of str
        Generated.
    answers : sequence of str
        The right labels.
    labels : sequence of str

    Returns
    -------
    dict
        ``n``, ``n_parsed``, ``parse_rate``, ``accuracy`` (of the parsed alone; NaN if none), ``majority`` (share of the
        most frequent right label: what a constant answer reaches) and ``parsed``, a list with None where nothing could
        be read.

    Examples
    --------
    >>> score_answers(["yes", "no, never", "hm"], ["yes", "yes", "no"], ["yes", "no"])["accuracy"]
    0.5
    """
    texts, answers = list(texts), list(answers)
    unknown = sorted(set(answers) - set(labels))
    if len(texts) != len(answers) or not texts or unknown:
        raise ParameterError(
            f"{len(texts)} texts and {len(answers)} answers: as many of one as of the other are needed, at least one"
            + (f"; and {unknown} are no labels." if unknown else ".")
        )
    parsed = [parse_answer(text, labels) for text in texts]
    hits = [p == a for p, a in zip(parsed, answers) if p is not None]
    return {
        "n": len(texts),
        "n_parsed": len(hits),
        "parse_rate": len(hits) / len(texts),
        "accuracy": float(np.mean(hits)) if hits else float("nan"),
        "majority": max(answers.count(label) for label in set(answers)) / len(answers),
        "parsed": parsed,
    }
