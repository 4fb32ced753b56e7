"""How long pruning will take, from what a recipe reads and the speed of this machine."""

from ..models.speed import duration, measure_machine
from .allocation import ALLOCATIONS
from .blockwise import ROWS
from .calibration import n_calibration_tokens
from .compensation import COMPENSATIONS

__all__ = ["default_recipe", "expected_seconds", "forecast_in_words"]

_WALKS = 4.0  # readings of the calibration text by the scores and by the cut, which runs the dense and the cut model
# Time of a refit, in products of its size, and of one that chooses its penalty on held-out tokens: the eigenvectors of
# a matrix in double precision
_REFIT, _CHOSEN = 5.0, 20.0
_STEP = 3.0  # a step forwards and backwards, in readings


def default_recipe(model):
    """Name of the recipe that ``recipe="auto"`` stands for: "best" on an accelerator, "fast" on a CPU."""
    return "fast" if next(model.parameters()).device.type == "cpu" else "best"


def expected_seconds(measured, speed):
    """Estimate how many seconds a recipe will take, from its :class:`Measured` and the speed of the machine.

    The readings of the text are counted, and the Gram matrices and solves of every layer; a factor of two either way is
    possible. Minutes of ``recover`` are added.
    """
    options, sizes = measured.options, measured.sizes
    n_tokens, allocation = n_calibration_tokens(measured.blocks), measured.recipe.allocation
    walks, grams = _WALKS, 1
    if isinstance(allocation, str):
        member = ALLOCATIONS[allocation]
        read = member.reads(options, len(sizes), n_tokens)
        walks += read / max(n_tokens, 1)
        grams += bool(read) or "schur_residuals" in member.needs
    refit = 2.0
    if COMPENSATIONS[measured.recipe.compensation].ridge:
        refit = _CHOSEN if options.ridge == "auto" and options.held_out else _REFIT
    products = sum(grams * n_tokens * n**2 + refit * n**3 for n in sizes)
    n_layers, n_read = options.block_span + options.lookahead, min(ROWS * options.context, n_tokens)
    walks += options.block_steps * _STEP * n_layers * n_read / max(n_tokens, 1)
    return speed.of_tokens(walks * n_tokens) + speed.of_products(products) + 60.0 * options.recover


def forecast_in_words(measured, n_test_tokens=0):
    """Describe a recipe, its text and how long it will take, after a short measurement of this machine.

    ``n_test_tokens`` are read before and after.
    """
    speed = measure_machine(measured.model)
    seconds = expected_seconds(measured, speed) + speed.of_tokens(2 * n_test_tokens)
    device = next(measured.model.parameters()).device.type
    return (
        f"Pruning with the recipe {measured.recipe.describe()!r} on {n_calibration_tokens(measured.blocks):,} tokens: "
        f"about {duration(seconds)} on this {device}, as it is now."
    )
