"""The number of networks: how many are found again in the other half of the text."""

from ... import plotting
from ...networks.evidence.order import Order
from ..page import figure, render
from ..station import STATIONS, Station
from ..tables import html_table, number

CURVES = ("n_reproduced", "share", "mean_r")  # of each number of networks


@STATIONS.register(
    "order", title="How many networks", place=40, alone="number of networks", accepts="an order (choose_n_components)"
)
class OrderStation(Station):
    """A list of ``(analysis, curve, info)``."""

    what = "number of networks"

    def read(self, study, report):
        return [(one.name, one.read("order"), one.info) for one in report.current("order", self.what)] or None

    def take(self, obj, report):
        if not isinstance(obj, Order):
            return None
        return [("", obj.curve, {"n_components": obj.n_components, "parallel": obj.parallel, **obj.info})]

    def section(self, report, result):
        parts = []
        for i, (desc, curve, info) in enumerate(result):
            names = [c for c in CURVES if c in curve] or None
            columns = list(curve) if names is None else ["n_components", *names]
            fig = plotting.plot_order(curve[columns], chosen=info.get("n_components"), title="")
            caption = "Networks that are found again in the other half of the text, for each number of networks"
            caption += f" ({desc})" if desc else ""
            caption += f"; {number(info['n_components'])} were chosen." if info.get("n_components") else "."
            if info.get("parallel"):
                caption += (
                    f" Parallel analysis counts {number(info['parallel'])} directions above noise. This is not the "
                    "number of networks, because almost nothing in a language model is noise."
                )
            alt = f"Curves of reproducibility over {len(curve)} numbers of networks."
            parts.append(figure(fig, f"fig-order-{i}", caption, alt))
            inside = html_table(curve, "Reproducibility between halves")
            parts.append(render("details.html", title="Table", inside=inside))
        return "".join(parts)

    def methods(self, report, result, cite):
        known = [info for _, _, info in result if info.get("n_components")]
        if not known:
            return ""
        at = known[0].get("reproduced_at", 0.7)
        return (
            f"The number of networks was chosen from {len(result[0][1])} candidates: the number at which most networks "
            f"were found again in the other half of the text (absolute correlation at least {at:g}), provided that at "
            "least half of them were."
        )
