# %% [markdown]
# # 1. From text to pseudo-fMRI
#
# A language model reads a text token by token, and at every token each of its neurons has a value. Stored as one image
# per token, these values form a 4D NIfTI file, which neuroimagers know how to open. This notebook makes one, opens it
# with nilearn, and looks at what is unusual about it before drawing any conclusion.
#
# | brain imaging | here |
# | --- | --- |
# | subject | a model |
# | voxel | a neuron |
# | volume, TR | the state of all neurons at one token; one token |
# | run | a block of texts |
# | atlas | the layers |

# %%
import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from nilearn import plotting
from nilearn.image import math_img
from nilearn.maskers import NiftiLabelsMasker

import llmbrain as lb
from llmbrain.plotting import plot_carpet
from llmbrain.recording import forecast
from llmbrain.text import Corpus

quick = os.environ.get("LLMBRAIN_QUICK") == "1"  # set by the tests, which take less of everything

# %% [markdown]
# ## The subject
#
# `"demo"` is SmolLM2-135M-Instruct, a small model of the Llama family. A hub id, a folder or a `.gguf` file works as
# well ([notebook 6](06_your_own_model.ipynb)).

# %%
model, tokenizer = lb.load_model("demo")
lb.describe_model(model)

# %% [markdown]
# A **neuron** is a hidden unit of an MLP: its value, times one fixed direction, is what the layer writes to the
# residual stream. The geometry gives each neuron a place in a volume. Every layer is folded into a sheet; the sheets
# are stacked along the first axis.

# %%
geometry = lb.NeuronGeometry.from_model(model, site="mlp")
print(f"{geometry.n_layers} layers, {geometry.n_neurons:,} neurons, volumes of {geometry.shape}")

one = lb.NeuronMask.from_names([(12, 345)], geometry)
print("neuron 345 of layer 12 is voxel", *np.argwhere(one.to_img().get_fdata()))

# %% [markdown]
# The place within a sheet has no meaning: adjacent neurons are unrelated. So nothing here smooths, clusters or draws a
# glass brain.
#
# ## The task
#
# The demo corpus has six kinds of text. We use the beginnings of its documents, so that each kind occurs often.

# %%
n_documents = 12 if quick else 24
corpus = Corpus([replace(d, text=d.text[:700]) for d in lb.load_corpus("demo")[:n_documents]], name="openings")
print(len(corpus), "documents:", ", ".join(corpus.kinds))
print("\n" + corpus[0].text[:260] + " ...")

# %% [markdown]
# ## The scan
#
# `forecast` predicts what a recording will cost; `record` writes it directly to disk with bounded memory. To resume an
# interrupted recording, repeat the call; if it is complete, the call opens it. By default a run holds about 4,000
# tokens; here one run holds all of them, to keep the notebooks short.

# %%
print(forecast(model, tokenizer, corpus, tokens_per_run=8192))
recording = lb.record(model, tokenizer, corpus, out="study", tokens_per_run=8192, progress=False)
for path in sorted(Path("study").rglob("*")):
    if path.is_file():
        print(path.as_posix())

# %% [markdown]
# This is a BIDS derivative: activations, a table of the tokens (`events`), the layers as an atlas, and sidecars with
# the settings and hashes. The model reads special tokens such as the beginning of the text, but they are not recorded.

# %%
run = recording[0]
run.events.loc[40:46, ["onset", "token", "document", "kind", "position", "surprisal", "log_frequency"]]

# %% [markdown]
# ## It is a NIfTI file
#
# Any tool opens it: nibabel, nilearn, fsleyes, MRIcroGL. The fourth axis counts tokens.

# %%
image = nib.load(run.path)
print(image.shape, image.get_data_dtype(), "zooms", image.header.get_zooms())

# %% [markdown]
# nilearn's maskers read it like any other scan. `geometry.masker()` has the mask of all neurons and does not smooth.
# The features are in the order of the neurons, so arrays and images agree.

# %%
few = image.slicer[..., :100]
masked = geometry.masker().fit_transform(few)
print("nilearn:", masked.shape, " llmbrain:", run.to_array(0, 100).shape)
print("equal:", np.array_equal(masked, run.to_array(0, 100)))

# %% [markdown]
# The layers are a parcellation, so `NiftiLabelsMasker` gives one time series per layer. Here the mean size of the
# activations, layer by layer, over the first hundred tokens:

# %%
layers = NiftiLabelsMasker(geometry.layers_img, standardize=None, resampling_target=None)
loudness = layers.fit_transform(math_img("np.abs(img)", img=few))

figure, ax = plt.subplots(figsize=(7.2, 2.8), layout="constrained")
picture = ax.imshow(loudness.T, aspect="auto", origin="lower", cmap="viridis", norm="log")
ax.set(xlabel="token", ylabel="layer", title="How loud each layer is")
bar = figure.colorbar(picture, label="mean |activation|")

# %% [markdown]
# ## What is unusual about it
#
# **Some tokens are not like the others.** In the picture the middle layers do much the same everywhere, except at a few
# tokens where a band of early layers falls silent. Which tokens are these? We take all tokens whose layers 3 to 7 are
# four times quieter than usual, and look at the layer before.

# %%
activity = run.to_array()
by_layer = geometry.split(activity)
early = np.mean([np.abs(by_layer[layer]).mean(axis=1) for layer in range(3, 8)], axis=0)
silent = early < np.median(early) / 4

tokens = run.events["token"].where(silent).value_counts().rename("silent").to_frame()
tokens["of"] = run.events["token"].value_counts()
peak = np.abs(by_layer[2]).max(axis=1)
print(f"silent at {silent.sum()} of {len(silent)} tokens")
print(f"largest activation in layer 2: {np.median(peak[silent]):.0f} there, {np.median(peak[~silent]):.1f} elsewhere")
tokens.head(4)

# %% [markdown]
# At many occurrences of *the*, and at many single spaces, this model has an enormous activation in layer 2, and the
# next layers go quiet. Such tokens are known as attention sinks, with massive activations: later tokens attend to them
# when there is nothing else to attend to. The usual sink, the beginning of the text, is left out of recordings, but
# these others are recorded. They are this field's head motion: known, large, and not what any hypothesis is about.
#
# **Neurons differ in scale by orders of magnitude.** Unscaled, a handful of neurons would *be* the data. That is why
# every decomposition in llmbrain z-scores each neuron over tokens first.

# %%
sd = activity.std(axis=0)
top = np.sort(sd**2)[::-1]
print(f"sd over tokens: median {np.median(sd):.2f}, largest {sd.max():.0f}")
print(f"the 10 widest of {len(sd):,} neurons hold {top[:10].sum() / top.sum():.0%} of all variance")

shown = [0, 2, 6, 12, 18, 24, 29]
spread = geometry.to_img(np.log10(sd))
figure, panels = plt.subplots(1, len(shown), figsize=(9, 1.2))
for panel, layer in zip(panels, shown):
    panel.set_title(f"layer {layer}", fontsize=9, pad=-6)
    plotting.plot_img(
        spread, bg_img=None, display_mode="x", cut_coords=[layer], axes=panel, colorbar=False, annotate=False,
        draw_cross=False, black_bg=False, threshold=None, cmap="viridis", vmin=-1.5, vmax=1.5,
    )  # fmt: skip

# %% [markdown]
# (Each neuron's standard deviation on a logarithmic scale, dark 0.03, bright 30, on the sheets of seven layers.)
#
# **Position, frequency and surprise drive activations.** The events hold them, and `confounds()` returns them in the
# form that nilearn's estimators and `nilearn.signal.clean` accept: `CanICA(...).fit(recording, confounds=...)`.

# %%
recording.confounds()[0].describe().loc[["mean", "std", "min", "max"]].round(2)

# %% [markdown]
# ## A carpet
#
# All neurons over all tokens, sorted by layer and pooled into rows. Vertical stripes are tokens at which a whole layer
# changes sign. The grain between them looks like noise, but it is not: sorted by *network* it forms bands. That is
# [notebook 2](02_networks.ipynb).

# %%
figure = plot_carpet(run, order="layer", tokens=(0, min(600, run.n_tokens)))
