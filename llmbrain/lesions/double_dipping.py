"""Double dipping: networks must not be tested on the text that they, or their importances, come from."""

import warnings

from ..exceptions import DoubleDippingWarning

DIGITS = 16  # of a hash; recordings store this many per document


def known_texts(source):
    """Collect short hashes of the texts that something was made from, if it has them.

    The source may be a hash, hashes, a Corpus, or an object or dict with ``corpus_hash`` and ``document_hashes``.
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
    """Collect short hashes of the texts that networks were found on, from the networks and from the user."""
    own = known_texts(networks) if hasattr(networks, "info") else set()
    return own.union(known_texts(fitted_on), *(known_texts(mask.info) for mask in masks))


def warn_of_double_dipping(tasks, sources, stacklevel=3):
    """Warn if a task uses text that networks, thresholds or importances come from; return the messages.

    ``sources`` maps the name of each product, such as ``"networks"``, to the hashes of its texts.
    """
    messages = []
    for task in tasks:
        tested = known_texts(task.info)
        for what, known in sources.items():
            shared = tested & known
            if shared:
                messages.append(
                    f"Double dipping: the task {task.name!r} tests on text that the {what} come from "
                    f"({len(shared)} texts in common), which biases its effects upwards. Test on other text."
                )
    for message in messages:
        warnings.warn(message, DoubleDippingWarning, stacklevel=stacklevel)
    return messages
