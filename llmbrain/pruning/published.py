"""Networks for pruning, found on the calibration text: the published recipe, layer by layer, or over all layers.

The published recipe (Liu et al. 2025, "Pruning LLMs by identifying and preserving functional networks", with the
authors' code) takes for every layer the outputs of the activation function and of ``up_proj``, z-scores each signal
over the tokens of a group of 40 texts, finds 128 spatially independent maps with the cube contrast, z-scores each map
over the signals, and keeps the neurons that exceed a threshold in any map of any group on either signal. The threshold
follows from the ratio: ``score="network", allocation="threshold"`` with these maps is that rule.
"""

from dataclasses import dataclass

import torch

from ..models.hooks import site_hooks
from ..models.inputs import longest_context
from ..models.surgery import prunable_mlps
from ..registry import Registry, choose
from .calibration import calibration_blocks, calibration_windows
from .survey import input_site, output_site
from .walk import Walk

# limited: whether it holds the neurons of all layers at once, so that the number of tokens is limited.
NETWORK_FINDERS = Registry("networks", limited=False)
SIGNALS = ("neuron", "act_up")


@dataclass
class LayerMaps:
    """Maps of networks, layer by layer.

    Attributes
    ----------
    maps : list of torch.Tensor, shape (n_maps, n_units)
        For each layer; z-scored over its signals. If two signals belong to a neuron, the value of larger magnitude is
        taken.
    info : dict
        Groups, components, signals, seed.
    """

    maps: list
    info: dict

    @property
    def z(self):
        """All layers side by side, shape (n_maps, n_neurons), as in a NetworkSet."""
        n = max(len(m) for m in self.maps)
        rows = [torch.cat([m, m.new_zeros(n - len(m), m.shape[1])]) for m in self.maps]
        return torch.cat(rows, dim=1).cpu().numpy()


def find_networks(how, model, tokenizer, texts, *, context, random_state, max_tokens, progress=None):
    """Find networks by one of the ways of :data:`NETWORK_FINDERS`; ``max_tokens`` limits those that need a limit."""
    finder = NETWORK_FINDERS[how]
    limit = {"max_tokens": max_tokens} if finder.limited else {}
    return finder.value(model, tokenizer, texts, context=context, random_state=random_state, progress=progress, **limit)


@NETWORK_FINDERS.register("published")
def published_networks(model, tokenizer, texts, *, group_size=40, **options):
    """Find networks as the paper does: independent components of the outputs of activation function and ``up_proj``.

    Parameters
    ----------
    model, tokenizer
        As for :func:`layer_networks`.
    texts : Corpus, str, list of str or list of llmbrain.text.Window
        Each text is truncated at ``context`` tokens, 1,024 in the paper. If there are fewer texts than a group holds,
        windows of ``context`` tokens replace them.
    group_size : int
        Texts in a group. The paper has 1 and 80 groups (``n_groups``).
    **options
        Passed to :func:`layer_networks`.

    Returns
    -------
    LayerMaps
    """
    return layer_networks(model, tokenizer, texts, signals="act_up", group_size=group_size, **options)


@NETWORK_FINDERS.register("layers")
def layer_networks(
    model,
    tokenizer,
    texts,
    *,
    signals="neuron",
    n_components=128,
    group_size=None,
    n_groups=1,
    context=1024,
    random_state=0,
    progress=None,
):
    """Find spatially independent networks in every layer separately.

    Parameters
    ----------
    model, tokenizer
    texts : Corpus, str, list of str or list of llmbrain.text.Window
    signals : {"neuron", "act_up"}
        The neurons, or the two factors of a gated neuron as separate signals.
    n_components : int
        Reduced if a group has too few tokens; ``info`` holds the number used.
    group_size : int or None
        Texts in a group; None treats all texts as one group, cut into windows.
    n_groups : int
    context : int
        Tokens of a text (or window).
    random_state : int
    progress : callable, optional
        Called after every layer of every group.

    Returns
    -------
    LayerMaps
    """
    choose("signals", signals, SIGNALS)
    context = min(context, longest_context(model, 2048))
    parts = prunable_mlps(model)
    collected = [[] for _ in parts]
    used = []
    for g, group in enumerate(_groups(tokenizer, texts, group_size, n_groups, context)):
        blocks = calibration_blocks(tokenizer, group, context=context)
        n_tokens = sum(b.n_tokens for b in blocks)
        k = min(n_components, n_tokens - 2, min(p.size * (2 if _paired(p, signals) else 1) for p in parts) - 2)
        used.append({"n_tokens": n_tokens, "n_components": k})
        for part, maps in zip(parts, _group_maps(model, blocks, parts, signals, k, random_state + g)):
            collected[part.layer].append(maps)
            if progress:
                progress()
    info = {
        "signals": signals, "groups": used, "group_size": group_size, "random_state": random_state, "contrast": "cube",
        "context": context, "asked_components": n_components,
    }  # fmt: skip
    return LayerMaps([torch.cat(m) for m in collected], info)


@NETWORK_FINDERS.register("joint", limited=True)
def joint_networks(
    model, tokenizer, texts, *, n_components=128, max_tokens=8192, context=1024, random_state=0, progress=None
):
    """Find networks of the neurons of all layers together: one map spans the whole model.

    Parameters
    ----------
    model, tokenizer, texts, context, random_state, progress
        As for :func:`layer_networks`.
    n_components : int
        Reduced if there are fewer tokens.
    max_tokens : int or None
        Use only the first ``max_tokens`` tokens: all neurons are held in memory for all of them at once.

    Returns
    -------
    LayerMaps
        The part of every map in each layer, z-scored over the neurons of the whole model.
    """
    context = min(context, longest_context(model, 2048))
    parts = prunable_mlps(model)
    blocks = calibration_blocks(tokenizer, texts, context=context, max_tokens=max_tokens)
    walk, signals = Walk(model, blocks), []
    for part in parts:
        signals.append(_signals(walk, part, "neuron"))
        walk.advance(part.layer)
        if progress:
            progress()
    x = torch.cat(signals, dim=1)
    del signals
    k = min(n_components, min(x.shape) - 2)
    maps = _components(x, k, random_state)
    info = {
        "signals": "neuron, all layers together", "n_tokens": len(x), "n_components": k, "random_state": random_state,
        "contrast": "cube", "context": context, "asked_components": n_components,
    }  # fmt: skip
    return LayerMaps(list(maps.split([p.size for p in parts], dim=1)), info)


def _groups(tokenizer, texts, group_size, n_groups, context):
    if group_size is None:
        yield texts
        return
    windows = calibration_windows(tokenizer, texts, context=context)
    # Windows that the caller gave are used as they are, and so are the windows of a few long texts.
    if windows[0] is not texts[0] and len({window.document for window in windows}) >= group_size:
        windows = [window for window in windows if window.number == 0]
    for g in range(n_groups):
        group = windows[g * group_size : (g + 1) * group_size]
        if group:
            yield group


def _group_maps(model, blocks, parts, signals, k, seed):
    """Maps of each layer for one group of texts."""
    walk = Walk(model, blocks)
    for part in parts:
        maps = _components(_signals(walk, part, signals), k, seed)
        if _paired(part, signals):
            pair = maps.reshape(len(maps), 2, part.size)
            maps = torch.where(pair[:, 0].abs() >= pair[:, 1].abs(), pair[:, 0], pair[:, 1])
        yield maps
        walk.advance(part.layer)


def _components(x, k, seed):
    """Spatially independent maps of signals, z-scored, shape (k, n_signals)."""
    from ..networks.engines.layered import layered_ica

    maps = layered_ica([x], k, random_state=seed).maps[0].float()
    return (maps - maps.mean(1, keepdim=True)) / maps.std(1, correction=0, keepdim=True)


def _paired(part, signals):
    """Whether each neuron has two signals."""
    return signals == "act_up" and part.is_gated


@torch.no_grad()
def _signals(walk, part, signals):
    """Signals of one layer at every token, shape (n_tokens, n_signals)."""
    paired = _paired(part, signals)
    sites = [input_site(part.writer)]
    if paired:
        up, gate = part.up, part.gate
        sites = [output_site(gate.module), output_site(up.module)]
    caught, found = {}, []
    with site_hooks(sites, lambda i, x: caught.update({i: x})):
        for i, mask in enumerate(walk.masks):
            walk.run(part.layer, i)
            if paired:
                act = part.activation(caught[0][..., gate.start : gate.stop])
                both = torch.cat([act, caught[1][..., up.start : up.stop]], dim=-1)
            else:
                both = caught[0]
            found.append(both.reshape(*mask.shape, -1)[mask].float())
    found = torch.cat(found)
    return found.bfloat16() if walk.device.type == "cuda" else found
