"""The lesion playground: what a lesion and one matched control do to a text, word by word."""

import contextlib
import re
from functools import partial

import numpy as np

from ..evaluation import generate_texts
from ..evaluation.losses import batch_losses
from ..evaluation.reader import LogitReader
from ..exceptions import MaskError, ParameterError, check_count
from ..lesions import lesion
from ..lesions.kinds import KINDS
from ..lesions.positions import POSITIONS
from ..masks import CONTROLS, NeuronMask
from ..models.finite import not_finite_error
from ..models.inputs import input_device
from ..registry import choose
from ..text import pad

CONDITIONS = ("intact", "lesion", "control")
MOVED = 10  # next tokens shown
_PLACE = re.compile(r"\s*(\d+)\s*:\s*(\d+)(?:\s*-\s*(\d+))?\s*")
MOST_UNITS = 100_000


def control_families():
    """Names of the control families that the page offers: random draws that need no maps."""
    return [n for n, member in CONTROLS.items() if member.random and set(member.needs) <= {"importance"}]


def choices():
    """What the page offers: lesion kinds with what they need, position rules, control families."""
    return {
        "kinds": [
            {"name": n, "needs_value": m.needs_value, "reference": m.reference, "summary": m.summary}
            for n, m in KINDS.items()
        ],
        "positions": [{"name": name, "summary": member.summary} for name, member in POSITIONS.items()],
        "controls": [{"name": name, "summary": CONTROLS[name].description} for name in control_families()],
    }


def chosen_mask(networks, masks, request):
    """Make the mask that a request describes; an error if it names nothing, or something that does not exist.

    A request holds ``networks``, the numbers of networks whose union is lesioned at ``threshold`` (with ``top`` only
    the ``top`` neurons with the largest \\|z\\| in any of them); or ``neurons``, text such as ``"3:17, 5:20-30"``,
    layer and units; or ``mask``, the number of a further mask in ``masks``.
    """
    if request.get("mask") is not None:
        check_count("mask", request["mask"], 0)
        if request["mask"] >= len(masks):
            raise ParameterError(f"There is no mask number {request['mask']}.")
        return masks[request["mask"]]
    if networks is None:
        raise ParameterError("The study has no networks, so there is nothing to lesion.")
    if request.get("neurons"):
        return NeuronMask.from_names(parse_neurons(request["neurons"]), networks.geometry, name="typed neurons")
    numbers = request.get("networks") or []
    if not isinstance(numbers, list) or not all(isinstance(k, int) for k in numbers):
        raise ParameterError("networks must be a list of whole numbers.")
    if not numbers:
        raise MaskError("No network is chosen. Choose at least one in the list, or type neurons.")
    unknown = [k for k in numbers if not 0 <= k < len(networks)]
    if unknown:
        raise ParameterError(f"There is no network {unknown[0]}.")
    strongest, name = np.abs(networks.z[numbers]).max(axis=0), " | ".join(f"network {k}" for k in numbers)
    if request.get("top") is not None:
        check_count("top", request["top"])
        return NeuronMask.top(strongest, request["top"], networks.geometry, name=name)
    threshold = _number(request.get("threshold", 3.0), "threshold", 0, 1000)
    return NeuronMask.from_map(strongest, networks.geometry, threshold, name=name)


def parse_neurons(text):
    """Read neurons written as ``layer:unit`` or ``layer:first-last``, separated by commas.

    Examples
    --------
    >>> parse_neurons("3:17, 5:20-22")
    [(3, 17), (5, 20), (5, 21), (5, 22)]
    """
    found = []
    for part in re.split(r"[,\n;]", str(text)):
        if not part.strip():
            continue
        match = _PLACE.fullmatch(part)
        if not match:
            raise ParameterError(f"{part.strip()!r} is no neuron. Write layer:unit or layer:first-last, e.g. 3:17.")
        layer, first, last = int(match[1]), int(match[2]), int(match[3] or match[2])
        if last < first or last - first >= MOST_UNITS or len(found) >= MOST_UNITS:
            raise ParameterError(f"{part.strip()!r}: write the smaller unit first, and at most {MOST_UNITS} neurons.")
        found += [(layer, unit) for unit in range(first, last + 1)]
    if not found:
        raise MaskError("No neuron is named. Write layer:unit, e.g. 3:17, 5:20-30.")
    return found


def contexts_of(model, mask, control, request, reference=None):
    """The three conditions as context managers: intact, lesion, control.

    ``reference`` returns what the kinds ``mean`` and ``resample`` need, by the name of what they need.
    """
    kind = KINDS[request.get("how", "zero")]
    options = {"strength": _number(request.get("strength", 1.0), "strength", 0, 1)}
    if kind.needs_value:
        options["value"] = _number(request.get("value"), "value", -1000, 1000)
    if kind.reference is not None:
        options["reference"] = reference(kind.reference)
    positions = choose("position rule", request.get("positions", "all"), POSITIONS)

    def made(one):
        return lesion(model, one, kind.name, positions=positions, check_model=False, **options)

    return {"intact": contextlib.nullcontext(), "lesion": made(mask), "control": made(control)}


def compare(model, tokenizer, window, tokens, contexts, check=lambda: None):
    """Read a text from :func:`window_of` in each condition, and compare the losses and the next-token probabilities.

    ``contexts`` holds the context managers of ``intact``, ``lesion`` and ``control``; ``check()`` is called between
    them, and may raise to stop. Returns ``losses``, arrays (n_tokens,) in nats for each condition, NaN for a first
    token that nothing predicts, and ``next``, the tokens whose probability after the text the lesion changes most:
    ``token`` and one probability for each condition.
    """
    import torch

    batch, found, ahead = pad([window]), {}, {}
    for name, context in contexts.items():
        check()
        reader = LogitReader(model)
        with context, torch.no_grad():
            inputs = batch.inputs(input_device(model))
            hidden = reader.read(**inputs)
            losses = batch_losses(hidden, reader, inputs["input_ids"], batch.windows)[0]
            ahead[name] = torch.softmax(reader.score(hidden[:, -1]).float()[0], -1).cpu().numpy()
            if not np.isfinite(losses).all() or not np.isfinite(ahead[name]).all():
                raise not_finite_error(model, partial(model, **inputs, use_cache=False), f"The losses ({name})")
        every = np.full(len(window), np.nan, np.float32)
        every[window.scored] = losses
        found[name] = every[window.kept]
    moved = np.argsort(-np.abs(ahead["lesion"] - ahead["intact"]))[:MOVED]
    spelled = _spell(tokenizer, moved)
    rows = [{"token": token, **{name: float(p[i]) for name, p in ahead.items()}} for token, i in zip(spelled, moved)]
    return {"losses": found, "next": rows}


def _spell(tokenizer, ids):
    from ..text.spelling import Speller

    return Speller(tokenizer)(ids)


def write_on(model, tokenizer, text, context, *, max_new_tokens=32, bos="auto"):
    """Let a model continue a text inside a lesion; returns the new text. Predictions must be finite."""
    with context:
        (written,) = generate_texts(model, tokenizer, [text], max_new_tokens=max_new_tokens, bos=bos)
    return written.text


def word_of(tokens):
    """Number of the word that each token belongs to: a word begins at white space, or after a line break.

    Examples
    --------
    >>> word_of(["The", " riv", "er", "\\\\n", "run", "s"])
    [0, 1, 1, 2, 3, 3]
    """
    words, word = [], -1
    for i, token in enumerate(tokens):
        begins = token[:1].isspace() or token[:2] in ("\\n", "\\t") or (i and tokens[i - 1][-2:] in ("\\n", "\\t"))
        word += int(begins or i == 0)
        words.append(word)
    return words


def _number(value, name, least, most):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ParameterError(f"{name}={value!r}: it must be a number from {least} to {most}.")
    return float(value)
