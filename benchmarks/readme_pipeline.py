# ruff: noqa: E501
"""The strip of the pipeline at the top of the README.

``python benchmarks/readme_pipeline.py`` writes docs/images/pipeline.svg.

The drawings are symbols, not results; the pictures of results are made by readme_figures.py.
"""

from pathlib import Path

import numpy as np

INK, MUTED, RULE, WARM, COOL = "#1d2733", "#566271", "#d9dee5", "#c8501e", "#2166ac"
STEPS = (
    ("text", "any corpus, chats, answers"), ("recording", "4D NIfTI, BIDS"), ("networks", "ICA, with evidence"),
    ("lesions", "against matched controls"), ("pruning", "a smaller model"), ("report, viewer", "one page"),
)  # fmt: skip
WIDE, HIGH, GAP, TOP = 150, 84, 34, 20


def rect(x, y, w, h, fill, more=""):
    """A rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}" {more}/>'


def text(rng, x, y):
    """Lines of words."""
    parts = []
    for line in range(6):
        at = x
        while at < x + 104:
            word = min(rng.uniform(10, 30), x + 108 - at)
            parts.append(rect(at, y + 12 * line, word, 5, MUTED, 'rx="2.5" opacity="0.55"'))
            at += word + 6
    return parts


def recording(rng, x, y):
    """A stack of sheets of neurons."""
    parts = []
    for k in range(5):
        left, top = x + 9 * k, y + 6 * k
        parts.append(rect(left, top, 66, 44, "#fdfefe", f'stroke="{RULE}"'))
        for row in range(5):
            for column in range(8):
                value = rng.normal()
                color = WARM if value > 0 else COOL
                parts.append(
                    rect(
                        left + 2 + 7.9 * column,
                        top + 2 + 8.2 * row,
                        6.9,
                        7.2,
                        color,
                        f'opacity="{min(abs(value) / 2.4, 0.9):.2f}"',
                    )
                )
    return parts


def networks(rng, x, y):
    """Columns of neurons that act together."""
    parts = [rect(x, y, 108, 66, "#f4f6f8", f'stroke="{RULE}"')]
    for centre, color in ((22, WARM), (58, COOL), (84, WARM)):
        for _ in range(46):
            parts.append(
                rect(
                    x + 2 + np.clip(rng.normal(centre, 4), 0, 102),
                    y + 2 + rng.uniform(0, 60),
                    3,
                    3,
                    color,
                    'opacity="0.85"',
                )
            )
    return parts


def lesions(rng, x, y):
    """A point with its interval beside the dots of its controls, three times."""
    parts = []
    for row, effect in enumerate((88, 46, 30)):
        at = y + 12 + 22 * row
        for _ in range(18):
            parts.append(
                f'<circle cx="{x + np.clip(rng.normal(26, 9), 2, 60):.1f}" cy="{at + rng.uniform(-5, 5):.1f}" r="2" fill="{MUTED}" opacity="0.5"/>'
            )
        parts.append(f'<path d="M{x + effect - 13} {at}h26" stroke="{WARM}" stroke-width="2.2"/>')
        parts.append(
            f'<circle cx="{x + effect}" cy="{at}" r="4.6" fill="{WARM if row == 0 else "#fdfefe"}" stroke="{WARM}" stroke-width="1.6"/>'
        )
    return parts


def pruning(rng, x, y):
    """Layers with fewer neurons than before."""
    parts = []
    for layer in range(7):
        kept = rng.uniform(0.45, 0.95)
        parts.append(rect(x, y + 9.6 * layer, 108, 6, "none", f'stroke="{RULE}" stroke-width="1.2"'))
        parts.append(rect(x, y + 9.6 * layer, 108 * kept, 6, COOL, 'opacity="0.8"'))
    return parts


def report(rng, x, y):
    """A page."""
    parts = [
        rect(x + 14, y - 4, 80, 74, "#fdfefe", f'stroke="{MUTED}" rx="5"'),
        rect(x + 22, y + 4, 38, 6, INK, 'rx="3"'),
    ]
    parts += [
        rect(x + 22 + 22 * k, y + 17, 18, 10, WARM if k == 1 else COOL, 'opacity="0.75" rx="2"') for k in range(3)
    ]
    heights = rng.uniform(5, 26, 9)
    parts += [rect(x + 22 + 7.2 * k, y + 62 - h, 5, h, COOL, 'opacity="0.6"') for k, h in enumerate(heights)]
    return parts


def main():
    """Write the strip."""
    rng = np.random.default_rng(4)
    total = len(STEPS) * WIDE + (len(STEPS) - 1) * GAP + 2 * TOP
    drawings = (text, recording, networks, lesions, pruning, report)
    parts = [rect(0.5, 0.5, total - 1, 171, "#fdfefe", f'rx="12" stroke="{RULE}"')]
    for k, ((name, what), draw) in enumerate(zip(STEPS, drawings)):
        left = TOP + k * (WIDE + GAP)
        parts += draw(rng, left + 20, TOP + 8)
        middle = left + WIDE / 2
        parts.append(
            f'<text x="{middle}" y="128" text-anchor="middle" font-size="15" font-weight="650" fill="{INK}">{name}</text>'
        )
        parts.append(f'<text x="{middle}" y="147" text-anchor="middle" font-size="11.5" fill="{MUTED}">{what}</text>')
        if k:
            parts.append(
                f'<path d="M{left - GAP + 4} 62h{GAP - 14}m-6 -5l7 5l-7 5" fill="none" stroke="{MUTED}" stroke-width="1.8"/>'
            )
    label = "From text to a recording, networks, lesions, a pruned model and a report"
    out = Path(__file__).parents[1] / "docs" / "images" / "pipeline.svg"
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 172" role="img" aria-label="{label}" '
        f'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif">{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()
