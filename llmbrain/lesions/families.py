"""Families of controls: what a network's lesion is compared with in a study."""

from dataclasses import dataclass

import numpy as np

from ..exceptions import ParameterError
from ..masks import controls
from .statistics import IMPORTANCES

__all__ = ["DESCRIPTIONS", "Family", "draw_control", "parse_family"]

# single: there is one such set, so it has no distribution and no p-value of use
DESCRIPTIONS = {
    "random": "as many neurons, from anywhere in the model",
    "layer": "in every layer as many neurons as the network has there",
    "layer+importance": "in every layer as many neurons, each of about the rank of importance of one of the network's",
    "permuted": "the network's map with the neurons permuted inside each layer, alike for all networks",
    "others": "the other networks of the study, as they are",
    "anti": "in every layer as many neurons, from the fifth of the layer with the lowest |map|",
    "top": "in every layer the most important neurons, as many as the network has there (one set)",
}


@dataclass(frozen=True)
class Family:
    """A family and the importance it matches or ranks by.

    Parameters
    ----------
    label : str
        As the user wrote it.
    rule : str
        A key of :data:`DESCRIPTIONS`.
    importance : str, optional
    """

    label: str
    rule: str
    importance: str = None

    @property
    def description(self):
        """One line for tables and reports."""
        text = DESCRIPTIONS[self.rule]
        return f"{text}; importance: {self.importance}" if self.importance else text


def parse_family(family, importance="fluctuation"):
    """Read a family from what a user writes.

    Parameters
    ----------
    family : None, str or tuple
        ``"random"`` (or None), ``"layer"``, ``("layer", "importance")`` or ``"layer+importance"``, ``"layer+kurtosis"``
        and the like for one importance by name, ``"permuted"``, ``"others"``, ``"anti"``, ``"top"``, ``"top+mean"``.
    importance : str
        The importance that the word "importance" stands for.

    Returns
    -------
    Family

    Examples
    --------
    >>> parse_family(("layer", "importance")).label, parse_family("layer+norm").importance
    ('layer+importance', 'norm')
    """
    label = "random" if family is None else family if isinstance(family, str) else "+".join(family)
    rule, _, by = label.partition("+")
    if by and rule in ("layer", "top") and by in (*IMPORTANCES, "importance"):
        rule = "layer+importance" if rule == "layer" else "top"
        return Family(label, rule, importance if by == "importance" else by)
    if not by and rule in DESCRIPTIONS:
        return Family(label, rule, importance if rule == "top" else None)
    raise ParameterError(
        f"The control family {family!r} is unknown; choose from {', '.join(DESCRIPTIONS)}, or layer+NAME and top+NAME "
        f"with NAME one of {', '.join(IMPORTANCES)}."
    )


def draw_control(family, mask, seed, *, importance=None, map=None, n_nearest=10):
    """Draw one control of a family; a mask of whole attention heads gets whole heads.

    Parameters
    ----------
    family : Family
        Any but ``others``, whose sets are there already.
    mask : NeuronMask
    seed : sequence of int
        Decides the draw.
    importance : array of shape (n_neurons,), optional
    map : array of shape (n_neurons,), optional
        The network's map, for ``anti``.
    n_nearest : int
        For matching by importance.

    Returns
    -------
    bool array of shape (n_neurons,)
    """
    units, rng = controls.ControlUnits(mask.values, mask.geometry), np.random.default_rng(seed)
    values, layer_of = units.values, units.layer_of
    if family.rule == "random":
        drawn = controls.random_set(values, rng)
    elif family.rule == "layer":
        drawn = controls.layer_matched(values, layer_of, rng)
    elif family.rule == "layer+importance":
        drawn = controls.importance_matched(values, layer_of, units.total(importance), rng, n_nearest)
    elif family.rule == "permuted":
        drawn = controls.permuted(values, layer_of, rng)
    elif family.rule == "top":
        drawn = controls.top_matched(values, layer_of, units.total(importance))
    elif map is None:
        raise ParameterError("The family 'anti' needs the maps: LesionStudy(..., options={'maps': maps}).")
    else:
        drawn = controls.anti_network(values, layer_of, units.total(np.abs(map)), rng)
    return units.neurons(drawn)
