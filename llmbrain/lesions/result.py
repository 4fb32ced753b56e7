"""Results of lesion studies: tables that can be saved and loaded."""

from dataclasses import dataclass, field

import pandas as pd

from ..dataset import open_result, write_result
from ..masks import CONTROLS
from .sources import derived_name, sources_of

_PARTS = {"table": "lesion_effects", "controls": "lesion_controls", "items": "lesion_items"}
FEW_ITEMS = 6  # a bootstrap of five documents has only 126 different outcomes
_TEXT = {"network": str, "task": str, "family": str, "item": str, "kind": str}


@dataclass(repr=False)
class LesionResult:
    """Effects of a lesion study.

    An effect is lesioned minus intact, with the sign chosen so that larger is worse (loss up, accuracy down).

    Parameters
    ----------
    table : pandas.DataFrame
        One row per network, task and control family: ``network, task, family, n_neurons, share, intact`` (value of
        the intact model, in the direction of the task), ``effect, ci_low, ci_high`` (bootstrap over items), ``n_items``
        (over which the effect is a mean), ``control_mean, control_sd, control_max, n_controls, z`` (distance from the
        controls in units of their standard deviation), ``p`` (permutation, one-sided by default), ``p_min`` (the
        smallest p that the number of controls allows), ``q`` (FDR over the networks of one task and family),
        ``p_pooled`` and ``q_pooled`` (the same against the controls of all networks, see
        :func:`llmbrain.lesions.comparison.pooled_p`).
    controls : pandas.DataFrame
        One row per control draw: ``network, task, family, draw, n_neurons, overlap`` (share of the control that is in
        the network), ``importance_ratio`` (summed importance relative to the network's), ``effect``.
    items : pandas.DataFrame
        One row per network and item: ``network, task, item, kind, weight, intact, effect``.
    info : dict
        Seeds, versions, texts, families, warnings, and the power of the design.
    """

    table: pd.DataFrame
    controls: pd.DataFrame
    items: pd.DataFrame
    info: dict = field(default_factory=dict)

    def __repr__(self):
        families, n = list(dict.fromkeys(self.table["family"])), len(self.networks)
        return (
            f"LesionResult({n} {self.what}{'' if n == 1 else 's'} on {', '.join(self.tasks[:3])}"
            f"{', ...' if len(self.tasks) > 3 else ''}; {self.info.get('n_controls', 'some')} controls by "
            f"{', '.join(families)})"
        )

    @property
    def what(self):
        """What was lesioned: ``"network"``, or ``"mask"`` if no set of neurons comes from a network."""
        return "mask" if self.info.get("networks") == [] else "network"

    @property
    def networks(self):
        """Names of the networks, in order."""
        return list(dict.fromkeys(self.table["network"]))

    @property
    def tasks(self):
        """Names of the tasks, in order."""
        return list(dict.fromkeys(self.table["task"]))

    def matrix(self, value="effect", family=None):
        """Return one column of the table as a data frame of networks by tasks, e.g. ``matrix("z")``."""
        family = family or self.table["family"].iloc[0]
        table = self.table[self.table["family"] == family]
        return table.pivot(index="network", columns="task", values=value).loc[self.networks, self.tasks]

    def n_tokens(self, task=None):
        """Return the number of tokens over which the effects of a task are means; None for tasks without tokens."""
        task = task or self.tasks[0]
        known = self.info.get("tasks", {}).get(task.partition(":")[0], {})
        if self.items is None or not str(known.get("unit", "")).endswith("per token"):
            return None
        items = self.items[(self.items["task"] == task) & (self.items["network"] == self.networks[0])]
        return int(items["weight"].sum())

    def measured_on(self, task=None):
        """Say how much was read for a task, such as ``"1,080 tokens of 12 items; intact 3.21 nats per token"``."""
        task = task or self.tasks[0]
        row = self.table[self.table["task"] == task].iloc[0]
        unit = str(self.info.get("tasks", {}).get(task.partition(":")[0], {}).get("unit", ""))
        tokens, items = self.n_tokens(task), row.get("n_items")
        read = "" if tokens is None else f"{tokens:,} tokens"
        if items == items and items is not None:
            read += f"{' of ' if read else ''}{int(items)} item{'' if items == 1 else 's'}"
        intact = row.get("intact")
        return "; ".join(
            [part for part in (read, "" if intact is None else f"intact {intact:.3g} {unit}".rstrip()) if part]
        )

    def summary(self, n_rows=8):
        """Summarise the result in a few lines of text; the ``n_rows`` largest effects are listed."""
        lines = []
        main = self.table[self.table["task"] == self.tasks[0]]
        lines.append(f"{self.tasks[0]}: {self.measured_on() or 'amount of text unknown'}.")
        for family, rows in main.groupby("family", sort=False):
            above = int((rows["effect"] > rows["control_max"]).sum())
            found, pooled = (int((rows[column] < 0.05).sum()) for column in ("q", "q_pooled"))
            lines.append(
                f"{family}: {above} of {len(rows)} {self.what}s do more harm than each of their "
                f"{rows['n_controls'].max()} controls; {found} have q < 0.05, "
                f"{pooled} with controls pooled over {self.what}s."
            )
        lines += self._largest(main, n_rows)
        lines.append(self.info.get("power", {}).get("note", ""))
        lines.append(self._few_items())
        lines += self._overlaps(self.tasks[0])
        lines += self.info.get("warnings", [])
        return "\n".join(line for line in lines if line)

    def _largest(self, rows, n):
        """One line for each of the largest effects, against the controls of the first family."""
        rows = rows[rows["family"] == rows["family"].iloc[0]].sort_values("effect", ascending=False, kind="stable")
        width = max(map(len, rows["network"]))
        lines = [
            f"  {row.network:<{width}}  {row.effect:+.3f}{_interval(row)}, "
            f"controls up to {row.control_max:+.3f}, p {row.p:.3f}, q {row.q:.3f}"
            for row in rows.head(n).itertuples()
        ]
        return lines + ([f"  and {len(rows) - n} more"] if len(rows) > n else [])

    def _few_items(self):
        if "n_items" not in self.table:
            return ""
        n_items = self.table.groupby("task", sort=False)["n_items"].min()
        few = [f"{task} ({n})" for task, n in n_items[n_items < FEW_ITEMS].items()]
        return f"Intervals over fewer than {FEW_ITEMS} items are unreliable: {', '.join(few)}." if few else ""

    def _overlaps(self, task):
        """Name the masks whose controls should be other neurons but are mostly their own, in one line per family."""
        lines = []
        if self.controls is None or "overlap" not in self.controls:
            return lines
        for family, rows in self.controls[self.controls["task"] == task].groupby("family", sort=False):
            base = family.partition("+")[0]
            other = base in CONTROLS and CONTROLS[base].random and not CONTROLS[base].shared
            shares = rows.groupby("network", sort=False)["overlap"].mean()
            large = [f"{name} ({share:.0%})" for name, share in shares[shares > 0.5].items()]
            if other and large:
                lines.append(
                    f"Controls by {family} are mostly the lesioned neurons themselves: {', '.join(large)}. There are "
                    "too few others; use another family, such as controls=['random'] (--control random)."
                )
        return lines

    # -- files ----------------------------------------------------------------------------------------------------
    def save(self, study, name=None, *, settings=None):
        """Write the tables (TSV) and the description (JSON) as one result.

        Parameters
        ----------
        study : Study or path-like
            A study of :mod:`llmbrain.dataset`, or a plain folder.
        name : str, optional
            Label in the file names. In a study, by default the name of the networks that were lesioned, or
            ``lesion`` if the study does not hold them.
        settings : dict, optional
            Settings by which a station recognises its own result, see :func:`llmbrain.dataset.is_done`.

        Returns
        -------
        list of pathlib.Path
            Of the files.
        """
        name = name or derived_name(study, self.info, "lesion")
        parts = {kind: getattr(self, part) for part, kind in _PARTS.items()}
        sources = sources_of(self.info, study)
        return write_result(study, "lesions", name, parts, self.info, sources=sources, settings=settings).paths

    @classmethod
    def load(cls, study, name=None):
        """Read what :meth:`save` wrote, and check that the files belong together.

        Parameters
        ----------
        study : Study or path-like
        name : str, optional
            Needed if a study holds several lesion studies.

        Warns
        -----
        StaleResultWarning
            If the study's networks, or the recording, are not those of the lesions any more.
        """
        return cls.of_result(open_result(study, "lesions", name).warn_if_stale())

    @classmethod
    def of_result(cls, result):
        """Read an open result."""
        frames = {part: result.read(kind, dtype=_TEXT) for part, kind in _PARTS.items()}
        frames["items"]["kind"] = kinds_or_none(frames["items"]["kind"])
        return cls(**frames, info=result.info)


def kinds_or_none(kinds):
    """Return a column of texts with None for gaps, which pandas versions represent differently."""
    kinds = kinds.astype(object)
    return kinds.where(kinds.notna(), None)


def _interval(row):
    """The interval of an effect in brackets; nothing for an effect on a single item, which has none."""
    return "" if pd.isna(row.ci_low) else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
