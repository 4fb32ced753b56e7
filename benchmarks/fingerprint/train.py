"""Train small Llama-style models from scratch: same tokenizer, other seeds or other text. They are the hard negatives.

    python benchmarks/fingerprint/train.py models --text wiki.txt --other news.txt --seeds 6 --other-seeds 2
    python benchmarks/fingerprint/train.py models --text a.txt --other b.txt --device cuda --vocabulary 2048 \
        --sizes 128x6 128x12 192x6 --seeds 20 --steps 1500 --batch 64

Writes one folder per model, each with the common tokenizer, which is trained on both texts: ``seed-00`` ... on the one
text and ``other-00`` ... on the other; with ``--sizes``, ``mixed-00`` ... of these widths and depths in turn, and after
each round of sizes the text changes. A model that exists is not trained again. The first command takes some minutes per
model on one core; the second is meant for a GPU (one to two minutes per model on a H200 that four processes share), and
`docstrings.py` writes texts for it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LENGTH = 128  # tokens of a training sequence


def train_tokenizer(texts, size):
    """Byte-level BPE with ``<s>`` in front of every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator((line for text in texts for line in text.splitlines()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def new_model(options, seed):
    """Make an untrained model."""
    transformers.set_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=options.vocabulary, hidden_size=options.hidden, intermediate_size=options.hidden * 8 // 3 // 8 * 8,
        num_hidden_layers=options.layers, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
        bos_token_id=0, eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(options.device)


def sequences(ids, batch, generator):
    """Draw a batch of sequences from a long text, each behind BOS."""
    starts = torch.randint(0, len(ids) - LENGTH, (batch,), generator=generator)
    rows = torch.stack([ids[s : s + LENGTH - 1] for s in starts.tolist()])
    return torch.cat([torch.zeros(batch, 1, dtype=torch.long), rows], dim=1)


def train(model, ids, *, steps, batch, seed, rate=3e-3, parameters=None, targets=None):
    """Train on next tokens, or with ``targets`` (a function of ids) on another model's probabilities."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters()) if parameters is None else parameters
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    device, mean = next(model.parameters()).device, 0.0
    model.train()
    for step in range(steps):
        rows = sequences(ids, batch, generator).to(device)
        logits = model(rows, use_cache=False).logits[:, :-1]
        if targets is None:
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
        else:
            loss = -(targets(rows)[:, :-1] * logits.log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        mean += (float(loss.detach()) - mean) / min(step + 1, 50)
    model.eval()
    return mean


def read_ids(tokenizer, path):
    """A whole text as one long row of token ids."""
    ids = tokenizer(Path(path).read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    return torch.from_numpy(np.asarray(ids, dtype=np.int64))


def _plan(options):
    """Name, text, seed and size (width, layers) of every model."""
    if options.sizes:
        sizes = [tuple(map(int, size.split("x"))) for size in options.sizes]
        texts = options.text, options.other
        return [(f"mixed-{i:02d}", texts[i // len(sizes) % 2], i, sizes[i % len(sizes)]) for i in range(options.seeds)]
    size = options.hidden, options.layers
    plan = [(f"seed-{i:02d}", options.text, i, size) for i in range(options.seeds)]
    return plan + [(f"other-{i:02d}", options.other, 1000 + i, size) for i in range(options.other_seeds)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--other", type=Path, required=True, help="text of the models named other")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--other-seeds", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--sizes", nargs="*", help="several widths and depths, such as 128x6")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in (options.text, options.other)]
    tokenizer = train_tokenizer(texts, options.vocabulary)
    for name, path, seed, size in _plan(options):
        if (options.out / name / "config.json").is_file():
            continue
        start = time.perf_counter()
        options.hidden, options.layers = size
        model, ids = new_model(options, seed), read_ids(tokenizer, path)
        loss = train(model, ids, steps=options.steps, batch=options.batch, seed=seed)
        model.save_pretrained(options.out / name)
        tokenizer.save_pretrained(options.out / name)
        print(f"{name}: {loss:.3f} nats per token, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
