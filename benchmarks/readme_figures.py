"""Draw the two pictures of the README from a finished study.

llmbrain run --out demo-study && python benchmarks/readme_figures.py demo-study
"""

import argparse
from pathlib import Path

from llmbrain.dataset import Study
from llmbrain.lesions import LesionResult
from llmbrain.networks import NetworkSet
from llmbrain.plotting import plot_lesion_effects, plot_network_maps

FIRST = 10  # networks: two rows, so that both pictures fit the first screen

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("study", help="folder of a finished study of the demo model")
parser.add_argument("--out", default=Path(__file__).parents[1] / "docs" / "images", help="folder of the pictures")
arguments = parser.parse_args()

study, out = Study.open(arguments.study), Path(arguments.out)
out.mkdir(parents=True, exist_ok=True)
networks, lesions = NetworkSet.load(study), LesionResult.load(study)
shown = NetworkSet(networks.maps[:FIRST], networks.geometry, networks.metrics[:FIRST])
plot_network_maps(
    shown,
    title=f"{len(shown)} of {len(networks)} networks of SmolLM2-135M: layers (up) x neurons (across), |z| > 3",
    output_file=out / "networks.png",
)
plot_lesion_effects(
    lesions,
    task="loss",
    family="layer+importance",
    title=f"Each network silenced, against {lesions.table['n_controls'].max()} sets of neurons matched by layer and "
    "importance",
    output_file=out / "lesions.png",
)
