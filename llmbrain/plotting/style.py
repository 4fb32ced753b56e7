"""The style of all figures: sizes, colours, colour maps, saving.

Colours are safe for the common colour-vision deficiencies. Text and lines use four named inks, so that a page can
restyle a figure for a dark background by exchanging them.
"""

import contextlib
import functools
import inspect
import textwrap

import numpy as np

from ..arguments import between, checked, count, flag, holds, numbers, text
from ..exceptions import ParameterError, check_threshold
from ..files import as_path, atomic_path, check_output_figure

COLUMN, PAGE = 3.5, 7.2  # inches: one column and two columns of a journal page

INK, MUTED, GRID, FACE = "#1d2733", "#5b6776", "#d9dee5", "#fdfefe"
POSITIVE, NEGATIVE = "#c8501e", "#2166ac"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5fb5", "#b8860b", "#3aa6c9", "#6b7280")

_DIVERGING = ("#0a2f5c", "#2166ac", "#6ea6d4", "#c5dcee", "#f6f6f4", "#f8d3bd", "#e98f62", "#c8501e", "#7a2308")
_SEQUENTIAL = ("#f4f7f8", "#cfe3e4", "#93c5cb", "#4d9cab", "#1f7089", "#12476a", "#0c2447")

RC = {
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "image.interpolation": "nearest",
    "mathtext.default": "regular",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


# What all figures share, appended to the parameters that a plotting function documents.
_SHARED = """
title : str, optional
    Replaces the title; "" for none.
output_file : path-like, optional
    Save the figure there and close it. Only a figure that Matplotlib has drawn is replaced.

Returns
-------
matplotlib.figure.Figure or None
    None if ``output_file`` is given."""


@functools.cache
def diverging():
    """Return the colour map for signed values."""
    return _colormap("llmbrain_diverging", _DIVERGING)


@functools.cache
def sequential():
    """Return the colour map for values from 0 upwards."""
    return _colormap("llmbrain_sequential", _SEQUENTIAL)


def _colormap(name, colors):
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, colors, N=256)


@contextlib.contextmanager
def style():
    """Apply the package's style inside the block; the user's settings return afterwards."""
    import matplotlib as mpl

    interactive = mpl.is_interactive()
    try:
        with mpl.rc_context(RC):
            try:
                yield
            finally:  # a backend that is loaded inside turns this on, as the one of notebooks does
                interactive = mpl.is_interactive()
    finally:
        mpl.interactive(interactive)


def _names(name, value):
    """The names of two things that are compared."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ParameterError(f"{name}={value!r}: pass two names.")
    for part in value:
        text(name, part)


def _tokens(name, value):
    """A table of tokens."""
    holds("columns", "iloc", what="a table of tokens (a DataFrame)")(name, value)
    if "token" not in value:
        raise ParameterError(f"{name} has no column 'token'; it has {list(value.columns)}.")


# What arguments of figures must be, by their names.
RULES = {
    "threshold": lambda _, value: check_threshold(value),
    "topography": holds("arrange", "note", what="a Topography"),
    "events": _tokens,
    "names": _names,
    "comparison": holds("tree", "similarity", what="a Comparison, from compare_studies"),
    **dict.fromkeys(("title", "label", "unit", "xlabel"), text),
    **dict.fromkeys(("reorder", "sort", "surprisal", "one_line"), flag),
    **dict.fromkeys(("n_columns", "n_pairs"), count),
    "values": lambda name, value: hasattr(value, "stability") or numbers(name, value),
    "courses": numbers,
    "alpha": between(0, 1, ends=False),
    "bar": between(-1e9, 1e9),
    "scale": between(1e-9, 1e9),
    "width": between(1, 100),
}


def figure(draw):
    """Make a plotting function of one that draws: it takes ``output_file=`` too, and its docstring says so."""

    drawn = checked(**RULES)(draw)

    @functools.wraps(draw)
    def plot(*args, output_file=None, **kwargs):
        if output_file is not None:
            check_output_figure(output_file)
        with style():
            fig = drawn(*args, **kwargs)
        return fig if output_file is None else _save(fig, as_path(output_file))

    signature = inspect.signature(draw)
    output_file = inspect.Parameter("output_file", inspect.Parameter.KEYWORD_ONLY, default=None)
    plot.__signature__ = signature.replace(parameters=[*signature.parameters.values(), output_file])
    parameters, heading, examples = inspect.cleandoc(draw.__doc__ or "").partition("\n\nExamples\n")
    plot.__doc__ = parameters + _SHARED + heading + examples
    return plot


def _save(fig, path):
    import matplotlib.pyplot as plt

    known = fig.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        plt.close(fig)
        raise ParameterError(f"output_file={str(path)!r} has an unknown ending. Use one of {sorted(known)}.")
    try:
        with style(), atomic_path(path) as part:
            fig.savefig(part)
    finally:
        plt.close(fig)


def new_figure(width=PAGE, height=3.0, title=None):
    """Make a figure of ``width`` x ``height`` inches whose parts cannot overlap (constrained layout)."""
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.03)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK)
    return fig


def one_axes(width, height, title):
    """Make a figure of one plot; returns the figure and its axes."""
    fig = new_figure(width, height, title)
    return fig, fig.add_subplot()


def edge_note(ax, text, at, shift, color=MUTED, size=7, xycoords=("data", "axes fraction"), **where):
    """Write a small text outside a plot, ``shift`` points from its edge."""
    place = {"xycoords": xycoords, "xytext": shift, "textcoords": "offset points", "annotation_clip": False}
    ax.annotate(text, at, fontsize=size, color=color, **place, **where)


def fixed_figure(width=PAGE, height=3.0, title=None, note=None):
    """Make a figure for many panels, where layout engines are slow, and a function that places its axes.

    ``height`` includes one line of the muted ``note`` at the bottom, but not the title, which takes 0.3 inches more; a
    note that is too long for the width is wrapped. Returns the figure and ``place(left, top, width, height)``, in
    inches from the left edge and from the title.
    """
    import matplotlib.pyplot as plt

    header = 0.3 if title else 0.0
    lines = textwrap.wrap(note or "", int((width - 0.16) / 0.05)) or [""]  # inches of a typical letter
    total = height + header + 0.11 * (len(lines) - 1)
    fig = plt.figure(figsize=(width, total))
    if title:
        fig.text(0.08 / width, 1 - 0.08 / total, title, ha="left", va="top", fontsize=10, fontweight="bold", color=INK)
    if note:
        fig.text(
            0.08 / width, 0.05 / total, "\n".join(lines), ha="left", va="bottom", fontsize=6.5, color=MUTED
        )  # fmt: skip

    def place(left, top, width_in, height_in):
        where = [left / width, 1 - (header + top + height_in) / total, width_in / width, height_in / total]
        return fig.add_axes(where)

    return fig, place


def small_multiples(n, most, size, title=None, **share):
    """Make a figure of ``n`` equal panels, at most ``most`` per row.

    ``size(n_rows, n_columns)`` gives the width and height in inches. Returns the figure and its ``n`` axes.
    """
    n_columns = min(most, n)
    n_rows = -(-n // n_columns)
    fig = new_figure(*size(n_rows, n_columns), title)
    axes = fig.subplots(n_rows, n_columns, sharex=True, squeeze=False, **share).ravel()
    for ax in axes[n:]:
        ax.remove()
    return fig, axes[:n]


def caption(fig, text):
    """Write a muted line at the bottom of a figure."""
    fig.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color=MUTED)


def colorbar(fig, image, label=None, **where):
    """Add a colour bar without a frame; ``where`` are arguments of matplotlib's ``colorbar``."""
    bar = fig.colorbar(image, **where)
    bar.outline.set_visible(False)
    if label:
        bar.set_label(label)
    return bar


def layer_ticks(ax, layers, most=15):
    """Label the x axis with the numbers of the layers, about ``most`` of them."""
    step = max(1, round(len(layers) / most))
    ax.set_xticks(range(0, len(layers), step), layers[::step])
    ax.set_xlabel("layer")


# Chosen one after the other in OKLab, each as far as possible from those before it, also as seen with protanopia and
# deuteranopia (Machado et al. 2009).
_NETWORKS = (
    "#ceb6f3", "#24550c", "#9218aa", "#00c23d", "#0079ff", "#aa6d61", "#ff55aa", "#cece86", "#aa0c49", "#24aace",
    "#493d79", "#248600", "#24e7c2", "#006d79", "#aa61ce", "#f39292", "#e73d00", "#2449ce", "#e779ff", "#9edb00",
    "#c23192", "#f39200", "#869e61", "#616daa",
)  # fmt: skip


def network_colors(n):
    """Return ``n`` RGB colours, shape ``(n, 3)``. The first 24 are clearly different from one another.

    More cannot be, least of all for colour-blind readers, so every figure that uses these also writes the networks'
    numbers.
    """
    known = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in _NETWORKS[:n]]).reshape(-1, 3)
    if n <= len(_NETWORKS):
        return known
    return np.concatenate([known, _further_colors(n)[len(_NETWORKS) :]])


def _further_colors(n):
    """Colours whose neighbours in the list differ in hue and lightness."""
    hue = 2 * np.pi * ((np.arange(n) * 0.61803398875 + 0.07) % 1.0)
    light = np.resize([0.58, 0.74, 0.48, 0.66], n)
    return np.clip(_oklch_to_rgb(light, np.full(n, 0.13), hue), 0, 1)


def _oklch_to_rgb(light, chroma, hue):
    """Convert OKLCH to sRGB (Ottosson 2020, "A perceptual color space for image processing")."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    mid = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (light - 0.0894841775 * a - 1.2914855480 * b) ** 3
    mix = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(np.stack([long, mid, short], axis=1) @ mix.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
