"""What a lesion puts in the place of the selected neurons' values.

With ``x`` the value of a neuron at a token and ``s`` the strength, every kind is ``x + s (target - x)``:

========  ==========================================================================
kind      target
========  ==========================================================================
zero      0
retain    0 for all neurons that are *not* selected; the selected ones stay
mean      the neuron's mean over a reference text
resample  the neuron's value at another token of a reference text; all neurons of the
          lesion take theirs from the same token, so that their coordination is kept;
          which token is decided by the seed and the position in the text alone, so
          that neither a cache nor a batch changes what is drawn
scale     ``value * x``: above 1 amplifies, below 1 weakens, -1 inverts
add       ``x + value``, the amplification of the first paper
clamp     ``value``
========  ==========================================================================
"""

import hashlib

import numpy as np

from ..exceptions import GeometryMismatchError, MaskError, ParameterError
from ..masks import NeuronMask

__all__ = ["KINDS", "NEEDS_REFERENCE", "Edit"]

KINDS = ("zero", "retain", "mean", "resample", "scale", "add", "clamp")
_NEEDS_VALUE = ("scale", "add", "clamp")
NEEDS_REFERENCE = ("mean", "resample")


class Edit:
    """A mask together with what happens to its neurons: plain data, checked when it is made.

    Parameters
    ----------
    mask : NeuronMask
    how : {"zero", "retain", "mean", "resample", "scale", "add", "clamp"}
    value : float or array of shape (n_neurons,), optional
        For ``scale``, ``add`` and ``clamp``: one number, or one for each neuron of the geometry.
    strength : float
        From 0 (nothing happens) to 1 (the whole lesion).
    reference : NeuronStatistics or array, optional
        For ``mean``: statistics, or the means ``(n_neurons,)``. For ``resample``: statistics with samples, or values at
        tokens of a reference text ``(n_tokens, n_neurons)``.
    random_state : int
        Which tokens ``resample`` draws.
    allow_empty : bool
        Accept a mask without neurons, which does nothing.

    Attributes
    ----------
    mask : NeuronMask
        The neurons that change: with ``retain`` the complement of what was given.

    Raises
    ------
    MaskError, ParameterError, GeometryMismatchError
    """

    def __init__(
        self, mask, how="zero", *, value=None, strength=1.0, reference=None, random_state=0, allow_empty=False
    ):
        if not isinstance(mask, NeuronMask):
            raise MaskError(
                f"A lesion needs one NeuronMask; got {type(mask).__name__}. Make one with NeuronMask(values, "
                "geometry); several at once are lesioned by their union, mask | other."
            )
        if how not in KINDS:
            raise ParameterError(f"how={how!r} is unknown; choose from {', '.join(KINDS)}.")
        if (value is None) == (how in _NEEDS_VALUE):
            word = "needs" if value is None else "takes no"
            raise ParameterError(f"how={how!r} {word} value=; scale, add and clamp take one, a number or one a neuron.")
        if not 0.0 <= strength <= 1.0:
            raise ParameterError(
                f"strength lies between 0 (no lesion) and 1; got {strength}. To amplify, use how='scale'."
            )
        if not mask.count and not allow_empty:
            raise MaskError(
                f"The mask {mask.name or ''} is empty: the lesion would do nothing. Lower its threshold, or pass "
                "allow_empty=True if that is meant.".replace("  ", " ")
            )
        if not isinstance(random_state, (int, np.integer)) or random_state < 0:
            raise ParameterError(f"random_state is a whole number from 0 on; got {random_state!r}.")
        if how == "retain":
            mask, how = ~mask, "zero"
        self.mask, self.how, self.strength, self.random_state = mask, how, float(strength), random_state
        self.units = mask.units
        self._numbers = _numbers(mask, how, value, reference)
        self.layers = [] if self.strength == 0 else [i for i, units in enumerate(self.units) if units.size]

    @property
    def is_removal(self):
        """Whether the neurons are set to zero outright."""
        return self.how == "zero" and self.strength == 1.0

    def mask_of(self, layer):
        """Which units of a layer change, shape ``(n_units,)``; none at strength 0."""
        if not self.strength:
            return np.zeros(self.mask.geometry.sizes[layer], dtype=bool)
        return self.mask.values[self.mask.geometry.layer_slice(layer)]

    def numbers_of(self, layer):
        """The kind's numbers for the selected neurons of a layer, ``(n_selected,)`` or ``(n_tokens, n_selected)``."""
        return self._numbers[..., self.mask.geometry.layer_slice(layer)][..., self.units[layer]]

    @property
    def signature(self):
        """A text that equal edits share, by which an interrupted study is known again."""
        digest = hashlib.sha256(f"{self.how} {self.strength} {self.random_state}".encode())
        digest.update(self.mask.values.tobytes())
        if self._numbers is not None:
            digest.update(np.ascontiguousarray(self._numbers[..., self.mask.values]).tobytes())
        return digest.hexdigest()

    def state(self):
        """Begin a run of the model: what remembers tensors by device and the tokens already drawn."""
        return EditState(self)


class EditState:
    """An :class:`Edit` at work: tensors on the device where the activations are."""

    def __init__(self, edit):
        self.edit = edit
        self._tensors = {}

    def units(self, layer, device):
        """Units of a layer as an index tensor."""
        return self._tensor(("units", layer), device, None, lambda: self.edit.units[layer])

    def new_values(self, layer, x, n_tokens=None, past=0):
        """What stands in the place of ``x``, the selected columns of a layer, ``(..., n_selected)``.

        ``n_tokens`` of each row follow each other in ``x`` (default: its last axis but one), behind ``past`` others.
        """
        edit = self.edit
        target = self._target(layer, x, n_tokens or x.shape[-2], past)
        if edit.strength != 1.0:
            target = x + edit.strength * (target - x)
        return target.to(x.dtype)

    def _target(self, layer, x, n_tokens, past):
        how, device = self.edit.how, x.device
        if how == "zero":
            return x.new_zeros(()).expand_as(x)
        given = self._tensor(("target", layer), device, x.dtype, lambda: self.edit.numbers_of(layer))
        if how == "scale":
            return x * given
        if how == "add":
            return x + given
        if how == "resample":
            return given[_drawn(x.shape[:-1], n_tokens, past, len(given), int(self.edit.random_state)).to(device)]
        return given.expand_as(x)

    def _tensor(self, name, device, dtype, make):
        import torch

        key = (*name, device, dtype)
        if key not in self._tensors:
            with torch.inference_mode(False):  # an inference tensor could not serve a later pass with gradients
                self._tensors[key] = torch.as_tensor(np.ascontiguousarray(make())).to(device, dtype)
        return self._tensors[key]


def _drawn(shape, n_tokens, past, n_rows, seed):
    """Which row of the reference stands at each token: a hash of seed and position (splitmix64)."""
    import torch

    start = (seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) % 2**64
    x = np.arange(past, past + n_tokens, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    rows = torch.from_numpy(((x ^ (x >> np.uint64(31))) % np.uint64(n_rows)).astype(np.int64))
    return rows.repeat(int(np.prod(shape)) // n_tokens).reshape(tuple(shape))


def _numbers(mask, how, value, reference):
    """What a kind needs, ``(n_neurons,)`` or ``(n_tokens, n_neurons)``; None for zero. Shared, not copied, by edits."""
    if how in _NEEDS_VALUE:
        value = np.asarray(value, dtype=np.float32)
        if value.ndim and value.shape != mask.values.shape:
            raise GeometryMismatchError(
                f"value is a number or an array of {mask.values.size} (one a neuron); got shape {value.shape}."
            )
        numbers = np.broadcast_to(value, mask.values.shape)
    elif how in NEEDS_REFERENCE:
        numbers = _reference_values(mask, how, reference)
    else:
        return None
    if not np.isfinite(numbers[..., mask.values]).all():
        raise ParameterError(f"The values for how={how!r} hold NaN or infinite numbers.")
    return numbers


def _reference_values(mask, how, reference):
    if reference is None:
        raise ParameterError(
            f"how={how!r} needs reference=, e.g. neuron_statistics(model, tokenizer, texts"
            + (", n_samples=1000)." if how == "resample" else ").")
        )
    if hasattr(reference, "geometry"):
        mask.geometry.check_same(reference.geometry, "The reference")
        reference = reference.mean if how == "mean" else reference.samples
        if reference is None:
            raise ParameterError(
                "how='resample' needs statistics with samples: neuron_statistics(..., n_samples=1000)."
            )
    values = np.asarray(reference, dtype=np.float32)
    expected = 1 if how == "mean" else 2
    if values.ndim != expected or values.shape[-1] != mask.values.size:
        shape = "(n_neurons,)" if how == "mean" else "(n_tokens, n_neurons)"
        raise GeometryMismatchError(
            f"The reference for how={how!r} has the shape {shape} with {mask.values.size} neurons; got {values.shape}."
        )
    return values
