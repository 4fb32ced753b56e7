"""Building blocks of all sections: templates, figures with captions, and links to the pages of networks."""

import functools
import re

import jinja2
import numpy as np

from .graphics import figure_svg


@functools.cache
def _environment():
    return jinja2.Environment(
        loader=jinja2.PackageLoader("llmbrain.reporting", "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip


def render(template, **values):
    """Fill one of the package's templates. Values are escaped unless the template marks them as safe."""
    return _environment().get_template(template).render(**values)


def note(text):
    """A paragraph in small print."""
    return render("note.html", text=text)


def figure(fig, key, caption, label, fixed_colors=False):
    """Put a matplotlib figure on the page, with a caption below it and a label for screen readers, and close it."""
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
