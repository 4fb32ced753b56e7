"""Sets of neurons: made from maps, names or images, combined, compared, matched with controls."""

import numpy as np

from ..exceptions import GeometryMismatchError, MaskError, ParameterError, check_seed
from ..geometry import NeuronGeometry
from .family import ControlFamily, draw_control
from .files import describe_mask, read_image, read_mask, write_mask
from .heads import heads_of_share, whole_heads
from .selection import above, as_geometry, flat_index, highest, named, of_heads, of_layers


class NeuronMask:
    """A set of neurons of one model, usually of one site; the union of masks of two sites has both.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
        Which neurons belong to the set, in flat order (see :class:`llmbrain.NeuronGeometry`).
    geometry : NeuronGeometry or loaded model
        With a model, the neurons of its MLPs.
    name : str, optional
    info : dict, optional
        Where the set comes from; saved in the sidecar. ``model`` (from :func:`llmbrain.describe_model`): a lesion of
        another model is then refused. ``corpus_hash``: a lesion study on that text then raises a warning. Also
        ``threshold`` and similar.

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
        values, geometry = np.asarray(values), as_geometry(geometry)
        if values.shape != (geometry.n_neurons,):
            raise GeometryMismatchError(
                f"A mask must have one value per neuron ({geometry.n_neurons}); got shape {values.shape}."
            )
        if values.dtype != bool:
            if not np.isin(values, (0, 1)).all():
                raise MaskError(
                    "A mask has only True and False (or 1 and 0). Make one from a map with "
                    "NeuronMask.from_map(map, geometry, threshold=...)."
                )
            values = values.astype(bool)
        self.values = values.copy()
        self.values.flags.writeable = False
        self.geometry = geometry
        self.name = name
        self.info = dict(info or {})

    # -- constructors ---------------------------------------------------------------------------------------------
    @classmethod
    def from_map(cls, map, geometry, threshold=3.0, two_sided=True, name=None, info=None):
        """Make a mask of the neurons whose value is above a threshold.

        Parameters
        ----------
        map : array of shape (n_neurons,)
            Usually z-scores over neurons.
        geometry : NeuronGeometry
        threshold : float
            The mask has the neurons with values strictly above it.
        two_sided : bool
            Threshold ``|map|``. The sign of a component is arbitrary, so a one-sided mask drops half of a bipolar
            network.
        name, info
            See :class:`NeuronMask`.
        """
        geometry = as_geometry(geometry)
        chosen = above(map, geometry, threshold, two_sided)
        info = {"threshold": float(threshold), "two_sided": bool(two_sided), **(info or {})}
        return cls(chosen, geometry, name, info)

    @classmethod
    def top(cls, map, n, geometry, two_sided=True, name=None, info=None):
        """Make a mask of the ``n`` neurons with the highest ``|map|`` (or highest value, one-sided)."""
        geometry = as_geometry(geometry)
        info = {"top": int(n), "two_sided": bool(two_sided), **(info or {})}
        return cls(highest(map, geometry, n, two_sided), geometry, name, info)

    @classmethod
    def from_names(cls, names, geometry, name=None, info=None, *, site="mlp"):
        """Make a mask of neurons given as ``(layer, unit)``, with the model's own layer numbers.

        Parameters
        ----------
        names : list of tuple
            ``(layer, unit)``, or ``(site, layer, unit)`` in a geometry of several sites.
        geometry : NeuronGeometry or loaded model
        name, info
            See :class:`NeuronMask`.
        site : str
            Site of the neurons, if a model is given; see :func:`llmbrain.find_sites`.
        """
        geometry = as_geometry(geometry, site)
        return cls(named(names, geometry), geometry, name, info)

    @classmethod
    def from_heads(cls, heads, geometry, name=None, info=None):
        """Make a mask of whole attention heads given as ``(layer, head)``; the site must have heads.

        ``geometry`` may be a loaded model.
        """
        geometry = as_geometry(geometry, "attention")
        return cls(of_heads(heads, geometry), geometry, name, info)

    @classmethod
    def from_layers(cls, layers, geometry, name=None, info=None, *, site="mlp"):
        """Make a mask of all neurons of some layers, given by the model's own layer numbers.

        ``geometry`` may be a loaded model; ``site`` is then the site of the neurons.
        """
        geometry = as_geometry(geometry, site)
        return cls(of_layers(layers, geometry), geometry, name, info)

    @classmethod
    def from_img(cls, img, geometry, threshold=0.0, name=None, info=None):
        """Make a mask from a 3D image, for example a region drawn in a NIfTI viewer.

        The mask has the neurons where the image is above ``threshold``. Marked voxels without a neuron (padding of an
        odd layer width) raise a :class:`MaskError`.
        """
        geometry = as_geometry(geometry)
        return cls(read_image(img, geometry, threshold), geometry, name, info)

    # -- contents -------------------------------------------------------------------------------------------------
    @property
    def count(self):
        """Number of neurons in the set."""
        return int(self.values.sum())

    @property
    def share(self):
        """Share of all neurons that are in the set, 0 to 1."""
        return self.count / self.geometry.n_neurons

    @property
    def counts_per_layer(self):
        """Number of neurons of the set in each layer, shape (n_layers,)."""
        return np.bincount(self.geometry.layer_of[self.values], minlength=self.geometry.n_layers)

    @property
    def indices(self):
        """Flat indices of the neurons of the set, shape (count,)."""
        return np.flatnonzero(self.values)

    @property
    def units(self):
        """Units of the set in each layer: a list of n_layers integer arrays."""
        offsets, places = self.geometry.offsets, self.indices
        ends = np.searchsorted(places, offsets).tolist()  # faster than a search in each layer
        return [places[a:b] - start for a, b, start in zip(ends, ends[1:], offsets)]

    @property
    def heads(self):
        """The set as a list of ``(layer, head)`` if it consists of whole attention heads, else None."""
        held = whole_heads(self.values, self.geometry)
        if held is None or self.geometry.parts is not None:
            return None
        layers = np.repeat(self.geometry.layers, self.geometry.n_heads)[held]
        numbers = np.concatenate([np.arange(n) for n in self.geometry.n_heads])[held]
        return list(zip(layers.tolist(), numbers.tolist()))

    @property
    def names(self):
        """The set as a list of ``(layer, unit)``, with the model's own layer numbers.

        The neurons of several sites are named ``(site, layer, unit)``.
        """
        position = self.geometry.layer_of[self.values]
        layers, units = np.asarray(self.geometry.layers)[position], self.geometry.unit_of[self.values]
        columns = [layers.tolist(), units.tolist()]
        if self.geometry.parts is not None:
            columns.insert(0, np.asarray(self.geometry.site_of)[position].tolist())
        return list(zip(*columns))

    def summary(self, *others):
        """Count the neurons of the set in each layer.

        Parameters
        ----------
        *others : NeuronMask
            Masks to compare with.

        Returns
        -------
        pandas.DataFrame
            One row per layer: ``layer``, ``n_neurons``, ``share`` of the layer, and for each other mask
            ``shared_with_<name>``; first ``site``, if there are several.
        """
        import pandas as pd

        geometry = self.geometry
        columns = {} if geometry.parts is None else {"site": geometry.site_of}
        columns |= {
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
        """Union. Masks of different sites of one model give a mask of both sites."""
        if isinstance(other, NeuronMask) and self.geometry.site != other.geometry.site:
            both = NeuronGeometry.join(self.geometry, other.geometry)
            return self.over(both) | other.over(both)
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
        return bool(self.values[flat_index(self.geometry, layer_and_unit)])

    def over(self, geometry):
        """Return the set as a mask of a geometry that also has other sites, see :meth:`NeuronGeometry.join`.

        Raises
        ------
        GeometryMismatchError
            If a site of the mask is missing there, or differs.
        """
        if geometry == self.geometry:
            return self
        values = np.zeros(geometry.n_neurons, dtype=bool)
        for site in self.geometry.site_names:
            if site not in geometry.site_names:
                raise GeometryMismatchError(f"The site '{site}' is not among {', '.join(geometry.site_names)}.")
            geometry.of_site(site).check_same(self.geometry.of_site(site), "The mask")
            values[geometry.site_slice(site)] = self.values[self.geometry.site_slice(site)]
        return NeuronMask(values, geometry, self.name, self.info)

    def own_sites(self):
        """Return the set as a mask of the sites alone in which it has neurons (of all, if it is empty)."""
        geometry = self.geometry
        used = [site for site in geometry.site_names if self.values[geometry.site_slice(site)].any()]
        if geometry.parts is None or len(used) in (0, len(geometry.site_names)):
            return self
        own = NeuronGeometry.join(*(geometry.of_site(site) for site in used))
        values = np.concatenate([self.values[geometry.site_slice(site)] for site in own.site_names])
        return NeuronMask(values, own, self.name, self.info)

    def to_heads(self, least=0.5):
        """Round the set to whole attention heads, so that heads are lesioned and matched.

        Parameters
        ----------
        least : float
            Share of a head's neurons that must be in the set, above 0 and at most 1.

        Returns
        -------
        NeuronMask

        Raises
        ------
        MaskError
            If the site has no heads.
        """
        if not 0 < least <= 1:
            raise ParameterError(f"least must be a share of a head, above 0 and at most 1; got {least}.")
        values = heads_of_share(self.values, self.geometry, least)
        if values is None:
            raise MaskError(f"The site '{self.geometry.site}' has no heads; use the site 'attention'.")
        return self._like(values, f"heads of {self.name}" if self.name else None)

    # -- controls -------------------------------------------------------------------------------------------------
    def matched_control(self, by="layer", importance=None, random_state=None):
        """Draw a control: a set of other neurons to compare this one with.

        Parameters
        ----------
        by : None, str or tuple of str
            What the control shares with the set, besides its size: nothing (None), the count in each layer
            (``"layer"``), or also the rank of importance of each neuron (``("layer", "importance")``). Any family of
            :data:`llmbrain.masks.CONTROLS` that needs no maps.
        importance : array of shape (n_neurons,), optional
            Required by families that need one.
        random_state : int, numpy.random.Generator or None

        Returns
        -------
        NeuronMask
            Of the same size, and without neurons of this set as far as the layers have others. A set of whole
            attention heads is matched by whole heads.

        Raises
        ------
        MaskError
            If the set is empty.
        ParameterError
            If ``by`` is unknown, or importance is missing.
        """
        if random_state is not None and not isinstance(random_state, np.random.Generator):
            check_seed(random_state)
        family = ControlFamily.parse(by)
        drawn = draw_control(family.name, self.values, self.geometry, random_state, importance=importance)
        return self._like(drawn, f"control of {self.name}" if self.name else None)

    # -- files ----------------------------------------------------------------------------------------------------
    def to_img(self):
        """Return the set as a 3D NIfTI image of 0 and 1 (uint8)."""
        return self.geometry.to_img(self.values)

    def save(self, path, model=None):
        """Write the set as a uint8 NIfTI file, with a JSON sidecar that names model and geometry.

        Parameters
        ----------
        path : path-like
            Ends in ``.nii`` or ``.nii.gz``.
        model : dict, optional
            From :func:`llmbrain.models.describe_model`, if ``info`` does not name the model yet (masks of networks
            do). A lesion of a model with other weights is then refused.

        Returns
        -------
        pathlib.Path
            Of the image.
        """
        return write_mask(path, self, model)

    def sidecar(self, model=None):
        """Content of the JSON sidecar that :meth:`save` writes."""
        return describe_mask(self, model)

    @classmethod
    def load(cls, path, geometry=None):
        """Read a set written by :meth:`save`.

        Parameters
        ----------
        path : path-like
        geometry : NeuronGeometry, optional
            Required without a sidecar; checked against the sidecar if there is one.
        """
        return cls(**read_mask(path, geometry))

    def _like(self, values, name):
        # the origin (threshold, corpus) is kept: a control or a union was chosen on the same text
        return NeuronMask(values, self.geometry, name, self.info)

    def _combine(self, other, operation, sign):
        if not isinstance(other, NeuronMask):
            return NotImplemented
        self.geometry.check_same(other.geometry, f"The mask {other.name or ''}".strip())
        name = f"{self.name} {sign} {other.name}" if self.name and other.name else None
        return NeuronMask(
            operation(self.values, other.values), self.geometry, name, _merged_info(self.info, other.info)
        )

    def __repr__(self):
        layers = int((self.counts_per_layer > 0).sum())
        name = f"{self.name!r}, " if self.name else ""
        of = f", {self.geometry.site}" if self.geometry.parts is not None else ""
        return (
            f"NeuronMask({name}{self.count} neurons, {self.share:.2%}, in {layers} of {self.geometry.n_layers} "
            f"layers{of})"
        )


def _merged_info(a, b):
    """Merge the info of two sets: entries that agree, entries of one set alone, and the texts of both."""
    merged = {k: v for k, v in {**b, **a}.items() if a.get(k, v) == b.get(k, v)}
    texts = {h for info in (a, b) for h in np.atleast_1d(info.get("corpus_hash", [])).tolist()}
    if texts:
        merged["corpus_hash"] = texts.pop() if len(texts) == 1 else sorted(texts)
    documents = {h for info in (a, b) for h in info.get("document_hashes", [])}
    return merged | ({"document_hashes": sorted(documents)} if documents else {})
