# %% [markdown]
# # 4. Pruning with fair baselines
#
# If a fifth of the neurons is removed permanently, without retraining, which neurons should go, and what does it cost?
# A published method keeps the neurons of functional networks. To judge that idea, we need a table in which everything
# else is the same: the calibration text, the number of neurons removed from each layer, and the text on which the
# result is measured. It needs a row for chance, rows for simple rules, and a row for the intact model.
#
# Three choices that are often mixed up are kept separate here:
#
# - the **score** decides which neurons are removed,
# - the **allocation** decides how many are removed from each layer,
# - the **compensation** decides how the remaining neurons make up for them.

# %%
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

import llmbrain as lb
from llmbrain.plotting import plot_kept_neurons, plot_pruning_grid
from llmbrain.pruning import kept_overlap
from llmbrain.text import Corpus

quick = os.environ.get("LLMBRAIN_QUICK") == "1"  # set by the tests, which take less of everything

# %% [markdown]
# The networks are those of [notebook 2](02_networks.ipynb), found on the training part of the demo corpus. Pruning is
# calibrated on that part too. The held-out part is only used for measuring.

# %%
model, tokenizer = lb.load_model("demo")
n_documents = 12 if quick else 24
corpus = Corpus([replace(d, text=d.text[:700]) for d in lb.load_corpus("demo")[:n_documents]], name="openings")
recording = lb.record(model, tokenizer, corpus, out="study", tokens_per_run=8192, progress=False)
networks = lb.CanICA(n_components=16, n_init=5, random_state=0).fit(recording).networks_

calibration = lb.load_corpus("demo")
evaluation = lb.load_corpus("demo", split="heldout")
print("documents in both:", len(calibration.overlap(evaluation)))

# %% [markdown]
# ## The grid
#
# `run_grid` prunes with every recipe and measures every result.
#
# | score | keeps the neurons |
# | --- | --- |
# | `random` | drawn at random: the floor |
# | `magnitude` | with large output weights |
# | `wanda` | with large weights times large activations |
# | `flap` | whose fluctuation can move the residual stream |
# | `network` | with the largest \|z\| in any network: the published rule |
#
# The compensation `affine` refits the output weights of the remaining neurons by least squares, so that they also write
# what the removed ones wrote.

# %%
options = {"max_tokens": 512 if quick else 2048, "context": 256, "propagation": "one-shot", "ridge": 0.1}
recipes = [
    lb.Recipe("random", "uniform", "none", options),
    lb.Recipe("wanda", "uniform", "none", options),
    lb.Recipe("flap", "uniform", "none", options),
    lb.Recipe("network", "uniform", "none", options, networks),
    lb.Recipe("flap", "uniform", "affine", options),
    lb.Recipe("network", "uniform", "affine", options, networks),
]
kept = {}


def remember(row, pruned):
    """Which neurons stayed, for later."""
    if row["ratio"] == 0.2 and row["seed"] == 0:
        kept[f"{row['score']} + {row['compensation']}"] = pruned.kept


shared = {"max_tokens": 300 if quick else 800, "context": 256, "keep": remember, "progress": False}
grid = lb.run_grid(
    model, tokenizer, calibration, evaluation, recipes, ratios=(0.2,) if quick else (0.1, 0.2),
    settings={"seeds": (0,), **shared},
)  # fmt: skip
extra = lb.run_grid(  # another draw of chance, and weights alone, which would not fit into the picture
    model, tokenizer, calibration, evaluation, [recipes[0], lb.Recipe("magnitude", "uniform", "none", options)],
    ratios=(0.2,), settings={"seeds": (1,), **shared},
)  # fmt: skip
table = pd.concat([grid, extra[extra["score"] != "dense"]], ignore_index=True)
shown = ["score", "compensation", "ratio", "seed", "perplexity", "ratio_to_dense"]
table.sort_values(["ratio", "perplexity"])[shown].round(3)

# %%
figure = plot_pruning_grid(table[table["score"] != "magnitude"])

# %% [markdown]
# First compare the rows without compensation. The published rule beats chance (26 against 43 and 64 at a fifth of the neurons) and
# is far worse than two one-line formulas that ignore networks (both 13; the intact model has 10). The size of the
# weights alone is worse than chance.
#
# Compensation helps the good selection and ruins the poor one: FLAP falls to 12, the network rule rises to hundreds.
# Here least squares fits about 1,200 weights per output to 2,048 tokens. That is enough where the remaining neurons
# predict the removed ones; where they do not, it fits only the calibration text. More text solves this
# ([benchmarks/RESULTS.md](../benchmarks/RESULTS.md) has the table with 65,536 tokens, on which the refit more than
# halves the damage of the network rule too). A single column of numbers would have hidden this.
#
# How different are the choices? The next table shows the overlap of the kept neurons (Jaccard index, mean over layers).
# By chance, two choices of four fifths of the neurons overlap by two thirds.

# %%
kept_overlap({name.split(" + ")[0]: value for name, value in kept.items() if name.endswith("none")}).round(2)

# %% [markdown]
# ## The recipes of the package
#
# `recipe="fast"` tries three ways to divide the cut among the layers and takes the one that diverges least from the
# whole model on held-out calibration text. That takes some minutes on a CPU, so `allocation="power"` is set here:
# layers that write little to the residual stream lose more neurons. Each layer is fitted to the real output of the
# pruned layers before it, with tokens weighted by their residual stream. The result is measured like the rows above.
#
# `recipe="best"`, the default on a GPU, also searches for the allocation and refits the attention; it needs a GPU to be fast.

# %%
pruned = lb.prune(
    model, tokenizer, calibration, ratio=0.2, recipe="fast", allocation="power", progress=False,
    options={"max_tokens": 512 if quick else 2048, "context": 256},
)  # fmt: skip
perplexity = lb.perplexity(pruned.model, tokenizer, evaluation, context=256, max_tokens=shared["max_tokens"])
print(pruned)
print(f"perplexity {perplexity:.2f}, {perplexity / grid['perplexity'][0]:.3f} times that of the intact model")

# %%
figure = plot_kept_neurons(pruned.kept, pruned.geometry)

# %% [markdown]
# ## What becomes smaller
#
# A fifth of the MLP neurons is not a fifth of the model: embeddings and attention stay.

# %%
parts = ("mlp", "attention", "decoder", "total")
counts = {
    part: [pruned.summary[f"{part}_parameters_{when}"] for when in ("before", "after")]
    for part in parts
    if f"{part}_parameters_before" in pruned.summary
}
counts = pd.DataFrame(counts, index=["before", "after"]).T
counts["removed"] = (1 - counts["after"] / counts["before"]).round(3)
counts

# %% [markdown]
# ## A folder that loads
#
# The folder holds the model with its tokenizer, the recipe and a model card. `load_model` opens it, and so does
# transformers. For llama.cpp, save with `format="gguf"`.

# %%
folder = pruned.save_pretrained("smaller")
for path in sorted(Path(folder).iterdir()):
    print(path.name)
again, _ = lb.load_model("smaller")
print(
    f"perplexity of the saved model: {lb.perplexity(again, tokenizer, evaluation, context=256, max_tokens=shared['max_tokens']):.2f}"
)

# %% [markdown]
# ## In short
#
# - A claim about a score needs rows for chance and for simple scores on the same calibration text.
# - Use compensation in all rows or in none, with enough text to fit it.
# - The numbers above come from a few hundred tokens and one small model. For a real experiment, use `max_tokens=None`,
#   more seeds, and other calibration and evaluation texts.
