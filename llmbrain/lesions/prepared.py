"""A task made ready for one model: what has to be scored, and how scores become values of items."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Prepared"]


@dataclass(eq=False)
class Prepared:
    """A task made ready for one model.

    Parameters
    ----------
    name, unit : str
    items : list of str
        Name of each item.
    kinds : list of str or None
        What sort each item is.
    weights : float array of shape (n_items,)
        Weight of each item in the mean (tokens of a document).
    groups : dict of str to int array
        Rows of the result: label and the items that are averaged in it.
    sequences : list of ScoredSequence
        To be scored; empty for callables.
    values : callable
        From sums of losses ``(n_conditions, n_sequences)`` to item values ``(n_conditions, n_items)``, larger is worse.
    call : callable or None
        ``call(model, tokenizer)`` gives the item values ``(n_items,)`` directly; NaN is an item that could not be read.
    sign : float
        -1 where larger scores are better and ``call`` returns them turned round.
    key : str
        By which a callable is known again when an interrupted study goes on.
    has_prompt : bool
        Whether the sequences have a prompt that is not scored.
    info : dict
    """

    name: str
    unit: str
    items: list
    kinds: list
    weights: np.ndarray
    groups: dict
    sequences: list = field(default_factory=list)
    values: Callable = None
    call: Callable = None
    sign: float = 1.0
    key: str = ""
    has_prompt: bool = False
    info: dict = field(default_factory=dict)

    def take(self, values):
        """Name the items of a callable, once it is known how many there are, and count apart what was not read.

        Parameters
        ----------
        values : float array of shape (n_conditions, n_items)
            NaN where an answer could not be read.

        Returns
        -------
        float array of shape (n_conditions, n_items) or (n_conditions, 2 n_items)
            If some could not be read, the second half tells which (1), as a row ``NAME unread`` of the result.
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
