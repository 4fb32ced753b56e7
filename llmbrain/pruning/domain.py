"""Pruning that keeps one domain: the networks that a kind of text engages stay, others go first."""

from dataclasses import dataclass

import numpy as np

from ..exceptions import ParameterError
from .api import prune_with
from .calibration import Walk, calibration_blocks, longest_context
from .engine import gather
from .network_scores import layer_networks
from .pruner import Pruner
from .scores import flap
from .units import find_mlp_parts, weight_of

__all__ = ["Engagement", "compare_domains", "domain_scores", "engagement"]


@dataclass
class Engagement:
    """How much more a domain moves each network than other text does.

    Attributes
    ----------
    gain : list of torch.Tensor, shape (n_networks,)
        For each layer, the variance of each network's course on the domain over that on the other text.
    domain_variance, other_variance : list of torch.Tensor, shape (n_neurons,)
    """

    gain: list
    domain_variance: list
    other_variance: list


def engagement(model, tokenizer, domain, other, networks, *, context=1024):
    """Measure which networks of each layer a domain engages.

    The course of a network is the projection of the neurons on its map, ``q . x`` with ``q`` the map scaled to unit
    length; its variance is ``q^T C q``, so covariances of the two texts are all that is needed.

    Parameters
    ----------
    model, tokenizer
    domain, other : Corpus, str or list of str
        The kind of text to keep, and text of other kinds.
    networks : LayerMaps
        From :func:`llmbrain.pruning.layer_networks`, found on both kinds together.
    context : int

    Returns
    -------
    Engagement
    """
    parts = find_mlp_parts(model)
    context = min(context, longest_context(model))
    variances, courses = [], []
    for texts in (domain, other):
        walk = Walk(model, calibration_blocks(tokenizer, texts, context=context))
        here, along = [], []
        for part in parts:
            moments, _ = gather(walk, part.layer, part.down)
            maps = networks.maps[part.layer].to(moments.covariance)
            unit = maps / maps.norm(dim=1, keepdim=True).clamp_min(1e-12)
            here.append(moments.variance)
            along.append(((unit @ moments.covariance) * unit).sum(1).clamp_min(0))
            walk.advance(part.layer)
        variances.append(here)
        courses.append(along)
    gain = [d / o.clamp_min(1e-12 * float(o.max().clamp_min(1e-300))) for d, o in zip(*courses)]
    return Engagement(gain, *variances)


def domain_scores(model, networks, engaged, *, power=1.0, balance=0.5):
    """Scores that favour neurons of engaged networks.

    ``FLAP(domain) ^ (1 - balance) * FLAP(other) ^ balance`` would rank without networks; here each neuron's score is
    FLAP on
    the domain times ``max_k |z_kj| g_k^power / max_k |z_kj|``, the engagement of the networks that it belongs to.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    networks : LayerMaps
    engaged : Engagement
    power : float
        How much engagement counts; 0 is FLAP alone.
    balance : float
        Share of the variance that is taken from the other text: 0 forgets it.

    Returns
    -------
    list of numpy.ndarray, shape (n_neurons,)
        For ``prune(score=...)``.
    """
    if not 0 <= balance <= 1:
        raise ParameterError(f"balance={balance}; give a share from 0 to 1.")
    found = []
    for part, maps, gain, here, there in zip(
        find_mlp_parts(model), networks.maps, engaged.gain, engaged.domain_variance, engaged.other_variance
    ):
        z = maps.double().abs()
        weighted = (z * gain.to(z)[:, None] ** power).amax(0) / z.amax(0).clamp_min(1e-12)
        weight = weight_of(part.down).detach()
        variance = (1 - balance) * here + balance * there
        found.append((weighted.to(weight.device) * flap(weight, variance)).cpu().numpy())
    return found


def compare_domains(
    model, tokenizer, domain, other, evaluation, *, ratio=0.3, networks=None, n_components=32, mix=0.5, options=None,
    allocation="schur", context=1024, random_state=0, progress=True,
):  # fmt: skip
    """One domain kept in four ways, at the same size: what it gains there, and what it costs elsewhere.

    Parameters
    ----------
    model, tokenizer
    domain, other : Corpus or list of str
        Calibration text of the domain, and of other kinds. All ways see the same number of tokens.
    evaluation : dict of (Corpus or list of str)
        Test texts by name, none of them used for calibration.
    ratio : float
    networks : LayerMaps, optional
        Found on both texts if not given.
    n_components : int
    mix : float
        Share of domain tokens in the mixed calibrations.
    options : dict, optional
    allocation : str
    context : int
    random_state : int
    progress : bool

    Returns
    -------
    pandas.DataFrame
        A row a way: ``general`` (other text alone), ``domain`` (domain text alone), ``mixed``, ``mixed + networks``
        (the same text, selection by engaged networks), and ``dense``; a column of perplexity for each test text.
    """
    import pandas as pd

    from ..evaluation.perplexity import perplexity

    general, special = _ids(tokenizer, other), _ids(tokenizer, domain)
    n = min(sum(map(len, general)), sum(map(len, special)))
    calibrations = {
        "general": _take(general, n), "domain": _take(special, n),
        "mixed": _take(special, int(n * mix)) + _take(general, n - int(n * mix)),
    }  # fmt: skip
    networks = networks or layer_networks(
        model, tokenizer, calibrations["mixed"], n_components=n_components, context=context, random_state=random_state
    )
    engaged = engagement(model, tokenizer, calibrations["domain"], calibrations["general"], networks, context=context)
    ways = {**{name: ("flap", ids) for name, ids in calibrations.items()}}
    ways["mixed + networks"] = (domain_scores(model, networks, engaged, balance=1 - mix), calibrations["mixed"])
    rows = [{"way": "dense", **{k: perplexity(model, tokenizer, t, context=context) for k, t in evaluation.items()}}]
    for name, (score, ids) in ways.items():
        pruner = Pruner(model, tokenizer, ids, options, random_state=random_state)
        smaller = prune_with(pruner, ratio, score=score, allocation=allocation).model
        rows.append(
            {"way": name, **{k: perplexity(smaller, tokenizer, t, context=context) for k, t in evaluation.items()}}
        )
        if progress:
            print(
                ", ".join(f"{k}: {v if isinstance(v, str) else round(v, 2)}" for k, v in rows[-1].items()), flush=True
            )
    return pd.DataFrame(rows)


def _ids(tokenizer, texts):
    from ..corpus import as_corpus, encode

    return [d.ids for d in encode(as_corpus(texts), tokenizer)]


def _take(documents, n):
    """The first ``n`` tokens of some documents, spread over all of them."""
    total = sum(map(len, documents))
    share = min(1.0, n / max(total, 1))
    cut = [d[: max(2, int(np.ceil(len(d) * share)))] for d in documents]
    return [d for d in cut if len(d) > 1]
