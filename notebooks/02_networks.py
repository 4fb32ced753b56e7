# %% [markdown]
# # 2. Functional networks, and whether to believe them
#
# Group ICA of the recording gives functional networks: sets of neurons, spread over many layers, that rise and fall
# together. It always finds some. So this notebook finds them in a minute, and spends the rest on the question that a
# reviewer would ask: how would the result change with
#
# 1. other starting points of the algorithm,
# 2. other documents,
# 3. another number of networks,
# 4. a model that has learnt nothing?

# %%
import os
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from transformers import AutoModelForCausalLM

import llmbrain as lb
from llmbrain.networks.evidence.matching import match_maps
from llmbrain.networks.evidence.order import parallel_analysis, split_half_curve, standardized_sample
from llmbrain.networks.evidence.resampling import resampled_networks
from llmbrain.networks.evidence.stability import score_networks, split_half
from llmbrain.networks.meaning.interpretation import interpret
from llmbrain.networks.meaning.profiles import kind_engagement
from llmbrain.plotting import plot_carpet, plot_matching, plot_network_maps, plot_order, words_html
from llmbrain.text import Corpus

quick = os.environ.get("LLMBRAIN_QUICK") == "1"  # set by the tests, which take less of everything

# %% [markdown]
# The recording is that of [notebook 1](01_pseudo_fmri.ipynb). If it exists, it is opened; otherwise it is made.

# %%
model, tokenizer = lb.load_model("demo")
n_documents = 12 if quick else 24
corpus = Corpus([replace(d, text=d.text[:700]) for d in lb.load_corpus("demo")[:n_documents]], name="openings")
recording = lb.record(model, tokenizer, corpus, out="study", tokens_per_run=8192, progress=False)
geometry, events = recording.geometry, recording.events
print(f"{recording.n_tokens:,} tokens x {geometry.n_neurons:,} neurons")

# %% [markdown]
# ## Finding them
#
# `CanICA` is nilearn's estimator with the defaults that suit neurons: every neuron z-scored, no smoothing, no
# detrending. The fast engine computes the same as nilearn's, on Gram matrices; `engine="nilearn"` runs the original.

# %%
canica = lb.CanICA(n_components=16, n_init=5, random_state=0).fit(recording)
networks = canica.networks_
networks.metrics[
    ["network", "n_neurons", "share", "variance", "peak_layer", "first_layer", "last_layer", "stability"]
].head(6)

# %%
figure = plot_network_maps(networks)

# %% [markdown]
# Layers run from bottom to top, neurons from left to right; red and blue are the two signs, which rise and fall in
# opposition. The dots are scattered because neighbours on a sheet are unrelated. The profile at the side can be
# interpreted: most networks span many layers, some stay in a few.
#
# The carpet of notebook 1, sorted by network instead of by layer, is no longer noise.

# %%
figure = plot_carpet(recording[0], networks, tokens=(0, 600))

# %% [markdown]
# ## What each responds to
#
# `interpret` correlates the time courses with properties of the tokens (tested by circular shifts), and lists the
# tokens that drive them most. The label is a suggestion; "artefact" marks networks of the position in the text, of
# attention sinks, or of a handful of tokens.

# %%
about = interpret(networks.time_courses, events)
about.table[["network", "label", "best", "best_r", "top_tokens", "artefact"]].round(2)

# %% [markdown]
# Much of this is simple: numbers, spaces, line ends, punctuation. A network as "the neurons for digits" is a modest
# claim, but one that can be checked word by word:

# %%
strongest = about.table.loc[about.table["best_r"].abs().idxmax()]
course = networks.time_courses[0][:, int(strongest["network"])]
course = (course - course.mean()) / course.std()
print(f"network {strongest['network']} and '{strongest['best']}': r = {strongest['best_r']:.2f}")
HTML(f"<div style='white-space: pre-wrap'>{words_html(events['token'][20:150], course[20:150])}</div>")

# %% [markdown]
# ## Other starting points
#
# The ICA was started five times from different values; `stability` measures how well the starts agree on each network.
# This number is usually reported, but it says very little, because every start saw the same data. The informative
# version draws *documents* with replacement, as if another corpus had been collected.

# %%
activity = recording[0].to_array()
document = pd.factorize(events["document"])[0]
bootstrap = resampled_networks([activity], 16, n_repeats=10 if quick else 20, blocks=[document], random_state=0)
resampled = score_networks(networks.maps, bootstrap)

figure, ax = plt.subplots(figsize=(7.2, 2.4), layout="constrained")
ax.plot(networks.metrics["stability"], "o", label="other starting points (Iq)")
ax.plot(resampled["coverage"], "s", label="other documents (share of bootstraps that find it)")
ax.set(xlabel="network", ylabel="stability", ylim=(0, 1.05), xticks=range(16))
ax.legend(loc="lower left", frameon=False)
print(f"stable over starting points: {(networks.metrics['stability'] > 0.7).sum()} of 16")
print(f"found in more than half of the bootstraps, and tight (Iq > 0.7): {resampled['stable'].sum()} of 16")

# %% [markdown]
# ## Other documents
#
# The hardest test: split the documents into two halves with all kinds of text in both, decompose each half separately,
# and pair the networks. There are two questions about a pair. Is it more alike than with neurons shuffled within layers
# (`p`)? That is an easy test. Is it more alike than random *axes* in the same subspace (`p_axes`)? Only this supports
# these networks rather than any rotation of them.

# %%
half = (document // 6) % 2  # the kinds take turns, so six documents in a row are one of each


def halves(data, n_components=16):
    """Networks of the two halves of the documents, each found without the other."""
    fitted = [
        lb.CanICA(n_components, geometry=geometry, n_init=3, random_state=0).fit([data[half == h]]) for h in (0, 1)
    ]
    return [canica.components_ for canica in fitted]


first, second = halves(activity)
pairs = split_half(first, second, layer_of=geometry.layer_of)
print(f"better than shuffled neurons: {(pairs['p'] <= 0.05).sum()} of 16")
print(f"better than rotated axes:     {(pairs['p_axes'] <= 0.05).sum()} of 16")
figure = plot_matching(match_maps(first, second), names=("first half", "second half"))

# %% [markdown]
# A few networks are found again unchanged. In other cases, two or three networks of one half share the neurons of two
# or three of the other: the subspace is reproducible, its axes are not. The rest belong to these documents.
#
# ## Another number of networks
#
# How many networks should there be? Tests against noise do not help, because they stop far too late: almost nothing in
# a language model is noise. The useful curve shows, for each number of networks, how many are found again in the other
# half (|r| of 0.7 or more).

# %%
rounds = [activity[document // 6 == r] for r in range(n_documents // 6)]  # one document of each kind; every other: a half
curve = split_half_curve(rounds, [5, 10, 15, 20, 30], n_init=2)
print("directions beyond noise (parallel analysis):", parallel_analysis(standardized_sample(rounds), n_draws=2)[0])
figure = plot_order(curve[["n_components", "n_reproduced", "mean_r"]])
curve.round(2)

# %% [markdown]
# Among thirty networks more are found again than among ten, but a smaller share of them. `n_components="auto"` takes
# the largest count of which at least half are found again; with so little text that is a small number.
#
# ## A model that has learnt nothing
#
# Text alone has structure: the same token always gives the same input. So we let a model with the same architecture and
# *random* weights read the same documents. If its networks were as reproducible, ours would say nothing about learning.

# %%
torch.manual_seed(0)
untrained = AutoModelForCausalLM.from_config(model.config).eval()
blank = lb.record(untrained, tokenizer, corpus, out="study-untrained", tokens_per_run=8192, progress=False)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that ICA does not converge on it is a part of the answer
    nothing = halves(blank[0].to_array())

alike = {"trained": match_maps(first, second), "untrained": match_maps(*nothing)}
alike = pd.DataFrame({name: np.sort(np.abs(matching.score))[::-1] for name, matching in alike.items()})
ax = alike.plot(figsize=(7.2, 2.4), marker="o", grid=False)
ax.set(xlabel="pair, best first", ylabel="|r| between halves", ylim=(0, 1))
alike.describe().loc[["mean", "50%", "max"]].round(2)

# %% [markdown]
# Learning makes the networks: without it nothing is found again in other documents.
#
# ## In which kinds of text they are active
#
# The last check against over-interpretation: a network may be more active in code than in stories, but the unit of
# inference is the document, not the token, and there are only a few of each kind.

# %%
engaged = kind_engagement(networks.time_courses, events)
table = engaged.pivot(index="network", columns="kind", values="mean").round(2)
table["q"] = engaged.groupby("network")["q_mean"].first().round(3)
table[table["q"] < 0.05]

# %% [markdown]
# ## What to write in the paper
#
# - Name the kind of stability. Over starting points it is nearly always high; over documents it is informative.
# - Report the split-half table, with both null hypotheses, and the result of an untrained model.
# - More text helps more than more networks. A few thousand tokens, as here, are a pilot.
#
# The networks are saved with the study (`networks.save("study")`), as NIfTI, TSV and JSON, for the report and the
# commands. Whether they *do* anything is another question: [notebook 3](03_lesions.ipynb) silences them.

# %%
for path in networks.save("study"):
    print(path.name)
