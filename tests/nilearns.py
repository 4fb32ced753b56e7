"""Access to the tests and checks that nilearn installs with itself."""

import sys
import types
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import pytest


@contextmanager
def importable():
    """Let nilearn's test modules be imported: they need polars (for maskers of tables) and use other markers."""
    stub = not find_spec("polars")
    if stub:
        polars = sys.modules["polars"] = types.ModuleType("polars")
        polars.DataFrame, polars.Series = type("DataFrame", (), {}), type("Series", (), {})
    strict, pytest.mark._config = pytest.mark._config, None
    try:
        yield
    finally:
        pytest.mark._config = strict
        if stub:  # other packages ask for the specification of polars, which the stub lacks
            del sys.modules["polars"]


def estimator_checks():
    """Return nilearn's module of checks, which draws each data set once.

    The checks draw the same images a hundred times, which takes longer than to decompose them.
    """
    with importable():
        module = import_module("nilearn._utils.estimator_checks")
    draw, drawn = module.generate_data_to_fit, {}

    def draw_once(estimator):
        kind = type(estimator)
        if kind.__name__ not in ("CanICA", "DictLearning"):
            return draw(estimator)
        if kind.__name__ not in drawn:
            drawn[kind.__name__] = draw(estimator)
        return drawn[kind.__name__]

    if not hasattr(module, "_draws_once"):
        module.generate_data_to_fit, module._draws_once = draw_once, True
    return module
