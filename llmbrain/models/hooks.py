"""Read and edit activations while a model runs, with hooks that exist only inside a ``with`` block."""

import contextlib
from functools import partial


@contextlib.contextmanager
def restoring(undo):
    """Call ``undo`` at the end of a block, and again if it was interrupted: it can be called twice."""
    try:
        try:
            yield
        finally:
            undo()
    finally:
        undo()


@contextlib.contextmanager
def evaluating(model):
    """Put a model into evaluation mode inside a block: dropout would change activity, losses and choices."""
    modes = {module: module.training for module in model.modules()}  # some may be frozen in a model that is trained

    def restore():
        for module, mode in modes.items():
            module.training = mode

    with restoring(restore):
        model.eval()
        yield


@contextlib.contextmanager
def attached(hooks):
    """Attach hooks inside a ``with`` block.

    They act only while a flag is set, which is cleared first: a hook that an interruption leaves behind does nothing.

    Parameters
    ----------
    hooks : iterable of (callable, callable)
        What attaches a hook and returns its handle, such as ``module.register_forward_hook``, and the hook.
    """
    acting, handles = [], []

    def inside(hook):
        return lambda *args, **kwargs: hook(*args, **kwargs) if acting else None

    def detach():
        acting.clear()
        for handle in handles:
            handle.remove()

    with restoring(detach):
        for attach, hook in hooks:
            handles.append(attach(inside(hook)))
        acting.append(True)
        yield


def site_hooks(sites, fn):
    """Call ``fn`` with the activations of each site whenever the model runs inside a ``with`` block.

    Parameters
    ----------
    sites : sequence of llmbrain.models.sites.Site
        Where to read and write.
    fn : callable
        ``fn(i, x)`` receives the index of the site and its activations. The last axis has ``sites[i].size`` neurons;
        the leading axes are the model's own, ``(batch, tokens)`` or both flattened into one. It returns None to keep
        the activations, or a tensor that replaces them (same shape, dtype and device).

    Returns
    -------
    context manager
        Hooks are added on entry, after existing ones, and removed at the end of the block, also after an exception, an
        interrupt or the end of a generator.
    """
    return attached([_hook(site, lambda x, i=i: fn(i, x)) for i, site in enumerate(sites)])


def _hook(site, edit):
    """What attaches a hook to a site, and the hook; see :func:`attached`."""
    if site.where == "input":

        def before(module, args, kwargs):
            if module is not site.module:  # a copy of the model that was made inside the block
                return None
            if args:
                new = _edit(site, args[0], edit)
                return None if new is None else ((new, *args[1:]), kwargs)
            key = next(iter(kwargs))
            new = _edit(site, kwargs[key], edit)
            return None if new is None else (args, {**kwargs, key: new})

        return partial(site.module.register_forward_pre_hook, with_kwargs=True), before

    def after(module, args, output):
        if module is not site.module:
            return None
        if isinstance(output, (tuple, list)):
            new = _edit(site, output[0], edit)
            if new is None:
                return None
            return [new, *output[1:]] if isinstance(output, list) else (new, *output[1:])
        return _edit(site, output, edit)

    return site.module.register_forward_hook, after


def _edit(site, tensor, edit):
    """Apply ``edit`` to the slice of ``tensor`` that belongs to the site. Return None if nothing was changed."""
    whole = site.start == 0 and site.stop == tensor.shape[-1]
    new = edit(tensor if whole else tensor[..., site.start : site.stop])
    if new is None or whole:
        return new
    tensor = tensor.clone()
    tensor[..., site.start : site.stop] = new
    return tensor


def is_checkpointing(model):
    """Tell whether a model in training mode runs layers again in ``backward()`` to save memory."""
    return any(module.training and getattr(module, "gradient_checkpointing", False) for module in model.modules())
