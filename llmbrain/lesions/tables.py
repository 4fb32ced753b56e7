"""Tables and description of a lesion study, from the values that were measured."""

import numpy as np
import pandas as pd

from .. import __version__
from ..masks.controls import other_networks, overlap_share
from ..models.identity import describe_model
from .comparison import effects_table, mean_over_items, power_note
from .result import LesionResult, kinds_or_none
from .sources import describe_reference, lesioned_networks, public

CONTROL_COLUMNS = ["network", "task", "family", "draw", "n_neurons", "overlap", "importance_ratio", "effect"]


def study_result(design, values):
    """Make the :class:`LesionResult` of a study.

    ``values`` holds one array ``(1 + n_conditions, n_items)`` per task; row 0 is the intact model.
    """
    networks = pd.DataFrame([{"network": m.name, "n_neurons": m.count, "share": m.share} for m in design.masks])
    items, draws = _items(design, values), _draws(design, values)
    table = effects_table(networks, items, draws, design.alternative, **design.bootstrap)
    return LesionResult(table, draws, items, _describe(design))


def _items(design, values):
    """One row per network, task group and item; see :attr:`LesionResult.items`."""
    frames = []
    for task, value in zip(design.tasks, values):
        for label, members in task.groups.items():
            # the group of unread answers counts them, so the direction of the task does not apply to it
            sign = task.sign if label == task.name else 1.0
            for k, mask in enumerate(design.masks):
                columns = {
                    "network": mask.name,
                    "task": label,
                    "item": [task.items[i] for i in members],
                    "kind": [task.kinds[i] for i in members],
                    "weight": task.weights[members],
                    "intact": value[0, members] * sign,
                    "effect": value[1 + k, members] - value[0, members],
                }
                frames.append(pd.DataFrame(columns))
    items = pd.concat(frames, ignore_index=True)
    items["kind"] = kinds_or_none(items["kind"])
    return items


def _draws(design, values):
    """One row per network, task group, family and draw; see :attr:`LesionResult.controls`."""
    facts = [_facts(design, condition) for condition in design.conditions]
    rows = []
    for task, value in zip(design.tasks, values):
        for label, members in task.groups.items():
            means = mean_over_items(value[1:, members] - value[0, members], task.weights[members])
            rows += [{**fact, "task": label, "effect": mean} for mean, fact in zip(means, facts) if fact]
            rows += _other_networks(design, label, means)
    return pd.DataFrame(rows, columns=CONTROL_COLUMNS)


def _facts(design, condition):
    """Size, overlap and importance of a control, relative to its network; None for a network."""
    if condition.family is None:
        return None
    network, control, importance = design.masks[condition.network], condition.mask, design.importance(condition.family)
    if importance is None and design.statistics is not None:
        importance = design.statistics.importance()
    ratio = np.nan
    if importance is not None:
        own = importance[network.values].sum()
        ratio = float(importance[control.values].sum() / own) if own else np.nan
    return {**_described(network, control, condition.family, condition.draw), "importance_ratio": ratio}


def _described(network, control, family, draw):
    return {
        "network": network.name,
        "family": family.label,
        "draw": draw,
        "n_neurons": control.count,
        "overlap": overlap_share(network.values, control.values),
    }


def _other_networks(design, label, means):
    """Rows of the control families whose sets are the other networks of the study."""
    rows = []
    for family in design.families:
        if "networks" not in family.member.needs:
            continue
        for k, mask in enumerate(design.masks):
            for draw, j in enumerate(other_networks(design.masks, k)):
                known = {"task": label, "importance_ratio": np.nan, "effect": means[j]}
                rows.append(_described(mask, design.masks[j], family, draw) | known)
    return rows


def _describe(design):
    """What the sidecar of a :class:`LesionResult` contains."""
    options, study = design.options, design.study
    drawn = any(family.member.random for family in design.families)
    networks = lesioned_networks(design.masks)
    what = "network" if networks else "mask"
    n_controls = study.n_controls if drawn else len(design.masks) - 1
    return {
        "llmbrain": __version__,
        "model": describe_model(design.model),
        "geometry": design.geometry.to_dict(),
        "networks": networks,
        "lesion": {
            "how": study.how,
            "value": options.value if np.ndim(options.value) == 0 else "one value per neuron",
            "strength": options.strength,
            "positions": _position_name(options.positions),
        },
        "families": {f.label: f.description for f in design.families},
        "n_controls": int(study.n_controls),
        "alternative": design.alternative,
        "interval": {"level": options.level, "n_bootstrap": options.n_bootstrap, "over": "items"},
        "correction": "FDR (Benjamini-Hochberg) over the networks of one task and family",
        "random_state": design.seed,
        "tasks": {t.name: {"unit": t.unit, "n_items": len(t.items), **public(t.info)} for t in design.tasks},
        "reference": describe_reference(design.statistics),
        "double_dipping_checked": design.checked,
        "power": power_note(n_controls, len(design.masks), alternative=design.alternative, what=what),
        "mode": design.scorer.mode,
        "autocast": design.scorer.autocast,
        "counts_per_layer": {m.name: m.counts_per_layer.tolist() for m in design.masks},
    }


def _position_name(positions):
    if isinstance(positions, str):
        return positions
    if callable(positions):
        return getattr(positions, "__name__", "a rule on token ids")
    return f"tokens {', '.join(map(str, positions))}"
