"""A language model that trains in seconds, for the examples: single characters, three layers, two kinds of text."""

import functools

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmbrain.text import Corpus, Document

WORDS = {
    "who": ["the cat", "the dog", "a bird", "my aunt", "the baker", "her son"],
    "does": ["sees", "wants", "finds", "sells", "paints"],
    "what": ["a boat", "the moon", "old bread", "a red hat", "two keys"],
}


def write_sum(rng):
    """One line of arithmetic."""
    a, b = rng.integers(1, 10, 2)
    return f"{a}+{b}={a + b}. "


def write_sentence(rng):
    """One line of prose."""
    return " ".join(rng.choice(WORDS[part]) for part in WORDS) + ". "


def make_corpus(n_documents=12, n_lines=24, random_state=0):
    """Documents that alternate between sums and sentences."""
    rng = np.random.default_rng(random_state)
    kinds = {"sums": write_sum, "prose": write_sentence}
    documents = []
    for i in range(n_documents):
        kind = list(kinds)[i % 2]
        text = "".join(kinds[kind](rng) for _ in range(n_lines))[:120]
        documents.append(Document(text, id=f"{kind}-{i:02d}", kind=kind))
    return Corpus(documents, name=f"toy{random_state}")


def make_tokenizer():
    """One token per byte."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<s>"] = 256
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")


@functools.lru_cache
def trained_model(n_steps=250):
    """A small Llama that has learnt the toy language, and its tokenizer."""
    transformers.set_seed(0)
    tokenizer = make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    ids = [tokenizer(d.text)["input_ids"] for d in make_corpus(200, random_state=1)]
    ids = torch.tensor([row[:96] for row in ids if len(row) >= 96])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    rng = np.random.default_rng(0)
    for _ in range(n_steps):
        batch = ids[rng.integers(0, len(ids), 16)]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False), tokenizer
