"""What is recorded: texts, conversations, or prompts together with what the model makes of them."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..exceptions import CorpusError, ParameterError
from ..models.inputs import input_device
from ..text import Corpus, Document, TokenizedDocument, as_corpus, encode, padding_id
from ..text.reading import read_jsonl
from ..text.tokens import Speller, special_ids

__all__ = ["Material", "conversations", "generated", "texts"]


@dataclass(frozen=True, eq=False)
class MarkedDocument(TokenizedDocument):
    """A tokenized document with further columns for the events, one value a token."""

    columns: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Material:
    """What a recording reads.

    Parameters
    ----------
    documents : list of llmbrain.text.TokenizedDocument
        May have ``columns``: a dict of further columns for the events, one value a token.
    corpus : dict
        ``name`` and ``hash`` of the corpus they come from, and whatever else describes it.
    """

    documents: list
    corpus: dict


def texts(corpus, tokenizer, bos="auto", n_tokens=None):
    """Tokenize plain texts.

    Parameters
    ----------
    corpus : Corpus, list of str, str, path-like or Material
        Whatever :func:`llmbrain.load_corpus` takes; a ``Material`` is returned as it is.
    tokenizer : transformers tokenizer
    bos : {"auto", True, False}
        Special tokens before every text, see :func:`llmbrain.text.leading_tokens`.
    n_tokens : int, optional
        Stop after about ``n_tokens`` tokens, see ``total`` of :func:`llmbrain.text.encode`.

    Returns
    -------
    Material

    Raises
    ------
    ParameterError
        If ``bos`` is set for texts that are tokenized already.
    """
    if isinstance(corpus, Material):
        if bos != "auto":
            raise ParameterError(
                f"bos={bos!r}: these texts are tokenized already. Pass bos= to the function that made them."
            )
        return corpus
    corpus = as_corpus(corpus)
    return Material(encode(corpus, tokenizer, bos=bos, total=n_tokens), _describe(corpus))


def conversations(chats, tokenizer, *, name="chat", add_generation_prompt=False):
    """Write conversations with the tokenizer's chat template and mark who speaks.

    Parameters
    ----------
    chats : Corpus, list of str, list of list of dict, or path
        Each conversation a list of ``{"role": ..., "content": ...}``; a text alone is one message of the user. A
        ``pathlib.Path`` is that of a ``.jsonl`` file, a conversation a line: an object with ``messages`` (or ``text``)
        and optionally ``id`` and ``kind``.
    tokenizer : transformers tokenizer
        Must have a chat template.
    name : str
        Name of the corpus, where ``chats`` is not one already.
    add_generation_prompt : bool
        End with what makes the model answer; for :func:`generated`.

    Returns
    -------
    Material
        The events get a column ``role``: the role of the message that a token belongs to, ``template`` for what the
        template adds around it.

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
        rows = [
            (
                f"chat-{i + 1:04d}",
                None,
                [{"role": "user", "content": chat}] if isinstance(chat, str) else chat,
            )
            for i, chat in enumerate(chats)
        ]
    written = [
        (identity, kind, *_write_chat(identity, messages, tokenizer, add_generation_prompt))
        for identity, kind, messages in rows
    ]
    corpus = Corpus([Document(text, identity, kind) for identity, kind, text, _ in written], name)
    documents = [_tokenize_chat(*row, tokenizer) for row in written]
    return Material(documents, _describe(corpus))


def generated(model, tokenizer, prompts, *, max_new_tokens=64, random_state=None, bos="auto", **options):
    """Let a model go on from prompts, and mark what is prompt and what is generated.

    The recording reads prompt and continuation once more in one pass. Every token so gets the activity it had while it
    was generated: with a cache, a token's state depends on the tokens before it alone (a test compares the two).

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokenizer : transformers tokenizer
    prompts : Material, Corpus, list of str, ...
        From :func:`conversations`, or plain texts.
    max_new_tokens : int
        Most tokens a document gets.
    random_state : int, optional
        Seed for sampling; None takes the likeliest token each time.
    **options
        Further arguments of ``model.generate``, e.g. ``temperature``.

    Returns
    -------
    Material
        The events get a column ``phase``: ``prompt`` or ``generated``.
    """
    import torch

    from .capture import quiet_forward

    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, (int, np.integer)) or max_new_tokens < 1:
        raise ParameterError(f"max_new_tokens={max_new_tokens!r}: it must be a whole number of at least 1.")
    material = texts(prompts, tokenizer, bos)
    special = special_ids(tokenizer)
    options = {"do_sample": random_state is not None, "max_new_tokens": int(max_new_tokens), **options}
    options |= {"return_dict_in_generate": False, "num_return_sequences": 1}
    if options.get("pad_token_id") is None:
        options["pad_token_id"] = padding_id(tokenizer)
    documents = []
    device = input_device(model)
    with quiet_forward(model), torch.no_grad(), torch.random.fork_rng():
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
    """Conversations of a JSONL file: ``[(id, kind, messages)]``."""
    if not path.is_file():
        raise CorpusError(f"There is no file {path}.")
    rows = []
    for number, row in read_jsonl(path):
        messages = row.get("messages") or [{"role": "user", "content": row.get("text")}]
        rows.append((str(row.get("id") or f"{path.stem}-{number:05d}"), row.get("kind"), messages))
    return rows


def _write_chat(identity, messages, tokenizer, add_generation_prompt):
    """The conversation as one text, and the spans of the messages in it."""
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
        return tokenizer.apply_chat_template(
            [{**message, "content": content} for message, content in zip(messages, contents)],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )

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
    """Where each message stands in a written conversation, or None.

    The template is rendered a second time with marks in the place of the messages. A search for the messages
    themselves would find one that says "user" in the template's own header.
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
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    except NotImplementedError as error:
        raise ParameterError(
            f"{type(tokenizer).__name__} does not say where its tokens stand in the text, so roles cannot be marked. "
            "Use a fast tokenizer (AutoTokenizer gives one where there is one), or record plain texts."
        ) from error
    plain = encode([Document(text, identity, kind)], tokenizer, bos=False)[0]
    roles = []
    for begin, end in encoded["offset_mapping"]:
        inside = [role for first, last, role in spans if begin < last and end > first]
        roles.append(inside[0] if inside else "template")
    return MarkedDocument(plain.ids, plain.tokens, plain.is_special, identity, kind, {"role": roles})


def _without_end(document, tokenizer):
    """Ids of a prompt without an end-of-text token at its end: after that there is nothing to go on from."""
    ids = np.asarray(document.ids)
    while len(ids) > 1 and ids[-1] == getattr(tokenizer, "eos_token_id", None) and document.is_special[len(ids) - 1]:
        ids = ids[:-1]
    return ids


def _join(document, n_prompt, ids, tokenizer, special):
    new = ids[n_prompt:]
    while len(new) and int(new[-1]) in special:  # the end of text, and padding after it
        new = new[:-1]
    spelled = Speller(tokenizer)(new)
    columns = {
        **{k: [*list(v)[:n_prompt], *["assistant"] * len(new)] for k, v in getattr(document, "columns", {}).items()},
        "phase": ["prompt"] * n_prompt + ["generated"] * len(new),
    }
    return MarkedDocument(
        np.concatenate([np.asarray(document.ids)[:n_prompt], new]).astype(np.int64),
        [*list(document.tokens)[:n_prompt], *spelled],
        np.concatenate([np.asarray(document.is_special)[:n_prompt], [int(i) in special for i in new]]).astype(bool),
        document.id,
        document.kind,
        columns,
    )
