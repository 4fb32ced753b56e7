"""What a lesion is tested on.

A task turns into items (documents, pairs, questions), each with a value that is larger the worse the model does. Tasks
made of likelihoods only name sequences to score, so that a study runs all of them, under all lesions, in common passes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..exceptions import ParameterError
from ..models.inputs import longest_context
from .checkpoint import fingerprint
from .prepared import Prepared

__all__ = ["CallableTask", "LossTask", "MinimalPairTask", "MultipleChoiceTask", "Prepared", "as_tasks"]


@dataclass(frozen=True)
class LossTask:
    """Mean loss on a text, in nats per token, over all and by kind of document.

    Parameters
    ----------
    corpus : Corpus, list of str, or source
    name : str
    n_tokens : int, optional
        Read about so many tokens in all, the same number from the start of every document.
    context : int
        Longest piece of a document that is read at once.
    by_kind : bool
        Also a row for each kind of document, ``name:kind``.
    """

    corpus: object = "demo"
    name: str = "loss"
    n_tokens: int = None
    context: int = 512
    by_kind: bool = True

    def prepare(self, model, tokenizer):
        """Tokenise; see :class:`Prepared`."""
        from ..evaluation.losses import corpus_sequences
        from ..text import as_corpus, load_corpus

        is_demo = isinstance(self.corpus, str) and self.corpus == "demo"
        corpus = load_corpus("demo", split="heldout") if is_demo else as_corpus(self.corpus)
        if self.n_tokens is not None and self.n_tokens < 2 * len(corpus):
            corpus = corpus[: max(1, self.n_tokens // 2)]
        each = None if self.n_tokens is None else max(4, -(-self.n_tokens // len(corpus)) + 1)
        limit = longest_context(model, self.context)
        sequences, owners, documents = corpus_sequences(
            corpus, tokenizer, context=min(self.context, limit), max_tokens=each
        )
        counts = np.bincount(owners, [s.n_counted for s in sequences], minlength=len(documents))
        membership = np.zeros((len(sequences), len(documents)))
        membership[np.arange(len(sequences)), owners] = 1.0
        kinds = [d.kind for d in documents]
        info = {
            "corpus": corpus.name,
            "corpus_hash": corpus.hash,
            "document_hashes": [d.hash for d in corpus],
            "n_tokens": int(counts.sum()),
            "context": self.context,
        }
        return Prepared(
            self.name,
            "nats per token",
            [d.id for d in documents],
            kinds,
            counts,
            _groups(self.name, kinds, self.by_kind),
            sequences,
            lambda sums: sums @ membership / counts,
            info=info,
        )


@dataclass(frozen=True)
class MinimalPairTask:
    """Pairs of an acceptable and an unacceptable sentence, of which the model should prefer the first.

    Parameters
    ----------
    pairs : str, path or list of MinimalPair
        What :func:`llmbrain.text.load_minimal_pairs` takes (BLiMP's format), or the pairs.
    name : str
    measure : {"margin", "accuracy"}
        Value of a pair: ``log p(bad) - log p(good)`` in nats, or the error (1 wrong, 0.5 a tie). The margin is finer;
        the accuracy is what is usually printed.
    n_pairs : int, optional
        The first so many of each phenomenon.
    by_kind : bool
        Also a row for each phenomenon.
    """

    pairs: object = "all"
    name: str = "minimal_pairs"
    measure: str = "margin"
    n_pairs: int = None
    by_kind: bool = True

    def prepare(self, model, tokenizer):
        """Tokenise; see :class:`Prepared`."""
        from ..evaluation.minimal_pairs import as_pairs, pair_sequences

        if self.measure not in ("margin", "accuracy"):
            raise ParameterError(f"measure={self.measure!r} is unknown; choose 'margin' or 'accuracy'.")
        pairs = as_pairs(self.pairs, self.n_pairs)
        kinds = [p.uid for p in pairs]

        def values(sums):
            margin = sums[:, 0::2] - sums[:, 1::2]  # nats of the good minus nats of the bad sentence
            return margin if self.measure == "margin" else (1.0 + np.sign(margin)) / 2

        return Prepared(
            self.name,
            "nats" if self.measure == "margin" else "error rate",
            _unique([f"{p.uid}/{p.pair_id}" for p in pairs]),
            kinds,
            np.ones(len(pairs)),
            _groups(self.name, kinds, self.by_kind),
            pair_sequences(pairs, tokenizer),
            values,
            info={"n_pairs": len(pairs), "measure": self.measure},
        )


@dataclass(frozen=True)
class MultipleChoiceTask:
    """Questions whose options are compared by their likelihood.

    Parameters
    ----------
    questions : path or list of Question
        What :func:`llmbrain.evaluation.load_questions` takes.
    name : str
    measure : {"margin", "accuracy"}
        Value of a question: log likelihood of the best wrong option minus that of the right one, or the error.
    normalise : {"none", "token", "character"}
        What log likelihoods are divided by.
    by_kind : bool
        Also a row for each kind of question.
    """

    questions: object
    name: str = "multiple_choice"
    measure: str = "accuracy"
    normalise: str = "none"
    by_kind: bool = True

    def prepare(self, model, tokenizer):
        """Tokenise; see :class:`Prepared`."""
        from ..evaluation.multiple_choice import load_questions, margins, option_sequences

        if self.measure not in ("margin", "accuracy"):
            raise ParameterError(f"measure={self.measure!r} is unknown; choose 'margin' or 'accuracy'.")
        questions = load_questions(self.questions)
        sequences, divisors = option_sequences(questions, tokenizer, self.normalise)
        kinds = [q.kind for q in questions]

        def values(sums):
            margin = -margins(questions, -sums / divisors)
            return margin if self.measure == "margin" else (1.0 + np.sign(margin)) / 2

        return Prepared(
            self.name,
            "nats" if self.measure == "margin" else "error rate",
            _unique([q.id for q in questions]),
            kinds,
            np.ones(len(questions)),
            _groups(self.name, kinds, self.by_kind),
            sequences,
            values,
            has_prompt=True,
            info={"n_questions": len(questions), "measure": self.measure, "normalise": self.normalise},
        )


@dataclass(frozen=True)
class CallableTask:
    """Any function of the model: generated text, a benchmark, a probe.

    It is run once for every condition, one at a time, so it is slow beside the tasks made of likelihoods.

    Parameters
    ----------
    function : callable
        ``function(model, tokenizer)`` returns a number, or one for each item (the same items every time). NaN is an
        answer that could not be read: it counts neither as right nor as wrong, and a row ``NAME unread`` counts it.
    name : str, optional
        Default: the function's name.
    higher_is_better : bool
        True for scores such as accuracy; the effect is then the fall.
    unit : str
    """

    function: Callable
    name: str = None
    higher_is_better: bool = False
    unit: str = ""

    def prepare(self, model, tokenizer):
        """Nothing runs yet; the items are known after the first run. See :class:`Prepared`."""
        name = self.name or getattr(self.function, "__name__", "task")
        sign = -1.0 if self.higher_is_better else 1.0

        def call(model, tokenizer):
            returned = self.function(model, tokenizer)
            try:
                values = np.atleast_1d(np.asarray(returned, dtype=float))
            except (TypeError, ValueError):
                values = np.full((1, 1), np.nan)  # neither a number nor numbers: refused below
            if values.ndim != 1 or not values.size or np.isinf(values).any():
                raise ParameterError(
                    f"The task {name!r} returned {returned!r}; it must return a finite number, or one for each item "
                    "(NaN for what could not be read)."
                )
            return sign * values

        info = {"higher_is_better": self.higher_is_better}
        empty = {"items": [], "kinds": [], "weights": np.zeros(0), "groups": {name: np.zeros(0, int)}}
        known = {"sign": sign, "key": fingerprint(self.function), "info": info}
        return Prepared(name, self.unit, **empty, call=call, **known)


def as_tasks(tasks):
    """Turn what a study was given into tasks.

    Parameters
    ----------
    tasks : task, list of tasks or None
        ``None`` is the loss on the held-out demo corpus; a corpus (or list of strings) its loss; a callable becomes a
        :class:`CallableTask`; ``"minimal_pairs"`` is the set that ships with the package.

    Returns
    -------
    list
        Objects with a ``name`` and a method ``prepare(model, tokenizer)``.
    """
    if tasks is None:
        return [LossTask()]
    if isinstance(tasks, str) and tasks != "minimal_pairs":
        return [LossTask(tasks)]
    tasks = tasks if isinstance(tasks, (list, tuple)) else [tasks]
    if not tasks:
        raise ParameterError("tasks is empty; give at least one, or None for the loss on the held-out demo corpus.")
    if all(isinstance(t, str) for t in tasks) and list(tasks) != ["minimal_pairs"]:
        return [LossTask(list(tasks))]
    made = [_as_task(task) for task in tasks]
    names = [getattr(t, "name", None) for t in made]
    if len(set(names)) < len(names):
        raise ParameterError(f"Tasks need different names; got {names}. Give name=... to each.")
    return made


def _as_task(task):
    if hasattr(task, "prepare"):
        return task
    if hasattr(task, "texts"):
        return LossTask(task, name=task.name)
    if isinstance(task, str) and task == "minimal_pairs":
        return MinimalPairTask()
    if callable(task):
        return CallableTask(task, name=getattr(task, "__name__", "task"))
    raise ParameterError(
        "A task is a LossTask, MinimalPairTask, MultipleChoiceTask, a Corpus, a callable or 'minimal_pairs'; got "
        f"{task!r}."
    )


def _unique(names):
    """Names with a number behind those that come again, so that items can be paired by name."""
    seen = {}
    for name in names:
        seen.setdefault(name, []).append(name)
    again = {name: iter(range(2, len(same) + 1)) for name, same in seen.items()}
    first = set()
    return [name if name not in first and not first.add(name) else f"{name}#{next(again[name])}" for name in names]


def _groups(name, kinds, by_kind):
    groups = {name: np.arange(len(kinds))}
    different = list(dict.fromkeys(k for k in kinds if k is not None))
    if by_kind and len(different) > 1:
        for kind in different:
            groups[f"{name}:{kind}"] = np.flatnonzero([k == kind for k in kinds])
    return groups
