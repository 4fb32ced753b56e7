"""Find where a model begins to produce values that are not finite."""

from contextlib import contextmanager
from functools import partial

from ..exceptions import NumericalError
from .hooks import attached


def first_not_finite(model, run):
    """Find the first module that returns a value that is not finite while ``run()`` runs the model once.

    Returns its name, empty for the model itself, or None if every output is finite. Inner modules come before those
    that contain them.
    """
    import torch

    found = []

    def watch(name):
        def after(module, args, output):
            if not found and not all(_finite(t) for t in tensors_in(output)):
                found.append(name)

        return after

    hooks = [(module.register_forward_hook, watch(name)) for name, module in model.named_modules()]
    with torch.no_grad(), attached(hooks):
        run()
    return found[0] if found else None


def not_finite_error(model, run, what):
    """Make the error that names the first module whose output is not finite while ``run()`` runs the model once.

    ``what`` names the values that are not finite, in the plural.
    """
    name = first_not_finite(model, run)
    shown = name or type(model).__name__
    where = "every module returns finite values" if name is None else f"the first module that fails is {shown}"
    dtype = str(model.dtype).removeprefix("torch.")
    weights = [] if name is None else model.get_submodule(name).named_parameters()
    broken = [weight for weight, values in weights if not _finite(values)]
    if broken:
        remedy = f"Its {broken[0]} holds nan or inf: the weights are damaged, load others."
    elif dtype == "float16":
        remedy = "Load the model with dtype='bfloat16' or 'float32', whose range is larger."
    else:
        remedy = "Look for very large weights in or before it."
    return NumericalError(f"{what} are not finite; {where}. The model computes in {dtype}. {remedy}")


@contextmanager
def finite_logits(model):
    """Raise an error as soon as the model returns logits that are NaN or infinite inside a ``with`` block.

    For libraries that choose tokens themselves: they take NaN for the largest logit, or ignore it. Logits of ``-inf``
    exclude a word, and are allowed.
    """
    found = []

    def check(module, args, kwargs, output):
        if not found and not _largest(output.logits, kwargs.get("attention_mask")).isfinite().all():
            found.append(True)  # the model runs once more to find the module
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            raise not_finite_error(model, partial(model, input_ids=ids, use_cache=False), "The logits")

    with attached([(partial(model.register_forward_hook, with_kwargs=True), check)]):
        yield


def _largest(logits, mask):
    """Largest logit at each token; without padding, whose logits mean nothing."""
    largest = logits.detach().amax(-1)
    if mask is not None and mask.ndim == 2:
        return largest[mask[:, -largest.shape[1] :].bool()]
    return largest


def check_weights(model):
    """Refuse a model with a weight that is not finite, by the name of the first such parameter."""
    for name, values in model.named_parameters():
        if values.device.type != "meta" and values.dtype.itemsize > 1 and not _finite(values):
            raise NumericalError(f"The weights {name} hold nan or inf. They are damaged: load others.")


def _finite(tensor):
    import torch

    if not tensor.is_floating_point():
        return True
    total = tensor.detach().sum(dtype=torch.float32)  # finite only if all terms are; the reverse needs a second look
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def tensors_in(output):
    """Yield the tensors of a module's output, which may be nested."""
    import torch

    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from tensors_in(value)
