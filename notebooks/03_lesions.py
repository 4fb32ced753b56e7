# %% [markdown]
# # 3. Lesions and controls: the papers' claims re-tested
#
# A lesion in a language model is exact, complete and reversible, and costs nothing: silence a set of neurons, measure,
# and restore them. The same holds for a control that patients cannot provide: the same lesion in other neurons, as many
# times as needed. The papers that found functional networks in language models claim that
#
# 1. silencing a network, a few percent of the neurons, ruins the model, while silencing random neurons does not;
# 2. networks serve different tasks;
# 3. amplifying a network can improve the model;
# 4. the networks alone, a fifth of the neurons or less, nearly suffice.
#
# Each claim is re-tested here, on a small scale but with controls.

# %%
import os
from dataclasses import replace
from functools import reduce

import numpy as np
import pandas as pd

import llmbrain as lb
from llmbrain.lesions import LossTask, double_dissociations, neuron_statistics, selectivity, side_by_side
from llmbrain.networks.meaning.interpretation import interpret
from llmbrain.plotting import plot_dose_response, plot_lesion_effects, plot_selectivity
from llmbrain.text import Corpus, load_localizer

pd.set_option("display.max_colwidth", 200)
quick = os.environ.get("LLMBRAIN_QUICK") == "1"  # set by the tests, which take less of everything

# %% [markdown]
# The networks are those of [notebook 2](02_networks.ipynb), found on the training part of the demo corpus. All
# measurements below use its held-out part, which shares no document with it.

# %%
model, tokenizer = lb.load_model("demo")
n_documents = 12 if quick else 24
corpus = Corpus([replace(d, text=d.text[:700]) for d in lb.load_corpus("demo")[:n_documents]], name="openings")
recording = lb.record(model, tokenizer, corpus, out="study", tokens_per_run=8192, progress=False)
networks = lb.CanICA(n_components=16, n_init=5, random_state=0).fit(recording).networks_
masks = networks.masks(threshold=3.0)


def union_of(masks, name):
    """All neurons of several networks."""
    return lb.NeuronMask(reduce(np.logical_or, [mask.values for mask in masks]), networks.geometry, name=name)


union = union_of(masks, "all")
core = union_of(networks.masks(threshold=4.5), "all, |z| > 4.5")
shown = [*masks[:3], union, core]
pd.DataFrame({"neurons": [m.count for m in shown], "share": [m.share for m in shown]}, [m.name for m in shown]).round(3)

# %% [markdown]
# ## A lesion
#
# Inside the block the neurons are silent in every use of the model. After the block they are restored, even if an error
# occurred.

# %%
prompt = tokenizer("The capital of France is", return_tensors="pt")


def answer():
    """What the model says next, greedily."""
    written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    return tokenizer.decode(written[0], skip_special_tokens=True)


print("before: ", answer())
with lb.lesion(model, masks[0]):
    print("lesion: ", answer())
print("after:  ", answer())

# %% [markdown]
# One sentence is an anecdote. `side_by_side` makes better anecdotes: one network, all networks together, and the same
# number of other neurons from the same layers.

# %%
other = union.matched_control(by="layer", random_state=0)
lesions = {"network 0": masks[0], "all networks": union, "as many others": other}
texts = side_by_side(model, tokenizer, "The old keeper climbed the lighthouse stairs and", lesions, max_new_tokens=24)
texts[["condition", "text"]]

# %% [markdown]
# ## Claim 1: networks against controls
#
# The answer depends on what "random neurons" means. Three families of controls, from the easiest to the hardest to
# beat:
#
# - `random`: the same number of neurons from anywhere, the papers' control;
# - `layer+importance`: the same number of neurons in every layer, each about as important as one of the network's.
#   Importance is how much a neuron's fluctuation can move the residual stream; it does not depend on networks;
# - `top`: the most important neurons of every layer. There is only one such set, so it has no p-value; it is a
#   reference.

# %%
task = LossTask(max_tokens=60 if quick else 192)  # the held-out demo corpus, the same share of every document
study = lb.LesionStudy(
    [union, core, *masks[:3]],
    tasks=[task],
    n_controls=3 if quick else 9,
    controls=("random", ("layer", "importance"), "top"),
    reference=recording,
    random_state=0,
)
print(study.forecast(model, tokenizer)["text"])
result = study.run(model, tokenizer, progress=False)
print(result.summary())

# %%
figure = plot_lesion_effects(result, task="loss", family="layer+importance", title="Lesions against matched controls")

# %%
loss = result.table.query("task == 'loss'").pivot(index="network", columns="family", values="control_mean")
loss.insert(0, "network itself", result.matrix()["loss"])
controls = result.controls.query("task == 'loss' and family == 'layer+importance'").groupby("network")
loss["importance ratio"] = controls["importance_ratio"].mean()
loss.loc[result.networks].round(2)

# %% [markdown]
# The columns are the mean change in loss (nats per token) when the network itself is silenced, and when its controls
# are.
#
# - **All networks together** do far more harm than random neurons. That is the published result, and it holds.
# - **One network** does little, and no more than its controls. The model does not depend on one or two percent of its
#   neurons, chosen by ICA.
# - **`top` does much more harm.** A one-line formula that ignores networks finds sets of the same size that do much
#   more harm than a network.
# - **Check `importance ratio`** before you trust a control: it is the summed importance of the controls relative to the
#   network's. All networks at |z| > 3 hold so much of the importance of the model that no equal set remains outside.
#   The matched controls are then too weak, and doing more harm than they do shows little. At |z| > 4.5 they are
#   comparable, so that row is the fair comparison.
#
# `summary` prints the smallest p that so few controls allow; a paper would use a hundred.
#
# ## Claim 2: different networks, different tasks
#
# If networks serve different tasks, then silencing the one that is active in arithmetic should do most harm in
# arithmetic, and silencing the one that is active in code should do most harm in code: a double dissociation. Both are
# chosen on the training text, and tested on items that are in neither part of the corpus. The items are the unit; a
# handful of documents would not be enough.

# %%
goes_with = interpret(networks.time_courses, recording.events).correlations
strongest = {}
for kind in ("arithmetic", "code"):
    rows = goes_with[goes_with["regressor"] == f"kind:{kind}"]
    strongest[kind] = int(rows.loc[rows["r"].abs().idxmax(), "network"])
print(strongest)

n_items = 4 if quick else 10
items = [load_localizer(kind).select(kind=kind)[:n_items] for kind in strongest]
items = Corpus([item for part in items for item in part], name="items")
two = lb.LesionStudy(
    [masks[k] for k in strongest.values()],
    tasks=[LossTask(items, max_tokens=20 * len(items))],
    n_controls=3 if quick else 9,
    controls=(("layer", "importance"),),
    reference=recording,
    random_state=0,
).run(model, tokenizer, progress=False)
columns = ["network", "task", "effect", "ci_low", "ci_high", "control_mean", "control_max", "p"]
two.table.query("task != 'loss'")[columns].round(3)

# %%
figure = plot_selectivity(selectivity(two), value="effect", label="change in loss")
double_dissociations(two).round(3)

# %% [markdown]
# We find one: silencing each of the two networks does more harm in its own task than any of its nine controls, and no
# more than its controls in the other task. So networks can be specific, if they are chosen for it and the lesion is
# compared with equally important neurons. This should not be overstated. The arithmetic network is one of digits, the
# code network one of brackets and indentation. A model without them has lost its digits and signs; to find out whether
# it has lost *arithmetic* would need a task with numbers but without sums. And with nine controls no p can be below 0.1
# (`beyond_controls` reports it); a paper would use a hundred.
#
# ## Claim 3: amplification
#
# Here the neurons are multiplied instead of silenced. A gain of 1 is the intact model; the band shows the effect of
# equally important neurons.

# %%
gains = lb.LesionStudy(
    masks[:1], task, n_controls=3, controls=["layer+importance"], reference=recording,
    options={"doses": {"gain": (0.0, 0.5, 1.0, 1.5, 2.0)}},
).run(model, tokenizer, progress=False)  # fmt: skip
figure = plot_dose_response(gains.table, x="gain", title="Amplified and weakened")
gains.table[["network", "gain", "effect", "ci_low", "ci_high", "control_low", "control_high"]].round(3)

# %% [markdown]
# An effect below zero would be an improvement. It is not one if the interval includes zero, or if the controls have the
# same effect. A gain that was chosen because it looked best has to be confirmed on other text.
#
# ## Claim 4: the networks alone
#
# A lesion of the complement, `~union`, keeps the networks and silences everything else.

# %%
text = lb.load_corpus("demo", split="heldout")
importance = neuron_statistics(model, tokenizer, recording).importance()
best = np.concatenate([  # in every layer as many as the union has there, the most important
    np.isin(np.arange(len(values)), np.argsort(-values)[:n])
    for values, n in zip(networks.geometry.split(importance), union.counts_per_layer)
])  # fmt: skip
keeps = {
    "the networks": union,
    "as many others": other,
    "the most important": lb.NeuronMask(best, networks.geometry),
}
n_tokens = 200 if quick else 600
rows = [("everything", 1.0, lb.perplexity(model, tokenizer, text, max_tokens=n_tokens))]
for name, keep in keeps.items():
    with lb.lesion(model, ~keep):
        rows.append((name, keep.share, lb.perplexity(model, tokenizer, text, max_tokens=n_tokens)))
shares = pd.DataFrame(rows, columns=["kept", "share", "perplexity"]).round({"share": 2})
shares.assign(perplexity=shares["perplexity"].map("{:,.0f}".format))

# %% [markdown]
# The networks are a better choice than chance, and a worse one than the most important neurons. Neither suffices: a
# model with a fifth of its neurons no longer predicts text. What can be removed, and by which rule, is the subject of
# [notebook 4](04_pruning.ipynb).
#
# ## In short
#
# | claim | in this small test |
# | --- | --- |
# | silencing networks ruins the model | far more than random neurons, as published; no more than equally important ones |
# | networks serve different tasks | two that were chosen for it do: digits and arithmetic, brackets and code |
# | amplification improves | no: no gain lowers the loss |
# | the networks alone suffice | no |
