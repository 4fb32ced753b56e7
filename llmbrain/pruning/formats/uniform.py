"""Folders with one width for all layers, which any tool opens."""

from ...exceptions import ParameterError
from ...models.surgery import prunable_mlps
from .base import FORMATS
from .hetero import attention_parts
from .padded import STOCK_LOADING, check_biases, save_padded


def _check(model, recipe):
    if not (isinstance(recipe.allocation, str) and recipe.allocation == FORMATS["uniform"].allocation):
        raise ParameterError(
            "format='uniform' needs one width in all layers. Prune with allocation='uniform', or save with "
            "format='padded' or 'hetero'."
        )
    check_biases(model, recipe)


@FORMATS.register(
    "uniform",
    loading=f"All layers have one width: any tool that opens the base model opens this one.\n\n{STOCK_LOADING}",
    check=_check,
    allocation="uniform",
)
def save_uniform(model, tokenizer, folder):
    """One width in all layers; loads anywhere."""
    widths = sorted({p.size for p in prunable_mlps(model)})
    heads = {(p.n_heads, p.n_kv_heads) for p in attention_parts(model)}
    if len(widths) > 1 or len(heads) > 1:
        raise ParameterError(
            f"format='uniform' needs one width in all layers; this model has {widths[0]} to {widths[-1]}. Prune with "
            "allocation='uniform', or save with format='padded' or 'hetero'."
        )
    save_padded(model, tokenizer, folder)
