"""Measure what a leading BOS is worth: the loss of real models with and without it, for several window lengths.

The same text tokens are scored in both conditions: each window of ``n`` tokens holds ``n - 1`` tokens of text, with or
without BOS before them. The first token of text is scored in neither. This measurement is the reason for the default
``bos="auto"`` for tokenizers that have a BOS token but do not add it.

    python benchmarks/bos.py --models demo models/gemma-3-270m.gguf --text wikitext-2/test.raw.txt
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import llmbrain as lb
from llmbrain.evaluation import window_losses
from llmbrain.text import Window, encode


def text_pieces(corpus, tokenizer, length, n_tokens):
    """Pieces of ``length`` text tokens without special tokens, the first ``n_tokens`` of a corpus."""
    pieces, left = [], n_tokens
    for document in encode(corpus, tokenizer, bos=False, max_tokens=n_tokens):
        for start in range(0, len(document), length):
            piece = document.ids[start : start + length]
            if len(piece) > 8 and left > 0:
                pieces.append(piece)
                left -= len(piece)
    return pieces


def mean_loss(model, pieces, head):
    """Nats per token behind some leading ids; the first token of each piece is not scored."""
    windows = [Window([*head, *piece], np.arange(len(head) + len(piece)) > len(head)) for piece in pieces]
    losses = np.concatenate(window_losses(model, windows, max_batch_tokens=2048))
    return float(losses.mean(dtype=np.float64)), len(losses)


def measure(name, corpus, lengths, n_tokens):
    """One row per length of window for one model."""
    model, tokenizer = lb.load_model(name)
    adds = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    named = model.config.get_text_config().bos_token_id  # load_model forgets one that harms, as in Qwen's file
    bos = named if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    for length in lengths:
        pieces = text_pieces(corpus, tokenizer, length - 1, n_tokens)
        without, n_scored = mean_loss(model, pieces, [])
        row = {
            "model": Path(name).stem,
            "bos": "none" if bos is None else f"{tokenizer.decode([bos])} ({'added' if adds else 'not added'})",
            "text": corpus.name,
            "window": length,
            "n_tokens": n_scored,
            "without": float(np.exp(without)),
        }
        if bos is not None:
            behind, _ = mean_loss(model, pieces, [bos])
            row |= {"with": float(np.exp(behind)), "nats": without - behind}
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        yield row


def main():
    """Print one row per model, text and length of window."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["demo"])
    parser.add_argument("--text", default="demo", help="Text file to measure on (default: the demo corpus).")
    parser.add_argument("--windows", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--tokens", type=int, default=4096)
    args = parser.parse_args()
    corpus = lb.load_corpus(args.text)
    rows = [row for name in args.models for row in measure(name, corpus, args.windows, args.tokens)]
    print(pd.DataFrame(rows).round(4).to_string(index=False))


if __name__ == "__main__":
    main()
