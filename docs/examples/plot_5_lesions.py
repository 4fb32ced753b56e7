"""
Lesions against controls
========================

A tiny model is trained for a few seconds on two kinds of text, sums and sentences (see ``docs/examples/_tiny.py``). Its
networks are silenced, and so are matched sets of other neurons. With so few neurons FastICA does not settle, and it says
so below.
"""

# %%
from _tiny import make_corpus, trained_model

import llmbrain as lb
from llmbrain import plotting
from llmbrain.lesions import LossTask, selectivity

model, tokenizer = trained_model()
train, test = make_corpus(random_state=2), make_corpus(random_state=3)
recording = lb.record(model, tokenizer, train, progress=False)
masks = lb.CanICA(n_components=4, n_init=3, random_state=0).fit(recording).masks(threshold=2.0)
[mask.count for mask in masks]

# %%
# The effect of each network
# --------------------------
# Each point is a network, with its interval over documents. The cloud behind it shows sets of other neurons in the same
# layers and of the same importance.
result = lb.LesionStudy(
    masks,
    tasks=[LossTask(test, context=96)],
    n_controls=79,
    controls=(("layer", "importance"), "random"),
    reference=recording,
    random_state=0,
).run(model, tokenizer, progress=False)
figure = plotting.plot_lesion_effects(result, family="layer+importance", task="loss")

# %%
# Which network for which text
# ----------------------------
figure = plotting.plot_selectivity(
    selectivity(result, family="layer+importance"), value="effect", label="change in loss"
)

# %%
# Dose and response
# -----------------
# The same networks, silenced step by step and then amplified. The band shows the effects of their controls.
strength = lb.LesionStudy(
    masks[:3], LossTask(test, context=96), n_controls=5, controls=["layer+importance"], reference=recording,
    options={"doses": "strength"},
).run(model, tokenizer, progress=False)  # fmt: skip
figure = plotting.plot_dose_response(strength.table)

# %%
gain = lb.LesionStudy(
    masks[:3], LossTask(test, context=96), n_controls=5, controls=["layer+importance"], reference=recording,
    options={"doses": "gain"},
).run(model, tokenizer, progress=False)  # fmt: skip
figure = plotting.plot_dose_response(gain.table, x="gain")
