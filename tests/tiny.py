"""Tiny random models of every supported architecture, and a tokenizer, built in code: nothing is downloaded."""

from __future__ import annotations

VOCAB = 300
N_LAYERS = 4
HIDDEN = 32
INTERMEDIATE = 48
HEADS = 4
KV_HEADS = 2

_SPECIAL_IDS = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}

# The names most configs share; what an architecture calls differently stands in ARCHITECTURES.
_COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    intermediate_size=INTERMEDIATE,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=HEADS,
    max_position_embeddings=128,
    **_SPECIAL_IDS,
)
_GQA = dict(_COMMON, num_key_value_heads=KV_HEADS)
_SLIDING = dict(_GQA, head_dim=8, sliding_window=64)

ARCHITECTURES = {
    "llama": ("LlamaConfig", _GQA),
    "mistral": ("MistralConfig", dict(_GQA, sliding_window=None)),
    "qwen2": ("Qwen2Config", _GQA),
    "qwen3": ("Qwen3Config", dict(_GQA, head_dim=8)),
    "gemma": ("GemmaConfig", dict(_GQA, head_dim=8)),
    "gemma2": ("Gemma2Config", _SLIDING),
    "gemma3": ("Gemma3TextConfig", _SLIDING),
    "phi": ("PhiConfig", _COMMON),
    "phi3": ("Phi3Config", _GQA),
    "olmo2": ("Olmo2Config", _GQA),
    "cohere": ("CohereConfig", _GQA),
    "stablelm": ("StableLmConfig", _GQA),
    "starcoder2": ("Starcoder2Config", _GQA),
    "granite": ("GraniteConfig", _GQA),
    "smollm3": ("SmolLM3Config", _GQA),
    "glm4": ("Glm4Config", dict(_GQA, head_dim=8)),
    "gpt2": (
        "GPT2Config",
        dict(
            vocab_size=VOCAB,
            n_embd=HIDDEN,
            n_inner=INTERMEDIATE,
            n_layer=N_LAYERS,
            n_head=HEADS,
            n_positions=128,
            **_SPECIAL_IDS,
        ),
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        dict(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_layers=N_LAYERS,
            num_heads=HEADS,
            attention_types=[[["global", "local"], N_LAYERS // 2]],
            window_size=16,
            max_position_embeddings=128,
            **_SPECIAL_IDS,
        ),
    ),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "gptj": (
        "GPTJConfig",
        dict(
            vocab_size=VOCAB,
            n_embd=HIDDEN,
            n_inner=INTERMEDIATE,
            n_layer=N_LAYERS,
            n_head=HEADS,
            rotary_dim=4,
            n_positions=128,
            tie_word_embeddings=False,
            **_SPECIAL_IDS,
        ),
    ),
    "opt": (
        "OPTConfig",
        dict(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            ffn_dim=INTERMEDIATE,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=HEADS,
            word_embed_proj_dim=HIDDEN,
            max_position_embeddings=128,
            **_SPECIAL_IDS,
        ),
    ),
    "bloom": (
        "BloomConfig",
        dict(vocab_size=VOCAB, hidden_size=HIDDEN, n_layer=N_LAYERS, n_head=HEADS, **_SPECIAL_IDS),
    ),
    "falcon": (
        "FalconConfig",
        dict(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            ffn_hidden_size=INTERMEDIATE,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=128,
            **_SPECIAL_IDS,
        ),
    ),
}

# Models that must be refused: experts, encoder-decoders.
REFUSED = {
    "mixtral": ("MixtralConfig", dict(_GQA, num_local_experts=2, num_experts_per_tok=1)),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        dict(_GQA, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    ),
    "t5": (
        "T5Config",
        {
            "vocab_size": VOCAB,
            "d_model": HIDDEN,
            "d_ff": INTERMEDIATE,
            "d_kv": 8,
            "num_layers": 2,
            "num_heads": HEADS,
        },
    ),
}


def tiny_model(name="llama", seed=0, scale=4.0, **overrides):
    """A random model of one architecture: 4 layers, hidden 32, vocabulary 300, float32, eval mode.

    ``scale`` multiplies the weight matrices of the initialisation (standard deviation 0.02), which alone would
    give logits so flat that no test could tell two models apart. ``overrides`` go to the config.
    """
    import torch
    import transformers

    config_name, options = {**ARCHITECTURES, **REFUSED}[name]
    config = getattr(transformers, config_name)(**{**options, **overrides})
    auto = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(scale)
                else:  # biases start at zero, which hides mistakes about them
                    parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def tiny_tokenizer(*, pad_token="<pad>", add_bos=True, chat=True):
    """A byte-level tokenizer with 256 bytes, ``<s>`` (256), ``</s>`` (257), ``<pad>`` (258): 300 ids in all.

    Ids 259 to 299 are merges of frequent letter pairs, so that some tokens span two bytes. ``pad_token=None`` leaves
    the tokenizer without one; ``pad_token="</s>"`` makes it equal to eos. ``add_bos`` prepends ``<s>``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(alphabet)}
    vocab.update({"<s>": 256, "</s>": 257, "<pad>": 258})
    letters = "thheineranreonatenndtiesorteofedisitalarsttontngsehaasouiolevecomedehiriroicneeara"
    pairs = [letters[i : i + 2] for i in range(0, len(letters), 2)]
    merges = [(pair[0], pair[1]) for pair in pairs]
    vocab.update({pair: 259 + i for i, pair in enumerate(pairs)})
    assert len(vocab) == VOCAB

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 256)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad_token,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        fast.chat_template = (
            "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
        )
    return fast
