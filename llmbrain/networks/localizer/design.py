"""Items of a localizer, their mean activations, and design matrices."""

import numpy as np

from ...exceptions import ParameterError


def choose_tokens(frame, contrast):
    """Select the rows of the two conditions in the events of a run, without sinks, and add their place in the run."""
    missing = {"document", "kind"} - set(frame.columns)
    if missing:
        raise ParameterError(f"The events lack the columns {sorted(missing)}.")
    keep = frame["kind"].isin(contrast)
    if "sink" in frame:
        keep &= frame["sink"].fillna(0) == 0
    return frame.assign(row=np.arange(len(frame)))[keep]


def item_table(frames):
    """Table of the items in frames of :func:`choose_tokens`: item, condition, run, n_tokens, log_length."""
    import pandas as pd

    tables = []
    for run, frame in enumerate(frames):
        grouped = frame.groupby("document", sort=False)
        table = pd.DataFrame({"condition": grouped["kind"].first(), "n_tokens": grouped.size()})
        tables.append(table.rename_axis("item").reset_index().assign(run=run))
    items = pd.concat(tables, ignore_index=True)
    return items.assign(log_length=np.log(items["n_tokens"]))


def check_conditions(items, contrast):
    """Check that each condition of a contrast has at least two items."""
    counts = items["condition"].value_counts()
    for condition in contrast:
        if counts.get(condition, 0) < 2:
            raise ParameterError(
                f"The condition {condition!r} has {counts.get(condition, 0)} items; at least 2 are needed. "
                f"Conditions in the events: {sorted(counts.index)}."
            )


def item_means(runs, frames, items, magnitude=False):
    """Mean (absolute) activation of every item, (n_items, n_neurons) float32, from arrays or Run objects."""
    means = []
    for run, frame in zip(runs, frames):
        for _, rows in frame.groupby("document", sort=False):
            means.append(read_tokens(run, rows, magnitude).mean(axis=0, dtype=np.float64))
    if len(means) != len(items):
        raise ParameterError(f"The table has {len(items)} items, the events {len(means)}; they must be the same.")
    return np.array(means, dtype=np.float32)


def read_tokens(run, rows, magnitude):
    """(Absolute) activations of a run, an array or a Run, at the tokens in the column ``row`` of a table."""
    index = rows["row"].to_numpy()
    start = int(index[0])
    if hasattr(run, "to_array"):
        x = run.to_array(start, int(index[-1]) + 1)[index - start]
    else:
        x = np.asarray(run)[index]
    return np.abs(x) if magnitude else x


def item_design(items, frames, contrast, covariates=None, pairs=None):
    """Design of an item model: the contrast (+-1/2) first, then constants of runs, covariates, pairs."""
    import pandas as pd

    events = pd.concat(frames, ignore_index=True)
    columns = {"contrast": np.where(items["condition"] == contrast[0], 0.5, -0.5)}
    for name in ("log_length",) if covariates is None else covariates:
        if name in items:
            columns[name] = items[name].to_numpy(np.float64)
        elif name in events:
            run = np.repeat(np.arange(len(frames)), [len(f) for f in frames])
            mean = events.groupby([run, events["document"]])[name].mean()
            columns[name] = mean.loc[list(zip(items["run"], items["item"]))].to_numpy(np.float64)
        else:
            raise ParameterError(f"covariate {name!r} is neither in the events nor a property of items.")
    groups = {"run": items["run"].astype(str)}
    if pairs is not None:
        groups["pair"] = items["item"].map(pairs).astype(str)
    return _full_rank(pd.DataFrame(columns), groups)


def token_design(frames, contrast, covariates=None):
    """Design of a token model: the contrast (+-1/2) first, then constants of runs and covariates."""
    import pandas as pd

    events = pd.concat(frames, ignore_index=True)
    columns = {"contrast": np.where(events["kind"] == contrast[0], 0.5, -0.5)}
    if covariates is None:
        covariates = ("log_position",) if "position" in events else ()
    for name in covariates:
        if name == "log_position" and name not in events:
            columns[name] = np.log1p(events["position"].to_numpy(np.float64))
        elif name in events:
            column = pd.to_numeric(events[name], errors="coerce")
            columns[name] = column.fillna(column.mean()).to_numpy(np.float64)
        else:
            raise ParameterError(f"covariate {name!r} is not a column of the events.")
    run = np.repeat(np.arange(len(frames)), [len(f) for f in frames]).astype(str)
    return _full_rank(pd.DataFrame(columns), {"run": pd.Series(run)})


def _full_rank(table, groups):
    """Add a constant and the indicators of groups, without columns that others explain already."""
    table.insert(1, "constant", 1.0)
    for name in [c for c in table.columns if c not in ("contrast", "constant")]:
        spread = table[name].std(ddof=0)
        table[name] = (table[name] - table[name].mean()) / (spread if spread > 0 else 1.0)
    for kind, labels in groups.items():
        for label in sorted(labels.unique())[1:]:
            table[f"{kind}:{label}"] = (labels == label).to_numpy(np.float64)
    nuisance = [c for c in table.columns if c != "contrast"]
    kept, rank = [], 0
    for name in nuisance:
        new = np.linalg.matrix_rank(table[[*kept, name]].to_numpy())
        if new > rank:
            kept, rank = [*kept, name], new
    out = table[["contrast", *kept]]
    if np.linalg.matrix_rank(out.to_numpy()) == rank:
        raise ParameterError(
            "The contrast is confounded with runs, pairs or covariates. Record both conditions in the same runs, or "
            "remove the covariate that separates them."
        )
    if len(out) <= out.shape[1]:
        raise ParameterError(
            f"{len(out)} observations are too few for a design of {out.shape[1]} columns; record more items."
        )
    return out
