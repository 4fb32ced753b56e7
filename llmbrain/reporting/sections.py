"""The order of a report's sections."""

from . import effects, network_pages, overview, probes
from .page import Section

__all__ = ["Section", "build_sections"]

MAKERS = (
    overview.summary,
    overview.model,
    overview.recording,
    overview.order,
    network_pages.networks,
    network_pages.browser,
    probes.localizers,
    effects.lesions,
    probes.doses,
    effects.pruning,
    effects.pruned,
    overview.methods,
    overview.files,
)


def build_sections(data, render):
    """Make all sections that the data allow, in order.

    Parameters
    ----------
    data : ReportData
    render : callable
        ``render(template, **values)`` fills a template of this package.

    Returns
    -------
    list of Section
    """
    sections = (make(data, render) for make in MAKERS)
    return [section for section in sections if section is not None]
