"""The model: its name, size and hash."""

from ..page import render
from ..station import STATIONS, Station
from ..tables import number

FACTS = {
    "id": "name", "revision": "revision", "architecture": "architecture", "n_layers": "layers",
    "hidden_size": "hidden size", "n_parameters": "parameters", "dtype": "type of weights",
    "weights_hash": "hash of the weights",
}  # fmt: skip


@STATIONS.register("model", title="Model", place=20)
class Model(Station):
    """The model's description, a dict."""

    what = "model"

    def read(self, study, report):
        return study.info["model"] or None

    def section(self, report, result):
        known = {label: result.get(key) for key, label in FACTS.items()}
        facts = [(label, number(value)) for label, value in known.items() if value not in (None, "")]
        return render("facts.html", facts=facts) if facts else ""
