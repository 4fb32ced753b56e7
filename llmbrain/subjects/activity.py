"""Activity of a model on texts, in memory: tokens, the characters they cover, and the values at several sites."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..exceptions import NumericalError
from ..geometry import NeuronGeometry
from ..models.finite import not_finite_error
from ..models.hooks import evaluating
from ..models.inputs import check_readable, input_device, longest_context
from ..models.sites import find_sites
from ..recording.capture import run_batch
from ..text import batches, cut_windows, encode, padding_id, token_spans

CONTEXT = 1024
BATCH_TOKENS = 2048
CHECKED_TOKENS = 32


@dataclass(frozen=True, eq=False)
class TextActivity:
    """What one model did while it read one text.

    ``spans`` (n_tokens, 2) are the characters of each token, see :func:`llmbrain.text.token_spans`; ``values`` the
    activity (n_tokens, n_neurons) by site; ``surprisal`` (n_tokens,) is in nats, NaN for a first token that nothing
    predicts, or None.
    """

    spans: np.ndarray
    values: dict
    surprisal: np.ndarray = None


def read_activity(model, tokenizer, texts, sites=("layer", "mlp"), *, surprisals=True):
    """Read texts with a model and keep the activity of every token of the text, as a list of :class:`TextActivity`.

    Special tokens that were added are left out, and so is the first token of a text without any: it is an attention
    sink, whatever it says. With a large vocabulary, surprisals take most of the time; without them the output head runs
    on a few tokens only, to check that the model predicts finite values. Also returns the geometry of each site.
    """
    found = {name: find_sites(model, name) for name in sites}
    flat = [site for group in found.values() for site in group]
    documents = encode(list(texts), tokenizer)
    check_readable(model, (document.ids for document in documents))
    spans = [token_spans(tokenizer, text, document.ids) for text, document in zip(texts, documents)]
    context = min(CONTEXT, longest_context(model) or CONTEXT)
    windows = []
    for number, document in enumerate(documents):
        windows += cut_windows(
            document, context, warmup=context // 4, kept=_kept(document, spans[number]), number=number
        )
    pieces = [{} for _ in windows]
    with evaluating(model):
        for number, batch in enumerate(batches(windows, max_tokens=BATCH_TOKENS, pad_id=padding_id(tokenizer))):
            if not surprisals and number == 0:
                _check_logits(model, batch)
            _read(model, flat, batch, pieces, surprisals)
    activity = []
    for number in range(len(documents)):
        mine = [i for i, window in enumerate(windows) if window.document == number]
        where = np.concatenate([windows[i].kept_positions for i in mine])
        values, start = {}, 0
        for name, group in found.items():
            columns = range(start, start + len(group))
            values[name] = np.concatenate([np.hstack([pieces[i][c] for c in columns]) for i in mine])
            start += len(group)
        nats = np.concatenate([pieces[i]["nats"] for i in mine]) if surprisals else None
        activity.append(TextActivity(spans[number][where], values, nats))
    return activity, {name: NeuronGeometry.from_sites(group, name) for name, group in found.items()}


def _kept(document, spans):
    """Tokens of the text; not the first if nothing stands before it."""
    kept = spans[:, 0] >= 0
    if document.n_head == 0:
        kept[0] = False
    return kept


def _check_logits(model, batch):
    """Raise an error if the model does not predict finite values at the head of a batch."""
    import torch

    inputs = {name: x[:1, :CHECKED_TOKENS] for name, x in batch.inputs(input_device(model)).items()}
    run = partial(model, **inputs, use_cache=False)
    with torch.no_grad():
        finite = torch.isfinite(run().logits).all()
    if not finite:
        raise not_finite_error(model, run, "The logits")


def _read(model, sites, batch, pieces, surprisals):
    """Run one batch and put the rows of every window into its piece."""
    places = [window.places for window in batch.windows]
    ends = np.cumsum([len(place) for place in places])[:-1]
    rows = [None] * len(sites)

    def keep(i, x):
        rows[i] = x.float().cpu().numpy()
        if not np.isfinite(rows[i]).all():
            raise NumericalError(f"{sites[i].name} returned values that are not finite. Load the model in float32.")

    nats = run_batch(model, sites, batch, places, keep, surprisals)
    found = dict(enumerate(rows))
    if surprisals:
        found["nats"] = nats.cpu().numpy()
        if not np.isfinite(found["nats"][np.concatenate(places) > 0]).all():  # nothing predicts a first token
            inputs = batch.inputs(input_device(model))
            raise not_finite_error(model, partial(model, **inputs, use_cache=False), "The surprisals")
    for key, values in found.items():
        for i, part in zip(batch.indices, np.split(values, ends)):
            pieces[i][key] = part
