"""Tiny random models of many families, each with a tokenizer of its own family trained on the spot."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from .tiny import texts, train

# BERT's names of sizes, which most families share.
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}
# Of BART's kind.
SEQ2SEQ = {
    "init_std": 0.5,
    "d_model": 16,
    **{f"{part}_layers": 1 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")},
    "max_position_embeddings": 256,
    "forced_eos_token_id": None,
}


@dataclass(frozen=True)
class Family:
    """Names of classes in transformers, and what makes the model tiny.

    ``limit`` is how many tokens the model has positions for; None where it has no table of them.
    """

    model: str
    tokenizer: str | None
    limit: int | None
    config: dict[str, Any] = field(default_factory=lambda: SMALL)


def sized(limit: int, **more: Any) -> dict[str, Any]:
    return {**SMALL, "max_position_embeddings": limit, **more}


ZOO = {
    "bert": Family("Bert", "BertTokenizer", 200, sized(200)),
    "distilbert": Family(
        "DistilBert",
        "DistilBertTokenizer",
        512,
        {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "initializer_range": 0.5},
    ),
    "roberta": Family("Roberta", "RobertaTokenizer", 199, sized(200)),
    "albert": Family("Albert", "AlbertTokenizer", 200, sized(200, embedding_size=16)),
    "electra": Family("Electra", "ElectraTokenizer", 200, sized(200, embedding_size=16)),
    "deberta_v2": Family(
        "DebertaV2",
        "DebertaV2Tokenizer",
        None,
        sized(
            200,
            relative_attention=True,
            position_biased_input=False,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            type_vocab_size=0,
        ),
    ),
    "xlm_roberta": Family("XLMRoberta", "XLMRobertaTokenizer", 198, sized(200)),
    "mpnet": Family("MPNet", "MPNetTokenizer", 198, sized(200)),
    "modernbert": Family(
        "ModernBert",
        None,
        None,
        {**SMALL, "num_hidden_layers": 2, "global_attn_every_n_layers": 2, "local_attention": 16},
    ),
    "big_bird": Family(
        "BigBird", "BigBirdTokenizer", 200, sized(200, attention_type="original_full")
    ),
    "big_bird_sparse": Family(
        "BigBird",
        "BigBirdTokenizer",
        200,
        sized(200, attention_type="block_sparse", block_size=4, num_random_blocks=1),
    ),
    "bigbird_pegasus": Family(
        "BigBirdPegasus",
        "T5Tokenizer",  # its own cannot be trained
        256,
        {
            **SEQ2SEQ,
            "attention_type": "block_sparse",
            "block_size": 4,
            "num_random_blocks": 1,
            "decoder_start_token_id": 2,
        },
    ),
    "longformer": Family("Longformer", "LongformerTokenizer", 199, sized(200, attention_window=16)),
    "convbert": Family(
        "ConvBert", "BertTokenizer", 200, sized(200, embedding_size=16, head_ratio=1)
    ),
    "fnet": Family("FNet", "AlbertTokenizer", 200, sized(200)),
    "bart": Family("Bart", "BartTokenizer", 256, SEQ2SEQ),
    "t5": Family(
        "T5",
        "T5Tokenizer",
        None,
        {
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 1,
            "num_heads": 2,
            "initializer_factor": 5.0,
            "decoder_start_token_id": 0,
        },
    ),
    "xlnet": Family(
        "XLNet",
        "XLNetTokenizer",
        None,
        {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "initializer_range": 0.5},
    ),
    "gpt2": Family(
        "GPT2",
        "GPT2Tokenizer",
        256,
        {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 256, "initializer_range": 0.5},
    ),
    "llama": Family("Llama", "LlamaTokenizer", None, {**SMALL, "num_key_value_heads": 1}),
    "qwen2": Family("Qwen2", "Qwen2Tokenizer", None, {**SMALL, "num_key_value_heads": 1}),
}


@cache
def family_tokenizer(name: str) -> Any:
    """The family's own class of tokenizer, with a vocabulary made from the tests' texts."""
    cls = ZOO[name].tokenizer
    if cls is None:  # ModernBERT's is of no class of its own
        return train(
            Tokenizer(models.BPE()),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            trainers.BpeTrainer(
                vocab_size=600,
                special_tokens=["[PAD]", "[CLS]", "[SEP]"],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
            "[CLS] $A [SEP] $B [SEP]",
            byte_offsets=True,
            cls_token="[CLS]",
            pad_token="[PAD]",
            sep_token="[SEP]",
            model_input_names=["input_ids", "attention_mask"],
        )
    if int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("before Transformers 5 a tokenizer cannot be made without files")
    empty = getattr(transformers, cls)()
    return empty.train_new_from_iterator(texts(), 600, show_progress=False)


def family_model(name: str) -> Any:
    """A random model of the family; its logits depend on every input token that it can see."""
    family = ZOO[name]
    head = "ForQuestionAnswering" + ("Simple" if name == "xlnet" else "")
    model_class = getattr(transformers, family.model + head, None)
    if model_class is None:
        pytest.skip(f"transformers {transformers.__version__} has no {family.model}{head}")
    tokenizer = family_tokenizer(name)
    special = {
        f"{token}_token_id": getattr(tokenizer, f"{token}_token_id", None)
        for token in ("pad", "sep", "cls", "bos", "eos")
    }
    if special["pad_token_id"] is None:
        special["pad_token_id"] = 0
    torch.manual_seed(0)
    config = getattr(transformers, f"{family.model}Config")
    return model_class(config(vocab_size=len(tokenizer), **special, **family.config)).eval()
