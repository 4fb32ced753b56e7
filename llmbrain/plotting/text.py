"""Words shaded by the engagement of a network, as HTML and as a figure."""

from html import escape

import numpy as np

from ..arguments import checked
from ..exceptions import ParameterError
from . import style as st

FULL = 3.0  # |z| at which the shade is full


def visible_token(token):
    r"""Return a token with visible signs for newlines and tabs, which event tables write as ``\n`` and ``\t``."""
    return str(token).replace("\\n", "\n").replace("\n", "⏎").replace("\\t", "\t").replace("\t", "⇥")


def axis_token(token):
    """Return the label of a token on an axis: without leading space, shortened, with ``$`` escaped."""
    text = visible_token(token).strip(" ") or "␣"
    text = text if len(text) <= 14 else text[:13] + "…"
    return text.replace("$", r"\$")


@checked(**st.RULES)
def words_html(tokens, values, scale=FULL, mark=None, one_line=False):
    """Write tokens as HTML, each shaded by its value: warm for positive, cool for negative.

    Parameters
    ----------
    tokens : sequence of str
        Tokens with their leading spaces.
    values : array of shape (n_tokens,)
        Engagement, in z. NaN leaves a token unshaded.
    scale : float
        Value of the strongest shade.
    mark : int, optional
        Token to outline.
    one_line : bool
        Replace line breaks, so that the text stays on one line.

    Returns
    -------
    str
        A ``<span class="words">`` for ``white-space: pre-wrap``. Text is escaped; shaded tokens have their value as
        title. Colours are custom properties with a default, so that a page can exchange them.

    Examples
    --------
    >>> "5 &lt; 7" in words_html(["5 < 7"], [1.0])
    True
    """
    values = _checked(tokens, values)
    out = []
    for i, (token, value) in enumerate(zip(tokens, values)):
        text = escape(visible_token(token))
        text = text if one_line else text.replace("⏎", "⏎\n")
        weight = 0 if np.isnan(value) else round(min(abs(value) / scale, 1) * 100)
        classes = ["pos" if value > 0 else "neg"] if weight >= 8 else []
        classes += ["peak"] if i == mark else []
        if not classes:
            out.append(text)
        else:
            shade = "var(--pos, #e07a3f)" if value > 0 else "var(--neg, #5b9bd5)"
            mix = f"background:color-mix(in srgb, {shade} {round(weight * 0.62)}%, transparent)"
            style = mix if weight >= 8 else ""
            title = f"z = {value:.1f}".replace("-", "−")
            out.append(f'<span class="{" ".join(classes)}" style="{style}" title="{title}">{text}</span>')
    return f'<span class="words">{"".join(out)}</span>'


@st.figure
def plot_words(tokens, values, *, scale=FULL, width=st.PAGE, title=None):
    """Draw a text with each token shaded by its value.

    Parameters
    ----------
    tokens : sequence of str
        Tokens with their leading spaces.
    values : array of shape (n_tokens,)
        Engagement, in z.
    scale : float
        Value of the strongest shade.
    width : float
        Width of the figure in inches.

    Examples
    --------
    >>> figure = plot_words(["The", " river", " runs"], [0.1, 2.5, -1.0])
    """
    from matplotlib.patches import FancyBboxPatch

    values = _checked(tokens, values)
    letter, line = 0.0737, 0.19  # inches of one monospaced letter at 8.8 points, and of one line
    per_line = int((width - 0.3) / letter)
    placed, n_lines = _wrap(tokens, per_line)
    fig, place = st.fixed_figure(width, n_lines * line + 0.5, title)
    ax = place(0.15, 0.1, per_line * letter, n_lines * line)
    ax.set(xlim=(0, per_line), ylim=(n_lines, 0))
    ax.set_axis_off()
    colors = st.diverging()
    for text, row, col, i in placed:
        strength = np.clip(values[i] / scale, -1, 1)
        if not np.isnan(strength) and abs(strength) >= 0.08:
            box = FancyBboxPatch(
                (col, row + 0.1), len(text), 0.8, boxstyle="round,pad=0,rounding_size=0.15", lw=0,
                fc=colors(0.5 + 0.33 * strength), mutation_aspect=letter / line,
            )  # fmt: skip
            ax.add_patch(box)
        ax.text(col, row + 0.52, text.replace("$", r"\$"), family="monospace", fontsize=8.8, va="center")
    bar = place(0.15, n_lines * line + 0.2, 1.2, 0.08)
    bar.imshow(
        np.linspace(0.17, 0.83, 100)[None], cmap=colors, vmin=0, vmax=1, aspect="auto", extent=(-scale, scale, 0, 1)
    )
    bar.set_yticks([])
    bar.set_xticks([-scale, 0, scale], [f"≤ −{scale:g}", "0", f"≥ {scale:g} z"], fontsize=6.5)
    bar.spines[:].set_visible(False)
    return fig


def _checked(tokens, values):
    values = np.asarray(values, float)
    if values.shape != (len(tokens),):
        raise ParameterError(f"{len(tokens)} tokens need one value each; got values of shape {values.shape}.")
    return values


def _wrap(tokens, per_line):
    """Break tokens into lines: a list of (text, line, column, token)."""
    placed, row, col = [], 0, 0
    for i, token in enumerate(tokens):
        text = visible_token(token)
        if col and col + len(text.rstrip()) > per_line:
            row, col = row + 1, 0
        text = text.lstrip(" ") if col == 0 else text
        for n, line in enumerate(text.replace("⏎", "⏎\n").split("\n")):
            if n:
                row, col = row + 1, 0
            for piece in (line[j : j + per_line] for j in range(0, len(line), per_line)):
                if col + len(piece) > per_line and col:
                    row, col = row + 1, 0
                placed.append((piece, row, col, i))
                col += len(piece)
    return placed, row + bool(col) or 1
