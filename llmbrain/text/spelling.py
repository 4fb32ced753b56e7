"""How tokens are shown: each on one line, as a person would read it."""

import re
from collections.abc import Sequence

import numpy as np


class Spellings(Sequence):
    """Spellings of token ids, made when they are read: most tokens of a text are never shown."""

    def __init__(self, spell, ids):
        self._spell, self._ids = spell, ids

    def __len__(self):
        """Number of tokens."""
        return len(self._ids)

    def __getitem__(self, item):
        """Return one spelling (integer), or a list of them (slice or array)."""
        ids = self._ids[item]
        return self._spell(ids) if np.ndim(ids) else self._spell([ids])[0]

    def __eq__(self, other):
        return list(self) == list(other)

    __hash__ = None


def spelled(tokens, places):
    """Spellings at some places of a document, a list of str."""
    return tokens[places] if isinstance(tokens, Spellings) else [tokens[i] for i in places]


class Speller:
    """Spells token ids on one line each, as a person would read them; spellings are cached."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        # each token is decoded after another one, because some tokenizers drop a space at the start of a text
        self.anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self.prefix = self._decode(self.anchor)
        self.known = {}

    def __call__(self, ids):
        """Spellings of some ids, a list of str."""
        ids = np.asarray(ids).tolist()
        for token_id in {*ids} - self.known.keys():
            self.known[token_id] = self._spell(token_id)
        return [self.known[token_id] for token_id in ids]

    def _decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _spell(self, token_id):
        text = self._decode([*self.anchor, token_id])
        text = text[len(self.prefix) :] if text.startswith(self.prefix) else ""
        if not text or "\N{REPLACEMENT CHARACTER}" in text:  # a part of a character
            text = _spell_bytes(str(self.tokenizer.convert_ids_to_tokens([token_id])[0]))
        return "".join(_visible(c) for c in text)


def _byte_alphabet():
    """Map the characters of byte-level vocabularies (GPT-2) to the bytes that they stand for."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()


def _spell_bytes(piece):
    """Decode a vocabulary entry: whole characters, and incomplete ones as bytes such as ``\\xe6``."""
    byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece)
    if byte:
        return f"\\x{byte[1].lower()}"
    if not all(c in _BYTES for c in piece):
        return piece
    return bytes(_BYTES[c] for c in piece).decode("utf-8", "backslashreplace")


def _visible(character):
    """Escape characters that would break a line or a table, such as newlines and tabs."""
    if character == " " or character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
