"""Draw the picture of the README from a finished study.

llmbrain run --out demo-study && python benchmarks/readme_figures.py demo-study
"""

import argparse
from pathlib import Path

from llmbrain.dataset import Study
from llmbrain.networks import NetworkSet
from llmbrain.plotting import plot_network_maps

FIRST = 10  # networks: two rows, so that the picture fits the first screen

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("study", help="folder of a finished study of the demo model")
parser.add_argument("--out", default=Path(__file__).parents[1] / "docs" / "images", help="folder of the picture")
arguments = parser.parse_args()

out = Path(arguments.out)
out.mkdir(parents=True, exist_ok=True)
networks = NetworkSet.load(Study.open(arguments.study))
shown = NetworkSet(networks.maps[:FIRST], networks.geometry, networks.metrics[:FIRST])
plot_network_maps(
    shown,
    title=f"{len(shown)} of {len(networks)} networks of SmolLM2-135M: layers (up) x neurons (across), |z| > 3",
    output_file=out / "networks.png",
)
