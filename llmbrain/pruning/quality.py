"""What a model is worth before and after pruning: perplexity on other text, and a few written words."""

from ..models.inputs import longest_context

TEST_TOKENS = 2048  # of other text that are read
PROMPT_TOKENS = 12
NEW_TOKENS = 32


def measure_quality(model, tokenizer, text, *, context=512, max_tokens=TEST_TOKENS, bos="auto"):
    """Measure the perplexity of a text on which nothing was chosen, and continue its first words.

    Returns ``perplexity``, ``n_tokens``, ``context``, ``prompt`` and ``written``, its most likely continuation.
    """
    from ..evaluation import generate_texts, perplexity_report
    from ..text import as_corpus

    corpus = as_corpus([text] if isinstance(text, str) else text)
    context = min(context, longest_context(model, context))
    found = perplexity_report(model, tokenizer, corpus, context, max_tokens=max_tokens, bos=bos)
    prompt = _first_words(corpus[0].text, tokenizer)
    written = generate_texts(model, tokenizer, [prompt], max_new_tokens=NEW_TOKENS)[0].text
    return {
        "perplexity": round(found["perplexity"], 3), "n_tokens": found["n_tokens"], "context": context,
        "prompt": prompt, "written": written,
    }  # fmt: skip


def compare_quality(before, after, name):
    """Combine results of :func:`measure_quality` before and after, on the text ``name``, in one flat dictionary."""
    changing = ("perplexity", "written")
    found = {f"{key}_{when}": part[key] for key in changing for when, part in (("before", before), ("after", after))}
    return {"text": name, **found, **{k: v for k, v in after.items() if k not in changing}}


def _first_words(text, tokenizer):
    """The beginning of a text, cut at a space after about a dozen tokens."""
    ids = tokenizer(text[:400], add_special_tokens=False)["input_ids"][:PROMPT_TOKENS]
    words = tokenizer.decode(ids)
    return words.rsplit(" ", 1)[0] if " " in words.strip() else words
