"""``with lesion(model, mask):``: neurons silenced, clamped or amplified while the block lasts."""

import contextlib
import sys

from ..exceptions import GeometryMismatchError, ParameterError
from ..models.hooks import site_hooks
from ..models.sites import find_sites
from .kinds import Edit
from .positions import PositionTracker

__all__ = ["Lesion", "check_mask", "lesion", "refuse_compiled", "sites_of"]


def lesion(
    model,
    mask,
    how="zero",
    *,
    value=None,
    strength=1.0,
    reference=None,
    positions="all",
    prompt_length=None,
    random_state=0,
    sites=None,
    allow_empty=False,
    check_model=True,
):
    """Silence a set of neurons, or change them otherwise, while a ``with`` block lasts.

    The lesion acts wherever the model runs inside the block: ``model(...)``, ``generate`` with or without a KV cache,
    beam search, pipelines, evaluation harnesses. The weights are not touched. Lesions nest: the inner one gets what the
    outer one left. A lesion can be entered again, and serves as a decorator.

    Parameters
    ----------
    model : transformers causal language model
        Not compiled: compiled code may skip hooks.
    mask : NeuronMask
        Of this model and the site where the lesion acts.
    how : {"zero", "retain", "mean", "resample", "scale", "add", "clamp"}
        What stands in the place of the neurons' values, see :mod:`llmbrain.lesions.kinds`. ``retain`` silences
        everything but the mask.
    value : float or array of shape (n_neurons,), optional
        For ``scale`` (a factor), ``add`` (a summand) and ``clamp`` (the value itself).
    strength : float
        0 (nothing) to 1 (the whole lesion): the values move so far towards their target.
    reference : NeuronStatistics or array, optional
        For ``mean`` and ``resample``: what the neurons do on a reference text.
    positions : {"all", "prompt", "generated", "last"} or callable
        At which tokens the lesion acts, see :class:`llmbrain.lesions.positions.PositionTracker`.
    prompt_length : int, optional
        Where the prompt ends, if it cannot be seen from the passes.
    random_state : int
        For ``resample``.
    sites : dict or str, optional
        Names the modules by hand, see :func:`llmbrain.find_sites`.
    allow_empty : bool
        Accept a mask without neurons.
    check_model : bool
        Refuse a mask whose sidecar names other weights. False: the geometry alone must fit, e.g. to lesion a fine-tuned
        descendant.

    Returns
    -------
    Lesion
        A context manager; its :meth:`Lesion.summary` shows what would be lesioned.

    Raises
    ------
    GeometryMismatchError
        If the mask belongs to another model or site.
    MaskError
        If the mask is empty.
    ParameterError
        If an option is not allowed, or the model is compiled.

    Examples
    --------
    >>> with lesion(model, mask):                                      # doctest: +SKIP
    ...     model.generate(**inputs)
    >>> with lesion(model, mask, how="scale", value=1.5):              # amplified  # doctest: +SKIP
    ...     model(**inputs)
    """
    edit = Edit(
        mask,
        how,
        value=value,
        strength=strength,
        reference=reference,
        random_state=random_state,
        allow_empty=allow_empty,
    )
    refuse_compiled(model)
    tracker = PositionTracker(model, positions, prompt_length, follow=edit.how == "resample")
    return Lesion(model, edit, tracker, sites=sites, check_model=check_model)


class Lesion(contextlib.ContextDecorator):
    """What :func:`lesion` returns: a lesion that acts between enter and exit.

    Parameters
    ----------
    model : transformers causal language model
    edit : Edit
        The neurons and what happens to them.
    tracker : PositionTracker, optional
        At which tokens; default everywhere.
    sites, check_model
        As in :func:`lesion`.
    """

    def __init__(self, model, edit, tracker=None, *, sites=None, check_model=True):
        refuse_compiled(model)
        self.model, self.edit = model, edit
        self.sites = sites_of(model, edit.mask, sites=sites, check_model=check_model)
        self._tracker = tracker or PositionTracker(model, follow=edit.how == "resample")
        self._open = []

    @classmethod
    def at_sites(cls, model, edit, sites, tracker=None):
        """A lesion at sites that were found and checked before."""
        new = cls.__new__(cls)
        new.model, new.edit, new.sites = model, edit, sites
        new._tracker = tracker or PositionTracker(model, follow=edit.how == "resample")
        new._open = []
        return new

    def __enter__(self):
        stack = contextlib.ExitStack()
        state, layers = self.edit.state(), self.edit.layers
        try:
            stack.enter_context(_eager())
            stack.enter_context(self._tracker.watching())
            # no hook where no neuron is selected: those layers run exactly as before
            stack.enter_context(
                site_hooks([self.sites[i] for i in layers], lambda i, x: self._act(state, layers[i], x))
            )
        except BaseException:
            stack.close()
            raise
        self._open.append(stack)
        return self

    def __exit__(self, *error):
        return self._open.pop().__exit__(*error)

    def _act(self, state, layer, x):
        units = state.units(layer, x.device)
        where = self._tracker.selected(x.shape[:-1], x.device)
        if where is None and self.edit.is_removal:
            return x.index_fill(-1, units, 0.0)
        old = x[..., units]
        new = state.new_values(layer, old, self._tracker.n_tokens, self._tracker.past)
        if where is not None:
            new = new.where(where[..., None], old)
        return x.index_copy(-1, units, new)

    def summary(self):
        """A row a layer: name of the module, neurons lesioned there, share of the layer.

        Returns
        -------
        pandas.DataFrame
            ``layer``, ``module``, ``where``, ``n_neurons``, ``share``.
        """
        frame = self.edit.mask.summary()
        frame.insert(1, "module", [site.name for site in self.sites])
        frame.insert(2, "where", [site.where for site in self.sites])
        return frame

    def __repr__(self):
        strength = "" if self.edit.strength == 1.0 else f", strength={self.edit.strength:g}"
        return f"Lesion({self.edit.mask!r}, how={self.edit.how!r}{strength})"


def _eager():
    """Let what was compiled from the model run uncompiled: a wrapper made elsewhere would not see the hooks."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and importing the compiler takes seconds
        return contextlib.nullcontext()
    import torch

    stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    return contextlib.nullcontext() if stance is None else stance("force_eager")


def sites_of(model, mask, *, sites=None, check_model=True):
    """Find the sites of a model in the order of a mask's layers, and make sure that the mask is of this model.

    Parameters
    ----------
    model : transformers causal language model
    mask : NeuronMask
    sites : dict or str, optional
        Names the modules by hand.
    check_model : bool
        Compare the weights with those that the mask's sidecar names.

    Returns
    -------
    list of Site
    """
    found = find_sites(model, mask.geometry.site, sites=sites)
    by_layer = {site.layer: site for site in found}
    geometry = mask.geometry
    name = f"The mask {mask.name!r}" if mask.name else "The mask"
    sizes = tuple(by_layer[i].size if i in by_layer else None for i in geometry.layers)
    if sizes != geometry.sizes:
        theirs = type(geometry).from_sites(found, geometry.site)
        theirs.check_same(geometry, name)
    if check_model:
        check_mask(model, mask, name)
    return [by_layer[i] for i in geometry.layers]


def check_mask(model, mask, name="The mask"):
    """Refuse a mask that was made on other weights, as far as its sidecar tells.

    Parameters
    ----------
    model : transformers causal language model
    mask : NeuronMask
    name : str
        How the message calls the mask.

    Raises
    ------
    GeometryMismatchError
    """
    from ..models.identity import weights_hash

    made_on = mask.info.get("model") or {}
    dtype = str(model.dtype).removeprefix("torch.")
    offloaded = any(p.device.type == "meta" for p in model.parameters())
    # the hash is that of the values, so it says nothing about weights kept in another precision
    if not made_on.get("weights_hash") or made_on.get("dtype", dtype) != dtype or offloaded:
        return
    own = weights_hash(model)
    if own != made_on["weights_hash"]:
        made = f"{made_on.get('id', 'another model')} (weights {made_on['weights_hash']})"
        raise GeometryMismatchError(
            f"{name} was made on {made}, but this model has the weights {own}. Fit networks on this model, or "
            "pass check_model=False if the neurons are known to correspond."
        )


def refuse_compiled(model):
    """Raise if torch.compile was applied to the model or a part of it.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    ParameterError
    """
    if not hasattr(model, "named_modules"):
        raise ParameterError(
            f"A loaded model is needed, model, tokenizer = load_model(...); got {type(model).__name__}."
        )
    for name, module in model.named_modules():
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ParameterError(
                f"The model is compiled ({name or 'as a whole'}), and compiled code may skip the hooks that a lesion "
                "needs. Use the model from before torch.compile (model._orig_mod)."
            )
