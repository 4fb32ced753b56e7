"""Options of studies, checked before any work."""

import numpy as np

from ..exceptions import ParameterError
from ..stats import ALTERNATIVES
from .comparison import usual_alternative
from .statistics import IMPORTANCES

__all__ = ["checked_options", "checked_seed"]


def checked_options(given, known, how, what):
    """Fill in what was not given, and refuse what would fail later.

    Parameters
    ----------
    given : dict or None
    known : dict
        Every option with its default.
    how : str
        Kind of lesion; decides the usual alternative.
    what : str
        How messages call the study.

    Returns
    -------
    dict

    Raises
    ------
    ParameterError
    """
    unknown = sorted(set(given or {}) - set(known))
    if unknown:
        raise ParameterError(f"Unknown options {unknown}; {what} knows {', '.join(known)}.")
    options = {**known, **(given or {})}
    options["alternative"] = options["alternative"] or usual_alternative(how)
    if options["alternative"] not in ALTERNATIVES:
        raise ParameterError(
            f"alternative={options['alternative']!r} is unknown; choose from {', '.join(ALTERNATIVES)}."
        )
    by = options["importance"]
    if isinstance(by, str) and by not in IMPORTANCES:
        raise ParameterError(f"importance={by!r} is unknown; choose from {', '.join(IMPORTANCES)}, or give an array.")
    for name in ("n_nearest", "n_bootstrap", "max_tokens"):
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
            raise ParameterError(f"{name} is a whole number of at least 1; got {value!r}.")
    if not 0 < options.get("level", 0.95) < 1:
        raise ParameterError(f"level is a coverage between 0 and 1, for example 0.95; got {options['level']!r}.")
    return options


def checked_seed(random_state):
    """Refuse a seed that does not decide the draws.

    Parameters
    ----------
    random_state : int

    Returns
    -------
    int

    Raises
    ------
    ParameterError
    """
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)) or random_state < 0:
        raise ParameterError(
            f"random_state is a whole number from 0 on, so that the study can be repeated; got {random_state!r}."
        )
    return int(random_state)
