"""Lesion kinds: what replaces the values of the selected neurons.

With ``x`` the value of a neuron at a token and ``s`` the strength, every kind gives ``x + s (target - x)``; each class
says what its target is. A factor of ``scale`` above 1 amplifies, below 1 weakens, and -1 inverts.
:func:`llmbrain.lesions.check_lesion_kind` checks a kind that was added.
"""

import hashlib
from numbers import Real

import numpy as np

from ..exceptions import GeometryMismatchError, MaskError, ParameterError
from ..masks import NeuronMask
from ..registry import Registry

# needs_value: value= is required (a number, or one per neuron), else refused; reference: which part of the reference
# statistics is required ("mean" or "samples"); by_position: the target depends on the position of a token in its text;
# removes: the target is 0 whatever the input, so the neurons can be masked out; complement: the neurons that are not
# selected change; alternative: the expected direction of the effect, compared with controls
KINDS = Registry(
    "lesion kind",
    needs_value=False,
    reference=None,
    by_position=False,
    removes=False,
    complement=False,
    alternative="greater",
)


class LesionKind:
    """Base class of lesion kinds: one instance serves all lesions, so it has no state."""

    def prepare(self, given):
        """Turn the given numbers of a layer's selected neurons into what :meth:`target` uses, once per lesion.

        ``given``, float32 of shape (n_selected,) or (n_samples, n_selected), comes from ``value=`` (or the means of the
        reference), or holds samples of the reference. By default it is returned unchanged.
        """
        return given

    def target(self, x, numbers, tokens):
        """Return the values at full strength.

        Parameters
        ----------
        x : tensor of shape (..., n_selected)
            The selected neurons at the tokens of a pass. It must not be changed in place.
        numbers : tensor or None
            What :meth:`prepare` returned, with the type and device of ``x``; None for kinds without numbers.
        tokens : Tokens
            Where the tokens of ``x`` are in their texts.

        Returns
        -------
        tensor of the shape, type and device of ``x``
        """
        raise NotImplementedError


@KINDS.register("zero", removes=True)
class Zero(LesionKind):
    """Set the neurons to zero."""

    def target(self, x, numbers, tokens):
        return x.new_zeros(()).expand_as(x)


@KINDS.register("retain", removes=True, complement=True, alternative="less")
class Retain(Zero):
    """Set all other neurons to zero."""


@KINDS.register("mean", reference="mean")
class Mean(LesionKind):
    """Set the neurons to their means over a reference text."""

    def target(self, x, numbers, tokens):
        return numbers.expand_as(x)


@KINDS.register("resample", reference="samples", by_position=True)
class Resample(LesionKind):
    """Set the neurons to their values at a random token of a reference text.

    All neurons of the lesion take their values from the same token, so their coordination is kept. The draw depends
    only on the seed and the position in the text, so caches and batches do not change it.
    """

    def target(self, x, numbers, tokens):
        return numbers[tokens.draw(x.shape[:-1], len(numbers)).to(x.device)]


@KINDS.register("scale", needs_value=True)
class Scale(LesionKind):
    """Multiply the neurons by a factor."""

    def target(self, x, numbers, tokens):
        return x * numbers


@KINDS.register("add", needs_value=True)
class Add(LesionKind):
    """Add a number to the neurons."""

    def target(self, x, numbers, tokens):
        return x + numbers


@KINDS.register("clamp", needs_value=True)
class Clamp(LesionKind):
    """Set the neurons to a fixed value."""

    def target(self, x, numbers, tokens):
        return numbers.expand_as(x)


class Tokens:
    """Positions of the tokens of a pass: ``n_tokens`` consecutive tokens of each text, after ``past`` others."""

    def __init__(self, n_tokens, past=0, seed=0):
        self.n_tokens, self.past, self.seed = n_tokens, past, int(seed)

    def draw(self, shape, n):
        """Draw a number below ``n`` for each token, by its position and the seed alone.

        ``shape`` are the leading axes of the activations; the last one, or the flattened last two, count tokens.
        """
        import torch

        # a hash of seed and position (splitmix64): a generator would depend on what was drawn before
        start = (self.seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) % 2**64
        x = np.arange(self.past, self.past + self.n_tokens, dtype=np.uint64)
        x = x * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        rows = torch.from_numpy(((x ^ (x >> np.uint64(31))) % np.uint64(n)).astype(np.int64))
        return rows.repeat(int(np.prod(shape)) // self.n_tokens).reshape(tuple(shape))


class Edit:
    """A mask together with what happens to its neurons: plain data, checked on creation.

    Parameters
    ----------
    mask : NeuronMask
    how : str
        A lesion kind, see :data:`KINDS`.
    value : float or array of shape (n_neurons,), optional
        For ``scale``, ``add`` and ``clamp``: one number, or one per neuron of the geometry.
    strength : float
        From 0 (no effect) to 1 (the whole lesion).
    reference : NeuronStatistics or array, optional
        For ``mean``: statistics, or the means ``(n_neurons,)``. For ``resample``: statistics with samples, or values at
        tokens of a reference text ``(n_tokens, n_neurons)``.
    random_state : int
        Decides the tokens that ``resample`` draws.
    allow_empty : bool
        Accept a mask without neurons, which has no effect.

    Attributes
    ----------
    mask : NeuronMask
        The neurons that change: with ``retain`` the complement of the mask that was passed.

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
                "geometry). To lesion several at once, take their union, also over sites: mask | other."
            )
        self.kind = kind = KINDS[how]
        if (value is None) == kind.needs_value:
            word = "needs" if value is None else "takes no"
            raise ParameterError(
                f"how={how!r} {word} value=. {', '.join(KINDS.having(needs_value=True))} need one: a number, or one "
                "per neuron."
            )
        if not isinstance(strength, Real) or not 0.0 <= strength <= 1.0:
            raise ParameterError(
                f"strength must be between 0 (no lesion) and 1; got {strength}. To amplify, use how='scale'."
            )
        if not mask.count and not allow_empty:
            name = f"The mask {mask.name}" if mask.name else "The mask"
            raise MaskError(
                f"{name} is empty, so the lesion would have no effect. Lower its threshold, or pass allow_empty=True."
            )
        if not isinstance(random_state, (int, np.integer)) or random_state < 0:
            raise ParameterError(f"random_state must be a whole number, 0 or more; got {random_state!r}.")
        self.mask = _others(mask) if kind.complement else mask
        self.how, self.strength, self.random_state = how, float(strength), random_state
        self.units = self.mask.units
        self._given = _given_numbers(self.mask, kind, value, reference)
        self.layers = [] if self.strength == 0 else [i for i, units in enumerate(self.units) if units.size]

    @property
    def removes(self):
        """Whether the neurons are simply set to zero."""
        return self.kind.removes and self.strength == 1.0

    def mask_of(self, layer):
        """Which units of a layer change, shape ``(n_units,)``; none at strength 0."""
        if not self.strength:
            return np.zeros(self.mask.geometry.sizes[layer], dtype=bool)
        return self.mask.values[self.mask.geometry.layer_slice(layer)]

    def given_in(self, layer):
        """The given numbers of the selected neurons of a layer, ``(n_selected,)`` or ``(n_samples, n_selected)``."""
        return self._given[..., self.mask.geometry.layer_slice(layer)][..., self.units[layer]]

    @property
    def has_numbers(self):
        """Whether the kind uses numbers, from ``value`` or ``reference``."""
        return self._given is not None

    @property
    def signature(self):
        """A text that is equal for equal edits; identifies the study when it resumes."""
        # a complement is the same lesion as setting the neurons that change to zero
        how = "zero" if self.kind.complement else self.how
        digest = hashlib.sha256(f"{how} {self.strength} {self.random_state}".encode())
        digest.update(self.mask.values.tobytes())
        if self.has_numbers:
            digest.update(np.ascontiguousarray(self._given[..., self.mask.values]).tobytes())
        return digest.hexdigest()

    def state(self):
        """Return an :class:`EditState` for runs of the model."""
        return EditState(self)


class EditState:
    """Applies an :class:`Edit` to tensors; keeps its numbers on the devices where the activations are."""

    def __init__(self, edit):
        self.edit, self._kind = edit, edit.kind()
        self._tensors = {}

    def units(self, layer, device):
        """Units of a layer as an index tensor."""
        return self._tensor(("units", layer), device, None, lambda: self.edit.units[layer])

    def new_values(self, layer, x, n_tokens=None, past=0):
        """Return what replaces ``x``, the selected columns of a layer, ``(..., n_selected)``.

        ``x`` has ``n_tokens`` consecutive tokens of each text (default: its last axis but one), after ``past`` others.
        """
        edit, numbers = self.edit, None
        if edit.has_numbers:
            make = lambda: self._kind.prepare(edit.given_in(layer))  # noqa: E731
            numbers = self._tensor(("numbers", layer), x.device, x.dtype, make)
        target = self._kind.target(x, numbers, Tokens(n_tokens or x.shape[-2], past, edit.random_state))
        if edit.strength != 1.0:
            target = x + edit.strength * (target - x)
        return target.to(x.dtype)

    def _tensor(self, name, device, dtype, make):
        import torch

        key = (*name, device, dtype)
        if key not in self._tensors:
            with torch.inference_mode(False):  # an inference tensor could not serve a later pass with gradients
                self._tensors[key] = torch.as_tensor(np.ascontiguousarray(make())).to(device, dtype)
        return self._tensors[key]


def _others(mask):
    """All other neurons of the sites in which a mask has neurons."""
    return (~mask.own_sites()).over(mask.geometry)


def _given_numbers(mask, kind, value, reference):
    """The numbers a kind needs, ``(n_neurons,)`` or ``(n_samples, n_neurons)``, or None. Edits share them."""
    if kind.needs_value:
        try:
            value = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            raise ParameterError(f"value={value!r}: it must be a number, or one per neuron.") from None
        if value.ndim and value.shape != mask.values.shape:
            raise GeometryMismatchError(
                f"value must be a number or an array of {mask.values.size}, one per neuron; got shape {value.shape}."
            )
        numbers = np.broadcast_to(value, mask.values.shape)
    elif kind.reference:
        numbers = _reference_numbers(mask, kind, reference)
    else:
        return None
    if not np.isfinite(numbers[..., mask.values]).all():
        raise ParameterError(f"The values for how={kind.name!r} contain NaN or infinite numbers.")
    return numbers


_REFERENCE_SHAPES = {"mean": "(n_neurons,)", "samples": "(n_tokens, n_neurons)"}


def _reference_numbers(mask, kind, reference):
    samples = ", n_samples=1000" if kind.reference == "samples" else ""
    how_to = f"neuron_statistics(model, tokenizer, text{samples})"
    if reference is None:
        raise ParameterError(f"how={kind.name!r} needs reference=, for example {how_to}.")
    if hasattr(reference, "geometry"):
        mask.geometry.check_same(reference.geometry, "The reference")
        reference = getattr(reference, kind.reference)
        if reference is None:
            raise ParameterError(f"how={kind.name!r} needs statistics with samples: {how_to}.")
    values = np.asarray(reference, dtype=np.float32)
    shape = _REFERENCE_SHAPES[kind.reference]
    if values.ndim != shape.count("n_") or values.shape[-1] != mask.values.size:
        raise GeometryMismatchError(
            f"The reference for how={kind.name!r} must have shape {shape} with n_neurons={mask.values.size}; got "
            f"{values.shape}."
        )
    return values
