"""Shared parts of the replication scripts: models, texts, networks, and the numbers printed in the first paper.

Nothing here needs nilearn or nibabel, so the scripts run on a bare GPU machine that has torch, transformers, pandas and
scikit-learn.
"""

import argparse
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment

from llmbrain import __version__, load_corpus, load_model
from llmbrain.evaluation.reader import LogitReader
from llmbrain.files import atomic_path
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import LossTask, MinimalPairTask, NeuronStatistics
from llmbrain.lesions.statistics import output_norms
from llmbrain.masks import NeuronMask, masks_from_maps
from llmbrain.models.hooks import site_hooks
from llmbrain.models.identity import describe_model, weights_hash
from llmbrain.models.inputs import input_device
from llmbrain.models.sites import find_sites
from llmbrain.networks import group_ica
from llmbrain.text import Corpus, Document, batches, text_windows

DEFAULT_TOKENS = {
    "cuda": {"fit_tokens": 32768, "test_tokens": 8192, "choose_tokens": 4096},
    "cpu": {"fit_tokens": 8192, "test_tokens": 600, "choose_tokens": 300},
}
PATHS = ("model", "wikitext", "out", "pairs", "fit", "test", "corpora")  # may name folders of this machine

# Liu et al. (2025), arXiv:2502.20408v1. Ten networks unless noted.
PAPER = {
    "recurrence": {  # individual networks (of 1,000 a corpus) with IoU > 0.2, templates 1 to 10; four corpora
        "GPT-2": "2,716 in 40 cells of 1,000",
        "Qwen2.5-3B-Instruct": "648 in 40 cells of 1,000",
        "ChatGLM3-6B": "19 in 40 cells of 1,000",
    },
    "single": "GPT-2, AG News, accuracy .8614 intact: .8538 .6643 .8391 .8439 .5749 .8500 .8482 .7042 .6753 .8471",
    "union": "GPT-2, ten networks (under 2 % of the units): AG News .8614 -> .5557; random 15 %: .8487",
    "retain": {  # GPT-2, AG News: accuracy and share of the 9,216 units kept
        10: (0.6849, 86 / 9216),
        64: (0.7039, 394 / 9216),
        128: (0.8462, 830 / 9216),
        256: (0.8596, 1281 / 9216),
        512: (0.8613, 1606 / 9216),
    },
    "retain_intact": 0.8614,
    "amplify": "claimed to help (abstract of v2); additive constant 1, chosen and tested on the same text; no figures",
}


@dataclass
class Subject:
    """A model and its texts."""

    model: object
    tokenizer: object
    fit: Corpus
    choose: Corpus
    test: Corpus
    sites: list
    geometry: NeuronGeometry
    args: argparse.Namespace

    def tasks(self, corpus=None, n_tokens=None):
        """Return the loss on the test text (by kind), and minimal pairs if a file is given."""
        tasks = [
            LossTask(
                corpus or self.test, "loss", max_tokens=n_tokens or self.args.test_tokens, context=self.args.context
            )
        ]
        if self.args.pairs:
            tasks.append(
                MinimalPairTask(self.args.pairs, "pairs", "accuracy", n_pairs=self.args.n_pairs, by_kind=False)
            )
        return tasks

    @property
    def options(self):
        """Return options for a lesion study."""
        return {"max_batch_tokens": self.args.max_batch_tokens, "autocast": self.args.autocast, "fitted_on": self.fit}


def parser(description):
    """Make a command line with the options of all scripts."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--model", default="demo", help="demo, a hub id, a folder, or a .gguf file")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--autocast", choices=["bfloat16", "float16"], help="half-precision products (twice as fast)")
    p.add_argument("--site", default="mlp", help="mlp (hidden neurons), or mlp_output as in the paper")
    p.add_argument("--wikitext", default=os.environ.get("LLMBRAIN_WIKITEXT"), help="folder of WikiText-2 raw splits")
    p.add_argument("--fit", help="text for finding networks (default: WikiText if given, else the demo corpus)")
    p.add_argument("--test", help="text for testing lesions")
    p.add_argument("--pairs", default=os.environ.get("LLMBRAIN_BLIMP"), help="minimal pairs: all, a file, a folder")
    p.add_argument("--n-pairs", type=int, default=50, help="pairs per phenomenon")
    p.add_argument("--fit-tokens", type=int, help="default: 32768 on a GPU, 8192 on a CPU")
    p.add_argument("--test-tokens", type=int, help="default: 8192 on a GPU, 600 on a CPU (minutes on two cores)")
    p.add_argument("--context", type=int, default=512)
    p.add_argument("--threshold", type=float, default=3.0)
    p.add_argument("--n-init", type=int, default=10, help="restarts of the decomposition")
    p.add_argument("--n-controls", type=int, default=20)
    p.add_argument("--max-batch-tokens", type=int, help="tokens of a forward pass, all rows together")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", default="replication", help="folder for the tables")
    return p


def subject(args):
    """Load the model and the texts; fit, choose and test never share a document."""
    for name, tokens in DEFAULT_TOKENS["cpu" if args.device == "cpu" else "cuda"].items():
        if getattr(args, name, 0) is None:
            setattr(args, name, tokens)
    model, tokenizer = load_model(args.model, device=args.device, dtype=args.dtype)
    sites = find_sites(model, args.site)
    fit, held = texts(args)
    choose, test = held.split(0.5, random_state=args.seed)
    return Subject(model, tokenizer, fit, choose, test, sites, NeuronGeometry.from_sites(sites, args.site), args)


def texts(args):
    """Return the corpora to fit and to test on."""
    if args.fit or args.test:
        if not (args.fit and args.test):
            raise SystemExit("Give both --fit and --test, or neither.")
        return load_corpus(args.fit), load_corpus(args.test)
    if args.wikitext:
        folder = Path(args.wikitext)
        return tuple(
            Corpus(articles(folder / f"split.{part}.raw.txt"), f"wikitext2-{part}")
            for part in ("calibration", "evaluation")
        )
    return load_corpus("demo"), load_corpus("demo", split="heldout")


def articles(path, least=400):
    """Split a raw WikiText file into articles at their titles."""
    parts = re.split(r"(?m)^ = (?!=)(.+?) = *$", Path(path).read_text(encoding="utf-8"))
    found = [(title.strip(), body.strip()) for title, body in zip(parts[1::2], parts[2::2])]
    return [
        Document(f"{title}\n{body}", f"{i:04d} {title}"[:60], "wikipedia")
        for i, (title, body) in enumerate(found)
        if len(body) >= least
    ]


def activations(subject, corpus, n_tokens, per_document=None):
    """Return the activations of each document, float32 arrays ``(n_tokens, n_neurons)`` without special tokens.

    The arrays are views of one, so :func:`joined` makes no copy.
    """
    each = per_document or max(16, -(-n_tokens // len(corpus)) + 1)
    windows, _ = text_windows(corpus, subject.tokenizer, subject.args.context, per_document=each)
    geometry, counts = subject.geometry, np.array([window.n_scored for window in windows])
    ends = np.cumsum(counts)  # the windows of a document follow each other
    whole = np.empty((ends[-1], geometry.n_neurons), np.float32)
    block = None

    def keep(i, x):
        block[..., geometry.layer_slice(i)] = x.reshape(*block.shape[:2], -1).float()

    reader, device = LogitReader(subject.model), input_device(subject.model)
    with site_hooks(subject.sites, keep), torch.no_grad():
        for batch in batches(windows, max_tokens=2048):
            block = torch.empty((*batch.ids.shape, geometry.n_neurons), device=device)
            reader.read(*batch.to_device(device))
            for row, i, scored in zip(block, batch.indices, batch.rows("scored").to(device)):
                whole[ends[i] - counts[i] : ends[i]] = row[scored].cpu().numpy()
    owners = np.array([window.document for window in windows])
    stops = [ends[np.flatnonzero(owners == d)[-1]] for d in np.unique(owners)]
    return [run for run in np.split(whole, stops[:-1]) if len(run) > 1]


def joined(runs):
    """Join the tokens of runs into one array, without a copy if they are views of one."""
    base = runs[0].base
    if base is not None and all(r.base is base for r in runs) and len(base) == sum(map(len, runs)):
        return base
    return np.concatenate(runs)


def networks(subject, n_components, runs=None, n_init=None, random_state=None):
    """Maps of whole-brain networks, z-scored over neurons ``(n_components, n_neurons)``, and what they were made of."""
    args = subject.args
    runs = activations(subject, subject.fit, args.fit_tokens) if runs is None else runs
    found = group_ica(
        [joined(runs)],
        n_components,
        n_init=n_init or args.n_init,
        random_state=args.seed if random_state is None else random_state,
        device=args.device,
        time_courses=False,
        warn=False,
    )
    maps = found.maps
    return (maps - maps.mean(1, keepdims=True)) / maps.std(1, keepdims=True), found


def statistics_of(subject, runs):
    """Compute statistics of the neurons on the text that the networks were found on."""
    tokens, geometry, device = joined(runs), subject.geometry, subject.args.device
    moments = np.empty((3, geometry.n_neurons))
    for i in range(geometry.n_layers):
        part = geometry.layer_slice(i)
        x = torch.from_numpy(tokens[:, part]).to(device).double()
        mean = x.mean(0)
        square = (x - mean) ** 2
        variance = square.mean(0)
        kurtosis = torch.where(variance > 1e-12, (square**2).mean(0) / variance.clamp_min(1e-12) ** 2 - 3, 0.0)
        moments[:, part] = torch.stack([mean, variance, kurtosis]).cpu().numpy()
    return of_moments(subject, len(tokens), moments)


def of_moments(subject, n_tokens, moments):
    """Make statistics from mean, variance and kurtosis, ``(3, n_neurons)``."""
    norms = output_norms(subject.sites)
    return NeuronStatistics(subject.geometry, n_tokens, *moments, norms, None, {"corpus_hash": subject.fit.hash})


def fitted(subject, n_components):
    """Return maps, statistics and recurrence over seeds of the fitted text; they are cached in the output folder.

    Returns
    -------
    maps : array of shape (n_components, n_neurons)
        Z-scored over neurons.
    statistics : NeuronStatistics
    again : array of shape (n_components,)
        ``|r|`` of each map with its match in a decomposition from another seed.
    """
    args = subject.args
    path = Path(args.out) / f"networks_{n_components}.npz"
    key = [weights_hash(subject.model), subject.fit.hash, args.site, n_components]
    key = str([*key, args.fit_tokens, args.context, args.n_init, args.seed])
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                return kept["maps"], of_moments(subject, int(kept["n_tokens"]), kept["moments"]), kept["again"]
    runs = activations(subject, subject.fit, args.fit_tokens)
    maps, _ = networks(subject, n_components, runs)
    others, _ = networks(subject, n_components, runs, random_state=args.seed + 1)
    overlap = np.abs(maps @ others.T) / maps.shape[1]
    again = overlap[linear_sum_assignment(-overlap)]
    s = statistics_of(subject, runs)
    moments = np.stack([s.mean, s.variance, s.kurtosis])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part, open(part, "wb") as file:
        np.savez(file, key=key, maps=maps.astype(np.float32), moments=moments, n_tokens=s.n_tokens, again=again)
    return maps.astype(np.float32), s, again


def masks_of(subject, maps, threshold=None):
    """Return the masks of maps, and the names of empty ones."""
    info = {"corpus_hash": subject.fit.hash}
    threshold = threshold or subject.args.threshold
    masks = masks_from_maps(maps, subject.geometry, threshold, info=info)
    empty = [m.name for m in masks if not m.count]
    if empty:
        print(f"Empty at |z| > {threshold:g}, left out: {', '.join(empty)}")
    return [m for m in masks if m.count]


def union_of(masks, name="all networks"):
    """Return the union of some networks."""
    values = np.any([m.values for m in masks], axis=0)
    return NeuronMask(values, masks[0].geometry, name, masks[0].info)


def write(subject, name, tables, note, begin):
    """Write and print the tables (TSV) and the note with its provenance (JSON)."""
    from llmbrain.files import write_json, write_tsv

    folder = Path(subject.args.out)
    for part, table in tables.items():
        write_tsv(folder / f"{name}_{part}.tsv", table)
    info = {
        "llmbrain": __version__,
        "torch": torch.__version__,
        "model": describe_model(subject.model),
        "fit": {"corpus": subject.fit.name, "hash": subject.fit.hash},
        "test": {"corpus": subject.test.name, "hash": subject.test.hash},
        "arguments": {k: v for k, v in vars(subject.args).items() if k not in PATHS},
        "paper": PAPER.get(name),
        "seconds": round(time.perf_counter() - begin, 1),
        "note": note,
    }
    write_json(folder / f"{name}.json", info)
    with pd.option_context("display.width", 220, "display.max_columns", 40, "display.max_rows", 200):
        for part, table in tables.items():
            print(f"\n## {name}: {part}\n{table.head(100).round(4).to_string(index=False)}")
    print(f"\n{note}\n{json.dumps(info['seconds'])} s; written to {folder}/{name}*")


__all__ = [
    "PAPER",
    "NeuronStatistics",
    "Subject",
    "activations",
    "fitted",
    "joined",
    "masks_of",
    "networks",
    "parser",
    "statistics_of",
    "subject",
    "union_of",
    "write",
]
