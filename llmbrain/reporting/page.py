"""What all sections are made of: the section itself, a figure with its caption, and links to networks."""

import re
from dataclasses import dataclass

import numpy as np

from .graphics import figure_svg


@dataclass
class Section:
    """One section of the page: its address, its heading and its inside."""

    id: str
    title: str
    html: str


def figure(render, fig, key, caption, label, fixed_colors=False):
    """Put a matplotlib figure on the page.

    Parameters
    ----------
    render : callable
        Fills a template.
    fig : matplotlib.figure.Figure
        Closed here.
    key : str
        Id of the figure on the page.
    caption, label : str
        What stands under it, and what those hear who do not see it.
    fixed_colors : bool
        See :func:`llmbrain.reporting.graphics.figure_svg`.

    Returns
    -------
    str
    """
    return render("figure.html", svg=figure_svg(fig, key, label, fixed_colors), id=key, caption=caption)


def network_number(name):
    """Number of a network from its name (``"network-03"`` -> 3, ``3`` -> 3), or None."""
    if isinstance(name, (int, np.integer)):
        return int(name)
    found = re.fullmatch(r"(?:network-?)?0*(\d+)", str(name))
    return int(found[1]) if found else None


def page_of(name):
    """Address of a network's page, or None if its name has no number."""
    k = network_number(name)
    return None if k is None else f"#network-{k:02d}"
