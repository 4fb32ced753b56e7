"""Allocation by trial: a few candidates are cut as the model will be, and the one that diverges least is taken."""

import torch

from ...models.hooks import restoring
from ...models.inputs import input_device
from ...models.surgery import prunable_mlps, set_width, weights_of
from ...parallel import all_reduce, alone, share
from ..cut import cut
from .curves import by_curves, tokens_of_curves, tokens_probed
from .probe import KEPT_VALUES, Probe, probing
from .shares import ALLOCATIONS, by_power, round_counts

# Shares at which curves are measured roughly, and tokens to fit on.
ROUGH = {"levels": (0.2, 0.5, 0.8), "fit": 16_384}
TRIED = {"fit": 8_192, "probe": 4_096}  # tokens of a cut that is only measured


def most_probed(options, device, n_tokens):
    """Most held-out tokens on which rough curves are measured, of a calibration text of ``n_tokens``."""
    if options.curve_tokens is not None:
        return options.curve_tokens
    # On a CPU these passes took most of the time, and half of a window gives nearly the same widths.
    return max(512, n_tokens // 16) if device.type == "cpu" else 8_192


def _tokens(options, n_layers, n_tokens):
    rough = tokens_of_curves(options, n_layers, n_tokens, ROUGH["levels"], options.curve_tokens)
    n_fitted = n_tokens - tokens_probed(options, n_tokens, n_tokens)
    cuts = 2 * min(n_fitted, TRIED["fit"]) + tokens_probed(options, n_tokens, TRIED["probe"])
    return rough + min(n_fitted, ROUGH["fit"]) + 3 * cuts


@ALLOCATIONS.register(
    "trial", needs=("rough_curves", "extremes", "scores", "stream_powers", "measure_cuts"), score="flap",
    reads=_tokens, n_refits=4.5, heads="share",
)  # fmt: skip
def by_trial(rough_curves, extremes, scores, stream_powers, measure_cuts, n_keep, *, floors=1, round_to=1):
    """Cut the model by roughly measured curves, by power, and half-way between them, and take what diverges least."""
    budget = {"floors": floors, "round_to": round_to}
    curves = by_curves(rough_curves, extremes, n_keep, **budget)
    power = by_power(scores, stream_powers, 1.0, n_keep, **budget)
    candidates = [curves, power, round_counts((curves + power) / 2, rough_curves.sizes, n_keep, **budget)]
    return candidates[int(measure_cuts(candidates).argmin())]


@torch.no_grad()
def measure_cuts(model, candidates, fit_blocks, probe_blocks, compensation, options, progress=None):
    """Cut a model in several ways, one after the other, and measure how far each diverges from the dense one.

    ``candidates`` holds the neurons kept in each layer for each way. ``fit_blocks`` are windows to refit on,
    ``probe_blocks`` those to measure on. Returns nats per token, shape (n_candidates,); the model is dense again then.
    """
    # A rule instead of held-out tokens chooses the penalty, and only writers are refitted: the order stays the same.
    options = options.with_(held_out=0.0, block_steps=0, refit_attention=False)
    n_values = sum(block.ids.numel() for block in fit_blocks) * model.config.get_text_config().hidden_size
    streams = {} if n_values * len(prunable_mlps(model)) <= KEPT_VALUES else None
    found, mine = torch.zeros(len(candidates), dtype=torch.float64), share(range(len(candidates)))
    device = input_device(model)
    with alone():  # so little text is read that processes would wait for one another's refits
        with probing(device):
            probe = Probe(model, probe_blocks)
        for i, kept in enumerate(candidates):
            if i in mine:
                with dense_again(model):
                    cut(model, fit_blocks, kept, compensation, options, streams=streams)
                    with probing(device):
                        found[i] = probe.divergence()
            if progress:
                progress()
    return all_reduce(found).numpy()


def dense_again(model):
    """Give the MLPs of a model their weights back at the end of a ``with`` block."""
    parts = prunable_mlps(model)
    put_back = weights_of(linear for part in parts for linear in part.linears)

    def restore():
        put_back()
        for part in parts:
            set_width(part.owner, part.size)

    return restoring(restore)
