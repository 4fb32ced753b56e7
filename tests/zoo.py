"""Tiny random models beyond ``tiny.ARCHITECTURES``: dense ones, mixtures of experts, hybrids, multimodal models."""

_TEXT = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}

DENSE = {
    "nemotron": {}, "olmo": {}, "glm": {"head_dim": 8}, "cohere2": {}, "codegen": {
        "n_embd": 32, "n_layer": 4, "n_head": 4, "n_inner": 48, "rotary_dim": 4, "n_positions": 64},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4, "expansion_ratio": 2, "max_seq_len": 128},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_inner": 48, "n_positions": 64},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 4, "attention_heads": 4, "num_key_value_heads": 4},
    "biogpt": {}, "seed_oss": {"head_dim": 8}, "arcee": {}, "exaone4": {}, "hunyuan_v1_dense": {"head_dim": 8},
    "ernie4_5": {}, "helium": {"head_dim": 8}, "apertus": {}, "olmo3": {}, "gemma4_text": {"head_dim": 8},
}  # fmt: skip
EXPERTS = {
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**_EXPERTS, "head_dim": 8},
    "olmoe": _EXPERTS,
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": {  # every second layer is dense
        "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48,
        "interleave_moe_layer_step": 2,
    },
    "deepseek_v3": {  # the first layer is dense; heads of the values are wider than those of the rotary queries
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
        "n_group": 1, "topk_group": 1, "num_key_value_heads": 4,
    },
}  # fmt: skip
# Attention in some layers; the layers that have it.
HYBRID = {
    "lfm2": ([1, 3], {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False}),
    "bamba": ([1, 3], {"attn_layer_indices": [1, 3], **_MAMBA}),
    "jamba": (
        [1, 3],
        {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
         "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
         "use_mamba_kernels": False},
    ),
    "falcon_h1": ([0, 1, 2, 3], {"head_dim": 8, "mamba_d_ssm": 64, **_MAMBA}),
    "qwen3_next": ([1, 3], {"head_dim": 8, **_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 16}),
    "qwen3_5_text": ([1, 3], {"head_dim": 8, **_LINEAR}),
    "recurrent_gemma": (
        [1, 3],
        {"lru_width": 32, "block_types": ["recurrent", "attention"], "head_dim": 8, "attention_window_size": 16},
    ),
    "granitemoehybrid": (
        [1, 3],
        {"layer_types": ["mamba", "attention"] * 2, "num_local_experts": 0, "shared_intermediate_size": 48, **_MAMBA},
    ),
    "zamba2": (
        [1, 3],
        {"layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_headdim": 8,
         "num_mem_blocks": 2, "mamba_ngroups": 1, "attention_hidden_size": 64, "attention_head_dim": 16},
    ),
    "nemotron_h": (
        [1],
        {"hybrid_override_pattern": "M*-M", "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8,
         "n_groups": 1, "head_dim": 8},
    ),
}  # fmt: skip


def _text(T, kind, **options):
    return T.AutoConfig.for_model(kind, **{**_TEXT, "head_dim": 8, **options})


# Models with a vision or audio tower as deep and as wide as their language model.
MULTIMODAL = {
    "llava": lambda T: T.LlavaForConditionalGeneration(
        T.LlavaConfig(vision_config=T.CLIPVisionConfig(**_VISION), text_config=_text(T, "llama"))
    ),
    "qwen2_vl": lambda T: T.Qwen2VLForConditionalGeneration(
        T.Qwen2VLConfig(
            vision_config={"depth": 4, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8},
            text_config={**_TEXT, "rope_parameters": _MROPE},
        )
    ),
    "qwen2_5_vl": lambda T: T.Qwen2_5_VLForConditionalGeneration(
        T.Qwen2_5_VLConfig(
            vision_config={
                "depth": 4, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
                "patch_size": 8, "fullatt_block_indexes": [1],
            },
            text_config={**_TEXT, "rope_parameters": _MROPE},
        )
    ),
    "gemma3": lambda T: T.Gemma3ForConditionalGeneration(
        T.Gemma3Config(
            vision_config=T.SiglipVisionConfig(**_VISION),
            text_config=T.Gemma3TextConfig(**{**_TEXT, "head_dim": 8, "sliding_window": 64}),
            mm_tokens_per_image=4,
        )
    ),
    "paligemma": lambda T: T.PaliGemmaForConditionalGeneration(
        T.PaliGemmaConfig(
            vision_config=T.SiglipVisionConfig(**_VISION).to_dict(), text_config=_text(T, "gemma").to_dict(),
            projection_dim=32,
        )
    ),
    "idefics3": lambda T: T.Idefics3ForConditionalGeneration(
        T.Idefics3Config(vision_config=dict(_VISION), text_config=_text(T, "llama"), scale_factor=1)
    ),
    "mistral3": lambda T: T.Mistral3ForConditionalGeneration(
        T.Mistral3Config(
            vision_config=T.PixtralVisionConfig(**_VISION, head_dim=8), text_config=_text(T, "mistral")
        )
    ),
    "internvl": lambda T: T.InternVLForConditionalGeneration(
        T.InternVLConfig(
            vision_config=T.InternVLVisionConfig(**{**_VISION, "image_size": [16, 16], "patch_size": [8, 8]}),
            text_config=_text(T, "qwen2"),
        )
    ),
    "qwen2_audio": lambda T: T.Qwen2AudioForConditionalGeneration(
        T.Qwen2AudioConfig(
            audio_config={
                "d_model": 32, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
                "num_mel_bins": 8,
            },
            text_config=_text(T, "qwen2").to_dict(),
        )
    ),
}  # fmt: skip


def zoo_model(name, seed=0):
    """A random model of one kind: 4 layers, hidden 32, vocabulary 300, float32, eval mode."""
    import torch
    import transformers

    options = {**DENSE, **EXPERTS, **{kind: o for kind, (_, o) in HYBRID.items()}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in MULTIMODAL:
            model = MULTIMODAL[name](transformers)
        else:
            config = transformers.AutoConfig.for_model(name, **{**_TEXT, **options[name]})
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(4)
    return model.eval()
