"""Formulas as MathML, written into the page when it is built: browsers draw it themselves, no script is fetched."""

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError


def _convert(node, as_block):
    try:
        return tex2mathml(node.astext().strip(), as_block=as_block)
    except MathError as error:
        raise ExtensionError(f"The formula {node.astext()!r} cannot be written as MathML: {error}") from error


def visit_inline(writer, node):
    """Write a formula within a line."""
    from docutils import nodes

    writer.body.append(_convert(node, as_block=False))
    raise nodes.SkipNode


def visit_block(writer, node):
    """Write a formula of its own."""
    from docutils import nodes

    writer.body.append(f'<div class="math">{_convert(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Register the renderer; ``html_math_renderer = "mathml"`` chooses it."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
