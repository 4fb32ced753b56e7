"""CKA against its definition, and trees of planted families."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.subjects.similarity import linear_cka, model_tree


@pytest.mark.parametrize("widths", [(5, 7), (80, 90), (5, 90)])
def test_cka_is_that_of_the_definition(widths):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((40, width)) for width in widths)
    b[:, :3] += a[:, :3]
    centre = np.eye(40) - 1 / 40
    k, m = centre @ a @ a.T @ centre, centre @ b @ b.T @ centre
    assert np.isclose(linear_cka(a, b), np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))
    turn = np.linalg.qr(rng.standard_normal((widths[1], widths[1])))[0]
    assert np.isclose(linear_cka(a, b), linear_cka(2 * a + 1, b @ turn))


def test_families_are_found():
    rng = np.random.default_rng(0)
    bases = rng.standard_normal((3, 500, 10))
    models = [base + 0.5 * rng.standard_normal((500, 10)) for base in bases for _ in range(2)]
    table = [[linear_cka(a, b) for b in models] for a in models]
    tree = model_tree(table, [f"{family}{i}" for family in "abc" for i in range(2)])
    assert tree.groups(3) == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
    assert tree.faithfulness > 0.9
    ordered = [tree.names[i][0] for i in tree.order]
    assert all(ordered[i] == ordered[i + 1] for i in (0, 2, 4))  # relatives stand side by side


def test_bad_input_is_refused():
    with pytest.raises(ParameterError, match="two models"):
        model_tree([[1.0]], ["alone"])
    with pytest.raises(ParameterError, match="symmetric"):
        model_tree([[1, 0.2], [0.9, 1]], ["a", "b"])
    with pytest.raises(ParameterError, match="same units"):
        linear_cka(np.zeros((3, 2)), np.zeros((4, 2)))
