"""Cheap checks of a model and its tokenizer when they are opened: broken ones produce nonsense without any error."""

import contextlib
import math
import warnings

from ..exceptions import LLMBrainWarning, ModelNotFoundError
from ..files import read_json, sample_hash, write_json
from .inputs import input_device, longest_context

SAMPLE = "The old ferry left the harbour before dawn, and nobody on the quay knew when it would return."
LEAST_VOCABULARY = 5000  # smaller vocabularies, of bytes or letters, spell on purpose
MOST_TOKENS = 0.6  # per character of the sample; vocabularies made for English text need 0.2 to 0.3


def check_tokenizer(tokenizer):
    """Warn about a tokenizer that spells letter by letter or loses text; return it unchanged.

    Raises
    ------
    ModelNotFoundError
        If it cannot read plain English.
    """
    try:
        ids = tokenizer(SAMPLE, add_special_tokens=False, verbose=False)["input_ids"]
    except Exception as error:  # libraries meet damaged settings with errors of every kind
        raise ModelNotFoundError(
            f"The tokenizer cannot read plain English ({type(error).__name__}: {error}). Its files are damaged or name "
            "another class: get a complete copy, or pass another tokenizer with tokenizer=."
        ) from error
    per_character = len(ids) / len(SAMPLE)
    if len(tokenizer) >= LEAST_VOCABULARY and per_character > MOST_TOKENS:
        _warn(
            f"The tokenizer needs {len(ids)} tokens for {len(SAMPLE)} characters of English although it has "
            f"{len(tokenizer)} tokens: it spells letter by letter, so losses and perplexities mean nothing. "
            "It was probably converted wrongly: load it from the original model (tokenizer=), or with another version "
            "of transformers."
        )
    back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    words = back.split()
    same = "".join(words) == "".join(SAMPLE.split()) and len(words) > 1  # some decoders move white space
    if not same and back.lower().split() != SAMPLE.lower().split():
        _warn(
            f"The tokenizer does not return the text that it was given: {SAMPLE[:40]!r} became {back[:40]!r}. "
            "Check that it belongs to the model."
        )
    return tokenizer


PASSAGE = (
    f"{SAMPLE} The fishermen mended their nets in the rain and talked about the price of diesel. In the afternoon a "
    "letter came for the captain's daughter, who read it twice, folded it, and went back to the shop without a word."
)
WORSE_THAN_CHANCE = 1.0  # nats per token above the uniform distribution; weights drawn at random stay below
HARM = 0.2  # nats per token of the passage from which BOS is taken to be none


class Losses:
    """Losses of a model on short texts, each computed once, also over several openings if they are kept in a file.

    The file lies beside the weights, and losses of other weights are not used.
    """

    def __init__(self, model, file=None):
        self.model, self.file, self.known, self.weights = model, file, {}, ""
        if file is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):  # missing or damaged: computed again
                self.weights = " ".join(sample_hash(path) for path in sorted(file.parent.glob("*.safetensors")))
                self.known = {name: float(loss) for name, loss in dict(read_json(file)).items()}

    def __call__(self, ids, start):
        """Mean loss of the tokens from ``start`` on, in nats; infinite if it is not finite."""
        name = f"{self.weights} {self.model.dtype} {self.model.device.type} {start} {ids}"
        if name not in self.known:
            loss = _loss(self.model, ids, start)
            if not math.isfinite(loss):
                return loss
            self.known[name] = loss
            if self.file is not None:
                with contextlib.suppress(OSError):  # a cache that cannot be written
                    write_json(self.file, self.known)
        return self.known[name]


def check_predictions(model, tokenizer, loss_of=None):
    """Warn about a model that predicts plain English worse than chance: the tokenizer is probably not its own."""
    ids = tokenizer(PASSAGE, add_special_tokens=True, verbose=False)["input_ids"]
    vocabulary = model.config.get_text_config().vocab_size
    if len(ids) < 2 or max(ids) >= vocabulary:
        return
    loss, chance = (loss_of or Losses(model))(ids, 1), math.log(vocabulary)
    if loss > chance + WORSE_THAN_CHANCE:
        _warn(
            f"The model predicts plain English worse than chance ({loss:.1f} nats per token; chance is {chance:.1f}). "
            "Check that the tokenizer belongs to the model and that the weights are complete."
        )


def check_bos(model, tokenizer, own=True, loss_of=None):
    """Forget a BOS token that the tokenizer does not add and that harms the model's predictions.

    Some files name a BOS token with which the model was never trained. With it at the head of every window,
    Qwen2.5-Coder-0.5B has more than twice the perplexity. The token is forgotten only in a tokenizer that this package
    opened (``own``); for any other there is a warning.
    """
    token = getattr(tokenizer, "bos_token_id", None)
    plain, bare = (tokenizer(PASSAGE, add_special_tokens=s, verbose=False)["input_ids"] for s in (True, False))
    if token is None or not bare or token in plain:
        return
    if max(token, *bare) >= model.config.get_text_config().vocab_size:
        return
    loss_of = loss_of or Losses(model)
    without, headed = loss_of(bare, 1), loss_of([token, *bare], 2)
    if headed < without + HARM:
        return
    name = tokenizer.bos_token
    harm = f"predicts worse with it ({headed:.2f} instead of {without:.2f} nats per token of a passage)"
    if not own:
        _warn(f"The tokenizer has the BOS token {name!r} but does not add it, and the model {harm}. Use bos=False.")
        return
    tokenizer.bos_token = None
    _warn(
        f"The tokenizer has the BOS token {name!r} but does not add it, and the model {harm}. It is not used. "
        f"To use it all the same, set tokenizer.bos_token = {name!r}."
    )


def _loss(model, ids, start):
    import torch

    ids = torch.tensor([ids[: longest_context(model, len(ids))]], device=input_device(model))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float()
    loss = float(torch.nn.functional.cross_entropy(logits, ids[0, start:].to(logits.device)))
    return loss if math.isfinite(loss) else math.inf


def _warn(message):
    warnings.warn(message, LLMBrainWarning, stacklevel=5)  # the caller of load_model
