"""What a control family is: its declaration, how users name it, and how one set is drawn."""

from dataclasses import dataclass

import numpy as np

from ..arguments import checked
from ..exceptions import MaskError, ParameterError
from ..registry import Registry
from .heads import ControlUnits

# needs: arguments besides values and layer_of, among "importance", "map" and "networks" (the other sets of a study);
# takes: further arguments with defaults; random: whether draws differ, so that they form a null distribution;
# shared: all networks of a study get the same random state; description: for tables and reports
CONTROLS = Registry("control family", needs=(), takes=(), random=True, shared=False, description="")


@dataclass(frozen=True)
class ControlFamily:
    """A control family, with the importance that it matches or ranks by.

    Parameters
    ----------
    label : str
        As the user wrote it.
    name : str
        A key of :data:`CONTROLS`.
    importance : str, optional
        Name of the importance, for families that need one.
    """

    label: str
    name: str
    importance: str = None

    @classmethod
    def parse(cls, family, importance="fluctuation"):
        """Read a family from what a user writes.

        Parameters
        ----------
        family : None, str or tuple of str
            A name in :data:`CONTROLS`, such as ``"layer"`` or ``"layer+importance"``; the same as a tuple,
            ``("layer", "importance")``; or with one importance by name, ``"layer+kurtosis"`` or ``"top+norm"``. None
            means ``"random"``.
        importance : str
            The importance that a family uses if none is named.

        Returns
        -------
        ControlFamily

        Raises
        ------
        ParameterError
            If there is no such family. The importance is not checked here.

        Examples
        --------
        >>> ControlFamily.parse(("layer", "importance")).label, ControlFamily.parse("layer+norm").importance
        ('layer+importance', 'norm')
        """
        label = "random" if family is None else family if isinstance(family, str) else "+".join(map(str, family))
        base, _, by = label.rpartition("+")
        ranked = [n for n in (f"{base}+importance", base) if n in CONTROLS and "importance" in CONTROLS[n].needs]
        if ranked and label not in CONTROLS:
            return cls(label, ranked[0], importance if by == "importance" else by)
        member = CONTROLS[label]
        return cls(label, label, importance if "importance" in member.needs else None)

    @property
    def member(self):
        """The entry in :data:`CONTROLS`, with what it declares."""
        return CONTROLS[self.name]

    def n_drawn(self, n_controls):
        """Number of sets to draw for each network if ``n_controls`` are asked for."""
        if "networks" in self.member.needs:
            return 0
        return n_controls if self.member.random else 1

    @property
    def description(self):
        """One line for tables and reports."""
        return self.member.description + (f"; importance: {self.importance}" if self.importance else "")


@checked()
def draw_control(name, values, geometry, random_state=None, **given):
    """Draw one control set of a family; a set of whole attention heads gets whole heads.

    Parameters
    ----------
    name : str
        A key of :data:`CONTROLS` whose sets are drawn (not ``"others"``).
    values : bool array of shape (n_neurons,)
        The network.
    geometry : NeuronGeometry
    random_state : int, numpy.random.Generator or None
    **given
        ``importance``, ``map`` (its absolute value) : arrays of shape (n_neurons,), if the family needs them.
        ``n_nearest`` : see :func:`llmbrain.masks.controls.importance_matched`. Arguments that the family does not use
        are ignored.

    Returns
    -------
    bool array of shape (n_neurons,)

    Raises
    ------
    MaskError
        If the network is empty.
    ParameterError
        If the family is unknown, or something that it needs is missing.
    """
    member = CONTROLS[name]
    missing = [need for need in member.needs if given.get(need) is None]
    if missing:
        raise ParameterError(
            f"The control family {name!r} needs {', '.join(missing)}= (one value per neuron). An importance comes "
            "from neuron_statistics(model, tokenizer, text).importance(), maps come with a NetworkSet."
        )
    if not np.any(values):
        raise MaskError("The set is empty; an empty network has no control.")
    units = ControlUnits(values, geometry)
    arguments = {need: units.total(given[need]) for need in member.needs}
    arguments |= {name: given[name] for name in member.takes if name in given}
    if member.random:
        arguments["random_state"] = random_state
    return units.neurons(member(units.values, units.layer_of, **arguments))
