"""
Activity over tokens
====================

A recording and its networks over the words of a text.
"""

# %%
# A text that drives three networks
# ---------------------------------
# One network responds to numbers, one to names, and one slowly follows the position in the text.
import numpy as np
import pandas as pd

import llmbrain as lb
from llmbrain import plotting

text = (
    "Ada bought 12 apples and 7 pears at the market . Ben had brought 40 coins , but Ada paid 19 of them and kept 3 . "
    "On the way home it rained . Ada and Ben waited under a bridge , counted 5 boats , and ate 2 pears each . "
    "When the rain stopped , Ben carried the bag . There were 12 apples in it still , and 3 pears ."
)
tokens = text.split(" ")
events = pd.DataFrame({"token": [f" {token}" for token in tokens], "position": np.arange(len(tokens)), "kind": "story"})

rng = np.random.default_rng(0)
geometry = lb.NeuronGeometry.from_sizes([300] * 8)
planted = rng.laplace(size=(3, geometry.n_neurons)) * (rng.random((3, geometry.n_neurons)) < 0.1)
drive = np.stack(
    [
        [token.isdigit() for token in tokens],
        [token in ("Ada", "Ben") for token in tokens],
        np.linspace(-0.8, 0.8, len(tokens)),
    ],
    axis=1,
)
activity = (3 * drive + 0.3 * rng.normal(size=drive.shape)) @ planted + 0.7 * rng.normal(
    size=(len(tokens), geometry.n_neurons)
)
canica = lb.CanICA(n_components=3, geometry=geometry, n_init=3, random_state=0).fit([activity])
courses = canica.networks_.time_courses[0]

# %%
# The carpet
# ----------
# All neurons over all tokens. Sorted by layer, the carpet looks like noise; sorted by network, it shows bands.
figure = plotting.plot_carpet(activity, geometry=geometry, events=events, order="layer")

# %%
figure = plotting.plot_carpet(activity, canica, geometry, events=events)

# %%
# Time courses
# ------------
figure = plotting.plot_time_courses(courses, events)

# %%
# Quality of the tokens
# ---------------------
# How active all neurons are at every token, and how much they change from the token before.
z = (activity - activity.mean(axis=0)) / activity.std(axis=0)
quality = pd.DataFrame({"activity": np.sqrt((z**2).mean(axis=1))})
quality["change"] = np.r_[np.nan, np.sqrt((np.diff(z, axis=0) ** 2).mean(axis=1))]
quality["outlying"] = quality["activity"] > 1.5 * quality["activity"].median()
figure = plotting.plot_token_quality(quality)

# %%
# The words
# ---------
# Each word is shaded by the activity of a network: as a figure, and as HTML for a page or a notebook.
z = (courses - courses.mean(axis=0)) / courses.std(axis=0)
numbers = int(np.argmax([abs(np.corrcoef(course, drive[:, 0])[0, 1]) for course in z.T]))
figure = plotting.plot_words(events["token"], z[:, numbers], title=f"Network {numbers}")

# %%


class Page:
    """An object that a notebook shows as HTML."""

    def _repr_html_(self):
        return f"<div style='white-space: pre-wrap'>{plotting.words_html(events['token'], z[:, numbers])}</div>"


Page()
