"""Sets of neurons: made from maps, names or images, combined, compared, matched with controls."""

import numpy as np

from ..exceptions import GeometryMismatchError, MaskError, ParameterError
from . import controls
from .files import read_image, read_mask, write_mask
from .maps import checked_map, merged_info

__all__ = ["NeuronMask"]


class NeuronMask:
    """A set of neurons of one site of one model.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
        Which neurons belong to the set, in flat order (see :class:`llmbrain.NeuronGeometry`).
    geometry : NeuronGeometry
    name : str, optional
    info : dict, optional
        Where the set comes from, kept in the sidecar: ``model`` (what :func:`llmbrain.describe_model` returns; a lesion
        then refuses another model), ``corpus_hash`` (a lesion study then warns if it tests on that very text),
        ``threshold`` and the like.

    Attributes
    ----------
    values, geometry, name, info

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> geometry = NeuronGeometry.from_sizes([8, 8])
    >>> a = NeuronMask.from_names([(0, 1), (1, 2)], geometry, name="a")
    >>> b = NeuronMask.from_names([(1, 2), (1, 3)], geometry, name="b")
    >>> (a | b).count, (a & b).names, (~a).count
    (3, [(1, 2)], 14)
    >>> a.matched_control(by="layer", random_state=0).counts_per_layer.tolist()
    [1, 1]
    """

    def __init__(self, values, geometry, name=None, info=None):
        values = np.asarray(values)
        if values.shape != (geometry.n_neurons,):
            raise GeometryMismatchError(
                f"A mask needs one value for each of the {geometry.n_neurons} neurons; got shape {values.shape}."
            )
        if values.dtype != bool:
            if not np.isin(values, (0, 1)).all():
                raise MaskError(
                    "A mask holds True and False (or 1 and 0) alone. Make one from a map with "
                    "NeuronMask.from_map(map, geometry, threshold=...)."
                )
            values = values.astype(bool)
        self.values = values.copy()
        self.values.flags.writeable = False
        self.geometry = geometry
        self.name = name
        self.info = dict(info or {})

    # -- making one -----------------------------------------------------------------------------------------------
    @classmethod
    def from_map(cls, map, geometry, threshold=3.0, two_sided=True, name=None, info=None):
        """Take the neurons whose value lies above a threshold.

        Parameters
        ----------
        map : array of shape (n_neurons,)
            Usually z-scores over neurons.
        geometry : NeuronGeometry
        threshold : float
            Values strictly above it belong to the mask.
        two_sided : bool
            Use ``|map|``. The sign of a component is arbitrary, so one side alone drops half of a bipolar network.
        name, info
            See :class:`NeuronMask`.
        """
        values = checked_map(map, geometry)
        info = {"threshold": float(threshold), "two_sided": bool(two_sided), **(info or {})}
        return cls((np.abs(values) if two_sided else values) > threshold, geometry, name, info)

    @classmethod
    def top(cls, map, n, geometry, two_sided=True, name=None, info=None):
        """Take the ``n`` neurons of highest ``|map|`` (or highest value, one-sided)."""
        values = checked_map(map, geometry)
        if not 1 <= n <= geometry.n_neurons:
            raise ParameterError(f"n must lie between 1 and {geometry.n_neurons}, the number of neurons; got {n}.")
        values = np.abs(values) if two_sided else values
        chosen = np.zeros(geometry.n_neurons, dtype=bool)
        chosen[np.argsort(-values, kind="stable")[:n]] = True
        return cls(chosen, geometry, name, {"top": int(n), "two_sided": bool(two_sided), **(info or {})})

    @classmethod
    def from_names(cls, names, geometry, name=None, info=None):
        """Take neurons by ``(layer, unit)``, with the model's own layer numbers."""
        values = np.zeros(geometry.n_neurons, dtype=bool)
        for layer, unit in names:
            values[geometry.index(layer, unit)] = True
        return cls(values, geometry, name, info)

    @classmethod
    def from_heads(cls, heads, geometry, name=None, info=None):
        """Take whole attention heads by ``(layer, head)``; the geometry's site must be grouped into heads."""
        if geometry.n_heads is None:
            raise MaskError(f"The site '{geometry.site}' has no heads; use the site 'attention'.")
        values = np.zeros(geometry.n_neurons, dtype=bool)
        for layer, head in heads:
            start = geometry.index(layer, 0)
            position = geometry.layers.index(layer)
            if not 0 <= head < geometry.n_heads[position]:
                raise MaskError(f"Layer {layer} has heads 0 to {geometry.n_heads[position] - 1}; got {head}.")
            width = geometry.sizes[position] // geometry.n_heads[position]
            values[start + head * width : start + (head + 1) * width] = True
        return cls(values, geometry, name, info)

    @classmethod
    def from_layers(cls, layers, geometry, name=None, info=None):
        """Take all neurons of some layers, by the model's own layer numbers."""
        unknown = sorted(set(layers) - set(geometry.layers))
        if unknown:
            raise MaskError(f"Layers {unknown} are not among the layers {list(geometry.layers)} of this geometry.")
        positions = [geometry.layers.index(layer) for layer in layers]
        return cls(np.isin(geometry.layer_of, positions), geometry, name, info)

    @classmethod
    def from_img(cls, img, geometry, threshold=0.0, name=None, info=None):
        """Take the neurons where a 3D image lies above ``threshold``: a region drawn or made in any NIfTI tool.

        Voxels outside the neurons (padding of an odd layer width) cannot be lesioned; if the image marks some, a
        :class:`MaskError` says how many.
        """
        return cls(read_image(img, geometry, threshold), geometry, name, info)

    # -- what it holds --------------------------------------------------------------------------------------------
    @property
    def count(self):
        """Number of neurons in the set."""
        return int(self.values.sum())

    @property
    def share(self):
        """Share of all neurons that belong to the set, 0 to 1."""
        return self.count / self.geometry.n_neurons

    @property
    def counts_per_layer(self):
        """Neurons of the set in each layer, shape (n_layers,)."""
        return np.bincount(self.geometry.layer_of[self.values], minlength=self.geometry.n_layers)

    @property
    def indices(self):
        """Flat indices of the neurons of the set, shape (count,)."""
        return np.flatnonzero(self.values)

    @property
    def units(self):
        """For every layer the units of the set: a list of n_layers integer arrays."""
        return [np.flatnonzero(part) for part in self.geometry.split(self.values)]

    @property
    def heads(self):
        """The set as a list of ``(layer, head)`` if it consists of whole attention heads, else None."""
        held = controls.whole_heads(self.values, self.geometry)
        if held is None:
            return None
        layers = np.repeat(self.geometry.layers, self.geometry.n_heads)[held]
        numbers = np.concatenate([np.arange(n) for n in self.geometry.n_heads])[held]
        return list(zip(layers.tolist(), numbers.tolist()))

    @property
    def names(self):
        """The set as a list of ``(layer, unit)``, with the model's own layer numbers."""
        layers = np.asarray(self.geometry.layers)[self.geometry.layer_of[self.values]]
        return list(zip(layers.tolist(), self.geometry.unit_of[self.values].tolist()))

    def summary(self, *others):
        """Show the set before it is used: a row a layer.

        Parameters
        ----------
        *others : NeuronMask
            Masks to compare with: a column of shared neurons for each.

        Returns
        -------
        pandas.DataFrame
            ``layer``, ``n_neurons``, ``share`` of the layer, and ``shared_with_<name>``.
        """
        import pandas as pd

        geometry = self.geometry
        columns = {
            "layer": geometry.layers,
            "n_neurons": self.counts_per_layer,
            "share": self.counts_per_layer / np.asarray(geometry.sizes),
        }
        for i, other in enumerate(others):
            columns[f"shared_with_{other.name or i}"] = (self & other).counts_per_layer
        return pd.DataFrame(columns)

    # -- set algebra ----------------------------------------------------------------------------------------------
    def __and__(self, other):
        return self._combine(other, np.logical_and, "&")

    def __or__(self, other):
        return self._combine(other, np.logical_or, "|")

    def __xor__(self, other):
        return self._combine(other, np.logical_xor, "^")

    def __sub__(self, other):
        return self._combine(other, lambda a, b: a & ~b, "-")

    def __invert__(self):
        return self._like(~self.values, f"~{self.name}" if self.name else None)

    def __eq__(self, other):
        if not isinstance(other, NeuronMask):
            return NotImplemented
        return self.geometry == other.geometry and bool(np.array_equal(self.values, other.values))

    def __hash__(self):
        return hash((self.geometry, self.values.tobytes()))

    def __contains__(self, layer_and_unit):
        return bool(self.values[self.geometry.index(*layer_and_unit)])

    def invert_per_layer(self):
        """Complement within the layers that the set touches; layers it does not touch stay empty."""
        touched = self.counts_per_layer[self.geometry.layer_of] > 0
        return self._like(~self.values & touched, f"inverse of {self.name}" if self.name else None)

    def to_heads(self, least=0.5):
        """Whole attention heads of which enough belongs to the set, so that heads are what is lesioned and matched.

        Parameters
        ----------
        least : float
            Share of a head's neurons that must belong to the set, above 0 and up to 1.

        Returns
        -------
        NeuronMask

        Raises
        ------
        MaskError
            If the site has no heads.
        """
        if not 0 < least <= 1:
            raise ParameterError(f"least is a share of a head, above 0 and up to 1; got {least}.")
        values = controls.heads_of_share(self.values, self.geometry, least)
        if values is None:
            raise MaskError(f"The site '{self.geometry.site}' has no heads; use the site 'attention'.")
        return self._like(values, f"heads of {self.name}" if self.name else None)

    # -- controls -------------------------------------------------------------------------------------------------
    def matched_control(self, by="layer", importance=None, random_state=None):
        """Draw a set of other neurons to compare this one with.

        Parameters
        ----------
        by : None, "layer" or ("layer", "importance")
            What the control shares with the set, beside its size: nothing, the count in each layer, or for each neuron
            also its rank of importance in the layer.
        importance : array of shape (n_neurons,), optional
            Required for ``("layer", "importance")``.
        random_state : int, numpy.random.Generator or None

        Returns
        -------
        NeuronMask
            Of the same size, without the set's own neurons as far as the layers have others. A set of whole attention
            heads is matched by whole heads.

        Raises
        ------
        MaskError
            If the set is empty.
        ParameterError
            If ``by`` is unknown, or importance is missing.
        """
        by = by if by is None or isinstance(by, str) else tuple(by)
        units = controls.ControlUnits(self.values, self.geometry)
        if by is None or by == "random":
            drawn = controls.random_set(units.values, random_state)
        elif by in ("layer", ("layer",)):
            drawn = controls.layer_matched(units.values, units.layer_of, random_state)
        elif by == ("layer", "importance"):
            if importance is None:
                raise ParameterError(
                    "Matching by importance needs importance=, one value a neuron, e.g. "
                    "neuron_statistics(model, tokenizer, texts).importance()."
                )
            drawn = controls.importance_matched(units.values, units.layer_of, units.total(importance), random_state)
        else:
            raise ParameterError(f'by={by!r} is unknown; choose None, "layer" or ("layer", "importance").')
        return self._like(units.neurons(drawn), f"control of {self.name}" if self.name else None)

    # -- files ----------------------------------------------------------------------------------------------------
    def to_img(self):
        """The set as a 3D NIfTI image of 0 and 1 (uint8)."""
        return self.geometry.to_img(self.values)

    def save(self, path, model=None):
        """Write the set as a uint8 NIfTI file and a JSON sidecar beside it that names model and geometry.

        Parameters
        ----------
        path : path-like
            Ends in ``.nii`` or ``.nii.gz``.
        model : dict, optional
            What :func:`llmbrain.models.describe_model` says, where ``info`` does not name the model (as masks of
            networks do). A lesion with the mask then refuses other weights.

        Returns
        -------
        pathlib.Path
            The image.
        """
        return write_mask(path, self, model)

    @classmethod
    def load(cls, path, geometry=None):
        """Read a set that :meth:`save` wrote.

        Parameters
        ----------
        path : path-like
        geometry : NeuronGeometry, optional
            Taken if there is no sidecar; checked against the sidecar if there is one.
        """
        return cls(**read_mask(path, geometry))

    def _like(self, values, name):
        # what a set was made by (threshold, corpus) is kept: a control or a union was chosen on the same text
        return NeuronMask(values, self.geometry, name, self.info)

    def _combine(self, other, operation, sign):
        if not isinstance(other, NeuronMask):
            return NotImplemented
        self.geometry.check_same(other.geometry, f"The mask {other.name or ''}".strip())
        name = f"{self.name} {sign} {other.name}" if self.name and other.name else None
        return NeuronMask(operation(self.values, other.values), self.geometry, name, merged_info(self.info, other.info))

    def __repr__(self):
        layers = int((self.counts_per_layer > 0).sum())
        name = f"{self.name!r}, " if self.name else ""
        return (
            f"NeuronMask({name}{self.count} neurons, {self.share:.2%}, in {layers} of {self.geometry.n_layers} layers)"
        )
