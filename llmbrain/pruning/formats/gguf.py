"""One GGUF file for llama.cpp, architecture ``deci``: the Llama graph with its own width and heads in each layer."""

from pathlib import Path

import numpy as np
import torch

from ...exceptions import ParameterError, UnsupportedArchitectureError
from ...models.inputs import longest_context
from ...models.surgery import prunable_attentions, prunable_mlps
from .base import FORMATS
from .hetero import stock_class

_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
_NORMAL, _CONTROL, _USER = 1, 3, 4
_LOADING = """`model.gguf` is for llama.cpp (architecture `deci`, in which each layer has its own width).

```sh
llama-cli -m model.gguf -p "The brain is"
```
The file format was tested with llama.cpp (the xllamacpp build of 2026-10) on small random models with pruned neurons
and heads: the probabilities agree with transformers. This file itself was not tested with another program."""


def permute_for_rope(weight, n_heads):
    """Reorder rows of a query or key projection: transformers rotates halves of a head, llama.cpp neighbouring pairs.

    Examples
    --------
    >>> permute_for_rope(torch.arange(8), 2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    rest = weight.shape[1:]
    halves = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *rest)
    return halves.transpose(1, 2).reshape(-1, *rest)


def write_gguf(model, tokenizer, path, *, pre="auto"):
    """Write a Llama or Mistral model, pruned or not, with its byte-level BPE tokenizer.

    ``pre`` is llama.cpp's name for the tokenizer's splitting rule; "auto" guesses it from the model's name. A file that
    exists is refused with a :class:`~llmbrain.exceptions.ParameterError`.
    """
    check_writable(model)
    if Path(path).exists():
        raise ParameterError(f"The file {path} exists, and it is not replaced. Choose another file.")
    import gguf

    writer = gguf.GGUFWriter(str(path), "deci")
    try:
        _write_facts(writer, model)
        _write_tokenizer(writer, model, tokenizer, pre)
        for name, tensor in _tensors(model):
            data, kind = _data(tensor, gguf)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def check_writable(model, recipe=None):
    """Refuse a model that cannot be written, or a missing package."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ParameterError("format='gguf' needs the package gguf. Install it with: pip install gguf") from None
    name = stock_class(model).__name__
    if name not in _ARCHITECTURES:
        raise UnsupportedArchitectureError(
            f"format='gguf' writes {' and '.join(_ARCHITECTURES)}, not {name}. Save with format='hetero'."
        )
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window < longest_context(model, 0):
        raise UnsupportedArchitectureError(
            f"The architecture 'deci' has no sliding window, and this model has one of {window} tokens. Save with "
            "format='hetero'."
        )


def _write_facts(writer, model):
    config = model.config
    attentions, mlps = prunable_attentions(model), prunable_mlps(model)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedArchitectureError(
            f"The position scheme {kind!r} cannot be written as GGUF. Save with format='hetero'."
        )
    writer.add_name(str(getattr(config, "_name_or_path", "") or "pruned"))
    writer.add_block_count(len(mlps))
    writer.add_context_length(longest_context(model))
    writer.add_embedding_length(config.hidden_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_feed_forward_length([p.size for p in mlps])
    writer.add_head_count([p.n_heads for p in attentions])
    writer.add_head_count_kv([p.n_kv_heads for p in attentions])
    writer.add_key_length(attentions[0].head_dim)
    writer.add_value_length(attentions[0].head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(attentions[0].head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", getattr(config, "rope_theta", 10000.0))))
    if kind == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _write_tokenizer(writer, model, tokenizer, pre):
    import json

    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = json.loads(backend.to_str()) if backend is not None else {}
    if described.get("model", {}).get("type") != "BPE" or "ByteLevel" not in json.dumps(described.get("pre_tokenizer")):
        raise UnsupportedArchitectureError(
            "format='gguf' writes only byte-level BPE tokenizers, and this one is not. Save with format='hetero'."
        )
    added = {t["id"]: t for t in described.get("added_tokens", [])}
    tokens = [f"[PAD{i}]" for i in range(model.config.vocab_size)]
    kinds = [5] * len(tokens)  # unused
    for token, i in described["model"]["vocab"].items():
        if i < len(tokens):
            tokens[i], kinds[i] = token, _NORMAL
    for i, token in added.items():
        if i < len(tokens):
            tokens[i], kinds[i] = token["content"], _CONTROL if token["special"] else _USER
    merges = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_guess_pre(model) if pre == "auto" else pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for name in ("bos", "eos", "pad", "unk"):
        value = getattr(tokenizer, f"{name}_token_id", None)
        if value is not None:
            getattr(writer, f"add_{name}_token_id")(int(value))
    first = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(bool(first and first[0] == tokenizer.bos_token_id))
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str):
        writer.add_chat_template(template)


def _guess_pre(model):
    """Guess llama.cpp's name for the rule that splits text before BPE."""
    name = str(getattr(model.config, "_name_or_path", "")).lower()
    if "smollm" in name:
        return "smollm"
    if "llama-3" in name or "llama3" in name or model.config.vocab_size == 128256:
        return "llama-bpe"
    return "gpt-2"


def _tensors(model):
    """Name and value of every tensor, with llama.cpp's names."""
    inner = model.model
    yield "token_embd.weight", inner.embed_tokens.weight
    factors = _rope_factors(model)
    if factors is not None:
        yield "rope_freqs.weight", factors
    for i, (layer, attention) in enumerate(zip(inner.layers, prunable_attentions(model))):
        yield f"blk.{i}.attn_norm.weight", layer.input_layernorm.weight
        yield f"blk.{i}.ffn_norm.weight", layer.post_attention_layernorm.weight
        for short, count in (("q", attention.n_heads), ("k", attention.n_kv_heads)):
            module = getattr(layer.self_attn, f"{short}_proj")
            yield f"blk.{i}.attn_{short}.weight", permute_for_rope(module.weight, count)
            if module.bias is not None:
                yield f"blk.{i}.attn_{short}.bias", permute_for_rope(module.bias, count)
        named = {
            "attn_v": layer.self_attn.v_proj, "attn_output": attention.writer, "ffn_gate": layer.mlp.gate_proj,
            "ffn_up": layer.mlp.up_proj, "ffn_down": layer.mlp.down_proj,
        }  # fmt: skip
        for name, module in named.items():
            yield f"blk.{i}.{name}.weight", module.weight
            if module.bias is not None:
                yield f"blk.{i}.{name}.bias", module.bias
    yield "output_norm.weight", inner.norm.weight
    if model.lm_head.weight is not inner.embed_tokens.weight:
        yield "output.weight", model.lm_head.weight


def _rope_factors(model):
    """Divisor of each frequency for llama3-scaled positions; None for plain positions."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    size = prunable_attentions(model)[0].head_dim
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    return (plain / model.model.rotary_emb.inv_freq.double().cpu()).float()


def _data(tensor, gguf):
    """Data and type of a tensor: vectors and float32 as float32; bfloat16 and float16 unchanged."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.ndim == 1 or tensor.dtype == torch.float32:
        return tensor.float().numpy(), gguf.GGMLQuantizationType.F32
    if tensor.dtype == torch.bfloat16:
        # The writer expects the shape of raw data in bytes.
        return tensor.view(torch.int16).numpy().view(np.uint8), gguf.GGMLQuantizationType.BF16
    return tensor.half().numpy(), gguf.GGMLQuantizationType.F16


@FORMATS.register(
    "gguf",
    loading=_LOADING,
    check=check_writable,
    own_tokenizer=True,
    then=("llama-cli", "-m", "{folder}/model.gguf", "-p", "The brain is"),
)
def save_gguf(model, tokenizer, folder):
    """One file for llama.cpp, with every layer's own width."""
    write_gguf(model, tokenizer, folder / "model.gguf")
