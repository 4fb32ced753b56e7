# %% [markdown]
# # 0. Ten minutes with llmbrain
#
# A small language model reads some text. We record its neurons as if they were voxels, find networks with ICA, silence one of them, and make
# the model smaller. Every step is one call, and the amounts are so small that a laptop needs a few minutes. The other notebooks take the same steps one by one.

# %%
import os

import llmbrain as lb
from llmbrain.lesions import LossTask
from llmbrain.plotting import plot_lesion_effects, plot_network_maps, plot_time_courses

quick = bool(os.environ.get("LLMBRAIN_QUICK"))  # smaller amounts, for tests of this notebook
model, tokenizer = lb.load_model("demo")  # SmolLM2-135M-Instruct; a hub id, a folder or a .gguf file work as well
text, held_out = lb.load_corpus("demo"), lb.load_corpus("demo", split="heldout")
text

# %% [markdown]
# ## Record
# Every token is one volume of a 4D NIfTI file, every neuron one voxel. The files follow BIDS, so other tools can read them.

# %%
recording = lb.record(model, tokenizer, text, out="ten-minutes", max_tokens=400 if quick else 3000, progress=False)
recording

# %% [markdown]
# ## Networks
# `CanICA` is nilearn's estimator with defaults that suit neurons. A network is a map over all neurons, and a time course over all tokens.

# %%
networks = lb.CanICA(n_components=4 if quick else 8, n_init=3, random_state=0).fit(recording).networks_
figure = plot_network_maps(networks)

# %% [markdown]
# What does each network do at the words of the text?

# %%
courses = networks.time_courses[0]
figure = plot_time_courses(courses, recording[0].events, tokens=(0, 60))

# %% [markdown]
# ## Lesion
# A mask is a set of neurons. Inside the `with` block they are silent, and afterwards the model is as before.

# %%
masks = [mask for mask in networks.masks(threshold=3.0) if mask.count][:2]
intact = lb.perplexity(model, tokenizer, held_out, max_tokens=150)
with lb.lesion(model, masks[0]):
    lesioned = lb.perplexity(model, tokenizer, held_out, max_tokens=150)
print(f"{masks[0]}\nperplexity {intact:.1f} intact, {lesioned:.1f} without it")

# %% [markdown]
# Silencing neurons always does some harm. Is it more than silencing as many equally important neurons of the same layers?

# %%
task = LossTask(held_out, max_tokens=130, passage=64, by_kind=False)
study = lb.LesionStudy(masks, [task], n_controls=3 if quick else 8, controls=["layer+importance"], reference=recording)
result = study.run(model, tokenizer, progress=False)
figure = plot_lesion_effects(result)

# %%
print(result.summary())

# %% [markdown]
# ## Prune
# Remove a fifth of the MLP neurons for good, and let the others make up for them by least squares.

# %%
pruned = lb.prune(
    model,
    tokenizer,
    text,
    ratio=0.2,
    recipe="fast",
    allocation="power",
    options={"max_tokens": 512, "context": 256},
    measure=False,
    progress=False,
)
smaller = lb.perplexity(pruned.model, tokenizer, held_out, max_tokens=150)
print(f"{pruned}\nperplexity {intact:.1f} before, {smaller:.1f} after")

# %% [markdown]
# The lesion silenced the neurons of one network; pruning chose its neurons so that little is lost, and refitted the others. What can be concluded from such numbers is the
# subject of [notebook 3](03_lesions.ipynb) and [notebook 4](04_pruning.ipynb): 130 tokens and a handful of controls prove nothing.
# `llmbrain run --out study` takes the same path with more of both, and writes a report.
