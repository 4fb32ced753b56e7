"""The mapping between neurons and voxels.

A volume is ``(layer, row, col)``, with the token as fourth axis. Because the layer is axis 0, nilearn reads the voxels
of a mask in the order of the flat neuron index, ``offsets[layer] + unit``: arrays and images agree without a
permutation. Layers whose width does not fold exactly are padded with voxels outside the mask.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .arguments import text, whole
from .exceptions import GeometryMismatchError, LLMBrainError, ParameterError
from .images import NIFTI1_MAX, check_space, fold, load_img, new_img, nifti_dtype, read_data


@dataclass(frozen=True)
class NeuronGeometry:
    """The position of each neuron of a recorded site in a volume.

    Parameters
    ----------
    sizes : tuple of int
        Number of neurons of each layer.
    site : str
        Name of the site, one of :data:`llmbrain.models.sites.SITES`.
    layers : tuple of int
        The model's numbers of the layers; a recording may hold only some of them.
    n_heads : tuple of int or None
        Number of attention heads of each layer, for sites whose units form heads.
    parts : tuple of (str, int) or None
        For neurons of several sites: the name of each site and its number of layers; see :meth:`join`. ``sizes`` and
        ``layers`` then list the layers of the first site, those of the second, and so on.

    Examples
    --------
    >>> geometry = NeuronGeometry.from_sizes([1536] * 30)
    >>> geometry.shape, geometry.n_neurons
    ((30, 48, 32), 46080)
    >>> image = geometry.to_img(np.arange(46080.0))
    >>> bool((geometry.to_array(image) == np.arange(46080)).all())
    True
    """

    sizes: tuple
    site: str = "mlp"
    layers: tuple = None
    n_heads: tuple = None
    parts: tuple = None

    def __post_init__(self):
        sizes = tuple(int(s) for s in np.atleast_1d(whole("sizes", self.sizes)))
        if not isinstance(self.site, str):
            raise ParameterError(f"site={self.site!r}: it must be the name of a site.")
        if not sizes or min(sizes) < 1:
            raise ParameterError(f"A geometry needs at least one layer of at least one neuron; got {list(sizes)}.")
        layers = tuple(range(len(sizes))) if self.layers is None else tuple(int(i) for i in self.layers)
        parts = None if self.parts is None else tuple((str(name), int(n)) for name, n in self.parts)
        object.__setattr__(self, "parts", parts)
        if parts is not None and sum(n for _, n in parts) != len(sizes):
            raise ParameterError(f"parts={parts} do not add up to the {len(sizes)} layers.")
        different = {(site, layer) for site, layer in zip(self.site_of, layers)}
        if len(layers) != len(sizes) or len(different) != len(layers):
            raise ParameterError(
                f"{len(sizes)} layer sizes need {len(sizes)} different layer numbers; got {list(layers)}."
            )
        heads = None if self.n_heads is None else tuple(int(h) for h in self.n_heads)
        if heads is not None and (len(heads) != len(sizes) or any(h < 1 or s % h for s, h in zip(sizes, heads))):
            raise ParameterError(f"n_heads={heads} must divide the layer sizes {sizes} one by one.")
        for name, value in (("sizes", sizes), ("layers", layers), ("n_heads", heads)):
            object.__setattr__(self, name, value)
        too_long = [n for n in self.shape if n > NIFTI1_MAX]
        if too_long:
            raise ParameterError(
                f"A volume of shape {self.shape} has an axis longer than {NIFTI1_MAX}, the limit of NIfTI-1. "
                "Record fewer layers at a time."
            )

    # -- construction ----------------------------------------------------------------------------------------------
    @classmethod
    def from_sizes(cls, sizes, site="mlp", layers=None, n_heads=None):
        """Make a geometry from the number of neurons of each layer."""
        return cls(tuple(sizes), site, layers, n_heads)

    @classmethod
    def from_model(cls, model, site="mlp", sites=None):
        """Make the geometry of a site of a loaded model; ``sites`` as in :func:`llmbrain.find_sites`.

        Names joined by ``+``, such as ``"attention+mlp"``, make the geometry of several sites.
        """
        from .models.sites import find_sites

        text("site", site)
        by_hand = sites if "+" in site else {site: sites}
        found = {name: find_sites(model, name, sites=(by_hand or {}).get(name)) for name in site.split("+")}
        return cls.join(*(cls.from_sites(places, name) for name, places in found.items()))

    @classmethod
    def join(cls, *geometries):
        """Make the geometry of the neurons of several sites of one model, in the order of their names.

        Parameters
        ----------
        *geometries : NeuronGeometry
            Those of one site must be equal.

        Raises
        ------
        GeometryMismatchError
            If two of them describe one site differently.

        Examples
        --------
        >>> both = NeuronGeometry.join(NeuronGeometry((8, 8), "mlp"), NeuronGeometry((4, 4), "attention"))
        >>> both.site, both.sizes, both.layers
        ('attention+mlp', (4, 4, 8, 8), (0, 1, 0, 1))
        """
        known = {}
        for geometry in geometries:
            for name in geometry.site_names:
                part = geometry.of_site(name)
                known.setdefault(name, part).check_same(part, f"Another geometry of the site '{name}'")
        if len(known) == 1:
            return next(iter(known.values()))
        own = [known[name] for name in sorted(known)]
        # where no heads are, every neuron is a head of its own: sets of whole heads are then recognised
        heads = [h for part in own for h in (part.n_heads or part.sizes)]
        return cls(
            tuple(size for part in own for size in part.sizes), "+".join(part.site for part in own),
            tuple(layer for part in own for layer in part.layers), heads if any(p.n_heads for p in own) else None,
            tuple((part.site, part.n_layers) for part in own),
        )  # fmt: skip

    @classmethod
    def from_sites(cls, found, site):
        """Make a geometry from the sites that :func:`llmbrain.find_sites` returned."""
        heads = [s.n_heads for s in found]
        return cls(
            tuple(s.size for s in found), site, tuple(s.layer for s in found), tuple(heads) if all(heads) else None
        )

    @classmethod
    def from_dict(cls, d):
        """Make a geometry from the output of :meth:`to_dict`, for example from a sidecar."""
        try:
            return cls(d["sizes"], d["site"], d.get("layers"), d.get("n_heads"), d.get("parts"))
        except LLMBrainError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise GeometryMismatchError(f"This does not describe a neuron geometry: {d!r}.") from error

    def to_dict(self):
        """Return the geometry as a dict of lists and strings, for JSON."""
        described = {
            "site": self.site,
            "sizes": list(self.sizes),
            "layers": list(self.layers),
            "n_heads": None if self.n_heads is None else list(self.n_heads),
            "shape": list(self.shape),
        }
        return described if self.parts is None else described | {"parts": [list(part) for part in self.parts]}

    def __repr__(self):
        return f"NeuronGeometry({_short(self)})"

    # -- counts and indices ---------------------------------------------------------------------------------------
    @property
    def n_layers(self):
        """Number of layers."""
        return len(self.sizes)

    @property
    def n_neurons(self):
        """Number of neurons in all layers."""
        return int(sum(self.sizes))

    @cached_property
    def shape(self):
        """Shape of a volume, ``(n_layers, rows, cols)``."""
        return (len(self.sizes), *fold(max(self.sizes)))

    @property
    def n_voxels(self):
        """Number of voxels of a volume, padding included."""
        return math.prod(self.shape)

    @cached_property
    def offsets(self):
        """First flat index of each layer, then the total, shape ``(n_layers + 1,)``."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def layer_of(self):
        """Position of each neuron's layer, counted from 0, shape ``(n_neurons,)``."""
        return np.repeat(np.arange(self.n_layers), self.sizes)

    @cached_property
    def unit_of(self):
        """Number of each neuron within its layer, shape ``(n_neurons,)``."""
        return np.arange(self.n_neurons) - self.offsets[self.layer_of]

    @property
    def fingerprint(self):
        """A short hash that identifies the geometry."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def layer_slice(self, position):
        """Return the flat indices of the layer at ``position`` as a slice."""
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))

    def index(self, layer, unit, site=None):
        """Return the flat index of neuron ``unit`` of the model's layer number ``layer``.

        ``site`` is required where the geometry has several.
        """
        if self.parts is not None:
            if site not in self.site_names:
                raise ParameterError(
                    f"site={site!r}: these neurons are of the sites {', '.join(self.site_names)}. Name one of them."
                )
            return self.site_slice(site).start + self.of_site(site).index(layer, unit)
        if layer not in self.layers:
            raise ParameterError(f"Layer {layer} is not among the layers {list(self.layers)} of this geometry.")
        position = self.layers.index(layer)
        if not 0 <= unit < self.sizes[position]:
            raise ParameterError(f"Layer {layer} has units 0 to {self.sizes[position] - 1}; got {unit}.")
        return int(self.offsets[position]) + int(unit)

    # -- several sites --------------------------------------------------------------------------------------------
    @property
    def site_names(self):
        """Names of the sites, one for most geometries."""
        return (self.site,) if self.parts is None else tuple(name for name, _ in self.parts)

    @property
    def site_of(self):
        """Name of the site of each layer, a tuple of n_layers strings."""
        if self.parts is None:
            return (self.site,) * len(self.sizes)
        return tuple(name for name, n in self.parts for _ in range(n))

    def of_site(self, site):
        """Return the geometry of one of the sites alone."""
        if self.parts is None and site == self.site:
            return self
        if site not in self.site_names:
            raise ParameterError(f"site={site!r}: these neurons are of the site {', '.join(self.site_names)}.")
        first = self.site_of.index(site)
        of = slice(first, first + dict(self.parts)[site])
        heads = None if self.n_heads is None or self.n_heads[of] == self.sizes[of] else self.n_heads[of]
        return NeuronGeometry(self.sizes[of], site, self.layers[of], heads)

    def site_slice(self, site):
        """Return the flat indices of one of the sites as a slice."""
        first, n = self.site_of.index(site), self.site_of.count(site)
        return slice(int(self.offsets[first]), int(self.offsets[first + n]))

    def split(self, array):
        """Cut the last axis of an array into layers: a list of ``(..., size)`` views."""
        array = np.asarray(array)
        self._check_width(array)
        return [array[..., self.layer_slice(i)] for i in range(self.n_layers)]

    def check_same(self, other, what="the other object"):
        """Raise :class:`GeometryMismatchError` unless ``other`` describes the same neurons."""
        if self != other:
            raise GeometryMismatchError(
                f"{what} has {_short(other)}, but {_short(self)} is expected. "
                "They come from different models, sites or choices of layers; record or fit again on the same one."
            )

    # -- images ---------------------------------------------------------------------------------------------------
    @cached_property
    def is_neuron(self):
        """True for voxels that hold a neuron: a boolean volume of shape :attr:`shape`."""
        sheet = np.arange(self.shape[1] * self.shape[2])
        return (sheet[None] < np.array(self.sizes)[:, None]).reshape(self.shape)

    @cached_property
    def disk_voxels(self):
        """Position of each neuron among the voxels of a token in the file, shape ``(n_neurons,)``.

        Axis 0 varies fastest in NIfTI files, so this is the position in Fortran order.
        """
        position = np.arange(self.n_voxels).reshape(self.shape, order="F")
        return position[self.is_neuron]

    def to_disk(self, array):
        """Arrange neurons ``(n_tokens, n_neurons)`` in file order ``(n_tokens, n_voxels)``; padding is 0."""
        array = np.asarray(array)
        self._check_width(array)
        out = np.zeros((*array.shape[:-1], self.n_voxels), array.dtype)
        out[..., self.disk_voxels] = array
        return out

    def from_disk(self, block):
        """Arrange voxels ``(n_tokens, n_voxels)`` in file order as neurons ``(n_tokens, n_neurons)``."""
        block = np.asarray(block)
        if block.shape[-1] != self.n_voxels:
            raise GeometryMismatchError(f"Expected {self.n_voxels} voxels per token; got {block.shape[-1]}.")
        return np.take(block, self.disk_voxels, axis=-1, mode="clip")  # eight times as fast as indexing

    def to_img(self, array):
        """Write neurons as a NIfTI image with identity affine.

        Parameters
        ----------
        array : ndarray of shape (n_neurons,) or (n_tokens, n_neurons)
            One value per neuron, or one time course per neuron. Floats become float32, booleans uint8.

        Returns
        -------
        nibabel.Nifti1Image
            3D of shape :attr:`shape`, or 4D with a repetition time of one token and at most 32767 tokens.
        """
        array = np.asarray(array)
        self._check_width(array)
        if array.ndim not in (1, 2):
            raise ParameterError(f"Expected (n_neurons,) or (n_tokens, n_neurons); got shape {array.shape}.")
        if array.ndim == 2 and len(array) > NIFTI1_MAX:
            raise ParameterError(
                f"{len(array)} tokens do not fit the fourth axis of NIfTI-1 (at most {NIFTI1_MAX}); use several runs."
            )
        array = array.astype(nifti_dtype(array.dtype), copy=False)
        volume = np.zeros((*self.shape, *array.shape[:-1]), array.dtype)
        volume[self.is_neuron] = array.T
        return new_img(volume)

    def to_array(self, img):
        """Read the neurons of a 3D or 4D image or its path, the inverse of :meth:`to_img`."""
        img = self.open_img(img)
        return read_data(img)[self.is_neuron].T

    def open_img(self, img):
        """Open a 3D or 4D image or its path and check its shape and affine; its data stay on disk.

        Everything in the package that reads an image calls this: the axes of a flipped, permuted or resampled image
        are no longer layer, row and column.
        """
        return check_space(load_img(img), self.shape, f"this geometry ({_short(self)})")

    @cached_property
    def mask_img(self):
        """Image that is 1 at neurons and 0 at padding (uint8)."""
        return new_img(self.is_neuron.astype(np.uint8))

    @cached_property
    def layers_img(self):
        """Atlas of layers: position of the layer plus 1, and 0 at padding (int16)."""
        labels = np.arange(1, self.n_layers + 1, dtype=np.int16)[:, None, None]
        return new_img((labels * self.is_neuron).astype(np.int16))

    @cached_property
    def heads_img(self):
        """Atlas of attention heads, numbered from 1 through all layers, or None for sites without heads."""
        if self.n_heads is None:
            return None
        first = np.concatenate([[0], np.cumsum(self.n_heads)])[:-1]
        width = np.array(self.sizes) // np.array(self.n_heads)
        volume = np.zeros(self.shape, np.int32)
        volume[self.is_neuron] = first[self.layer_of] + self.unit_of // width[self.layer_of] + 1
        return new_img(volume)

    def masker(self, **kwargs):
        """Make a nilearn ``NiftiMasker`` of all neurons that by default does not smooth, detrend or standardise."""
        from nilearn.maskers import NiftiMasker

        return NiftiMasker(**{"mask_img": self.mask_img, "standardize": None, **kwargs})

    def _check_width(self, array):
        if array.shape[-1:] != (self.n_neurons,):
            raise GeometryMismatchError(f"Expected {self.n_neurons} neurons on the last axis; got shape {array.shape}.")


def _short(geometry):
    sizes = sorted(set(geometry.sizes))
    width = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{geometry.n_layers} layers of {width} neurons at the site '{geometry.site}'"
