"""Preserve one kind of text: guidance by networks or a localizer against calibration alone, at the same size.

    python benchmarks/refuted/domain.py --device cuda --out results

The documents of each domain of the demo corpus (code, arithmetic) are split into folds. Calibration reads all folds of
the domain but one, and as many tokens of the other kinds; perplexity is measured on the fold left out and on left-out
documents of every other kind. All methods remove the same number of neurons with the same recipe; those with the same
calibration differ only in the score. The table is written after each fold; to resume, repeat the command.

The result is in ../RESULTS.md, "Keeping a domain": no guide improves on calibration on text of the domain.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llmbrain.exceptions import ParameterError
from llmbrain.models.hooks import site_hooks
from llmbrain.models.inputs import longest_context
from llmbrain.models.linears import weight_of
from llmbrain.models.surgery import prunable_mlps
from llmbrain.pruning import LayerMaps, Pruner, Recipe, layer_networks
from llmbrain.pruning.calibration import calibration_blocks
from llmbrain.pruning.scores import flap
from llmbrain.pruning.survey import gather, input_site
from llmbrain.pruning.walk import Walk
from llmbrain.text import as_corpus, text_windows

WAYS = (
    "general", "domain", "mixed", "general + networks", "mixed + networks", "general + localizer", "mixed + localizer",
)  # fmt: skip


@dataclass
class Engagement:
    """How much more each network varies on text of a domain than on other text.

    Attributes
    ----------
    gain : list of torch.Tensor, shape (n_networks,)
        For each layer, the variance of each network's time course on the domain, divided by that on the other text.
    domain_variance, other_variance : list of torch.Tensor, shape (n_neurons,)
    """

    gain: list
    domain_variance: list
    other_variance: list


def engagement(model, tokenizer, domain, other, networks, *, context=1024):
    """Measure which networks of each layer a domain engages.

    The time course of a network is the projection of the neurons on its map, ``q . x`` with ``q`` the map scaled to
    unit length. Its variance is ``q^T C q``, so the covariances of the two texts suffice.

    Parameters
    ----------
    model, tokenizer
    domain, other : Corpus, str or list of str
        The kind of text to preserve, and text of other kinds.
    networks : LayerMaps
        From :func:`llmbrain.pruning.layer_networks`, best found on both kinds together.
    context : int

    Returns
    -------
    Engagement
    """
    parts = prunable_mlps(model)
    context = min(context, longest_context(model, 2048))
    variances, courses = [], []
    for texts in (domain, other):
        walk = Walk(model, calibration_blocks(tokenizer, texts, context=context))
        here, along = [], []
        for part in parts:
            moments, _ = gather(walk, part.layer, part.writer)
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
    """Score neurons by FLAP times the engagement of their networks.

    The factor is ``max_k |z_kj| g_k^power / max_k |z_kj|`` with the engagement ``g`` of each network.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    networks : LayerMaps
    engaged : Engagement
    power : float
        Exponent of the engagement; 0 is FLAP alone.
    balance : float
        Weight of the other text in the variance of FLAP, from 0 to 1.

    Returns
    -------
    list of numpy.ndarray, shape (n_neurons,)
        For ``prune(score=...)``.
    """
    found = []
    for i, (part, maps, gain) in enumerate(zip(prunable_mlps(model), networks.maps, engaged.gain)):
        z = maps.double().abs()
        weighted = (z * gain.to(z)[:, None] ** power).amax(0) / z.amax(0).clamp_min(1e-12)
        found.append(_guided(part, engaged, i, balance, weighted))
    return found


def _guided(part, engaged, i, balance, factor):
    """FLAP of one layer on a mixture of two texts, times one factor per neuron."""
    if not 0 <= balance <= 1:
        raise ParameterError(f"balance={balance} must be a share from 0 to 1.")
    weight = weight_of(part.writer).detach()
    variance = (1 - balance) * engaged.domain_variance[i] + balance * engaged.other_variance[i]
    return (factor.to(weight.device) * flap(weight, variance)).cpu().numpy()


@torch.no_grad()
def localizer_contrast(model, tokenizer, condition, control, *, context=1024):
    """Compare the activity of neurons between two conditions: Welch's t over items (short texts).

    Parameters
    ----------
    model, tokenizer
    condition, control : Corpus or list of str
        For example the two kinds of :func:`llmbrain.text.load_localizer`; at least two items each.
    context : int

    Returns
    -------
    list of torch.Tensor, shape (n_neurons,), float64
        For each layer, t of the mean magnitude of every neuron in an item; 0 for neurons without any variance.
    """
    parts = prunable_mlps(model)
    context = min(context, longest_context(model, 2048))
    sides = []
    for texts in (condition, control):
        items = [window for window in _windows(tokenizer, texts, context) if window.number == 0]
        walk, layers = Walk(model, calibration_blocks(tokenizer, items, context=context)), []
        if sum(len(mask) for mask in walk.masks) < 2:
            raise ParameterError("A localizer needs at least two items of each condition.")
        for part in parts:
            caught, items = {}, []
            with site_hooks([input_site(part.writer)], lambda i, x, c=caught: c.update(x=x)):
                for i, mask in enumerate(walk.masks):
                    walk.run(part.layer, i)
                    loud = caught["x"].reshape(*mask.shape, -1).double().abs() * mask[..., None]
                    items.append(loud.sum(1) / mask.sum(1, keepdim=True))
            layers.append(torch.cat(items))
            walk.advance(part.layer)
        sides.append(layers)
    found = []
    for a, b in zip(*sides):
        spread = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
        found.append(torch.where(spread > 0, (a.mean(0) - b.mean(0)) / spread.clamp_min(1e-300), 0.0))
    return found


def localizer_scores(model, contrast, engaged, *, power=1.0, balance=0.5):
    """Score neurons by FLAP times their response to a localizer, ``(1 + max(t, 0)) ** power``.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    contrast : list of torch.Tensor, shape (n_neurons,)
        From :func:`localizer_contrast`.
    engaged : Engagement
        For the variances.
    power, balance : float
        See :func:`domain_scores`.

    Returns
    -------
    list of numpy.ndarray, shape (n_neurons,)
    """
    return [
        _guided(part, engaged, i, balance, (1 + t.clamp_min(0)) ** power)
        for i, (part, t) in enumerate(zip(prunable_mlps(model), contrast))
    ]


def compare_domains(
    model, tokenizer, domain, other, evaluation, *, ratio=0.3, ways=None, localizer=None, networks=None,
    n_components=32, mix=0.5, options=None, allocation="schur", context=1024, random_state=0, progress=True,
):  # fmt: skip
    """Prune to preserve one domain by several methods at the same size; measure the domain and other text.

    Parameters
    ----------
    model, tokenizer
    domain, other : Corpus or list of str
        Calibration text of the domain, and of other kinds. All methods read the same number of tokens.
    evaluation : dict of (Corpus or list of str)
        Evaluation texts by name, none of them used for calibration.
    ratio : float or sequence of float
    ways : sequence of str, optional
        Of :data:`WAYS`; by default all for which there is input.
    localizer : tuple of (Corpus or list of str), optional
        Items of the domain's condition and of its control, for the methods with a localizer.
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
        One row per method and ratio, after a row for the ``dense`` model; one column of perplexity per evaluation text.
        ``general``, ``domain`` and ``mixed`` are the baselines without networks: FLAP on the other text, on the domain,
        or on both. The others read the same text, and so have the same refits, but select neurons by engaged networks
        or by the localizer.
    """
    import pandas as pd

    from llmbrain.evaluation.perplexity import perplexity

    ways = [w for w in WAYS if localizer is not None or "localizer" not in w] if ways is None else list(ways)
    unknown = sorted(set(ways) - set(WAYS))
    if unknown or (localizer is None and any("localizer" in w for w in ways)):
        raise ParameterError(f"Unknown or impossible ways {unknown or 'with a localizer (pass localizer=)'}.")
    ratios = [ratio] if isinstance(ratio, (int, float)) else list(ratio)
    general, special = _windows(tokenizer, other), _windows(tokenizer, domain)
    n = min(sum(map(len, general)), sum(map(len, special)))
    calibrations = {
        "general": _take(general, n), "domain": _take(special, n),
        "mixed": _take(special, int(n * mix)) + _take(general, n - int(n * mix)),
    }  # fmt: skip
    if any("+" in w for w in ways):
        engaged = _empty_maps(model) if networks is None and not any("networks" in w for w in ways) else networks
        engaged = engaged or layer_networks(
            model, tokenizer, calibrations["mixed"], n_components=n_components, context=context,
            random_state=random_state,
        )  # fmt: skip
        networks = engaged
        engaged = engagement(
            model, tokenizer, calibrations["domain"], calibrations["general"], networks, context=context
        )
    contrast = localizer_contrast(model, tokenizer, *localizer, context=context) if localizer is not None else None

    def measured(one):
        return {k: perplexity(one, tokenizer, t, context=context) for k, t in evaluation.items()}

    rows = [{"way": "dense", "ratio": 0.0, **measured(model)}]
    pruners = {}
    for way in ways:
        text, _, guide = way.partition(" + ")
        balance = 1.0 if text == "general" else 1 - mix
        score = {
            "": lambda: "flap",
            "networks": lambda b=balance: domain_scores(model, networks, engaged, balance=b),
            "localizer": lambda b=balance: localizer_scores(model, contrast, engaged, balance=b),
        }[guide]()
        if text not in pruners:
            pruners[text] = Pruner(model, tokenizer, calibrations[text])
        for share in ratios:
            recipe = Recipe(score, allocation, "affine", options or {})
            smaller = pruners[text].prune(recipe, share, random_state=random_state).model
            rows.append({"way": way, "ratio": share, **measured(smaller)})
            if progress:
                print(
                    ", ".join(f"{k}: {v if isinstance(v, str) else round(v, 2)}" for k, v in rows[-1].items()),
                    flush=True,
                )
    return pd.DataFrame(rows)


def _empty_maps(model):
    """Empty maps, for when only variances are needed."""
    return LayerMaps([torch.zeros(1, p.size) for p in prunable_mlps(model)], {})


def _windows(tokenizer, texts, context=1024):
    return text_windows(as_corpus(texts), tokenizer, context)[0]


def _take(windows, n):
    """The first ``n`` tokens of some windows, spread over all of them."""
    share = min(1.0, n / max(sum(map(len, windows)), 1))
    cut = [window.first(max(2, int(np.ceil(len(window) * share)))) for window in windows]
    return [window for window in cut if window.n_scored]


def folds_of(corpus, kind, n_folds):
    """Documents of a kind, distributed over folds."""
    documents = [d for d in corpus.documents if d.kind == kind]
    return [documents[i::n_folds] for i in range(n_folds)]


def main():
    """Run every domain and fold that is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="what load_model takes")
    parser.add_argument("--domains", nargs="+", default=["code", "arithmetic"])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only-folds", type=int, nargs="+", help="run only these")
    parser.add_argument("--n-components", type=int, default=32)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--out", default="results")
    args = parser.parse_args()

    import pandas as pd

    from llmbrain.files import read_tsv, write_tsv
    from llmbrain.models import load_model
    from llmbrain.text import LOCALIZERS, load_corpus, load_localizer

    start = time.perf_counter()
    model, tokenizer = load_model(args.model, device=args.device)
    corpus = load_corpus("demo", split="all")
    out = Path(args.out) / "domain.tsv"
    out.parent.mkdir(parents=True, exist_ok=True)
    tables = [read_tsv(out)] if out.is_file() else []
    done = {(r.domain, int(r.fold)) for t in tables for r in t.itertuples()}
    for fold in args.only_folds or range(args.folds):
        for domain in args.domains:
            if (domain, fold) in done or (args.max_seconds and time.perf_counter() - start > args.max_seconds):
                continue
            parts = {kind: folds_of(corpus, kind, args.folds) for kind in corpus.kinds}
            fit = {k: [d.text for i, f in enumerate(p) for d in f if i != fold] for k, p in parts.items()}
            test = {k: [d.text for d in p[fold]] for k, p in parts.items()}
            items = load_localizer(domain)
            localizer = [[d.text for d in items.documents if d.kind == c] for c in LOCALIZERS[domain]]
            others = [text for texts in zip(*(fit[k] for k in corpus.kinds if k != domain)) for text in texts]
            print(f"{domain}, fold {fold}", flush=True)
            table = compare_domains(
                model, tokenizer, fit[domain], others, test, ratio=args.ratios, localizer=localizer,
                n_components=args.n_components, options={"context": args.context}, context=args.context,
                random_state=fold,
            )  # fmt: skip
            tables.append(table.assign(domain=domain, fold=fold))
            write_tsv(out, pd.concat(tables, ignore_index=True))
    if tables:
        print(summary(pd.concat(tables, ignore_index=True)).to_string(index=False))
    print(f"{time.perf_counter() - start:.0f} s; table at {out}")


def summary(table):
    """Perplexity relative to the dense model in the domain and elsewhere: geometric means over folds (and kinds)."""
    import numpy as np
    import pandas as pd

    kinds = [c for c in table.columns if c not in ("way", "ratio", "domain", "fold")]
    rows = []
    for (domain, fold), part in table.groupby(["domain", "fold"]):
        dense = np.log(part[part.way == "dense"][kinds].to_numpy(dtype=float)[0])
        for row in part[part.way != "dense"].itertuples():
            gap = np.log([float(getattr(row, k)) for k in kinds]) - dense
            inside = np.array([k == domain for k in kinds])
            rows.append((domain, row.ratio, row.way, fold, gap[inside].mean(), gap[~inside].mean()))
    frame = pd.DataFrame(rows, columns=["domain", "ratio", "way", "fold", "inside", "elsewhere"])
    grouped = frame.groupby(["domain", "ratio", "way"], sort=False)[["inside", "elsewhere"]]
    found = np.exp(grouped.mean()).round(3)
    base = frame[frame.way == "mixed"].set_index(["domain", "ratio", "fold"])["inside"]
    frame["gain"] = [r.inside - base.get((r.domain, r.ratio, r.fold), np.nan) for r in frame.itertuples()]
    wins = frame.groupby(["domain", "ratio", "way"], sort=False)["gain"].agg(lambda g: f"{(g < 0).sum()} of {len(g)}")
    return found.assign(folds_better_than_mixed=wins).reset_index()


if __name__ == "__main__":
    main()
