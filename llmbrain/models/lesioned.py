"""Models in which a lesion is active: what is made with them must not be taken for the intact model's."""

import weakref

from ..exceptions import ParameterError
from .wrappers import check_model

ACTIONS = weakref.WeakSet()  # of all lesions that are entered at the moment; each has `active` and `sites`


def is_lesioned(model):
    """Tell whether a lesion is active in a model.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    bool
    """
    check_model(model)
    modules = {id(module) for module in model.modules()}
    return any(a.active and any(id(site.module) in modules for site in a.sites) for a in list(ACTIONS))


def refuse_lesioned(model, what):
    """Raise if a lesion is active in a model; ``what`` completes the message, such as ``"pruned"``."""
    if is_lesioned(model):
        raise ParameterError(f"A lesion is active in the model, so it cannot be {what}. Leave the lesion's with block.")
