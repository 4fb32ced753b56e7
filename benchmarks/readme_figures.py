"""The two pictures of the README, from a finished study.

llmbrain run --out demo-study && python benchmarks/readme_figures.py demo-study
"""

import sys
from pathlib import Path

from llmbrain.dataset import Study
from llmbrain.lesions import LesionResult
from llmbrain.networks import NetworkSet
from llmbrain.plotting import plot_lesion_effects, plot_network_maps

FIRST = 10  # networks: two rows, so that both pictures fit the first screen

study, out = Study.open(sys.argv[1]), Path(__file__).parents[1] / "docs" / "images"
out.mkdir(parents=True, exist_ok=True)
networks = NetworkSet.load(study)
shown = NetworkSet(networks.maps[:FIRST], networks.geometry, networks.metrics[:FIRST])
plot_network_maps(
    shown,
    title=f"{FIRST} of {len(networks)} functional networks of SmolLM2-135M: layers (up) x neurons (across), |z| > 3",
    output_file=out / "networks.png",
)
plot_lesion_effects(
    LesionResult.load(study),
    task="loss",
    family="layer+importance",
    title="Each network silenced, against 20 sets of neurons matched by layer and importance",
    output_file=out / "lesions.png",
)
