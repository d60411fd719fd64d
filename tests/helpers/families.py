"""Model families that ACT is tested on, one line each: tiny models with random weights, built from configs."""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import PretrainedConfig, PreTrainedModel

VOCABULARY = 64


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        name: as people call it.
        config: name of its config class in transformers.
        overrides: what its config needs beside the common small sizes.
        model: name of its model class; by default what `AutoModelForCausalLM` makes of the config.
        note: what is special about its attention, for the table of models.
        since: the oldest tested release of transformers in which it goes through the attention interface.
        attention: the base backend to load it with, where the default is not the one to use.
        reason: part of the sentence that refuses it, for families that ACT cannot be applied to.
        gain: factor on the weight matrices, so that some keys attract attention.
    """

    name: str
    config: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    note: str = ""
    since: str = "4.57.1"
    attention: str | None = None
    reason: str = ""
    gain: float = 6.0

    @property
    def is_known(self) -> bool:
        """Whether the installed transformers has it."""
        return hasattr(transformers, self.config)

    @property
    def is_newer_than_transformers(self) -> bool:
        """Whether the installed transformers is too old for it."""
        return Version(transformers.__version__) < Version(self.since)

    def make_config(self) -> PretrainedConfig:
        """The config of a tiny model."""
        text = {**SIZES, **self.overrides}
        config_class = getattr(transformers, self.config)
        if "text_config" in config_class.sub_configs:
            vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "depth": 1}
            nested = {"text_config": {**SIZES, **text.pop("text_config", {})}, "vision_config": vision}
            return config_class(**nested, **{key: value for key, value in self.overrides.items() if key != "text_config"})
        computed = {key for key in SIZES if isinstance(getattr(config_class, key, None), property)}
        return config_class(**{key: value for key, value in text.items() if key not in computed})

    def make_model(self) -> PreTrainedModel:
        """A tiny model with random weights, the same every time."""
        torch.manual_seed(1)
        model_class = getattr(transformers, self.model) if self.model else None
        config = self.make_config()
        if self.attention:
            config._attn_implementation = self.attention
        model = model_class(config) if model_class else transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter *= self.gain
                elif name.endswith("sinks"):
                    parameter.normal_()
                elif "norm" in name and name.endswith("weight"):
                    parameter += 0.5 * torch.randn_like(parameter)
        return model.eval().float()


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MIXED = ["sliding_attention", "full_attention"]
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
    "head_dim": 4,
    "num_key_value_heads": 4,
}
DEEPSEEK = {**MLA, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "full_attention"],
}
MROPE = {
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
}

FAMILIES = [
    Family("Llama", "LlamaConfig", note="grouped-query heads"),
    Family("Llama 4", "Llama4TextConfig", {**LOCAL_EXPERTS, "attention_chunk_size": 8, "layer_types": ["chunked_attention", "full_attention"], "intermediate_size_mlp": 48}, note="chunked and full attention, MoE"),
    Family("Mistral", "MistralConfig", {"sliding_window": 8}, note="sliding window"),
    Family("Ministral", "MinistralConfig", {"sliding_window": 8, "layer_types": MIXED}, note="sliding and full attention"),
    Family("Mistral 3", "Mistral3Config", {"text_config": {"model_type": "mistral"}}, model="Mistral3ForConditionalGeneration", note="text of a multimodal model"),
    Family("Mixtral", "MixtralConfig", {**LOCAL_EXPERTS, "sliding_window": 8}, note="sliding window, MoE"),
    Family("Qwen2", "Qwen2Config"),
    Family("Qwen2-MoE", "Qwen2MoeConfig", {**MOE, "shared_expert_intermediate_size": 16}, note="MoE", since="5.23.0"),
    Family("Qwen2-VL", "Qwen2VLConfig", {"text_config": MROPE}, model="Qwen2VLForConditionalGeneration", note="text of a multimodal model"),
    Family("Qwen3", "Qwen3Config", note="normalised queries and keys"),
    Family("Qwen3-MoE", "Qwen3MoeConfig", MOE, note="MoE"),
    Family("Qwen3-Next", "Qwen3NextConfig", {**MOE, **LINEAR, "shared_expert_intermediate_size": 16}, note="hybrid: its attention layers"),
    Family("Qwen3.5", "Qwen3_5TextConfig", LINEAR, note="hybrid: its attention layers", since="5.23.0"),
    Family("Gemma", "GemmaConfig"),
    Family("Gemma 2", "Gemma2Config", {"sliding_window": 8, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}, note="soft-capped scores, sliding and full attention", attention="eager"),
    Family("Gemma 3", "Gemma3TextConfig", {"sliding_window": 8, "layer_types": MIXED, "query_pre_attn_scalar": 8}, note="sliding and full attention"),
    Family("Gemma 3n", "Gemma3nTextConfig", {"sliding_window": 8, "num_hidden_layers": 4, "layer_types": [*MIXED, *MIXED], "num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4}, note="layers that share keys"),
    Family("Gemma 4", "Gemma4TextConfig", {"sliding_window": 8, "num_hidden_layers": 4, "layer_types": [*MIXED, *MIXED], "num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "global_head_dim": 8}, note="layers that share keys", since="5.23.0"),
    Family("Phi", "PhiConfig"),
    Family("Phi-3", "Phi3Config", {"sliding_window": 8}, note="sliding window"),
    Family("PhiMoE", "PhimoeConfig", LOCAL_EXPERTS, note="MoE", since="5.23.0"),
    Family("OLMo", "OlmoConfig"),
    Family("OLMo 2", "Olmo2Config", note="normalised queries and keys"),
    Family("Olmo 3", "Olmo3Config", {"sliding_window": 8, "layer_types": MIXED}, note="sliding and full attention"),
    Family("OLMoE", "OlmoeConfig", MOE, note="MoE", since="5.23.0"),
    Family("GPT-NeoX", "GPTNeoXConfig"),
    Family("GPT-2", "GPT2Config"),
    Family("GPT-J", "GPTJConfig", {"rotary_dim": 4}, note="by an adapter before transformers 5.24"),
    Family("GPT-BigCode", "GPTBigCodeConfig", note="one key/value head"),
    Family("OPT", "OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    Family("BioGPT", "BioGptConfig"),
    Family("StableLM", "StableLmConfig", since="5.23.0"),
    Family("StarCoder2", "Starcoder2Config", {"sliding_window": 8}, note="sliding window"),
    Family("Cohere", "CohereConfig"),
    Family("Cohere 2", "Cohere2Config", {"sliding_window": 8, "layer_types": MIXED}, note="sliding and full attention"),
    Family("Granite", "GraniteConfig"),
    Family("Granite MoE", "GraniteMoeConfig", LOCAL_EXPERTS, note="MoE"),
    Family("SmolLM3", "SmolLM3Config", {"no_rope_layers": [1, 0]}, note="a layer without positions"),
    Family("gpt-oss", "GptOssConfig", {**LOCAL_EXPERTS, "sliding_window": 8, "layer_types": MIXED}, note="learned sink logits"),
    Family("DeepSeek-V2", "DeepseekV2Config", {**DEEPSEEK, "topk_method": "greedy", "moe_intermediate_size": 16}, note="latent attention, MoE"),
    Family("DeepSeek-V3", "DeepseekV3Config", DEEPSEEK, note="latent attention, MoE"),
    Family("GLM", "GlmConfig"),
    Family("GLM-4", "Glm4Config"),
    Family("GLM-4.5", "Glm4MoeConfig", {**DEEPSEEK, "head_dim": 8, "num_key_value_heads": 2}, note="MoE"),
    Family("Seed-OSS", "SeedOssConfig"),
    Family("Ernie 4.5", "Ernie4_5Config"),
    Family("Hunyuan", "HunYuanDenseV1Config"),
    Family("EXAONE 4", "Exaone4Config", {"sliding_window": 8, "layer_types": MIXED}, note="sliding and full attention"),
    Family("LFM2", "Lfm2Config", {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "full_attention"]}, note="hybrid: its attention layers"),
    Family("LFM3", "Lfm3Config", {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "full_attention"]}, note="hybrid: its attention layers", since="5.23.0"),
    Family("ModernBERT decoder", "ModernBertDecoderConfig", {"local_attention": 16, "layer_types": MIXED}, note="sliding and full attention"),
    Family("Nemotron", "NemotronConfig", since="5.23.0"),
    Family("Helium", "HeliumConfig"),
    Family("Arcee", "ArceeConfig"),
    Family("Apertus", "ApertusConfig"),
    Family("MiniMax-M2", "MiniMaxM2Config", {**LOCAL_EXPERTS, "rotary_dim": 4}, note="MoE", since="5.23.0"),
    Family("MiMo-V2-Flash", "MiMoV2FlashConfig", {**MOE, "sliding_window": 8}, note="learned sink logits in sliding layers, MoE", since="5.23.0"),
    Family("Ministral 3", "Ministral3Config", since="5.23.0"),
    Family("Hunyuan MoE", "HunYuanMoEV1Config", {"num_experts": 4, "moe_topk": 2}, note="MoE"),
    Family("Ernie 4.5 MoE", "Ernie4_5_MoeConfig", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 0, "moe_num_shared_experts": 1}, note="MoE"),
    Family("FlexOlmo", "FlexOlmoConfig", MOE, note="MoE"),
    Family("Trinity", "AfmoeConfig", {**MOE, "sliding_window": 8}, note="gated attention, MoE", since="5.23.0"),
    Family("Laguna", "LagunaConfig", MOE, note="MoE", since="5.23.0"),
    Family("Persimmon", "PersimmonConfig"),
    Family("nanochat", "NanoChatConfig", since="5.23.0"),
]  # fmt: skip

REFUSED = [
    Family("Falcon", "FalconConfig", reason="attention inside its own modules"),
    Family("BLOOM", "BloomConfig", {"n_head": 4, "n_layer": 2}, reason="attention inside its own modules"),
    Family("MPT", "MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2}, reason="attention inside its own modules"),
    Family("GPT-Neo", "GPTNeoConfig", {"num_layers": 2, "attention_types": [[["global"], 2]]}, reason="attention inside its own modules"),
    Family("Mamba", "MambaConfig", reason="no attention layers"),
    Family("T5", "T5Config", {"d_model": 32, "d_kv": 8, "num_layers": 1, "num_heads": 4}, model="T5ForConditionalGeneration", reason="encoder-decoder"),
    Family("DeepSeek-V3.2", "DeepseekV32Config", {**DEEPSEEK, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 8}, reason="indices, which ACT does not take into account"),
]  # fmt: skip
