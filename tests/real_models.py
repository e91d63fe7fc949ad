"""Shapes of published models, as their config.json has them, and their parameters.

The parameters are those of the weight files, without what inference does not use (the layer for multi-token
prediction and the router's buffers of DeepSeek-V3).
"""

from __future__ import annotations

from typing import Any

REAL: dict[str, tuple[dict[str, Any], int]] = {
    "Mistral-7B-v0.1": ({
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": 4096,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }, 7_241_732_096),
    "Mistral-7B-v0.3": ({
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768, "sliding_window": None,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    }, 7_248_023_552),
    "Mixtral-8x7B-v0.1": ({
        "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": None,
        "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768,
        "output_router_logits": False, "router_aux_loss_coef": 0.02, "tie_word_embeddings": False,
    }, 46_702_792_704),
    "gemma-2-2b": ({
        "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
        "sliding_window": 4096, "max_position_embeddings": 8192, "attention_bias": False,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", 
    }, 2_614_341_888),
    "gemma-3-1b-pt": ({
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
        "sliding_window": 512, "sliding_window_pattern": 6, "max_position_embeddings": 32768,
        "attention_bias": False, "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000, "rope_theta": 1000000,
    }, 999_885_952),
    "Phi-3-mini-4k-instruct": ({
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "sliding_window": 2047,
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "embd_pdrop": 0.0,
        "resid_pdrop": 0.0, "attention_bias": False, "tie_word_embeddings": False,
    }, 3_821_079_552),
    "Phi-4-mini-instruct": ({
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200064, "sliding_window": 262144,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75, "attention_bias": False, "full_attn_mod": 1, "interpolate_factor": 1,
        "lm_head_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
    }, 3_836_021_760),
    "OLMo-2-1124-7B": ({
        "model_type": "olmo2", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100352,
        "max_position_embeddings": 4096, "attention_bias": False, "rms_norm_eps": 1e-06,
        "rope_theta": 500000, "tie_word_embeddings": False,
    }, 7_298_617_344),
    "granite-3.1-2b-base": ({
        "model_type": "granite", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 49155, "attention_bias": False,
        "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "logits_scaling": 8.0,
        "residual_multiplier": 0.22, "mlp_bias": False, "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    }, 2_533_531_648),
    "SmolLM3-3B": ({
        "model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256, "attention_bias": False,
        "mlp_bias": False, "max_position_embeddings": 65536, "max_window_layers": 28,
        "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "sliding_window": None,
        "layer_types": ["full_attention"] * 36, "use_sliding_window": False,
        "tie_word_embeddings": True,
    }, 3_075_098_624),
    "gpt-oss-20b": ({
        "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088,
        "num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 12, "attention_bias": True,
        "initial_context_length": 4096, "max_position_embeddings": 131072, "swiglu_limit": 7.0,
        "router_aux_loss_coef": 0.9, "tie_word_embeddings": False,
    }, 20_914_757_184),
    "Qwen1.5-MoE-A2.7B": ({
        "model_type": "qwen2_moe", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 151936, "num_experts": 60,
        "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
        "decoder_sparse_step": 1, "norm_topk_prob": False, "max_position_embeddings": 8192,
        "max_window_layers": 21, "sliding_window": 32768, "use_sliding_window": False,
        "output_router_logits": False, "router_aux_loss_coef": 0.001, "tie_word_embeddings": False,
    }, 14_315_784_192),
    "DeepSeek-V3": ({
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280, "kv_lora_rank": 512,
        "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048, "moe_layer_freq": 1, "first_k_dense_replace": 3, "n_group": 8,
        "topk_group": 4, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "ep_size": 1, "num_nextn_predict_layers": 1, "attention_bias": False,
        "max_position_embeddings": 163840, "tie_word_embeddings": False,
    }, 671_026_404_352),
    "starcoder2-3b": ({
        "model_type": "starcoder2", "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
        "num_attention_heads": 24, "num_key_value_heads": 2, "vocab_size": 49152, "sliding_window": 4096,
        "max_position_embeddings": 16384, "use_bias": True, "mlp_type": "default", "norm_type": "layer_norm",
        "norm_epsilon": 1e-05, "embedding_dropout": 0.1, "residual_dropout": 0.1,
    }, 3_030_371_328),
    "pythia-1b": ({
        "model_type": "gpt_neox", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 8, "vocab_size": 50304, "max_position_embeddings": 2048, "rotary_pct": 0.25,
        "rotary_emb_base": 10000, "layer_norm_eps": 1e-05, "use_parallel_residual": True,
        "tie_word_embeddings": False,
    }, 1_011_781_632),
}  # fmt: skip
