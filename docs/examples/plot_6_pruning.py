"""
What a smaller model costs
==========================

The tiny model of the lesion example, pruned by several recipes and measured on text that none of them has seen.
"""

# %%
from _tiny import make_corpus, trained_model

import llmbrain as lb
from llmbrain import plotting

model, tokenizer = trained_model()
calibration, evaluation = make_corpus(24, random_state=2), make_corpus(random_state=3)

# %%
# The grid
# --------
# One line per recipe: which neurons are removed (at random, by weight magnitude, or by FLAP), and how the others
# compensate (not at all, or by a least-squares refit). Bands show the spread over seeds.
table = lb.run_grid(
    model,
    tokenizer,
    calibration,
    evaluation,
    recipes=[
        lb.Recipe("random", "uniform", "none", {"context": 96}),
        lb.Recipe("magnitude", "uniform", "none", {"context": 96}),
        lb.Recipe("flap", "uniform", "none", {"context": 96}),
        lb.Recipe("flap", "uniform", "affine", {"context": 96}),
    ],
    ratios=(0.2, 0.4, 0.6),
    settings={"context": 96, "progress": False},
)
figure = plotting.plot_pruning_grid(table)

# %%
# At a single size, the recipes are listed below each other.
figure = plotting.plot_pruning_grid(table[table["ratio"].isin([0, 0.4])])

# %%
# What each layer loses
# ---------------------
pruned = lb.prune(model, tokenizer, calibration, ratio=0.4, recipe="fast", options={"context": 96})
figure = plotting.plot_kept_neurons(pruned.kept, pruned.geometry)
