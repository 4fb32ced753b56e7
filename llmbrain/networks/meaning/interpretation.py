"""What a network is about: the tokens and contexts that drive it, correlates of its course, a candidate name.

Names are suggestions; look at the contexts. Artefacts are more reliable: a component that follows the position in the
text, or depends on attention sinks or a handful of tokens, is the counterpart of head motion.
"""

from dataclasses import dataclass

import numpy as np

from ...arguments import checked, count
from ...exceptions import ParameterError
from ...stats import permutation_p
from ..engines.progress import track
from .labels import candidate_name, engaged_side
from .token_classes import classify_tokens, token_regressors

POSITION_SHARE = 0.25  # of a course's variance, explained by position, from which it is an artefact of position
SINK_SHARE = 0.5  # of a course's energy, on attention sinks, from which it is an artefact of sinks
FEW_SHARE = 0.5  # of a course's energy, on its largest 0.2 % of tokens, from which it is an artefact of few tokens


@dataclass(frozen=True)
class Interpretation:
    """Tokens, contexts and regressors that drive each network.

    Parameters
    ----------
    table : DataFrame
        One row per network: network; label (a candidate name, see :mod:`llmbrain.networks.meaning.labels`); side (sign
        of the heavier tail of its course, on which it is engaged); artefact ("position", "sink", "few tokens" or "");
        position_r2, sink_share, few_share; r_log_frequency, r_surprisal; best (the regressor with the largest
        absolute correlation) and best_r; top_tokens (the strongest token types, as text).
    correlations : DataFrame
        Long: network, regressor, r, p, p_fwe; see :func:`correlate_events`.
    tokens : DataFrame
        Long: network, side (+1, -1), token, n (occurrences), mean (of the course, in standard deviations), t.
    contexts : DataFrame
        Long: network, side, rank, value (standard deviations), run, row, document, kind, before, token, after.
    """

    table: object
    correlations: object
    tokens: object
    contexts: object


@checked(width=count)
def interpret(time_courses, events, *, n_top=10, width=12, n_draws=199, random_state=0):
    """Describe networks by the tokens that drive them.

    Parameters
    ----------
    time_courses : list of arrays of shape (n_tokens, n_networks), or one array
        One per run.
    events : list of DataFrames, or one DataFrame with a column ``run``
        Descriptions of the tokens, in the same order.
    n_top : int
        Number of token types and contexts for each side of each network.
    width : int
        Tokens of context before and after.
    n_draws : int
        Circular shifts for the p-values of the correlations.
    random_state : int, numpy Generator or None

    Returns
    -------
    Interpretation

    Raises
    ------
    ParameterError
        If courses and events do not have the same runs and tokens.

    Examples
    --------
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> tokens = rng.choice([" the", " 7", ".", " cat"], 400)
    >>> course = (tokens == " 7")[:, None] + 0.3 * rng.standard_normal((400, 1))
    >>> found = interpret(course, pd.DataFrame({"token": tokens, "position": np.arange(400)}), n_draws=19)
    >>> found.table["label"][0], found.table["artefact"][0]
    ('fires at numbers', '')
    """
    import pandas as pd

    z, events, runs = align_events(time_courses, events)
    regressors = token_regressors(events)
    correlations = correlate_events(z, regressors, runs, n_draws=n_draws, random_state=random_state)
    tokens, contexts = top_tokens(z, events, n_top), top_contexts(z, events, runs, n_top, width)
    table = artefacts(z, events)
    wide = correlations.pivot(index="network", columns="regressor", values="r")
    for name in ("log_frequency", "surprisal"):
        table[f"r_{name}"] = wide[name].to_numpy() if name in wide else np.nan
    table["best"] = wide.abs().idxmax(axis=1).to_numpy()
    table["best_r"] = [wide.loc[k, name] for k, name in enumerate(table["best"])]
    table.insert(1, "side", engaged_side(z))
    table["top_tokens"] = [_listed(tokens, k, side) for k, side in zip(table["network"], table["side"])]
    whole = tokens[~tokens["token"].isin(_beginnings(events))]  # the beginning of a longer word is not a name
    table.insert(1, "label", [_name(row, correlations, whole) for _, row in table.iterrows()])
    return Interpretation(table, correlations, pd.DataFrame(tokens), pd.DataFrame(contexts))


def align_events(time_courses, events):
    """Check that courses and events fit each other; returns z-scored courses, events and the run of all tokens."""
    import pandas as pd

    courses = list(time_courses) if isinstance(time_courses, (list, tuple)) else [time_courses]
    courses = [np.asarray(c, dtype=np.float64) for c in courses]
    frames = list(events) if isinstance(events, (list, tuple)) else [events]
    if not courses or any(c.ndim != 2 for c in courses) or len({c.shape[1] for c in courses}) != 1:
        raise ParameterError("time_courses must be (n_tokens, n_networks), one array per run, of the same networks.")
    if not all(np.isfinite(c).all() for c in courses):
        raise ParameterError("The time courses hold NaN or infinite values. Remove those networks first.")
    lengths = [len(c) for c in courses]
    if len(frames) > 1 and [len(f) for f in frames] != lengths:
        raise ParameterError(f"Events need one row per token: {lengths} tokens, {[len(f) for f in frames]} rows.")
    events = pd.concat(frames, ignore_index=True)
    if len(events) != sum(lengths):
        raise ParameterError(f"Events need one row per token: {sum(lengths)} tokens, {len(events)} rows.")
    return _standardized(np.concatenate(courses)), events, np.repeat(np.arange(len(courses)), lengths)


def _standardized(courses):
    sd = courses.std(axis=0)
    return (courses - courses.mean(axis=0)) / np.where(sd > 0, sd, 1.0)


def correlate_events(z, regressors, runs, *, n_draws=199, random_state=0):
    """Correlate every course with every regressor, and test the correlations by circular shifts.

    Neighbouring tokens are not independent, so the courses are shifted around within each run instead of shuffled,
    which keeps both autocorrelations. Returns network, regressor, r, ``p`` (two-sided) and ``p_fwe``, corrected for all
    pairs by the largest correlation of each shift, in units of the pair's own spread under the null (Westfall & Young
    1993; an FDR would need thousands of shifts).
    """
    import pandas as pd

    rng = np.random.default_rng(random_state)
    x = regressors.to_numpy(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    z = _standardized(z)
    cuts = np.flatnonzero(np.diff(runs, prepend=runs[0] - 1))
    lengths = np.diff([*cuts, len(runs)])
    observed = z.T @ x / len(x)
    null = np.empty((n_draws, *observed.shape))
    for draw in track(range(n_draws), "Correlations by chance"):
        shifts = rng.integers(0, lengths)
        shifted = np.concatenate([np.roll(z[a : a + n], s, axis=0) for a, n, s in zip(cuts, lengths, shifts)])
        null[draw] = shifted.T @ x / len(x)
    p = permutation_p(observed, null, alternative="two-sided")
    # the observed draw is part of the scaling, like every other, so that the draws are exchangeable
    size = np.abs(np.concatenate([observed[None], null]))
    size /= np.maximum(np.sqrt((size**2).mean(axis=0)), 1e-300)
    largest = size[1:].max(axis=(1, 2))
    p_fwe = permutation_p(size[0], np.broadcast_to(largest[:, None, None], null.shape))
    networks, names = np.indices(observed.shape)
    return pd.DataFrame(
        {
            "network": networks.ravel(),
            "regressor": regressors.columns.to_numpy()[names.ravel()],
            "r": observed.ravel(),
            "p": p.ravel(),
            "p_fwe": p_fwe.ravel(),
        }
    )


def top_tokens(z, events, n_top=10):
    """Token types with the strongest effect on each course, on both sides: network, side, token, n, mean, t.

    Types with at least three occurrences are ranked by ``mean * sqrt(n)``, so that a rare token is not first
    because of one odd occurrence.
    """
    import pandas as pd

    names = events["token"].fillna("").astype(str).to_numpy(dtype=object) if "token" in events else []
    columns = ["network", "side", "token", "n", "mean", "t"]
    if not len(names):
        return pd.DataFrame(columns=columns)
    types, index = np.unique(names, return_inverse=True)
    counts = np.bincount(index)
    rows = []
    for k, course in enumerate(np.asarray(z).T):
        mean = np.bincount(index, weights=course) / counts
        score = np.where(counts >= min(3, counts.max()), mean * np.sqrt(counts), 0.0)
        for side in (1, -1):
            for i in np.argsort(-side * score, kind="stable")[:n_top]:
                if side * score[i] > 0:
                    rows.append((k, side, types[i], int(counts[i]), mean[i], score[i]))
    return pd.DataFrame(rows, columns=columns)


def top_contexts(z, events, runs, n_top=10, width=12):
    """Places in the text where each course is largest, on both sides; at most one within ``width`` tokens.

    Columns: network, side, rank, value, run (position), row (in all events), document, kind, before, token, after
    (``width`` tokens).
    """
    import pandas as pd

    names = events["token"].fillna("").astype(str).tolist() if "token" in events else [""] * len(events)
    document = events["document"].astype(str).tolist() if "document" in events else None
    kind = events["kind"].fillna("").astype(str).tolist() if "kind" in events else None
    place = list(zip(runs.tolist(), document or [""] * len(names)))
    rows = []
    for k, course in enumerate(np.asarray(z).T):
        for side in (1, -1):
            for rank, t in enumerate(_peaks(side * course, n_top, width)):
                before = "".join(names[i] for i in range(max(0, t - width), t) if place[i] == place[t])
                after = "".join(names[i] for i in range(t + 1, min(len(names), t + 1 + width)) if place[i] == place[t])
                rows.append(
                    {
                        "network": k, "side": side, "rank": rank, "value": course[t], "run": int(runs[t]), "row": t,
                        "document": document[t] if document else "", "kind": kind[t] if kind else "",
                        "before": before, "token": names[t], "after": after,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _peaks(course, n_top, width):
    """Indices of the largest positive values, none within `width` of a larger one."""
    taken = []
    for t in np.argsort(-course, kind="stable"):
        if course[t] <= 0 or len(taken) == n_top:
            break
        if all(abs(t - other) > width for other in taken):
            taken.append(int(t))
    return taken


def artefacts(z, events):
    """Find courses that follow the position, or depend on sinks or on a few tokens.

    Columns: network; artefact ("sink", "position", "few tokens", or ""); position_r2, the variance explained by
    position, its logarithm and being among the first tokens; sink_share and few_share, of the energy.
    """
    import pandas as pd

    z = np.asarray(z, dtype=np.float64)
    energy = z**2
    total = np.maximum(energy.sum(axis=0), 1e-300)
    n_few = max(1, round(0.002 * len(z)))
    few = np.sort(energy, axis=0)[-n_few:].sum(axis=0) / total
    sinks = _sinks(events)
    sink = energy[sinks].sum(axis=0) / total
    position = _position_r2(z, events)
    marks = np.where(few >= FEW_SHARE, "few tokens", "")
    marks = np.where(position >= POSITION_SHARE, "position", marks)
    # a large share is no artefact if sinks are a large share of the tokens
    marks = np.where((sink >= SINK_SHARE) & (sink > 5 * sinks.mean()), "sink", marks)
    return pd.DataFrame(
        {
            "network": np.arange(z.shape[1]),
            "artefact": marks,
            "position_r2": position,
            "sink_share": sink,
            "few_share": few,
        }
    )


def _sinks(events):
    for name in ("sink", "is_special"):
        if name in events:
            return events[name].fillna(0).to_numpy().astype(bool)
    if "position" in events:
        return events["position"].to_numpy() == 0
    return np.zeros(len(events), dtype=bool)


def _position_r2(z, events):
    if "position" not in events:
        return np.zeros(z.shape[1])
    position = events["position"].to_numpy(np.float64)
    design = np.column_stack([np.ones(len(z)), position, np.log1p(position), position <= 1, position <= 8])
    residual = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
    total = ((z - z.mean(axis=0)) ** 2).sum(axis=0)
    return 1.0 - (residual**2).sum(axis=0) / np.maximum(total, 1e-300)


def _listed(tokens, network, side):
    """The strongest token types of the engaged side, as text."""
    own = tokens[(tokens["network"] == network) & (tokens["side"] == side)]
    return " ".join(repr(t) for t in own["token"][:6])


def _beginnings(events):
    """Tokens after which the same word continues, in more than half of the places where they occur."""
    if "token" not in events:
        return []
    names = events["token"].fillna("").astype(str)
    goes_on = classify_tokens(names)["word_part"].shift(-1, fill_value=False)
    share = goes_on.astype(float).groupby(names.to_numpy()).mean()
    return share.index[share > 0.5]


def _name(row, correlations, tokens):
    """Candidate name of the network of a row of the table."""
    own = [frame[frame["network"] == row["network"]] for frame in (correlations, tokens)]
    return candidate_name(row["side"], row["artefact"], *own)
