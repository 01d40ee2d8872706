"""Tiny random models of all architectures for question answering that Transformers has."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForQuestionAnswering
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES

from .tiny import texts, train

POSITIONS = 160
"""Tokens in every architecture's tables of positions, those before the first one included."""

# By the names that the configurations have for sizes; each takes those that it has.
SIZES = {
    "d_ff": 40,
    "d_inner": 40,
    "d_kv": 8,
    "d_model": 32,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40,
    "decoder_layers": 2,
    "dim": 32,
    "emb_dim": 32,
    "embedding_size": 32,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "encoder_layers": 2,
    "head_dim": 8,
    "hidden_dim": 40,
    "hidden_size": 32,
    "init_std": 0.5,
    "initializer_range": 0.5,
    "intermediate_size": 40,
    "max_position_embeddings": POSITIONS,
    "n_embd": 32,
    "n_head": 4,
    "n_heads": 4,
    "n_layer": 2,
    "n_layers": 2,
    "n_positions": POSITIONS,
    "num_attention_heads": 4,
    "num_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_layers": 2,
    # Mixtures of experts.
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "shared_expert_intermediate_size": 16,
}
# What else an architecture needs: a small window, so that rows are longer; sizes that go together.
MORE: dict[str, dict[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full", "decoder_start_token_id": 2},
    "exaone4": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_head": 8, "initializer_std": 0.5},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gptj": {"rotary_dim": 8},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": 32},
    "led": {
        "attention_window": 16,
        "max_encoder_position_embeddings": POSITIONS,
        "max_decoder_position_embeddings": POSITIONS,
    },
    "lilt": {"hidden_size": 24, "num_attention_heads": 2},
    "longformer": {"attention_window": 16},
    "luke": {"entity_vocab_size": 16},
    "lxmert": {"l_layers": 1, "x_layers": 1, "r_layers": 1},
    "markuplm": {"max_depth": 4, "xpath_unit_hidden_size": 4, "initializer_range": 0.2},
    "mistral": {"sliding_window": 16},
    "mixtral": {"sliding_window": 16},
    "mobilebert": {"intra_bottleneck_size": 32, "normalization_type": "layer_norm"},
    "modernbert": {"local_attention": 16, "global_attn_every_n_layers": 2},
    "mpt": {"max_seq_len": POSITIONS},
    "opt": {"word_embed_proj_dim": 32},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 8,
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, POSITIONS // 8),
        "feed_forward_size": 40,
        "hash_seed": 0,
        "is_decoder": False,
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
        "num_buckets": 4,
    },
    "roc_bert": {
        f"{part}_{size}": n
        for part in ("pronunciation", "shape")
        for size, n in (("vocab_size", 16), ("embed_dim", 4))
    },
    "splinter": {"question_token_id": 5},
    "squeezebert": {
        "intermediate_size": 64,
        **{
            f"{part}_groups": 2
            for part in ("q", "k", "v", "post_attention", "intermediate", "output")
        },
    },
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


def tiny(architecture: str, tokenizer: Any, **config: Any) -> Any:
    """A random model whose logits depend on every token that it can see.

    So they do on padding that it sees: its embedding is as random as the others, which it is in
    checkpoints trained elsewhere.
    """
    special = {
        f"{token}_token_id": getattr(tokenizer, f"{token}_token_id", None)
        for token in ("pad", "sep", "cls", "bos", "eos")
    }
    if special["pad_token_id"] is None:
        special["pad_token_id"] = 0
    default = AutoConfig.for_model(architecture)
    known = {**default.attribute_map, **default.to_dict()}
    sizes = {name: size for name, size in SIZES.items() if name in known}
    config = {**sizes, **MORE.get(architecture, {}), **config}
    if architecture == "gpt_neo":
        config.pop("intermediate_size", None)
    torch.manual_seed(0)
    made = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **special, **config)
    model = AutoModelForQuestionAnswering.from_config(made).eval()
    with torch.no_grad():
        for module in model.modules():
            if "Embedding" in type(module).__name__ and hasattr(module, "weight"):
                module.weight.normal_(std=0.5)
    return model


@dataclass(frozen=True)
class Family:
    """An architecture, its own class of tokenizer, and what its configuration has besides."""

    architecture: str
    tokenizer: str | None
    config: dict[str, Any] = field(default_factory=dict)


ZOO = {
    "bert": Family("bert", "BertTokenizer"),
    "distilbert": Family("distilbert", "DistilBertTokenizer"),
    "roberta": Family("roberta", "RobertaTokenizer"),
    "albert": Family("albert", "AlbertTokenizer"),
    "electra": Family("electra", "ElectraTokenizer"),
    "deberta_v2": Family(
        "deberta-v2",
        "DebertaV2Tokenizer",
        {
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "type_vocab_size": 0,
            "conv_kernel_size": 3,  # that of the larger checkpoints
            "conv_act": "gelu",
        },
    ),
    "xlm_roberta": Family("xlm-roberta", "XLMRobertaTokenizer"),
    "mpnet": Family("mpnet", "MPNetTokenizer"),
    "modernbert": Family("modernbert", None),  # no class of its own
    "big_bird": Family("big_bird", "BigBirdTokenizer"),
    "big_bird_sparse": Family(
        "big_bird",
        "BigBirdTokenizer",
        {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
    ),
    "bigbird_pegasus": Family(
        "bigbird_pegasus",
        "T5Tokenizer",  # its own cannot be trained
        {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
    ),
    "longformer": Family("longformer", "LongformerTokenizer"),
    "convbert": Family("convbert", "BertTokenizer"),
    "fnet": Family("fnet", "AlbertTokenizer"),
    "bart": Family("bart", "BartTokenizer"),
    "t5": Family("t5", "T5Tokenizer"),
    "xlnet": Family("xlnet", "XLNetTokenizer"),
    "gpt2": Family("gpt2", "GPT2Tokenizer"),
    "llama": Family("llama", "LlamaTokenizer"),
    "qwen2": Family("qwen2", "Qwen2Tokenizer"),
}


@cache
def common_tokenizer() -> Any:
    """One that any architecture can read with: with segments, and three separators for Longformer."""
    return train(
        Tokenizer(models.BPE()),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["[PAD]", "[CLS]", "[SEP]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
        "[CLS] $A [SEP] [SEP] $B:1 [SEP]:1",
        byte_offsets=True,
        cls_token="[CLS]",
        pad_token="[PAD]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@cache
def family_tokenizer(name: str) -> Any:
    """The family's own class of tokenizer, with a vocabulary made from the tests' texts."""
    cls = ZOO[name].tokenizer
    if cls is None:
        return common_tokenizer()
    if int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("before Transformers 5 a tokenizer cannot be made without files")
    empty = getattr(transformers, cls)()
    return empty.train_new_from_iterator(texts(), 600, show_progress=False)


def family_model(name: str) -> Any:
    """A tiny model of the family for its own tokenizer."""
    family = ZOO[name]
    if family.architecture not in MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES:
        pytest.skip(f"transformers {transformers.__version__} has no {family.architecture}")
    return tiny(family.architecture, family_tokenizer(name), **family.config)
