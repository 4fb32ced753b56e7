"""How alike whole models are: linear CKA of their activity, and a tree of models."""

from dataclasses import dataclass

import numpy as np

from ..arguments import checked, finite, numbers
from ..exceptions import ParameterError


@checked(a=finite, b=finite)
def linear_cka(a, b):
    """Compute linear centred kernel alignment of two activities on the same units.

    Parameters
    ----------
    a : array of shape (n_units, n_a)
    b : array of shape (n_units, n_b)
        Neurons may differ in number. Rotations and one common scaling of the neurons do not change the value.

    Returns
    -------
    float
        From 0 to 1; NaN if one of them is constant.

    References
    ----------
    Kornblith et al. (2019), Similarity of neural network representations revisited, ICML.

    Examples
    --------
    >>> a = np.random.default_rng(0).standard_normal((50, 4))
    >>> round(linear_cka(a, -3 * a[:, ::-1]), 6)
    1.0
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise ParameterError(f"Activities must be (n_units, n_neurons) on the same units; got {a.shape} and {b.shape}.")
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    if max(a.shape[1], b.shape[1]) <= len(a):  # the smaller of the two tables of products
        shared, own, other = a.T @ b, a.T @ a, b.T @ b
        top = (shared**2).sum()
    else:
        own, other = a @ a.T, b @ b.T
        top = (own * other).sum()
    bottom = np.linalg.norm(own) * np.linalg.norm(other)
    return float(top / bottom) if bottom > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class ModelTree:
    """Models in a tree: which were joined, how far apart they were.

    Parameters
    ----------
    names : list of str
    linkage : array of shape (n_models - 1, 4)
        As scipy's functions for trees take it.
    order : list of int
        Models from one side of the tree to the other.
    faithfulness : float
        Correlation of the distances in the tree with the original ones (cophenetic correlation).
    """

    names: list
    linkage: np.ndarray
    order: list
    faithfulness: float

    def groups(self, n):
        """Cut the tree into ``n`` groups: a list of lists of names, in the order of the names."""
        from scipy.cluster.hierarchy import fcluster

        labels = fcluster(self.linkage, n, criterion="maxclust")
        groups = {label: [] for label in labels}
        for name, label in zip(self.names, labels):
            groups[label].append(name)
        return list(groups.values())


@checked(similarity=numbers)
def model_tree(similarity, names):
    """Build a tree of models by average linkage of ``1 - similarity``.

    Parameters
    ----------
    similarity : array of shape (n_models, n_models)
        Symmetric; 1 for models that are the same.
    names : list of str

    Returns
    -------
    ModelTree

    Examples
    --------
    >>> table = np.array([[1, 0.9, 0.2], [0.9, 1, 0.3], [0.2, 0.3, 1]])
    >>> model_tree(table, ["base", "tuned", "other"]).groups(2)
    [['base', 'tuned'], ['other']]
    """
    from scipy.cluster.hierarchy import cophenet, leaves_list, linkage
    from scipy.spatial.distance import squareform

    table, names = np.asarray(similarity, dtype=np.float64), list(names)
    if table.shape != (len(names), len(names)) or len(names) < 2:
        raise ParameterError(f"{len(names)} names for a table {table.shape}; a tree needs at least two models.")
    if not np.isfinite(table).all() or not np.allclose(table, table.T, atol=1e-6):
        raise ParameterError("similarity must be finite and symmetric.")
    distance = squareform(np.clip(1 - (table + table.T) / 2, 0, None), checks=False)
    joined = linkage(distance, method="average", optimal_ordering=True)
    faithful = cophenet(joined, distance)[0] if len(names) > 2 and np.ptp(distance) > 0 else 1.0
    return ModelTree(names, joined, leaves_list(joined).tolist(), float(faithful))
