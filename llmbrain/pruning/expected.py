"""How long pruning will take, from what a recipe reads and the speed of this machine."""

from ..models.linears import features
from ..models.speed import duration, measure_machine
from .allocation import ALLOCATIONS
from .allocation.curves import tokens_probed
from .blockwise import ROWS
from .calibration import n_calibration_tokens
from .compensation import COMPENSATIONS

# Readings of the calibration text by the scores, and by a cut with refits, which runs the dense layers (unless their
# outputs are kept), those whose statistics it reads, and the cut ones.
_SURVEY, _CUT = 1.0, 2.5
_STEP = 3.0  # a step forwards and backwards, in readings
_LONG = 1.2  # attention of long windows, compared with the short ones on which the speed is measured
# Work of a refit in double precision, in fast products: with the matrix and its factor, with all outputs, and for the
# eigenvectors by which a penalty is chosen on held-out tokens.
_FACTOR, _OUTPUTS, _EIGEN = 3.0, 7.0, 20.0
_FITTED = 0.75  # share of few tokens that is not held out then


def default_recipe(model):
    """Name of the recipe that ``recipe="auto"`` stands for: "best" on an accelerator, "fast" on a CPU."""
    return "fast" if next(model.parameters()).device.type == "cpu" else "best"


def expected_seconds(measured, speed, ratio=0.2):
    """Estimate how many seconds a recipe will take, from its :class:`Measured` and the speed of the machine.

    The readings of the text are counted, and the refits of every layer of which a share ``ratio`` is removed. While
    the load of the machine stays the same, the estimate is right within a factor of about 1.5. Minutes of ``recover``
    are added.
    """
    recipe, options = measured.recipe, measured.options.with_(curve_tokens=measured.curve_tokens)
    n_tokens, compensation = n_calibration_tokens(measured.blocks), COMPENSATIONS[recipe.compensation]
    n_read, products = _SURVEY * n_tokens, 0.0
    if isinstance(recipe.allocation, str):
        member = ALLOCATIONS[recipe.allocation]
        n_read += member.reads(options, len(measured.sizes), n_tokens)
        n_fitted = n_tokens - tokens_probed(options, n_tokens, n_tokens)
        products += member.n_refits * refit_products(measured.parts, n_fitted, ratio)
    if compensation.ridge:
        chosen = options.ridge == "auto" and options.held_out > 0
        products += refit_products(measured.parts, n_tokens, ratio, chosen)
    if compensation.needs and options.propagation == "sequential" or compensation.ridge:
        n_read += _CUT * n_tokens
    n_run, n_step = options.block_span + options.lookahead, min(ROWS * options.context, n_tokens)
    n_read += options.block_steps * _STEP * n_run * n_step
    return _LONG * speed.of_tokens(n_read, head=False) + speed.of_products(products) + 60.0 * options.recover


def refit_products(parts, n_tokens, ratio, chosen=False):
    """Count the work of one least-squares refit of every layer, in products of large matrices in single precision.

    ``parts`` are the MLPs, of which a share ``ratio`` is removed. ``chosen``: whether the penalty is chosen on held-out
    tokens.
    """
    total = 0.0
    for part in parts:
        kept, few = (1 - ratio) * part.size, n_tokens < part.size
        side = n_tokens if few else kept
        total += side * kept * (_FACTOR * side + _OUTPUTS * features(part.writer)[1])
        total += 0 if few else n_tokens * part.size**2
        total += chosen * _EIGEN * (_FITTED * side if few else kept) ** 3
    return total


def forecast_in_words(measured, n_test_tokens=0, ratio=0.2):
    """Describe a recipe, its text and how long it will take, after a short measurement of this machine.

    A share ``ratio`` is removed, and ``n_test_tokens`` are read before and after.
    """
    speed = measure_machine(measured.model)
    seconds = expected_seconds(measured, speed, ratio) + speed.of_tokens(2 * n_test_tokens)
    device = next(measured.model.parameters()).device.type
    return (
        f"Pruning with the recipe {measured.recipe.describe()!r} on {n_calibration_tokens(measured.blocks):,} tokens: "
        f"about {duration(seconds)} on this {device}, as it is now."
    )
