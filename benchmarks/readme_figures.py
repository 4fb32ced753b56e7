"""The two pictures of the README, from a finished study.

llmbrain run --out demo-study && python benchmarks/readme_figures.py demo-study
"""

import sys
from pathlib import Path

from llmbrain.dataset import Study
from llmbrain.lesions import LesionResult
from llmbrain.networks import NetworkSet
from llmbrain.plotting import plot_lesion_effects, plot_network_maps

study, out = Study.open(sys.argv[1]), Path("docs/images")
out.mkdir(parents=True, exist_ok=True)
plot_network_maps(
    NetworkSet.load(study),
    title="Twenty functional networks of SmolLM2-135M: layers x neurons, |z| > 3",
    output_file=out / "networks.png",
)
plot_lesion_effects(
    LesionResult.load(study),
    task="loss",
    family="layer+importance",
    title="Silencing a network, against sets matched by layer and importance",
    output_file=out / "lesions.png",
)
