"""Stability, order, recurrence, localizers and names of the networks of the demo recording.

    python benchmarks/evidence_demo.py                         # records the demo corpus into a temporary folder first
    python benchmarks/evidence_demo.py --study FOLDER          # uses an existing recording
    python benchmarks/evidence_demo.py --untrained             # the same on the same model with random weights

Prints every table and the seconds it took.
"""

import argparse
import tempfile
import time
import warnings

import numpy as np
import pandas as pd

from llmbrain.exceptions import NumericalWarning


def main():
    """Run the selected parts."""
    args = _arguments()
    pd.set_option("display.width", 200, "display.max_columns", 30, "display.max_rows", 100)
    pd.set_option("display.float_format", "{:.3f}".format)
    warnings.simplefilter("ignore", NumericalWarning)
    with tempfile.TemporaryDirectory() as folder:
        recording = _recording(args, f"{folder}/study")
        print(recording)
        networks = _networks(recording, args)
        parts = {
            "stability": lambda: _stability(networks, recording, args),
            "order": lambda: _order(recording, args),
            "recurrence": lambda: _recurrence(recording, args),
            "corpora": lambda: _corpora(recording, args),
            "localizers": lambda: _localizers(networks, folder, args),
        }
        for name in args.parts:
            print(f"\n== {name}")
            start = time.perf_counter()
            parts[name]()
            print(f"   {time.perf_counter() - start:.1f} s")


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", help="folder of a recording of the demo corpus")
    parser.add_argument("--max-tokens", type=int, default=12288)
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--n-repeats", type=int, default=20)
    parser.add_argument("--largest", type=int, default=60, help="largest number of components of the order curve")
    parser.add_argument("--untrained", action="store_true", help="random weights instead of the demo model's")
    every = ("stability", "order", "recurrence", "corpora", "localizers")
    parser.add_argument("--parts", nargs="+", choices=every, default=every)
    return parser.parse_args()


def _model(args):
    import torch

    import llmbrain as lb

    model, tokenizer = lb.load_model("demo")
    if args.untrained:
        torch.manual_seed(0)
        model.apply(model._init_weights)
    return model, tokenizer


def _recording(args, folder):
    import llmbrain as lb

    if args.study:
        return lb.open_recording(args.study)
    model, tokenizer = _model(args)
    corpus = lb.load_corpus("demo", split="train")
    return lb.record(
        model, tokenizer, corpus, out=folder, max_tokens=args.max_tokens, tokens_per_run=1024, progress=False
    )


def _networks(recording, args):
    from llmbrain.networks import CanICA

    start = time.perf_counter()
    networks = CanICA(n_components=args.n_components).fit(recording).networks_
    print(f"CanICA, {args.n_components} components: {time.perf_counter() - start:.1f} s")
    return networks


def _stability(networks, recording, args):
    from llmbrain.networks import gather_evidence

    restarts = networks.metrics["stability"].to_numpy()
    found = gather_evidence(networks, recording, n_repeats=args.n_repeats)
    table = found.stability.assign(
        iq_restarts=restarts, n_neurons=networks.metrics["n_neurons"], peak=networks.metrics["peak_layer"]
    )
    print(table.to_string(index=False))
    stable = found.stability["stable"]
    print(
        f"{stable.sum()} of {len(table)} networks are stable over bootstrapped runs (Iq x coverage x r >= 0.7); over "
        f"restarts alone {np.nansum(restarts >= 0.7):.0f}; found again in the other half of the text (|r| >= 0.7) "
        f"{(table['split_half_r'] >= 0.7).sum()}; axes beyond random rotation (p <= 0.05) "
        f"{(table['split_half_p'] <= 0.05).sum()}"
    )
    names = found.interpretation.table
    columns = ["network", "label", "artefact", "position_r2", "few_share", "best", "best_r", "top_tokens"]
    print(names[columns].assign(stable=stable).to_string(index=False))
    if found.engagement is not None:
        wide = found.engagement.pivot(index="network", columns="kind", values="rms")
        print("engagement (rms, standard deviations) by kind of text; q over networks:")
        print(wide.assign(q=found.engagement.groupby("network")["q_rms"].first()).to_string())


def _order(recording, args):
    from llmbrain.networks import choose_n_components

    order = choose_n_components(recording, largest=args.largest)
    top = order.spectrum.set_index("component").loc[[0, 1, 4, 9, 19, 49, 99]]
    print(top.to_string())
    print(order.curve.to_string(index=False))
    print(
        f"parallel analysis {order.parallel}, Marchenko-Pastur {order.marchenko_pastur} directions; "
        f"n_components='auto' -> {order.n_components}"
    )


def _recurrence(recording, args):
    from llmbrain.networks import CanICA
    from llmbrain.networks.evidence.recurrence import individual_networks, recurrence

    template_runs, others = list(recording)[::2], list(recording)[1::2]
    templates = CanICA(n_components=10).fit(template_runs).components_
    texts = _documents(others)
    for threshold, two_sided in ((3.0, True), (1.96, False)):
        maps, _ = individual_networks(texts, 10)
        options = {"n_draws": 99, "layer_of": recording.geometry.layer_of}
        found = recurrence(templates, maps, threshold=threshold, two_sided=two_sided, **options)
        print(f"|z| > {threshold}, {'two' if two_sided else 'one'}-sided: 10 templates in {len(maps)} other texts")
        print(found.table.to_string(index=False))
    del args


def _documents(runs):
    texts = []
    for run in runs:
        x, events = run.to_array(), run.events
        texts += [x[rows.index.to_numpy()] for _, rows in events.groupby("document", sort=False)]
    return [x for x in texts if len(x) >= 40]


def _corpora(recording, args):
    from llmbrain.networks import CanICA
    from llmbrain.networks.evidence.recurrence import individual_networks, recurrence

    kinds = recording.events.groupby("run")["kind"].agg(lambda k: k.iloc[0] if k.nunique() == 1 else None)
    templates, individuals = {}, {}
    for kind in kinds.dropna().unique():
        runs = [run for run in recording if kinds[run.index] == kind]
        if len(runs) >= 4:
            templates[kind] = CanICA(n_components=10).fit(runs[::2]).components_
            individuals[kind], _ = individual_networks(_documents(runs[1::2]), 10)
    if len(templates) < 2:
        print("fewer than two kinds of text with four runs of their own")
        return
    options = {"n_draws": 49, "layer_of": recording.geometry.layer_of}
    pairs = {(a, b): recurrence(templates[a], individuals[b], **options).table for a in templates for b in templates}
    table = pd.concat(pairs, names=["template_corpus", "text_corpus"]).reset_index()
    print("share of texts in which a template recurs (mean of 10), templates in rows:")
    print(table.pivot_table(index="template_corpus", columns="text_corpus", values="share").to_string())
    print("mean |r| of the one-to-one matches:")
    print(table.pivot_table(index="template_corpus", columns="text_corpus", values="mean_r").to_string())
    del args


def _permuted(runs, events, contrast, pairs, n_draws=20):
    from llmbrain.networks.localizer.design import choose_tokens, item_design, item_means, item_table
    from llmbrain.networks.localizer.statistics import permuted_discoveries

    frames = [choose_tokens(frame, contrast) for frame in events]
    items = item_table(frames)
    design = item_design(items, frames, contrast, pairs=pairs)
    counts, _ = permuted_discoveries(item_means(list(runs), frames, items), design, n_draws=n_draws)
    return f"median {np.median(counts):.0f}, largest {counts.max()} in {n_draws} draws"


def _localizers(networks, folder, args):
    import llmbrain as lb
    from llmbrain.networks.localizer.localize import localize
    from llmbrain.networks.localizer.statistics import localizer_overlap
    from llmbrain.text import LOCALIZERS, load_localizer

    model, tokenizer = _model(args)
    masks = np.stack([m.values for m in networks.masks(3.0)])
    for name, contrast in LOCALIZERS.items():
        runs = lb.record(model, tokenizer, load_localizer(name), out=f"{folder}/{name}", progress=False)
        events = [run.events for run in runs]
        pairs = (lambda item: item.rsplit("-", 1)[1]) if name == "language" else None
        rows = []
        for unit in ("item", "token"):
            found = localize(list(runs), events, contrast, unit=unit, pairs=pairs if unit == "item" else None)
            chosen = found.selected(0.05)
            if unit == "item":
                item_level = found
            rows.append(
                {
                    "unit": unit, "dof": found.info["dof"], "fdr05": chosen.sum(), "share": chosen.mean(),
                    "fdr001": found.selected(0.001).sum(), "largest_z": np.abs(found.z).max(),
                }
            )  # fmt: skip
        print(f"{name}: {' > '.join(contrast)}, {len(item_level.items)} items")
        print(pd.DataFrame(rows).to_string(index=False))
        print(f"labels permuted over items, neurons selected at FDR 0.05: {_permuted(runs, events, contrast, pairs)}")
        layer_of = networks.geometry.layer_of
        # neurons beyond 0.001, so that the mask is of the order of a network's
        strict = item_level.selected(0.001)
        table = localizer_overlap(strict, item_level.z, networks.maps, masks, layer_of=layer_of, n_draws=199)
        columns = ["network", "n_both", "expected", "enrichment", "of_network", "q", "r"]
        print(table.sort_values("enrichment", ascending=False).head(5)[columns].to_string(index=False))


if __name__ == "__main__":
    main()
