"""Images for a web page: rasters as data URIs, and figures as inline SVG in the page's colours."""

import base64
import io
import re
from html import escape

import numpy as np
from PIL import Image

from ..plotting import style as st
from ..plotting.sheets import sheet_mosaic
from ..plotting.text import visible_token

LEVELS = 24  # shades per sign; finer ones look the same
FULL_Z = 8.0


def png_bytes(index, palette):
    """Encode an indexed picture (height, width) with an RGBA palette (n_colors, 4), both uint8, as PNG."""
    palette = np.asarray(palette, np.uint8)
    image = Image.fromarray(np.ascontiguousarray(index, np.uint8), mode="P")
    image.putpalette(palette[:, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=palette[:, 3].tobytes(), compress_level=9)
    return buffer.getvalue()


def data_uri(png):
    """Turn PNG bytes into a data URI, an image inside the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


class MapPainter:
    """Paint maps of one geometry as small PNGs for light and dark pages.

    Neurons up to the threshold are a faint grey, the space between sheets is transparent, and strength is opacity.
    """

    def __init__(self, geometry, topography=None, threshold=3.0):
        self.geometry, self.topography, self.threshold = geometry, topography, threshold
        number, self.corners = sheet_mosaic(np.arange(geometry.n_neurons), geometry, aspect=2.4)
        self.height, self.width = number.shape
        self.inside = ~np.isnan(number)
        _, natural = np.unique(number[self.inside], return_inverse=True)
        # float32 cannot number more than 2**24 neurons apart, so the order is rebuilt from the sheets themselves.
        self.pixel = self._pixels() if geometry.n_neurons > 2**24 else np.flatnonzero(self.inside)[np.argsort(natural)]
        if topography is not None:
            self.pixel = topography.restore(self.pixel)
        shades = np.linspace(0, 1, LEVELS)
        warm, cool = np.array([222, 98, 38]), np.array([38, 118, 196])
        palette = np.zeros((2 + 2 * LEVELS, 4))
        palette[1] = [128, 138, 150, 26]
        for side, color in enumerate((warm, cool)):
            block = palette[2 + side * LEVELS : 2 + (side + 1) * LEVELS]
            block[:, :3] = color * (1 - 0.18 * shades[:, None])
            block[:, 3] = 110 + 145 * shades
        self.palette = palette.round().astype(np.uint8)

    def _pixels(self):
        rows, cols = self.geometry.shape[1:]
        sheet = (np.arange(rows)[:, None] * self.width + np.arange(cols)).ravel()
        return np.concatenate(
            [sheet[:size] + top * self.width + left for size, (top, left) in zip(self.geometry.sizes, self.corners)]
        )

    def paint(self, z):
        """Paint a map of shape (n_neurons,); returns a data URI."""
        index = self.inside.astype(np.uint8)
        strength = (np.abs(z) - self.threshold) / max(FULL_Z - self.threshold, 1e-6)
        over = strength > 0
        shade = np.clip(strength[over] * LEVELS, 0, LEVELS - 1).astype(np.uint8)
        index.ravel()[self.pixel[over]] = 2 + shade + np.where(z[over] < 0, LEVELS, 0).astype(np.uint8)
        return data_uri(png_bytes(index, self.palette))

    @property
    def note(self):
        """Sentence on the order of the neurons."""
        return "Neurons are in natural order." if self.topography is None else self.topography.note

    def labels(self):
        """Layer numbers as the inside of an SVG of the mosaic's size."""
        size = max(self.geometry.shape[2] * 0.2, self.width / 90)
        return "".join(
            f'<text fill="currentColor" font-size="{size:.1f}" x="{left + 0.06 * self.geometry.shape[2]:.1f}" '
            f'y="{top + 1.05 * size:.1f}">{layer}</text>'
            for (top, left), layer in zip(self.corners, self.geometry.layers)
        )


def profile_svg(positive, negative, layers, label):
    """Draw the share of each layer's neurons (n_layers,) as bars: positive loadings up, negative ones down."""
    n, width, height = len(positive), 600, 120
    step, top = width / n, 100 * max(positive.max(), negative.max(), 1e-4)
    up = max(positive.max(), 1e-9) / max(positive.max() + negative.max(), 1e-9)
    zero = 8 + (height - 30) * (up if negative.max() > 0 else 1.0)
    unit = (height - 30) / (100 * max(positive.max() + negative.max(), 1e-4))
    bars = []
    for i in range(n):
        for share, sign, name in ((positive[i], 1, "positive"), (negative[i], -1, "negative")):
            tip = f"layer {layers[i]}: {100 * share:.2g} % {name}"
            if share > 0:
                bars.append(_bar(i * step + 0.1 * step, 0.8 * step, zero, sign * 100 * share * unit, tip))
    ticks = [((i + 0.5) * step, height - 2, "middle", layers[i]) for i in range(0, n, max(1, round(n / 10)))]
    ticks.append((-6, zero - 100 * positive.max() * unit + 8, "end", f"{top:.2g} %"))
    ticks.append((-6, height - 2, "end", "layer"))
    return _bar_chart("profile", width, height, zero, bars, ticks, label)


def course_svg(course, tokens, label):
    """Draw a time course (n_tokens,) in z with one bar per token, whose tooltip gives the token and its z.

    The axis reaches to the largest value, and at least to 4.
    """
    width, height = 600, 90
    full = max(4.0, float(np.ceil(np.abs(course).max(initial=0.0))))
    step, zero, unit = width / max(len(course), 1), 45.0, 40 / full
    bars = []
    for i, (value, token) in enumerate(zip(course, tokens)):
        length = float(value) * unit
        if abs(length) >= 0.4:
            tip = f"{visible_token(token).strip() or '␣'}, z = {value:.1f}".replace("-", "−")
            bars.append(_bar(i * step, 0.85 * step, zero, length, escape(tip)))
    ticks = [(-6, zero - sign * 34 + 4, "end", f"{name} z") for sign, name in ((1, f"{full:g}"), (-1, f"−{full:g}"))]
    return _bar_chart("course", width, height, zero, bars, ticks, label)


def _bar(x, width, zero, length, tip):
    """A bar from the zero line: up if ``length`` is positive, else down."""
    css, y = ("pos", zero - length) if length > 0 else ("neg", zero)
    return (
        f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{abs(length):.1f}">'
        f"<title>{tip}</title></rect>"
    )


def _bar_chart(css, width, height, zero, bars, ticks, label):
    """An SVG of bars over a zero line, with ``ticks`` of ``(x, y, anchor, text)``."""
    texts = "".join(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{end}">{text}</text>' for x, y, end, text in ticks)
    return (
        f'<svg class="chart {css}" viewBox="-62 0 {width + 62} {height}" role="img" aria-label="{escape(label)}">'
        f'<line class="rule" x1="0" x2="{width}" y1="{zero:.1f}" y2="{zero:.1f}"/>{"".join(bars)}{texts}</svg>'
    )


def effect_strip(effect, low, high, controls, limits, label):
    """Draw a lesion effect with its interval (or None) over the dots of its controls (n_controls,)."""
    width, height = 600, 54
    span = max(limits[1] - limits[0], 1e-9)

    def x(value):
        return 10 + (width - 20) * (value - limits[0]) / span

    jitter = np.random.default_rng(0).uniform(-9, 9, len(controls))
    dots = "".join(
        f'<circle class="control" cx="{x(c):.1f}" cy="{18 + j:.1f}" r="2.6"/>' for c, j in zip(controls, jitter)
    )
    interval = "" if low is None else f'<line class="interval" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="18" y2="18"/>'
    ticks = [limits[0], 0.0, limits[1]] if limits[0] < 0 < limits[1] else list(limits)
    if len(ticks) == 3 and min(x(0) - x(limits[0]), x(limits[1]) - x(0)) < 110:  # labels would touch on a phone
        ticks = [0.0, limits[1]] if abs(limits[1]) >= abs(limits[0]) else [limits[0], 0.0]
    marks = "".join(
        f'<line class="rule" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="34" y2="38"/><text x="{x(t):.1f}" y="51" '
        f'text-anchor="{"start" if x(t) < 30 else "end" if x(t) > width - 30 else "middle"}">{_number(t)}</text>'
        for t in ticks
    )
    return (
        f'<svg class="chart strip" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<line class="rule" x1="10" x2="{width - 10}" y1="34" y2="34"/>{marks}{dots}{interval}'
        f'<circle class="effect" cx="{x(effect):.1f}" cy="18" r="5.5"/></svg>'
    )


def _number(value):
    return f"{value:.2g}".replace("-", "−")


def figure_svg(fig, key, label, fixed_colors=False):
    """Turn a matplotlib figure into inline SVG whose inks are the page's, and close it.

    ``key`` keeps the ids of the page apart. With ``fixed_colors`` a dark page does not invert the images, because a
    legend names their colours.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with st.style(), mpl.rc_context({"svg.hashsalt": key}):
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}, dpi=150)
    width = fig.get_size_inches()[0] * 96
    plt.close(fig)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    box = re.search(r'viewBox="([^"]+)"', svg).group(1)
    kind = "figure fixed" if fixed_colors else "figure"
    head = f'<svg class="{kind}" viewBox="{box}" style="--w:{width:.0f}px" role="img" '
    head += f'aria-label="{escape(label)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
    used = {a or b for a, b in used}
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{key}-\1"', svg.replace("xlink:href", "href"))
    svg = re.sub(r"font(-family)?: ([^;\"']*?)'DejaVu Sans[^;\"]*", _font, svg)
    for ink, name in ((st.INK, "ink"), (st.MUTED, "muted"), (st.GRID, "rule"), (st.FACE, "card")):
        svg = svg.replace(ink, f"var(--{name})")
    svg = re.sub(r"\n\s*", "\n", svg).replace("\n<", "<")
    return re.sub(r"(\d\.\d{3})\d+", r"\1", svg)


def _font(match):
    if "Mono" in match[0]:
        return match[0].replace('"', "'")
    return f"font{match[1] or ''}: {match[2]}var(--font)"
