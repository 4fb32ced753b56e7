"""
Network maps
============

Where networks lie: layers from bottom to top, neurons from left to right, and beside each map the share of every layer.
The networks were planted in twelve layers of 400 neurons, so the pictures can be checked.
"""

# %%
# A recording with known networks
# -------------------------------
# Six networks, each strongest in a different layer. Their loadings are heavy-tailed, as in language models.
import numpy as np

import llmbrain as lb
from llmbrain import plotting
from llmbrain.topography import fit_topography, loadings_from_maps

rng = np.random.default_rng(0)
geometry = lb.NeuronGeometry.from_sizes([400] * 12)
centre = np.array([1, 3, 5, 7, 9, 10])
in_layer = np.exp(-0.5 * ((geometry.layer_of - centre[:, None]) / 1.2) ** 2)
planted = in_layer * rng.laplace(size=(6, geometry.n_neurons)) * (rng.random((6, geometry.n_neurons)) < 0.12)


def run(n_tokens=300):
    """Activations (n_tokens, n_neurons): networks that are active now and then, and noise."""
    courses = rng.laplace(size=(n_tokens, 6)) ** 3
    return courses @ planted + 3 * rng.normal(size=(n_tokens, geometry.n_neurons))


first, second = run(), run()
canica = lb.CanICA(n_components=6, geometry=geometry, n_init=3, random_state=0).fit([second])
canica.networks_.metrics[["network", "n_neurons", "peak_layer", "stability"]]

# %%
# All networks
# ------------
figure = plotting.plot_network_maps(canica)

# %%
# One network
# -----------
# The sheet of every layer. Neighbours on a sheet have nothing in common, so the network shows as dots, not as blobs.
figure = plotting.plot_network_map(canica, 0)

# %%
# A display order
# ---------------
# For display, similar neurons can be placed side by side within each layer. The order comes from the activity in the
# *first* run and the maps from the *second*, so the sorting alone cannot have produced the clusters.
order = fit_topography(loadings_from_maps(first, canica.components_), geometry, source="the other run")
figure = plotting.plot_atlas(canica, topography=order)

# %%
figure = plotting.plot_network_map(canica, 0, topography=order)

# %%
# Where in depth
# --------------
figure = plotting.plot_layer_profiles(canica)

# %%
# nilearn's own pictures
# ----------------------
# A probabilistic atlas over some layers, without a brain in the background.
display = plotting.plot_prob_atlas(canica, topography=order, layers=[1, 3, 5, 7, 9, 10])

# %%
# Contours need a display order, because scattered neurons have no outline.
display = plotting.plot_prob_atlas(canica, topography=order, layers=[1, 3, 5, 7, 9, 10], view_type="contours")

# %%
# Two checkpoints at a glance
# ---------------------------
# Both atlases show each neuron in the same place and matched networks in the same colour. The second is a later state
# of the model, in which two networks are gone and the others have drifted.
later = planted[[5, 1, 0, 3]] * rng.normal(1, 0.4, size=(4, geometry.n_neurons))
third = rng.laplace(size=(300, 4)) ** 3 @ later + 3 * rng.normal(size=(300, geometry.n_neurons))
canica_later = lb.CanICA(n_components=4, geometry=geometry, n_init=3, random_state=0).fit([third])
figure = plotting.plot_comparison(canica, canica_later, names=("step 1000", "step 2000"), topography=order)

# %%
plotting.view_map(canica, 0, topography=order)
