"""What a recording reads: texts, conversations, or prompts together with the model's continuations."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..exceptions import CorpusError, ParameterError, check_count, check_seed
from ..models.finite import finite_logits
from ..models.hooks import evaluating
from ..models.inputs import check_generation, check_readable, input_device
from ..text import Corpus, Document, TokenizedDocument, as_corpus, encode, padding_id
from ..text.reading import read_jsonl
from ..text.spans import NOWHERE, encode_with_places
from ..text.spelling import Speller
from ..text.tokens import encode_with_spans, special_ids
from .events import extra_columns


@dataclass(frozen=True, eq=False)
class MarkedDocument(TokenizedDocument):
    """A tokenized document with further columns for the events, one value per token."""

    columns: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Material:
    """What a recording reads.

    Parameters
    ----------
    documents : list of llmbrain.text.TokenizedDocument
        May have ``columns``: a dict of further columns for the events, one value per token.
    corpus : dict
        ``name`` and ``hash`` of the corpus, and other facts that describe it.
    """

    documents: list
    corpus: dict

    def __repr__(self):
        n = sum(len(document.ids) for document in self.documents)
        return f"Material({self.corpus.get('name')!r}, {len(self.documents)} documents, {n:,} tokens)"


def texts(corpus, tokenizer, bos="auto", max_tokens=None):
    """Tokenize plain texts, up to about ``max_tokens`` tokens; a ``Material`` is returned unchanged."""
    if isinstance(corpus, Material):
        if bos != "auto":
            raise ParameterError(
                f"bos={bos!r}: these texts are already tokenized. Pass bos= to the function that made them."
            )
        return corpus
    corpus = as_corpus(corpus)
    read = encode_with_spans(corpus, tokenizer, bos=bos, max_tokens=max_tokens)
    return Material([_placed(document, spans) for document, spans in read], _describe(corpus))


def _placed(document, spans):
    """Add the place of each token in the text, by which models with other tokenizers are aligned."""
    if spans is None:  # a tokenizer without positions: it can be recorded, but not aligned
        return document
    fields = (document.ids, document.tokens, document.is_special, document.id, document.kind)
    return MarkedDocument(*fields, columns=_place_columns(spans))


def _place_columns(spans):
    """Spans as columns of the events; ``NOWHERE`` where a token is outside of the text."""
    # arrays, because lists of numbers would take most of the memory of a tokenized text
    return dict(zip(("start", "stop"), np.ascontiguousarray(np.asarray(spans, np.int32).T)))


def conversations(chats, tokenizer, *, name="chat", add_generation_prompt=False):
    """Write conversations with the tokenizer's chat template and mark who speaks.

    Parameters
    ----------
    chats : Corpus, list of str, list of list of dict, or pathlib.Path
        Each conversation is a list of ``{"role": ..., "content": ...}``; a plain text is one message of the user. A
        path names a ``.jsonl`` file with one object per line: ``messages`` (or ``text``), optionally ``id`` and
        ``kind``.
    tokenizer : transformers tokenizer
        Must have a chat template.
    name : str
        Name of the corpus; not used for a Corpus or a path.
    add_generation_prompt : bool
        End each conversation with the header of the model's answer; for :func:`generated`.

    Returns
    -------
    Material
        The events get a column ``role``: the role of the message that a token belongs to, or ``template`` for text that
        the template adds.

    Raises
    ------
    ParameterError
        If the tokenizer has no chat template.
    CorpusError
        If a conversation is not a list of messages, or the template changes or drops a message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ParameterError(
            "This tokenizer has no chat template. Record plain texts (chat=False), or set tokenizer.chat_template."
        )
    if isinstance(chats, os.PathLike):
        name, rows = Path(chats).stem, _read_chats(Path(chats))
    elif isinstance(chats, Corpus):
        name, rows = chats.name, [(d.id, d.kind, [{"role": "user", "content": d.text}]) for d in chats]
    else:
        chats = [chats] if isinstance(chats, str) else list(chats)
        chats = [[{"role": "user", "content": chat}] if isinstance(chat, str) else chat for chat in chats]
        rows = [(f"chat-{i + 1:04d}", None, chat) for i, chat in enumerate(chats)]
    written = [
        (identity, kind, *_write_chat(identity, messages, tokenizer, add_generation_prompt))
        for identity, kind, messages in rows
    ]
    corpus = Corpus([Document(text, identity, kind) for identity, kind, text, _ in written], name)
    documents = [_tokenize_chat(*row, tokenizer) for row in written]
    return Material(documents, _describe(corpus))


def generated(model, tokenizer, prompts, *, max_new_tokens=64, random_state=None, bos="auto", **options):
    """Let a model continue prompts, and mark which tokens are prompt and which are generated.

    The recording reads prompt and continuation together in one pass. Each token has the same activity as while it was
    generated, because its state depends only on the tokens before it (a test compares the two).

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokenizer : transformers tokenizer
    prompts : Material, Corpus, list of str, ...
        From :func:`conversations`, or plain texts.
    max_new_tokens : int
        Maximum number of tokens generated per document.
    random_state : int, optional
        Seed for sampling; None takes the likeliest token each time.
    bos : {"auto", True, False}
        Special tokens before plain texts, see :func:`llmbrain.text.leading_tokens`.
    **options
        Further arguments of ``model.generate``, e.g. ``temperature``.

    Returns
    -------
    Material
        The events get a column ``phase``: ``prompt`` or ``generated``.

    Raises
    ------
    ParameterError
        If a prompt and its continuation may be longer than what the model reads at once.
    NumericalError
        If logits are not finite.
    """
    import torch

    check_count("max_new_tokens", max_new_tokens)
    if random_state is not None:
        check_seed(random_state)
    material = texts(prompts, tokenizer, bos)
    special = special_ids(tokenizer)
    options = {"do_sample": random_state is not None, "max_new_tokens": int(max_new_tokens), **options}
    options |= {"return_dict_in_generate": False, "num_return_sequences": 1}
    if options.get("pad_token_id") is None:
        options["pad_token_id"] = padding_id(tokenizer)
    documents = []
    device = input_device(model)
    check_readable(model, (document.ids for document in material.documents))
    for document in material.documents:
        check_generation(model, len(_without_end(document, tokenizer)), int(max_new_tokens))
    with evaluating(model), finite_logits(model), torch.no_grad(), torch.random.fork_rng():
        for number, document in enumerate(material.documents):
            if random_state is not None:
                torch.manual_seed(int(random_state) + number)  # so that a document does not depend on the others
            ids = torch.from_numpy(_without_end(document, tokenizer))[None].to(device)
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].cpu().numpy()
            documents.append(_join(document, ids.shape[1], out, tokenizer, special))
    settings = {"max_new_tokens": int(max_new_tokens), "random_state": random_state}
    return Material(documents, {**material.corpus, "name": f"{material.corpus['name']}-generated", **settings})


def _describe(corpus):
    known = [d.hash[:16] for d in corpus]  # by which a test on one of these documents is noticed
    return {"name": corpus.name, "hash": corpus.hash, "n_documents": len(corpus), "document_hashes": known}


def _read_chats(path):
    """Read the conversations of a JSONL file: ``[(id, kind, messages)]``."""
    if not path.is_file():
        raise CorpusError(f"The file {path} does not exist.")
    rows = []
    for number, row in read_jsonl(path):
        messages = row.get("messages") or [{"role": "user", "content": row.get("text")}]
        rows.append((str(row.get("id") or f"{path.stem}-{number:05d}"), row.get("kind"), messages))
    return rows


def _write_chat(identity, messages, tokenizer, add_generation_prompt):
    """Write a conversation as one text; return it and the spans of its messages."""
    right = (
        isinstance(messages, (list, tuple))
        and messages
        and all(isinstance(m, dict) and isinstance(m.get("content"), str) and m.get("role") for m in messages)
    )
    if not right:
        raise CorpusError(
            f"Conversation {identity!r} is {messages!r:.80}; it must be a list of {{'role': ..., 'content': ...}}."
        )

    def render(contents):
        rows = [{**message, "content": content} for message, content in zip(messages, contents)]
        try:
            return tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # templates come with the model, and may raise anything
            raise CorpusError(
                f"Conversation {identity!r}: the tokenizer's chat template fails ({type(error).__name__}: {error}). "
                "Correct the conversation, or write the text yourself and record it as plain text."
            ) from error

    contents = [message["content"] for message in messages]
    text = render(contents)
    spans = _spans_of(contents, text, render)
    if spans is None:
        raise CorpusError(
            f"Conversation {identity!r}: the chat template changes or drops a message ({contents[0][:40]!r}, ...), so "
            "its tokens cannot be marked. Write the text yourself and record it as plain text."
        )
    return text, [(*span, message["role"]) for span, message in zip(spans, messages)]


def _spans_of(contents, text, render):
    """Find each message in a written conversation; None if the template changed or dropped one.

    The template is rendered a second time with marks in place of the messages. A search for the messages themselves
    could find a message such as "user" in the template's own header.
    """
    frame = re.split("\ue000([0-9]+)\ue001", render([f"\ue000{i}\ue001" for i in range(len(contents))]))
    if frame[1::2] != [str(i) for i in range(len(contents))]:
        return None
    for written in (contents, [content.strip() for content in contents]):  # many templates trim
        if not all(content.strip() for content in written):
            return None
        parts = [part for pair in zip(frame[::2], written) for part in pair]
        if "".join([*parts, frame[-1]]) == text:
            ends = np.cumsum([len(part) for part in parts]).tolist()
            return list(zip(ends[::2], ends[1::2]))
    return None


def _tokenize_chat(identity, kind, text, spans, tokenizer):
    # The template writes its own special tokens; the tokenizer must not add them a second time.
    encoded = encode_with_places(tokenizer, text, "roles cannot be marked")
    plain = encode([Document(text, identity, kind)], tokenizer, bos=False)[0]
    roles, places, lengths = [], [], np.cumsum([0, *(last - first for first, last, _ in spans)]).tolist()
    for begin, end in encoded["offset_mapping"]:
        inside = [i for i, (first, last, _) in enumerate(spans) if begin < last and end > first]
        roles.append(spans[inside[0]][2] if inside else "template")
        places.append((NOWHERE, NOWHERE))
        if inside:  # in the messages alone, which models with other templates share
            first, last, _ = spans[inside[0]]
            places[-1] = tuple(lengths[inside[0]] + min(max(place, first), last) - first for place in (begin, end))
    columns = {"role": roles, **_place_columns(np.array(places).reshape(-1, 2))}
    return MarkedDocument(plain.ids, plain.tokens, plain.is_special, identity, kind, columns)


def _without_end(document, tokenizer):
    """Return the ids of a prompt without end-of-text tokens at its end, after which a model does not continue."""
    ids = np.asarray(document.ids)
    while len(ids) > 1 and ids[-1] == getattr(tokenizer, "eos_token_id", None) and document.is_special[len(ids) - 1]:
        ids = ids[:-1]
    return ids


def _join(document, n_prompt, ids, tokenizer, special):
    new = ids[n_prompt:]
    while len(new) and int(new[-1]) in special:  # the end of text, and padding after it
        new = new[:-1]
    spelled = Speller(tokenizer)(new)
    known = {"role": "assistant"}  # the text of a continuation has no place in the document
    columns = {
        **{k: [*v[:n_prompt], *[known.get(k)] * len(new)] for k, v in extra_columns(document)},
        "phase": ["prompt"] * n_prompt + ["generated"] * len(new),
    }
    return MarkedDocument(
        np.concatenate([np.asarray(document.ids)[:n_prompt], new]).astype(np.int64),
        [*document.tokens[:n_prompt], *spelled],
        np.concatenate([np.asarray(document.is_special)[:n_prompt], [int(i) in special for i in new]]).astype(bool),
        document.id,
        document.kind,
        columns,
    )
