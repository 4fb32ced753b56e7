"""Dose and response: how effects grow with the dose of a lesion."""

from ... import plotting
from ...lesions import DoseResponse
from ..page import figure, page_of, render
from ..station import STATIONS, Station
from ..tables import html_table, with_intervals

CURVES_UP_TO = 16  # networks in one figure of curves
OVERS = {
    "strength": "strength of the lesion (0 intact, 1 silenced)", "gain": "gain (1 intact)",
    "threshold": "threshold |z| of the network", "n_neurons": "neurons lesioned",
}  # fmt: skip
COLUMNS = ("n_neurons", "effect", "interval", "control_mean", "control_max", "z", "p")


@STATIONS.register("doses", title="Dose and response", place=110, alone="dose and response", accepts="a dose response")
class Doses(Station):
    """A list of DoseResponse."""

    what = "dose and response"

    def read(self, study, report):
        return [DoseResponse.of_result(one) for one in report.current("doses", self.what)] or None

    def take(self, obj, report):
        return [obj] if isinstance(obj, DoseResponse) else None

    def section(self, report, result):
        return "".join(_dose(report, dose, i) for i, dose in enumerate(result))

    def methods(self, report, result, cite):
        texts = []
        for dose in result:
            over = str(dose.info.get("over", "strength")).replace("_", " ")
            doses = ", ".join(f"{d:g}" for d in dose.info.get("doses", []))
            text = f"Effects were measured over the {over} of the lesion{f' ({doses})' if doses else ''}"
            family = next(iter(dose.info.get("family") or {}), None)
            if dose.info.get("n_controls"):
                text += (
                    f", for networks and {dose.info['n_controls']} controls each{f' (“{family}”)' if family else ''}"
                )
            texts.append(text + ".")
        return " ".join(texts)


def _dose(report, dose, i):
    table, info = dose.table, dose.info
    over = info.get("over") or next((c for c in OVERS if c in table), "strength")
    axis, unit, task = over.replace("_", " "), info.get("unit") or "nats per token", info.get("task")
    names = list(dict.fromkeys(table["network"]))
    drawn = names[:CURVES_UP_TO]
    shown = table[table["network"].isin(drawn)]
    fig = plotting.plot_dose_response(shown, x=over, xlabel=OVERS.get(over, over), ylabel=f"harm ({unit})", title="")
    caption = f"Harm{f' on the task “{task}”' if task else ''} against the {axis} of the lesion"
    caption += ", with the 95 % interval of each network"
    if "control_low" in table:
        caption += f"; grey: 5 to 95 % of {info.get('n_controls', 'the')} controls per network"
    family = next(iter((info.get("family") or {}).items()), None)
    caption += f" ({family[0]}: {family[1]})." if family else "."
    if len(names) > len(drawn):
        caption += f" The figure shows the first {len(drawn)} of {len(names)} networks, the table all."
    alt = f"Curves of harm over {table[over].nunique()} doses for {len(drawn)} networks."
    html = figure(fig, f"fig-dose-{i}", caption, alt)
    rows = with_intervals(table)
    link = None if report["networks"] is None else ("network", page_of)
    inside = html_table(rows, f"Effects by {axis} ({unit}; larger is worse)", ("network", over, *COLUMNS), link=link)
    return html + render("details.html", title=f"Table ({len(rows)} rows)", inside=inside)
