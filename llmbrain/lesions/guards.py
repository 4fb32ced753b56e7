"""Double dipping: the text that networks, thresholds or importances come from must not be the text of the test."""

import warnings

from ..exceptions import DoubleDippingWarning

__all__ = ["known_texts", "network_texts", "warn_of_double_dipping"]

DIGITS = 16  # of a hash: what recordings keep of every document


def known_texts(source):
    """Short hashes of the texts that something was made from, as far as it tells.

    Parameters
    ----------
    source : None, str, dict, Corpus, NetworkSet, Recording or sequence of str
        A hash, or what holds some: an ``info`` with ``corpus_hash`` and ``document_hashes``.

    Returns
    -------
    set of str
    """
    if source is None:
        return set()
    if isinstance(source, str):
        return {source[:DIGITS]}
    if hasattr(source, "documents"):
        return {source.hash[:DIGITS], *(d.hash[:DIGITS] for d in source)}
    if isinstance(source, dict):
        nested = source.get("corpus") if isinstance(source.get("corpus"), dict) else {}
        found = (source.get("corpus_hash"), source.get("document_hashes"))
        found += (nested.get("hash"), nested.get("document_hashes"))
        return {h[:DIGITS] for part in found if part for h in ([part] if isinstance(part, str) else part)}
    for holder in (source, getattr(source, "study", None)):
        if hasattr(holder, "info"):
            return known_texts(holder.info)
    return {h[:DIGITS] for h in source}


def network_texts(networks, masks, fitted_on=None):
    """Short hashes of the texts that networks were found on: what they carry themselves, and what the user says.

    Parameters
    ----------
    networks : NetworkSet or list of NeuronMask
        As it was given to a study.
    masks : list of NeuronMask
    fitted_on : see :func:`known_texts`, optional

    Returns
    -------
    set of str
    """
    own = known_texts(networks) if hasattr(networks, "info") else set()
    return own.union(known_texts(fitted_on), *(known_texts(mask.info) for mask in masks))


def warn_of_double_dipping(tasks, sources, stacklevel=3):
    """Warn where a task's text is one that networks, thresholds or importances come from.

    Parameters
    ----------
    tasks : list of llmbrain.lesions.tasks.Prepared
    sources : dict of str to set of str
        What was made from a text, and the hashes of that text.
    stacklevel : int

    Returns
    -------
    list of str
        The warnings, for the report.
    """
    messages = []
    for task in tasks:
        tested = known_texts(task.info)
        for what, known in sources.items():
            shared = tested & known
            if shared:
                messages.append(
                    f"Double dipping: the task {task.name!r} tests on text that the {what} come from "
                    f"({len(shared)} texts in common). Its effects are biased upwards; test on other text."
                )
    for message in messages:
        warnings.warn(message, DoubleDippingWarning, stacklevel=stacklevel)
    return messages
