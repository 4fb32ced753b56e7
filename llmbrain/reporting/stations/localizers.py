"""Localizers: where each contrast lies, and which networks it overlaps."""

from dataclasses import dataclass, field

import numpy as np

from ...exceptions import DatasetError, LLMBrainError
from ...geometry import NeuronGeometry
from ...masks import NeuronMask
from ...networks.localizer.localize import localizer_overlap
from ...plotting.sheets import as_maps
from ..graphics import MapPainter, profile_svg
from ..page import note, page_of, render
from ..station import STATIONS, Station
from ..tables import html_table, number

N_DRAWS = 99  # of permuted neurons, for the overlap of a localizer with networks
LEVEL_Z = 3.0  # |z| above which a localizer's neurons are painted
OVERLAP = {
    "network": "network", "n_both": "neurons in both", "dice": "Dice", "of_network": "share of the network",
    "enrichment": "times chance", "q": "q", "r": "r of maps",
}  # fmt: skip


@dataclass
class Localizer:
    """A contrast of two conditions at every neuron, as its files hold it."""

    name: str
    z: np.ndarray
    selected: np.ndarray
    geometry: NeuronGeometry
    info: dict = field(default_factory=dict)

    @property
    def contrast(self):
        """The two conditions; the name in the files if the description is missing."""
        return tuple(self.info.get("contrast") or (self.name, "the rest"))


@STATIONS.register("localizers", title="Localizers", place=90)
class Localizers(Station):
    """A list of localizers."""

    what = "localizers"

    def read(self, study, report):
        found = []
        for result in report.current("localizer", "localizer"):
            try:
                found.append(_read(result, report.geometry))
            except (LLMBrainError, ValueError, OSError) as error:
                report.lacks(f"The localizer {result.name} cannot be read: {error}")
        return found or None

    def section(self, report, result):
        text = (
            "A contrast shows which neurons respond, not which ones matter; only a lesion shows that. The units of "
            "inference are items (a sentence, a function), at a false discovery rate of 5 %."
        )
        return note(text) + "".join(_card(report, one, i) for i, one in enumerate(result))

    def methods(self, report, result, cite):
        what = "; ".join(" against ".join(found.contrast) for found in result)
        unit = next((found.info["unit"] for found in result if found.info.get("unit")), "item")
        return (
            f"Localizers{cite('fedorenko2010localizer', 'alkhamissi2025localizer')} contrasted {what} at every neuron "
            f"with a general linear model, with the {unit} as the unit of inference and a false discovery rate of 5 %"
            f"{cite('benjamini1995fdr')}. Their overlap with networks was compared with neurons permuted within layers."
        )


def _read(result, geometry):
    info = result.info
    geometry = NeuronGeometry.from_dict(info["geometry"]) if "geometry" in info else geometry
    if geometry is None:
        raise DatasetError("its geometry is unknown. Save it again, or keep it beside its recording.")
    z, selected = geometry.to_array(result.path("statmap")), np.zeros(geometry.n_neurons, bool)
    if result.has("localizer_mask"):
        selected = NeuronMask.load(result.path("localizer_mask")).values
    return Localizer(result.name, np.nan_to_num(z), selected, geometry, info)


def _card(report, found, i):
    geometry, order = found.geometry, report.shown_order
    painter = MapPainter(geometry, None if order is None or order.geometry != geometry else order, LEVEL_Z)
    first, second = found.contrast
    more, less = (found.selected & (found.z * sign > 0) for sign in (1, -1))
    facts = [
        (f"more in {name}", f"{number(int(side.sum()))} neurons ({number(float(side.mean()), 'share')})")
        for name, side in ((first, more), (second, less))
    ]
    items = found.info.get("n_items") or {}
    if items:
        facts.append(("items", ", ".join(f"{number(n)} of {name}" for name, n in items.items())))
    named = {"unit": "unit of inference", "noise_model": "noise model"}
    facts += [(label, str(found.info[key])) for key, label in named.items() if found.info.get(key)]
    shares = [np.array([part.mean() for part in geometry.split(side.astype(float))]) for side in (more, less)]
    what, n = f"{first} against {second}", int(found.selected.sum())
    return render(
        "localizer.html", id=f"localizer-{i}", title=what, facts=facts, map=painter.paint(found.z),
        alt=f"Map of {what}: {n} neurons selected over {geometry.n_layers} layers.", labels=painter.labels(),
        width=painter.width, height=painter.height, threshold=LEVEL_Z, first=first, second=second,
        note=painter.note,
        profile=profile_svg(*shares, geometry.layers, f"Share of each layer that tells {first} from {second}"),
        overlap=_overlap(report["networks"], found),
    )  # fmt: skip


def _overlap(networks, found):
    """The networks by their similarity to a localizer, with a test of the overlap."""
    if networks is None or networks.geometry != found.geometry or not found.selected.any():
        return ""
    z, geometry = as_maps(networks.networks)
    masks = np.abs(z) > networks.threshold
    table = localizer_overlap(
        found.selected, found.z, z, masks, layer_of=geometry.layer_of, n_draws=N_DRAWS, random_state=0
    )
    table = table.sort_values("r", key=lambda r: -r.abs(), kind="stable")
    caption = "Overlap with the networks, compared with neurons permuted within layers; bold: q < 0.05"
    strong = (table["q"] < 0.05).to_numpy()
    return html_table(table, caption, list(OVERLAP), labels=OVERLAP, link=("network", page_of), emphasis=strong)
