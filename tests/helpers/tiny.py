"""Tokenizers of several families, trained on the spot, and a tiny model that fits any of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    PreTrainedTokenizerFast,
)

from qa_fast.texts.places import char_ranges

DATA = Path(__file__).parents[1] / "recorded"
BUNDLED = Path(__file__).parents[2] / "qa_fast" / "models" / "minilm-l6-squad"
FAMILIES = ("bundled", "wordpiece", "byte_bpe", "unigram", "xlnet", "no_special")


def xquad() -> dict[str, list[dict[str, Any]]]:
    """Per language four paragraphs: {"context", "qas": [{"question", "answer", "start"}]}."""
    return json.loads((DATA / "xquad_sample.json").read_text(encoding="utf-8"))


def texts() -> list[str]:
    """The text that tokenizers are trained on: every script of the sample, and some English."""
    contexts = [p["context"] for paragraphs in xquad().values() for p in paragraphs]
    return [*contexts, (DATA / "notebook_long_context.txt").read_text(encoding="utf-8")]


@cache
def tokenizer_of(family: str) -> Any:
    """A fast tokenizer.

    - bundled: the bundled model's (WordPiece, lower-casing).
    - wordpiece: like BERT's, cased.
    - byte_bpe: like RoBERTa's: several tokens may share one character, spaces belong to tokens.
    - unigram: like XLM-RoBERTa's, with metaspaces.
    - xlnet: the same, but padded on the left, [CLS] last: <context> <sep> <question> <sep> <cls>.
    - no_special: like GPT-2's: no special token at all, so no [CLS].
    - untrimmed (not in FAMILIES): the same, and spaces are characters of the tokens behind them, as
      with ModernBERT's.
    """
    if family == "bundled":
        return AutoTokenizer.from_pretrained(BUNDLED)
    if family == "wordpiece":
        return train(
            Tokenizer(models.WordPiece(unk_token="[UNK]")),
            pre_tokenizers.BertPreTokenizer(),
            trainers.WordPieceTrainer(
                vocab_size=1500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
            ),
            "[CLS] $A [SEP] $B:1 [SEP]:1",
            normalizer=normalizers.BertNormalizer(lowercase=False),
            cls_token="[CLS]",
            pad_token="[PAD]",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )
    if family in ("byte_bpe", "no_special", "untrimmed"):
        special = ["<pad>", "<s>", "</s>"] if family == "byte_bpe" else []
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return train(
            Tokenizer(models.BPE()),
            byte_level,
            trainers.BpeTrainer(
                # Few merges, so that many characters are several tokens.
                vocab_size=500,
                special_tokens=special,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
            "<s> $A </s> </s> $B </s>" if special else None,
            byte_offsets=family != "untrimmed",
            **({"cls_token": "<s>", "pad_token": "<pad>"} if special else {}),
            model_input_names=["input_ids", "attention_mask"],
        )
    left = family == "xlnet"
    return train(
        Tokenizer(models.Unigram()),
        pre_tokenizers.Metaspace(),
        trainers.UnigramTrainer(
            vocab_size=1500,
            special_tokens=["<pad>", "<unk>", "<cls>", "<sep>"],
            unk_token="<unk>",
            show_progress=False,
        ),
        "$A <sep> $B:1 <sep>:1 <cls>:2" if left else "<cls> $A <sep> $B <sep>",
        cls_token="<cls>",
        pad_token="<pad>",
        padding_side="left" if left else "right",
        model_input_names=[
            "input_ids",
            "attention_mask",
            *(["token_type_ids"] if left else []),
        ],
    )


def train(
    tokenizer: Tokenizer,
    pre_tokenizer: Any,
    trainer: Any,
    pair: str | None,
    *,
    normalizer: Any = None,
    byte_offsets: bool = False,
    **arguments: Any,
) -> PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(texts(), trainer)
    byte_level = processors.ByteLevel(trim_offsets=True, add_prefix_space=False)
    steps: list[Any] = [byte_level] if byte_offsets else []
    if pair is not None:
        names = {piece.partition(":")[0] for piece in pair.split()} - {"$A", "$B"}
        special = [(name, tokenizer.token_to_id(name)) for name in sorted(names)]
        steps.append(
            processors.TemplateProcessing(
                single=pair.split(" $B")[0], pair=pair, special_tokens=special
            )
        )
    tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **arguments)


def hollow_tokenizer() -> PreTrainedTokenizerFast:
    """One that gives words at the right place, but without an end, as that of Llama 3.2 did.

    Spaces become many, which belong to the word before them; those that are trimmed off a token's
    offsets are more than it has characters.
    """
    pad = "Ġ" * 9
    words = ["?", *(word + pad for word in ("Ada", "wrote", "it", "in", "")), "London."]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="?"))
    tokenizer.normalizer = normalizers.Replace(" ", pad + " ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=["input_ids"])


def tiny_model(tokenizer: Any, seed: int = 0) -> BertForQuestionAnswering:
    """One layer, 16 wide, random: its answers mean nothing, but depend on every input token."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        type_vocab_size=3,
        initializer_range=0.5,
    )
    return BertForQuestionAnswering(config).eval()


def char_range(encoding, text: str, first: int, last: int, low: int, high: int, *, align_to_words):
    """Characters of one span; widened only to tokens [low, high)."""
    index = (np.array([i]) for i in (0, first, last))
    within = (np.array([low]), np.array([high]))
    start, end, _ = char_ranges(
        [encoding],
        np.zeros(1, np.int64),
        [text],
        *index,
        within=within,
        align_to_words=align_to_words,
    )
    return int(start[0]), int(end[0])


def save_tiny_model(folder: Path) -> Path:
    """The tiny model with a tokenizer in ``folder``, to be loaded by name."""
    tokenizer = tokenizer_of("wordpiece")
    tiny_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
