# %% [markdown]
# # 4. Pruning honestly
#
# Leave out a fifth of the neurons for good, without retraining: which ones, and what does it cost? A paper proposes to
# keep the neurons of functional networks. To say whether that is a good idea takes a table in which everything but the
# idea is the same: same calibration text, same number of neurons from the same layers, same evaluation on other text; a
# row for chance, rows for simple rules, a row for the intact model.
#
# Three choices are kept apart here that are often mixed:
#
# - the **score** says which neurons go,
# - the **allocation** how many from each layer,
# - the **compensation** what the others do for those that are gone.

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
# calibrated on that part too. The held-out part is for measuring, and for nothing else.

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
# `run_grid` prunes by every recipe and measures every result.
#
# | score | keeps the neurons |
# | --- | --- |
# | `random` | of a draw: the floor |
# | `magnitude` | with large output weights |
# | `wanda` | with large weights times large activations |
# | `flap` | whose fluctuation can move the residual stream |
# | `network` | with the largest \|z\| in any network: the published rule |
#
# The compensation `affine` refits the output weights of the neurons that stay, by least squares, so that they also write
# what the removed ones wrote.

# %%
recipes = [
    ("random", "uniform", "none"),
    ("wanda", "uniform", "none"),
    ("flap", "uniform", "none"),
    ("network", "uniform", "none"),
    ("flap", "uniform", "affine"),
    ("network", "uniform", "affine"),
]
kept = {}


def remember(row, pruned):
    """Which neurons stayed, for later."""
    if row["ratio"] == 0.2 and row["seed"] == 0:
        kept[f"{row['score']} + {row['compensation']}"] = pruned.kept


shared = {
    "networks": networks,
    "options": {"n_tokens": 512 if quick else 2048, "context": 256, "propagation": "one-shot", "ridge": 0.1},
    "max_tokens": 300 if quick else 800,
    "context": 256,
    "keep": remember,
    "progress": False,
}
grid = lb.run_grid(
    model, tokenizer, calibration, evaluation, ratios=(0.2,) if quick else (0.1, 0.2), recipes=recipes, seeds=(0,),
    **shared,
)  # fmt: skip
extra = lb.run_grid(  # another draw of chance, and weights alone, which would not fit into the picture
    model, tokenizer, calibration, evaluation, ratios=(0.2,), seeds=(1,),
    recipes=[("random", "uniform", "none"), ("magnitude", "uniform", "none")], **{**shared, "networks": None},
)  # fmt: skip
table = pd.concat([grid, extra[extra["score"] != "dense"]], ignore_index=True)
shown = ["score", "compensation", "ratio", "seed", "perplexity", "ratio_to_dense"]
table.sort_values(["ratio", "perplexity"])[shown].round(3)

# %%
figure = plot_pruning_grid(table[table["score"] != "magnitude"])

# %% [markdown]
# Read without compensation first. The published rule beats chance (24 against 38 and 64 at a fifth of the neurons) and
# loses by far to two formulas of one line that know nothing of networks (both 12; the intact model has 9). Weights
# alone are worse than chance.
#
# Compensation helps the good selection and ruins the poor one: FLAP comes down to 11, the network rule goes up to
# hundreds. Least squares has two thousand tokens here for some twelve hundred weights an output. Where the neurons that
# are left predict those that are gone, that is enough; where they do not, it fits the calibration text and nothing
# else. More text mends it ([benchmarks/RESULTS.md](../benchmarks/RESULTS.md) has the table with 65,536 tokens, on which
# the refit more than halves the damage of the network rule too). A single column of numbers would have hidden all of this.
#
# How different are the choices? The overlap of what is kept (Jaccard index, mean over layers); two random choices of four
# fifths share two thirds by chance alone.

# %%
kept_overlap({name.split(" + ")[0]: value for name, value in kept.items() if name.endswith("none")}).round(2)

# %% [markdown]
# ## The recipes of the package
#
# `recipe="fast"` takes more from layers that write little, walks from layer to layer so that each is fitted on what the
# layers before it really give, and refits with tokens weighted by their residual stream. It is measured in the same way as the rows above. `recipe="best"`,
# the default, also searches for the allocation and refits the attention; it wants a GPU.

# %%
pruned = lb.prune(
    model, tokenizer, calibration, ratio=0.2, recipe="fast", progress=False,
    options={"n_tokens": 512 if quick else 2048, "context": 256},
)  # fmt: skip
perplexity = lb.perplexity(pruned.model, tokenizer, evaluation, context=256, max_tokens=shared["max_tokens"])
print(pruned)
print(f"perplexity {perplexity:.2f}, {perplexity / grid['perplexity'][0]:.3f} times that of the intact model")

# %%
figure = plot_kept_neurons(pruned.kept, pruned.geometry)

# %% [markdown]
# ## What is saved, and what is not
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
# Saved with its tokenizer, the recipe and a model card. `load_model` opens it; so does transformers, and the format
# `gguf` is for llama.cpp.

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
# - A claim about a score needs rows of chance and of simple scores on the same calibration text.
# - Compensation has to be in all rows or in none, with enough text to fit it on.
# - The numbers above are from a few hundred tokens of one small model; the same call with `max_tokens=None`, more seeds,
#   and other calibration and evaluation texts is the experiment.
