"""Tasks on which lesions are tested.

A task has items (documents, pairs, questions), each with a value that is larger if the model does worse. Likelihood
tasks only list sequences to score, so that a study scores all of them, under all lesions, in common passes. A user's
task is any callable ``f(model, tokenizer)``, or an object with a ``name`` and a method ``prepare(model, tokenizer)``
that returns a :class:`PreparedTask`; registering it in :data:`TASKS` gives it a name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..evaluation.minimal_pairs import as_pairs, pair_windows
from ..evaluation.multiple_choice import load_questions, margins, option_windows
from ..exceptions import ParameterError, check_count
from ..models.inputs import longest_context
from ..registry import Registry, choose
from ..text import Corpus, describe_bos, text_windows
from ..text.corpus import load_heldout
from .checkpoint import describe_function

# needs: arguments without a default; tasks without any can be passed by name. source: the argument that a file can
# fill, as in "minimal_pairs=pairs.jsonl" on the command line
TASKS = Registry("task", needs=(), source=None)

# unit, and value of an item from its margin: nats by which the wrong answer is more likely than the right one
_MEASURES = {"margin": ("nats", lambda margin: margin), "accuracy": ("error rate", lambda m: (1.0 + np.sign(m)) / 2)}


@dataclass(eq=False, repr=False)
class PreparedTask:
    """A task made ready for one model: the sequences to score, and how scores become values of items.

    A task has ``sequences`` and ``values``, or ``call``; larger values are worse.
    """

    name: str
    unit: str
    items: list  # name of each item
    kinds: list  # kind of each item, or None
    weights: np.ndarray  # of each item in the mean, such as the tokens of a document
    groups: dict  # of items that are averaged: label and positions
    sequences: list = field(default_factory=list)  # of llmbrain.text.Window
    values: Callable = None  # from sums of losses (n_conditions, n_sequences) to values (n_conditions, n_items)
    call: Callable = None  # call(model, tokenizer) returns the values (n_items,), NaN where an item could not be read
    sign: float = 1.0  # -1 if larger scores are better and call returns the negated scores
    key: str = ""  # identifies a callable when an interrupted study resumes
    has_prompt: bool = False  # whether the sequences begin with a prompt that is not scored
    info: dict = field(default_factory=dict)

    def __repr__(self):
        return f"PreparedTask({self.name!r}, {len(self.items)} items, {self.unit})"

    def take(self, values):
        """Name the items of a callable, once their number is known, and count unread answers separately.

        ``values`` has the shape (n_conditions, n_items), with NaN for unread answers. If there are any, the second half
        of the result marks them with 1: the group ``NAME unread``.
        """
        n = values.shape[1]
        self.items = [self.name] if n == 1 else [f"{self.name}-{i + 1}" for i in range(n)]
        self.groups = {self.name: np.arange(n)}
        unread = np.isnan(values)
        if unread.any():
            self.groups[f"{self.name} unread"] = np.arange(n, 2 * n)
            self.items, values = self.items * 2, np.hstack([values, unread])
            self.info["n_unread"] = {"intact": int(unread[0].sum()), "most": int(unread.sum(axis=1).max())}
        self.kinds, self.weights = [None] * len(self.items), np.ones(len(self.items))
        return values


@TASKS.register("loss", source="text")
@dataclass(frozen=True)
class LossTask:
    """Mean loss on a text, in nats per token, overall and by kind of document.

    Parameters
    ----------
    text : Corpus, list of str, or source
    name : str
    max_tokens : int, optional
        Approximate number of tokens to read, the same number from the start of every document.
    passage : int, optional
        Read at least ``passage`` tokens of each document. If ``max_tokens`` does not suffice for all, fewer documents
        are read, taken in turn from the kinds of text.
    context : int
        Tokens of a window, leading special tokens included.
    by_kind : bool
        Add one group per kind of document, ``name:kind``.
    bos : {"auto", True, False}
        Special tokens at the head of every window, see :func:`llmbrain.text.leading_tokens`.
    """

    text: object = field(default="demo", repr=False)
    name: str = "loss"
    max_tokens: int = None
    passage: int = None
    context: int = 512
    by_kind: bool = True
    bos: bool | str = "auto"

    def prepare(self, model, tokenizer):
        """Tokenise; see :class:`PreparedTask`."""
        corpus = load_heldout(self.text)
        check_count("passage", self.passage, 2, optional=True)
        check_count("max_tokens", self.max_tokens, 2, optional=True)
        check_count("context", self.context, 2)
        least = self.passage or 2
        if self.max_tokens is not None and self.max_tokens < least * len(corpus):
            corpus = _in_turn(corpus, max(1, self.max_tokens // least), self.passage is not None)
        each = None if self.max_tokens is None else max(4, -(-self.max_tokens // len(corpus)) + 1)
        context = min(self.context, longest_context(model, self.context))
        windows, documents = text_windows(corpus, tokenizer, context, bos=self.bos, per_document=each)
        owners = [window.document for window in windows]
        counts = np.bincount(owners, [window.n_scored for window in windows], minlength=len(documents))
        membership = np.zeros((len(windows), len(documents)))
        membership[np.arange(len(windows)), owners] = 1.0
        kinds = [d.kind for d in documents]
        info = {
            "corpus": corpus.name,
            "corpus_hash": corpus.hash,
            "document_hashes": [d.hash for d in corpus],
            "n_tokens": int(counts.sum()),
            "context": self.context,
            "bos": describe_bos(tokenizer, self.bos),
        }
        ids = [d.id for d in documents]
        return _prepared(
            self, "nats per token", ids, kinds, windows, lambda sums: sums @ membership / counts, info, counts
        )


@TASKS.register("minimal_pairs", source="pairs")
@dataclass(frozen=True)
class MinimalPairTask:
    """Pairs of an acceptable and an unacceptable sentence; the model should prefer the first.

    Parameters
    ----------
    pairs : str, path or list of MinimalPair or (good, bad)
        A source for :func:`llmbrain.text.load_minimal_pairs` (BLiMP's format), or the pairs.
    name : str
    measure : {"margin", "accuracy"}
        Value of a pair: ``log p(bad) - log p(good)`` in nats, or the error (1 wrong, 0.5 a tie). The margin is finer;
        papers usually print the accuracy.
    n_pairs : int, optional
        Use only the first pairs of each phenomenon.
    by_kind : bool
        Add one group per phenomenon.
    bos : {"auto", True, False}
        Special tokens before every sentence, see :func:`llmbrain.text.leading_tokens`.
    """

    pairs: object = field(default="all", repr=False)
    name: str = "minimal_pairs"
    measure: str = "margin"
    n_pairs: int = None
    by_kind: bool = True
    bos: bool | str = "auto"

    def prepare(self, model, tokenizer):
        """Tokenise; see :class:`PreparedTask`."""
        unit, of_margin = _MEASURES[choose("measure", self.measure, _MEASURES)]
        pairs = as_pairs(self.pairs, self.n_pairs)
        kinds = [p.uid for p in pairs]

        def values(sums):
            return of_margin(sums[:, 0::2] - sums[:, 1::2])  # nats of the good minus nats of the bad sentence

        items, windows = _unique([f"{p.uid}/{p.pair_id}" for p in pairs]), pair_windows(pairs, tokenizer, self.bos)
        info = {"n_pairs": len(pairs), "measure": self.measure, "bos": describe_bos(tokenizer, self.bos)}
        return _prepared(self, unit, items, kinds, windows, values, info)


@TASKS.register("multiple_choice", needs=("questions",), source="questions")
@dataclass(frozen=True)
class MultipleChoiceTask:
    """Questions with options that are compared by likelihood.

    Parameters
    ----------
    questions : path or list of Question
        A source for :func:`llmbrain.evaluation.load_questions`.
    name : str
    measure : {"margin", "accuracy"}
        Value of a question: log likelihood of the best wrong option minus that of the right one, or the error.
    normalise : {"none", "token", "character"}
        Divide log likelihoods by the number of tokens or characters.
    by_kind : bool
        Add one group per kind of question.
    bos : {"auto", True, False}
        Special tokens before every prompt, see :func:`llmbrain.text.leading_tokens`.
    """

    questions: object = field(repr=False)
    name: str = "multiple_choice"
    measure: str = "accuracy"
    normalise: str = "none"
    by_kind: bool = True
    bos: bool | str = "auto"

    def prepare(self, model, tokenizer):
        """Tokenise; see :class:`PreparedTask`."""
        unit, of_margin = _MEASURES[choose("measure", self.measure, _MEASURES)]
        questions = load_questions(self.questions)
        windows, divisors = option_windows(questions, tokenizer, self.normalise, self.bos)
        kinds = [q.kind for q in questions]

        def values(sums):
            return of_margin(-margins(questions, -sums / divisors))

        info = {"n_questions": len(questions), "measure": self.measure, "normalise": self.normalise}
        info["bos"] = describe_bos(tokenizer, self.bos)
        items = _unique([q.id for q in questions])
        return _prepared(self, unit, items, kinds, windows, values, info, has_prompt=True)


@TASKS.register("callable", needs=("function",))
@dataclass(frozen=True)
class CallableTask:
    """Any function of the model: generated text, a benchmark, a probe.

    It runs once per condition, one at a time, so it is slower than likelihood tasks.

    Parameters
    ----------
    function : callable
        ``function(model, tokenizer)`` returns a number, or one per item (the same items every time). NaN means that
        an answer could not be read: it counts neither as right nor as wrong, and the group ``NAME unread`` counts it.
    name : str, optional
        Default: the function's name.
    higher_is_better : bool
        True for scores such as accuracy; the effect is then the decrease.
    unit : str
    """

    function: Callable
    name: str = None
    higher_is_better: bool = False
    unit: str = ""

    def prepare(self, model, tokenizer):
        """Prepare without running; the items are known after the first run. See :class:`PreparedTask`."""
        name = self.name or getattr(self.function, "__name__", "task")
        sign = -1.0 if self.higher_is_better else 1.0

        def call(model, tokenizer):
            returned = self.function(model, tokenizer)
            try:
                values = np.atleast_1d(np.asarray(returned, dtype=float))
            except (TypeError, ValueError):
                values = np.full((1, 1), np.nan)  # neither a number nor numbers: an error below
            if values.ndim != 1 or not values.size or np.isinf(values).any():
                raise ParameterError(
                    f"The task {name!r} returned {returned!r}; it must return a finite number, or one per item "
                    "(NaN for answers that could not be read)."
                )
            return sign * values

        info = {"higher_is_better": self.higher_is_better}
        empty = {"items": [], "kinds": [], "weights": np.zeros(0), "groups": {name: np.zeros(0, int)}}
        known = {"sign": sign, "key": describe_function(self.function), "info": info}
        return PreparedTask(name, self.unit, **empty, call=call, **known)


def as_tasks(tasks):
    """Turn the tasks that a study was given into task objects with a ``name`` and a method ``prepare``.

    A task is a task object; a name in :data:`TASKS` that needs no arguments; a Corpus, list of strings or source of
    text (its loss); or a callable. None is the loss on the held-out demo corpus.
    """
    if tasks is None:
        return [LossTask()]
    if not isinstance(tasks, (list, tuple)):
        return [_as_task(tasks)]
    if not tasks:
        raise ParameterError("tasks is empty; pass at least one, or None for the loss on the held-out demo corpus.")
    if all(isinstance(task, str) and task not in TASKS for task in tasks):
        return [LossTask(list(tasks))]  # a list of texts
    made = [_as_task(task) for task in tasks]
    names = [getattr(task, "name", None) for task in made]
    if len(set(names)) < len(names):
        raise ParameterError(f"Tasks need different names; got {names}. Pass name= to each.")
    return made


def _as_task(task):
    if hasattr(task, "prepare"):
        return task
    if isinstance(task, str):
        return _named_task(task) if task in TASKS else LossTask(task)
    if hasattr(task, "texts"):
        return LossTask(task, name=task.name)
    if callable(task):
        return CallableTask(task, name=getattr(task, "__name__", "task"))
    raise ParameterError(f"A task is a task object, a Corpus, a callable or one of {', '.join(TASKS)}; got {task!r}.")


def _named_task(name):
    member = TASKS[name]
    if member.needs:
        made = f"{member.value.__name__}({', '.join(f'{need}=...' for need in member.needs)})"
        raise ParameterError(f"The task {name!r} needs {', '.join(member.needs)}: pass tasks=[{made}].")
    return member()


def _in_turn(corpus, n, by_kind):
    """The first ``n`` documents of a corpus, or the first of its kinds in turn; in the order of the corpus."""
    if not by_kind:
        return corpus[:n]
    seen, turn = {}, []
    for i, document in enumerate(corpus):
        seen[document.kind] = seen.get(document.kind, 0) + 1
        turn.append((seen[document.kind], i))
    chosen = {i for _, i in sorted(turn)[:n]}
    return Corpus([document for i, document in enumerate(corpus) if i in chosen], name=corpus.name)


def _unique(names):
    """Append a number to repeated names, so that items can be paired by name."""
    seen = {}
    for name in names:
        seen.setdefault(name, []).append(name)
    again = {name: iter(range(2, len(same) + 1)) for name, same in seen.items()}
    first = set()
    return [name if name not in first and not first.add(name) else f"{name}#{next(again[name])}" for name in names]


def _prepared(task, unit, items, kinds, windows, values, info, weights=None, has_prompt=False):
    """Make a likelihood task ready, whose items are averaged together and, if the task says so, by their kinds."""
    groups = {task.name: np.arange(len(kinds))}
    different = list(dict.fromkeys(k for k in kinds if k is not None))
    if task.by_kind and len(different) > 1:
        for kind in different:
            groups[f"{task.name}:{kind}"] = np.flatnonzero([k == kind for k in kinds])
    weights, more = np.ones(len(items)) if weights is None else weights, {"has_prompt": has_prompt, "info": info}
    return PreparedTask(task.name, unit, items, kinds, weights, groups, windows, values, **more)
