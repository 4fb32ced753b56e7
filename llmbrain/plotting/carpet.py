"""Activity over tokens: carpets of neurons and time courses of networks, with the words under them."""

import numpy as np

from ..arguments import whole
from ..dataset import Run
from ..exceptions import GeometryMismatchError, ParameterError
from ..registry import Registry
from . import style as st
from .sheets import as_maps, network_names
from .text import axis_token

# Ways to sort the neurons: (networks, geometry, threshold) -> group of each neuron, order within a group, names and
# colours of the groups.
ORDERS = Registry("order")

WORDS_UP_TO = 90  # more tokens than this cannot be read under a page-wide axis


def carpet_rows(activity, groups, n_rows=360, order_within=None):
    """Pool the neurons of an activity ``(n_tokens, n_neurons)`` into about ``n_rows`` rows, group by group.

    Neurons of a negative group are left out; the others are sorted by ``order_within``, largest first. A group gets at
    least four rows, or one per neuron. Returns the mean z of each row, ``(rows, n_tokens)``, and for each group
    ``(group, first row, last row + 1)``.
    """
    labels, counts = np.unique(groups[groups >= 0], return_counts=True)
    if not len(labels):
        raise ParameterError("No neuron belongs to any group, so there is nothing to draw. Lower threshold=.")
    # Square roots give small networks a band that can be seen beside large ones.
    rows = np.minimum(np.maximum(4, n_rows * np.sqrt(counts) / np.sqrt(counts).sum()), counts).astype(int)
    pictures, bounds, start = [], [], 0
    for label, n in zip(labels, rows):
        members = np.flatnonzero(groups == label)
        if order_within is not None:
            members = members[np.argsort(-order_within[members], kind="stable")]
        x = np.asarray(activity[:, members], np.float32)
        x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
        edges = np.linspace(0, len(members), n + 1).astype(int)
        picture = np.add.reduceat(x, edges[:-1], axis=1) / np.diff(edges)
        pictures.append(picture.T)
        bounds.append((int(label), start, start + n))
        start += n
    return np.concatenate(pictures), bounds


@ORDERS.register("network")
def _by_network(networks, geometry, threshold):
    """Group neurons by the network they load on most; positive loadings come first."""
    if networks is None:
        raise ParameterError("order='network' needs networks=. Pass them, or use order='layer'.")
    z, _ = as_maps(networks, geometry)
    best = np.abs(z).argmax(axis=0)
    strength = z[best, np.arange(z.shape[1])]
    groups = np.where(np.abs(strength) > threshold, best, -1)
    return groups, strength, network_names(networks, len(z))[0], st.network_colors(len(z))


@ORDERS.register("layer")
def _by_layer(networks, geometry, threshold):
    """Group neurons by layer."""
    if geometry is None:
        raise ParameterError("order='layer' on an array needs geometry=.")
    return geometry.layer_of, None, geometry.layers, None


@st.figure
def plot_carpet(
    run, networks=None, geometry=None, *, tokens=None, events=None, order="network", threshold=3.0, title=None,
):  # fmt: skip
    """Draw the activity of neurons over tokens, sorted by network or layer, with the tokens below.

    Parameters
    ----------
    run : Run, or array of shape (n_tokens, n_neurons)
        Recorded activity.
    networks : NetworkSet, estimator or array of shape (n_networks, n_neurons), optional
        Needed for ``order="network"``: neurons are grouped by the network they load on most, positive loadings above
        negative ones; neurons of no network are left out.
    geometry : NeuronGeometry, optional
        Needed if ``run`` and ``networks`` are arrays.
    tokens : (int, int), optional
        First token and the one after the last.
    events : pandas.DataFrame, optional
        ``token`` and ``kind`` or ``document`` of each row of the whole run; by default those of ``run``.
    order : {"network", "layer"}
        How neurons are sorted.
    threshold : float
        ``|z|`` above which a neuron belongs to a network.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> rng = np.random.default_rng(0)
    >>> figure = plot_carpet(rng.normal(size=(40, 300)), rng.standard_t(3, size=(4, 300)),
    ...                      NeuronGeometry.from_sizes([100] * 3))
    """
    grouping = ORDERS[order]
    activity, events, geometry, start = _activity(run, events, geometry, tokens)
    groups, strength, named, colors = grouping(networks, geometry, threshold)
    picture, bounds = carpet_rows(activity, groups, order_within=strength)
    readable = events is not None and len(picture[0]) <= WORDS_UP_TO
    height = 3.45 + (0.4 if readable else 0)
    title = f"Activity sorted by {order}, tokens {start} to {start + len(activity) - 1}" if title is None else title
    fig, place = st.fixed_figure(st.PAGE, height, title)
    ax = place(0.62, 0.22, st.PAGE - 1.3, 2.75)
    limit = float(np.clip(np.percentile(np.abs(picture), 99), 0.2, 3))
    extent = (-0.5, picture.shape[1] - 0.5, len(picture), 0)
    image = ax.imshow(picture, cmap=st.diverging(), vmin=-limit, vmax=limit, aspect="auto", extent=extent)
    _group_marks(ax, bounds, [named[b[0]] for b in bounds], colors)
    ax.set_ylabel(order, labelpad=4)
    _token_axis(ax, events, start, readable)
    st.colorbar(fig, image, "mean z of neurons", cax=place(st.PAGE - 0.58, 0.22, 0.08, 1.2))
    return fig


@st.figure
def plot_time_courses(courses, events=None, *, networks=None, tokens=None, surprisal=False, title=None):
    """Draw the time courses of networks over tokens, one strip per network, with the tokens below.

    Every strip reaches to its largest value, at least to 3, which is written beside it.

    Parameters
    ----------
    courses : array of shape (n_tokens, n_networks) or pandas.DataFrame
        Time courses; each is z-scored over all rows.
    events : pandas.DataFrame, optional
        ``token``, and ``kind`` or ``document``, of each row of ``courses``.
    networks : sequence of int, optional
        Which networks; the first eight by default.
    tokens : (int, int), optional
        First token and the one after the last.
    surprisal : bool
        Add a strip with the surprisal of every token, if ``events`` has it.

    Examples
    --------
    >>> figure = plot_time_courses(np.random.default_rng(0).normal(size=(50, 3)))
    """
    values = np.asarray(courses, float)
    if values.ndim != 2 or not len(values):
        raise ParameterError(
            f"Time courses must be (n_tokens, n_networks) with at least one token; got {values.shape}."
        )
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)
    networks = list(range(min(8, values.shape[1]))) if networks is None else [int(k) for k in networks]
    if not networks or min(networks) < 0 or max(networks) >= values.shape[1]:
        raise ParameterError(
            f"networks={networks}: choose from the {values.shape[1]} time courses, 0 to {values.shape[1] - 1}."
        )
    first, last = _token_range(tokens, len(values))
    values = values[first:last]
    events = None if events is None else events.iloc[first:last]
    readable = events is not None and len(values) <= WORDS_UP_TO
    colors = st.network_colors(max(networks) + 1)
    strip = 0.34 if len(networks) <= 12 else 0.24
    beside = surprisal and events is not None and "surprisal" in events
    body = strip * (len(networks) + beside)
    title = "Time courses of networks" if title is None else title
    fig, place = st.fixed_figure(st.PAGE, body + 0.25 + (0.7 if readable else 0.45), title)
    left = 1.05 if beside else 0.75  # the name of the surprisal is long
    ax = place(left, 0.2, st.PAGE - left - 0.4, body)
    at = np.arange(len(values))
    for i, k in enumerate(networks):
        full = max(3.0, float(np.ceil(np.abs(values[:, k]).max() - 1e-6)))
        ax.text(1.005, i, f"±{full:.0f}", transform=ax.get_yaxis_transform(), fontsize=6, color=st.MUTED, va="center")
        y = values[:, k] / (2.2 * full)
        ax.fill_between(at, i - np.maximum(y, 0), i, color=colors[k], alpha=0.85, lw=0, step="mid")
        ax.fill_between(at, i - np.minimum(y, 0), i, color=colors[k], alpha=0.35, lw=0, step="mid")
        ax.axhline(i, color=st.GRID, lw=0.6, zorder=0)
    names = list(networks)
    if beside:
        nats = events["surprisal"].to_numpy(float)
        top = np.nanmax(nats) if np.isfinite(nats).any() else 1.0
        ax.fill_between(at, len(names) + 0.4 - 0.8 * np.nan_to_num(nats) / top, len(names) + 0.4, color=st.MUTED,
                        alpha=0.6, lw=0, step="mid")  # fmt: skip
        names.append(f"surprisal\n(to {top:.0f} nats)")
    ax.text(1.005, -0.62, "z", transform=ax.get_yaxis_transform(), fontsize=6, color=st.MUTED, va="center")
    ax.set(xlim=(-0.5, len(values) - 0.5), ylim=(len(names) - 0.4, -0.6))
    ax.set_yticks(range(len(names)), names)
    ax.set_ylabel("network")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    _token_axis(ax, events, first, readable)
    return fig


# -- parts --------------------------------------------------------------------------------------------------------
def _token_range(tokens, n):
    if tokens is not None and np.shape(whole("tokens", tokens)) != (2,):
        raise ParameterError(f"tokens={tokens!r}: pass (first, last + 1).")
    first, last = (0, n) if tokens is None else (int(tokens[0]), min(int(tokens[1]), n))
    if not 0 <= first < last:
        raise ParameterError(f"tokens={tokens} selects none of the {n} tokens. Pass (first, last + 1).")
    return first, last


def _activity(run, events, geometry, tokens):
    """Read the wanted tokens of a run or an array."""
    if isinstance(run, Run):
        first, last = _token_range(tokens, run.n_tokens)
        events = run.events if events is None else events
        geometry = run.geometry if geometry is None else geometry
        activity = run.to_array(first, last)
    else:
        array = np.asarray(run)
        if array.ndim != 2:
            raise ParameterError(f"Activity must be (n_tokens, n_neurons); got shape {array.shape}.")
        first, last = _token_range(tokens, len(array))
        activity = array[first:last]
    if geometry is not None and activity.shape[1] != geometry.n_neurons:
        raise GeometryMismatchError(f"Activity of {activity.shape[1]} neurons; the geometry has {geometry.n_neurons}.")
    return activity, None if events is None else events.iloc[first:last], geometry, first


def _group_marks(ax, bounds, names, colors):
    from matplotlib.patches import Rectangle

    width = ax.get_xlim()[1] - ax.get_xlim()[0]
    total = bounds[-1][2]
    ticks, last = [], -np.inf
    for (group, low, high), name in zip(bounds, names):
        if colors is not None:
            corner, size = (-0.5 - 0.018 * width, low), (0.012 * width, high - low)
            ax.add_patch(Rectangle(corner, *size, color=colors[group], lw=0, clip_on=False))
        if low:
            ax.axhline(low, color=st.FACE, lw=0.7)
        centre = (low + high) / 2
        if centre - last >= total / 26:  # labels closer than this would touch
            ticks.append((centre, name))
            last = centre
    ax.set_yticks([t[0] for t in ticks], [t[1] for t in ticks])
    ax.tick_params(axis="y", length=0, pad=3 if colors is None else 9)
    ax.spines[:].set_visible(False)


def _token_axis(ax, events, start, readable):
    """Write the tokens under the axis, or the kinds of text if there are too many tokens."""
    if readable:
        words = [axis_token(t) for t in events["token"]]
        ax.set_xticks(range(len(words)), words, rotation=90, fontsize=5.2 if len(words) > 60 else 6)
        ax.tick_params(axis="x", length=0, pad=2)
        return
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{int(v) + start}"))
    ax.set_xlabel("token", labelpad=1)
    if events is None:
        return
    by = next((c for c in ("kind", "document") if c in events and events[c].notna().any()), None)
    if by is None:
        return
    _kind_strip(ax, events[by].fillna("n/a").astype(str).to_numpy(dtype=object))


def _kind_strip(ax, labels):
    """Mark the kinds of text above the axes; if their names do not fit, a legend lists them."""
    from matplotlib.transforms import offset_copy

    n, width = len(labels), ax.get_position().width * ax.figure.get_size_inches()[0]
    ax.set_autoscalex_on(False)  # the marks must not move the axis
    edges = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1], True])
    names = list(dict.fromkeys(labels))
    room = {name: 0.065 * len(name) * n / width for name in names}
    named = all(high - low >= room[labels[low]] for low, high in zip(edges[:-1], edges[1:]))
    names = names if len(names) <= len(st.SERIES) else []
    above = offset_copy(ax.get_xaxis_transform(), ax.figure, y=2.2, units="points")
    for low, high in zip(edges[:-1], edges[1:]):
        if low:
            ax.axvline(low - 0.5, color=st.MUTED, lw=0.5, alpha=0.6)
        if names:
            color = st.SERIES[names.index(labels[low])]
            ax.plot([low - 0.5, high - 0.5], [1, 1], transform=above, color=color, lw=2.5, solid_capstyle="butt",
                    clip_on=False)  # fmt: skip
        if named:
            st.edge_note(ax, labels[low], ((low + high - 1) / 2, 1), (0, 4), size=6, ha="center", va="bottom")
    if names and not named:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=st.SERIES[i], lw=2.5) for i in range(len(names))]
        ax.legend(
            handles, names, ncols=len(names), loc="lower right", bbox_to_anchor=(1, 1.0), fontsize=6,
            borderaxespad=0.35,
            handlelength=0.9, columnspacing=1.0, handletextpad=0.4,
        )  # fmt: skip
