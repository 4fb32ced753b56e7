# %% [markdown]
# # 5. Localizers: where is code, where is arithmetic
#
# Before asking *how* a brain does something, imagers ask *where*: they show sentences and nonsense, and keep the voxels
# that distinguish the two. The same design finds the neurons of a language model that respond to code, or to
# arithmetic. As in the scanner, a contrast always finds something. So this notebook asks four questions of each map:
#
# - Does it survive when the unit is the item rather than the token?
# - What does the same analysis find when the labels mean nothing?
# - Does it replicate in other items?
# - Do the neurons *matter* for what they respond to?

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn import plotting

import llmbrain as lb
from llmbrain.lesions import LossTask, double_dissociations, selectivity
from llmbrain.networks.localizer.localize import localize
from llmbrain.plotting import plot_selectivity
from llmbrain.text import Corpus, load_localizer

quick = os.environ.get("LLMBRAIN_QUICK") == "1"  # set by the tests, which take less of everything

# %% [markdown]
# ## The paradigm
#
# Two localizers ship with the package. One has forty items of code and forty of prose that says the same; the other
# has forty items of worked arithmetic and forty of prose of the same lengths.

# %%
n_pairs = 16 if quick else 40
stimuli = {function: load_localizer(function)[: 2 * n_pairs] for function in ("code", "arithmetic")}
for function, items in stimuli.items():
    for document in items[:2]:
        print(f"[{function} localizer: {document.kind}] {document.text.strip()}\n")

# %%
model, tokenizer = lb.load_model("demo")
recordings = {
    function: lb.record(model, tokenizer, items, out=f"study-{function}", tokens_per_run=8192, progress=False)
    for function, items in stimuli.items()
}
geometry = recordings["code"].geometry
{function: f"{recording.n_tokens} tokens" for function, recording in recordings.items()}

# %% [markdown]
# The first half of the items is used to localize; the second half is kept to test the result.

# %%
def items_of(recording, half):
    """Activations and events of a recording, with the items of the other half renamed, so that no contrast uses them."""
    events = recording.events
    number = events["document"].str.extract(r"(\d+)$", expand=False).astype(int)
    mine = (number <= n_pairs // 2) if half == 1 else (number > n_pairs // 2)
    return recording[0].to_array(), events.assign(kind=events["kind"].where(mine, "other half"))


def contrast(function, half, unit="item", labels=None):
    """The function against prose at every neuron, by nilearn's general linear model."""
    activity, events = items_of(recordings[function], half)
    if labels is not None:
        events = events.assign(kind=events["document"].map(labels).where(events["kind"] != "other half", "other half"))
    return localize([activity], [events], (function, "prose"), unit=unit, noise_model="ols")


code = contrast("code", 1)
arithmetic = contrast("arithmetic", 1)
for found in (code, arithmetic):
    more, less = found.selected(side="more").sum(), found.selected(side="less").sum()
    print(
        f"{found.contrast[0]}: {more:,} neurons more active than in prose, {less:,} less, of {geometry.n_neurons:,} (FDR 5 %)"
    )

# %% [markdown]
# ## Items, not tokens
#
# The general linear model was fitted to the *mean of each item*. It is tempting to take every token instead, which
# gives thirty times as many observations. But the tokens of one item are not independent: they share a topic and a
# state. To check a test, apply it to data in which there is nothing to find. We shuffle the labels of the items:

# %%
rng = np.random.default_rng(0)
documents = recordings["code"].events["document"].unique()
nothing = {"item": [], "token": []}
for _ in range(2 if quick else 3):
    labels = dict(zip(documents, rng.permutation(np.resize(["code", "prose"], len(documents)))))
    for unit, counts in nothing.items():
        counts.append(int(contrast("code", 1, unit, labels).selected().sum()))
table = pd.DataFrame(nothing).T.rename(columns=lambda i: f"shuffled labels {i + 1}")
table.insert(0, "true labels", [int(code.selected().sum()), int(contrast("code", 1, "token").selected().sum())])
table

# %% [markdown]
# With items as the unit, shuffled labels give nothing or next to nothing. With tokens they "find" thousands of
# neurons. In brain imaging this is the difference between treating stimuli as fixed and as random effects.
#
# ## Where

# %%
figure, ax = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
for found in (code, arithmetic):
    for side, line in (("more", "-"), ("less", ":")):
        share = [100 * part.mean() for part in geometry.split(found.selected(side=side))]
        color = "C0" if found is code else "C1"
        ax.plot(geometry.layers, share, line, color=color, label=f"{found.contrast[0]}: {side} than prose")
ax.set(xlabel="layer", ylabel="% of the layer's neurons", ylim=(0, None))
ax.legend(frameon=False, fontsize=8)

# %% [markdown]
# The neurons are everywhere, more at some depths than at others. A z map is an image like any other. Here are six
# layers of the code map, drawn with nilearn:

# %%
layers = np.linspace(2, geometry.n_layers - 1, 6).astype(int)
figure, panels = plt.subplots(1, len(layers), figsize=(9, 1.3))
for panel, layer in zip(panels, layers):
    panel.set_title(f"layer {layer}", fontsize=9, pad=-6)
    plotting.plot_img(
        geometry.to_img(code.z), bg_img=None, display_mode="x", cut_coords=[layer], axes=panel, colorbar=False,
        annotate=False, draw_cross=False, black_bg=False, threshold=None, cmap="RdBu_r", vmin=-6, vmax=6,
    )  # fmt: skip

# %% [markdown]
# ## Does it replicate?
#
# We compute the same contrasts on the second half of the items, which the maps above have not seen. We also ask what a
# single contrast cannot answer: do code neurons differ from arithmetic neurons, or are both just "not prose"?

# %%
again = {"code": contrast("code", 2), "arithmetic": contrast("arithmetic", 2)}
rows = []
for found in (code, arithmetic):
    second = again[found.contrast[0]]
    chosen = found.selected()
    same = (np.sign(second.z) == np.sign(found.z)) & (second.p < 0.05)
    rows.append((found.contrast[0], np.corrcoef(found.z, second.z)[0, 1], chosen.sum(), same[chosen].mean()))
print(f"code and arithmetic maps: r = {np.corrcoef(code.z, arithmetic.z)[0, 1]:.2f}")
both = code.selected(side="more") & arithmetic.selected(side="more")
print(f"neurons more active in both than in prose: {both.sum():,}")
pd.DataFrame(
    rows, columns=["localizer", "r of z maps between halves", "selected", "found again (p < 0.05, same sign)"]
).round(2)

# %% [markdown]
# The maps are very reproducible, and they overlap: part of what this contrast calls "code" is what code and arithmetic
# have in common, such as digits and brackets instead of sentences. So for the lesion we take the neurons that respond
# more to one *than to the other*: the largest differences between the two z maps.
#
# ## Do they matter?
#
# Responding is not contributing. We silence the one percent of neurons that are most selective for each, and measure
# the loss on the second half of the items. Does one lesion harm code and the other arithmetic? And does each do more
# harm than lesions of other neurons of the same layers and importance?

# %%
n = geometry.n_neurons // 100
difference = code.z - arithmetic.z
masks = [
    lb.NeuronMask.top(difference, n, geometry, two_sided=False, name="code"),
    lb.NeuronMask.top(-difference, n, geometry, two_sided=False, name="arithmetic"),
]
n_test = 4 if quick else 10
first = Corpus(  # importances come from texts that are not tested
    [d for function, items in stimuli.items() for d in items.select(kind=function)[: n_pairs // 2]], name="first half"
)
test = Corpus(
    [d for function, items in stimuli.items() for d in items.select(kind=function)[n_pairs // 2 :][:n_test]],
    name="test",
)
result = lb.LesionStudy(
    masks,
    tasks=[LossTask(test, max_tokens=24 * len(test))],
    n_controls=3 if quick else 9,
    controls=(("layer", "importance"),),
    reference=first,
    random_state=0,
).run(model, tokenizer, progress=False)
columns = ["network", "task", "effect", "ci_low", "ci_high", "control_mean", "control_max", "p"]
result.table.query("task != 'loss'")[columns].round(3)

# %%
figure = plot_selectivity(selectivity(result), value="effect", label="change in loss")
double_dissociations(result).round(3)

# %% [markdown]
# Responding is not contributing. The maps replicated almost unchanged in other items, and yet none of the four effects
# exceeds its controls. Code suffers no more without "its" neurons than without other, equally important ones;
# arithmetic suffers slightly more than with the average control; and the double dissociation is far from its threshold.
# One percent of the neurons carries nothing that the other 99 do not carry as well: the responses are everywhere.
#
# Networks that were found without any contrast, in [notebook 3](03_lesions.ipynb), did dissociate in the same test.
# What neurons do *together* says more about what depends on them than what each responds to. This is one small
# comparison on a small model, and is meant to show the design.
