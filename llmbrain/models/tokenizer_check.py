"""A cheap check of a tokenizer when it is opened: a broken one produces nonsense without any error."""

import warnings

from ..exceptions import LLMBrainWarning

__all__ = ["check_tokenizer"]

SAMPLE = "The old ferry left the harbour before dawn, and nobody on the quay knew when it would return."
LEAST_VOCABULARY = 5000  # smaller vocabularies, of bytes or letters, spell on purpose
MOST_TOKENS = 0.6  # per character of the sample; vocabularies made for English text need 0.2 to 0.3


def check_tokenizer(tokenizer):
    """Warn about a tokenizer that spells letter by letter or loses text; return it unchanged."""
    ids = tokenizer(SAMPLE, add_special_tokens=False, verbose=False)["input_ids"]
    per_character = len(ids) / len(SAMPLE)
    if len(tokenizer) >= LEAST_VOCABULARY and per_character > MOST_TOKENS:
        _warn(
            f"The tokenizer needs {len(ids)} tokens for {len(SAMPLE)} characters of English although it has "
            f"{len(tokenizer)} tokens: it spells letter by letter, so losses and perplexities mean nothing. "
            "It was probably converted wrongly: load it from the original model (tokenizer=), or with another version "
            "of transformers."
        )
    back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if "".join(back.split()) != "".join(SAMPLE.split()) and back.lower().split() != SAMPLE.lower().split():
        _warn(
            f"The tokenizer does not return the text that it was given: {SAMPLE[:40]!r} became {back[:40]!r}. "
            "Check that it belongs to the model."
        )
    return tokenizer


def _warn(message):
    warnings.warn(message, LLMBrainWarning, stacklevel=4)
