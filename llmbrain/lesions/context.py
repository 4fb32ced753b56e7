"""``with lesion(model, mask):``: silence, clamp or amplify neurons inside a ``with`` block."""

import contextlib
import sys
import warnings

from ..exceptions import GeometryMismatchError, LLMBrainWarning, ParameterError, UnusedLesionError
from ..masks import NeuronMask
from ..models.finite import tensors_in
from ..models.hooks import attached, is_checkpointing, restoring, site_hooks
from ..models.identity import other_weights
from ..models.lesioned import ACTIONS
from ..models.sites import find_sites
from ..models.wrappers import refuse_compiled, refuse_wrapped
from .kinds import KINDS, Edit
from .positions import PositionTracker
from .statistics import N_SAMPLES, NeuronStatistics, neuron_statistics, reads_text


def lesion(
    model, mask, how="zero", *, positions="all", prompt_length=None, sites=None, check_model=True, tokenizer=None,
    **options,
):  # fmt: skip
    """Silence a set of neurons, or change them in another way, inside a ``with`` block.

    The lesion acts wherever the model runs inside the block: ``model(...)``, ``generate`` with or without a KV cache,
    beam search, pipelines, evaluation harnesses. The weights do not change. Lesions nest: the inner one gets the values
    that the outer one returned. A lesion can be entered again, and works as a decorator.

    It belongs to the model, not to a thread: it also acts on passes that other threads start during the block, such as
    ``generate`` with a streamer. Only rules for ``positions`` and kinds that depend on the position need passes that
    follow one another; passes at the same time raise an error then.

    Call ``backward()`` inside the block if the model uses gradient checkpointing, which runs the model again. After the
    block this raises an error, because the gradients would be those of the intact model.

    Parameters
    ----------
    model : transformers causal language model
        Not compiled: compiled code may skip hooks.
    mask : NeuronMask
        Of this model, at one or several sites.
    how : {"zero", "retain", "mean", "resample", "scale", "add", "clamp"}
        Lesion kind, see :mod:`llmbrain.lesions.kinds`. ``retain`` silences everything but the mask.
    positions : {"all", "prompt", "generated", "last"}, list of int, or callable
        At which tokens the lesion acts: a name in :data:`llmbrain.lesions.POSITIONS`, positions in each text counted
        from 0 (special tokens count, padding does not), or a function that gets the token ids, an int64 tensor
        ``(batch, n_tokens)``, and returns a boolean tensor of that shape.
    prompt_length : int, optional
        Where the prompt ends. By default, the prompt is the first input: with a KV cache, all passes of more than one
        token; without a cache, the first text, as long as later passes begin with it. Pass the length where this does
        not hold (assisted decoding).
    sites : dict or str, optional
        Module names, if they are not found automatically; see :func:`llmbrain.find_sites`. For a mask of several sites
        a dict of these.
    check_model : bool
        Refuse a mask whose sidecar names other weights. With False only the geometry must fit, for example to lesion a
        fine-tuned version of the model.
    tokenizer : transformers tokenizer, optional
        Needed if ``reference`` is text.
    **options
        ``value`` : float or array of shape (n_neurons,), for ``scale`` (a factor), ``add`` (a summand) and ``clamp``
        (the value itself). ``strength`` : how far the values move towards their target, 0 to 1. ``reference`` : a
        recording, a corpus, strings, NeuronStatistics or an array, for ``mean`` and ``resample``. ``random_state`` :
        int, for ``resample``. ``allow_empty`` : accept a mask without neurons. See :class:`llmbrain.lesions.Edit`.

    Returns
    -------
    Lesion
        A context manager. Its :meth:`Lesion.summary` shows what would be lesioned.

    Raises
    ------
    GeometryMismatchError
        If the mask belongs to another model or site.
    MaskError
        If the mask is empty.
    ParameterError
        If an option is not allowed, or hooks would not reach the model (compiled or wrapped).
    UnusedLesionError
        At the end of a block in which no forward pass reached the lesioned neurons.

    Examples
    --------
    >>> with lesion(model, mask):                                      # doctest: +SKIP
    ...     model.generate(**inputs)
    >>> with lesion(model, mask, how="scale", value=1.5):              # amplified  # doctest: +SKIP
    ...     model(**inputs)
    """
    check_hooks_reach(model)
    if options.get("reference") is not None and isinstance(mask, NeuronMask):
        options["reference"] = _statistics_of(options["reference"], model, tokenizer, mask.geometry, how)
    edit = Edit(mask, how, **options)
    tracker = PositionTracker(model, positions, prompt_length, follow=edit.kind.by_position)
    return Lesion(model, edit, sites_of(model, edit.mask, sites=sites, check_model=check_model), tracker)


def _statistics_of(reference, model, tokenizer, geometry, how):
    """Read the reference of a lesion kind; statistics and arrays are returned as they are."""
    needed = KINDS[how].reference
    recorded = isinstance(reference, dict) or hasattr(reference, "geometry")
    if needed is None or isinstance(reference, NeuronStatistics) or not (recorded or reads_text(reference)):
        return reference
    if tokenizer is None and reads_text(reference):
        raise ParameterError(
            "reference= is text, and reading it needs the tokenizer: lesion(..., reference=text, tokenizer=tokenizer). "
            "A recording needs none."
        )
    return neuron_statistics(model, tokenizer, reference, site=geometry.site, n_samples=N_SAMPLES[needed])


class Lesion(contextlib.ContextDecorator):
    """The lesion that :func:`lesion` returns; it acts between enter and exit.

    Parameters
    ----------
    model : transformers causal language model
    edit : Edit
        The neurons and what happens to them.
    sites : list of Site
        In the layer order of the edit's mask. They are not checked.
    tracker : PositionTracker, optional
        At which tokens; default everywhere.
    """

    def __init__(self, model, edit, sites, tracker=None):
        self.model, self.edit, self.sites = model, edit, sites
        self._tracker = tracker or PositionTracker(model, follow=edit.kind.by_position)
        self._entered = []

    def __enter__(self):
        block = _acting(self.model, self.edit, self.sites, self._tracker)
        self._entered.append(block)
        try:
            block.__enter__()
        except BaseException:
            self._entered.remove(block)
            raise
        return self

    def __exit__(self, *error):
        return self._entered.pop().__exit__(*error)

    def summary(self):
        """Count the lesioned neurons of each layer: a table of ``layer, module, where, n_neurons, share``."""
        frame = self.edit.mask.summary()
        place = list(frame.columns).index("layer") + 1
        frame.insert(place, "module", [site.name for site in self.sites])
        frame.insert(place + 1, "where", [site.where for site in self.sites])
        return frame

    def __repr__(self):
        strength = "" if self.edit.strength == 1.0 else f", strength={self.edit.strength:g}"
        return f"Lesion({self.edit.mask!r}, how={self.edit.how!r}{strength})"


class _Action:
    """The state that the hooks of one entered lesion share. They do nothing unless it is active."""

    def __init__(self, edit, sites, tracker):
        self.edit, self.tracker, self.state = edit, tracker, edit.state()
        # no hook where no neuron is selected: those layers run exactly as before
        self.sites = [sites[i] for i in edit.layers]
        self.active, self.reached = False, not self.sites

    def stop(self):
        """Do nothing from now on."""
        self.active = False

    def __call__(self, i, x):
        """Return the new activations of the site number ``i``; see :func:`llmbrain.models.hooks.site_hooks`."""
        if not self.active:
            return None
        self.reached, layer = True, self.edit.layers[i]
        units = self.state.units(layer, x.device)
        where = self.tracker.selected(x.shape[:-1], x.device)
        if where is None and self.edit.removes:
            return x.index_fill(-1, units, 0.0)
        old = x[..., units]
        new = self.state.new_values(layer, old, self.tracker.n_tokens, self.tracker.past)
        if where is not None:
            new = new.where(where[..., None], old)
        return x.index_copy(-1, units, new)


# A generator, so that an interrupt on the first line of an __exit__ cannot leave the lesion active: when the generator
# is dropped, its finally blocks run. It does not refer to the Lesion, so that it is dropped with it.
@contextlib.contextmanager
def _acting(model, edit, sites, tracker):
    """Let an edit act on a model inside a ``with`` block."""
    action = _Action(edit, sites, tracker)
    hooks = site_hooks(action.sites, action)
    with _eager(), tracker.watching(), _watched_gradients(model, action), hooks, restoring(action.stop):
        ACTIONS.add(action)
        action.active = True
        yield
    if not action.reached:
        raise UnusedLesionError(
            "The block ended, but no forward pass reached the lesioned neurons. Run the model that was passed to "
            "lesion() inside the block (not a copy, or a wrapper that runs copies)."
        )
    if action.sites and not tracker.matched:
        message = f"The lesion changed nothing: its positions={tracker.rule!r} fit none of the tokens that were read."
        warnings.warn(message, LLMBrainWarning, stacklevel=4)


@contextlib.contextmanager
def _watched_gradients(model, action):
    """Raise if gradients are computed after the block from activations that checkpointing computes again."""
    import torch

    if not action.sites:
        yield
        return
    body = getattr(model, "base_model", model)

    def recomputes(gradient):
        if not action.active:
            raise ParameterError(
                "backward() was called after the block of the lesion, but gradient checkpointing would run the intact "
                "model again and return its gradients. Call backward() inside the with block, or turn checkpointing "
                "off: model.gradient_checkpointing_disable()."
            )

    def after(module, args, output):
        if module is not body or not action.active or not torch.is_grad_enabled() or not is_checkpointing(body):
            return
        outputs = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
        if outputs and action.tracker.follows:
            raise ParameterError(
                "Gradient checkpointing runs layers again without telling which tokens they read. Turn it off "
                "(model.gradient_checkpointing_disable()), or use positions='all' and a kind without positions."
            )
        for tensor in outputs:
            tensor.register_hook(recomputes)

    with attached([(body.register_forward_hook, after)]):
        yield


def _eager():
    """Turn off compiled parts of the model, which would skip the hooks."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and importing the compiler takes seconds
        return contextlib.nullcontext()
    import torch

    stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    return contextlib.nullcontext() if stance is None else stance("force_eager")


def sites_of(model, mask, *, sites=None, check_model=True):
    """Find the sites of a model in the order of a mask's layers, and check that the mask belongs to the model."""
    geometry, places = mask.geometry, []
    name = f"The mask {mask.name!r}" if mask.name else "The mask"
    by_hand = sites if geometry.parts is not None else {geometry.site: sites}
    for site in geometry.site_names:
        part = geometry.of_site(site)
        found = find_sites(model, site, sites=(by_hand or {}).get(site))
        by_layer = {place.layer: place for place in found}
        sizes = tuple(by_layer[i].size if i in by_layer else None for i in part.layers)
        if sizes != part.sizes:
            type(part).from_sites(found, site).check_same(part, name)
        places += [by_layer[i] for i in part.layers]
    if check_model:
        check_mask(model, mask, name)
    return places


def check_mask(model, mask, name="The mask"):
    """Refuse a mask that was made on other weights, if its sidecar names any."""
    made = other_weights(model, mask.info.get("model"))
    if made:
        raise GeometryMismatchError(
            f"{name} was made on {made}. Fit networks on this model, or pass check_model=False if you know that the "
            "neurons correspond."
        )


def check_hooks_reach(model):
    """Refuse a model whose modules hooks would not reach: compiled, or wrapped by PEFT or for several devices."""
    refuse_wrapped(model)
    refuse_compiled(model, "compiled code may skip the hooks that a lesion needs")
