"""What fuzzing draws: logits, calls of the decoder, texts, and options, the hostile ones included."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import settings

INF, NAN = float("inf"), float("nan")


def budget(share: int) -> settings:
    """A test with so many examples; in the profile "deep" a hundred times as many."""
    return settings(max_examples=share * settings.default.max_examples // 100)


# --- logits -------------------------------------------------------------------------------------

# Ties, steps that float16 or bfloat16 cannot tell apart, denormals, and the ends of the ranges.
FINITE = (0.0, -0.0, 1.0, 1.0009765625, 1.00390625, 5.9e-8, 6.1e-5, 1e-45, 1.17549e-38, -1e-40)
HUGE = (65504.0, -65504.0, 6.5e4, 1e30, -1e30, 1.7e38, -1.7e38, 3.4e38, -3.4e38)


@st.composite
def logits(draw: st.DrawFn, chunks: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    """[chunks, n] of one kind all over, with odd values at a few places."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1.0, 0.0, 1e-3, 8.0, 100.0]))
    found = torch.randn(chunks, n, generator=generator) * scale
    if draw(st.booleans()):
        found = found.round()  # many ties
    if draw(st.integers(0, 3)) == 0:
        found[torch.rand(chunks, n, generator=generator) < draw(st.floats(0, 1))] = -INF
    value = (
        st.sampled_from(FINITE)
        | st.floats(width=16, allow_nan=False, allow_infinity=False)
        | st.just(-INF)
        | st.sampled_from(HUGE)
    )
    if draw(st.integers(0, 7)) == 0:
        value |= st.sampled_from([NAN, INF])
    place = st.tuples(st.integers(0, chunks - 1), st.integers(0, n - 1))
    for where, x in draw(st.lists(st.tuples(place, value), max_size=8)):
        found[where] = x
    return found.to(dtype)


@st.composite
def calls(draw: st.DrawFn, most_spans: int = 300) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Any call of `decode_spans` that is allowed, small."""
    chunks, n = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
    start, end = (draw(logits(chunks, n, dtype)) for _ in range(2))

    def per_chunk(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(values, min_size=chunks, max_size=chunks)

    edge = st.integers(0, n)
    context = torch.tensor(draw(per_chunk(st.tuples(edge, edge).map(sorted))))
    ids = draw(st.none() | per_chunk(st.integers(0, 3)).map(sorted).map(torch.tensor))
    options: dict[str, Any] = {
        "top_k": draw(st.sampled_from([1, 2, 5, 17, most_spans])),
        "max_answer_len": draw(st.none() | st.integers(1, n + 3) | st.just(2**40)),
        "scoring": draw(st.sampled_from(["probability", "shared", "logit"])),
        "distinct": draw(st.booleans()),
        "null_in_spans": draw(st.booleans()),
        "null_position": torch.tensor(draw(per_chunk(st.integers(-1, n - 1)))),
        "context_offset": draw(st.none() | per_chunk(edge).map(torch.tensor)),
    }
    if draw(st.booleans()):
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
        options["context_mask"] = torch.rand(chunks, n, generator=generator) < 0.7
    return (start, end, context, ids), options


# --- texts --------------------------------------------------------------------------------------

FRAGMENTS = (
    # words of many scripts, right-to-left and without spaces among them
    "Ada", "London", "In 1815", "Straße", "İstanbul", "ﬁnal", "Ελλάδα", "Москва", "שלום", "مرحبا",
    "नमस्ते", "สวัสดี", "你好，世界。", "こんにちは", "안녕하세요", "ታዲያስ", "ខ្មែរ",
    "𝔸𝕕𝕒", "𒀀𒁀", "½", "①", "㎏",
    # combining marks, alone and by the dozen; both normal forms
    "e\u0301", "é", "\u0301", "a" + "\u0300\u0323" * 12, "\u1100\u1161\u11a8", "각", "क्ष",
    # zero-width, bidirectional and other format characters
    "\u200b", "\u200c", "\u200d", "\ufeff", "\u2060", "\u00ad", "\u202e", "\u202c", "\u2067", "\u2069",
    # emoji: families, flags, skins, keycaps, half of a flag
    "🤗", "👩\u200d👩\u200d👧\u200d👦", "🇫🇷", "🇫", "👍🏽", "1\ufe0f\u20e3",
    "🏴\U000e0067\U000e0062\U000e007f",
    # white space and control characters
    " ", "  ", "\t", "\n", "\r\n", "\r", "\x0b", "\x85", "\u00a0", "\u2028", "\u3000",
    "\x00", "\x1b[31m", "\x7f",
    # what tokenizers write themselves, noncharacters
    "[CLS]", "[SEP]", "[UNK]", "<s>", "</s>", "<pad>", "##ing", "▁", "Ġ", "Ċ", "�",
    "\ufffe", "\U0010ffff",
    # punctuation
    ".", ",", "...", "—", "’", '"', "(", "$", "'s",
)  # fmt: skip

characters = st.characters(codec="utf-8") | st.sampled_from("aé ́一 \t\n")
lone_surrogates = st.sampled_from(["\ud83e", "\udd17", "a\udfff", "\ud800b"])
pieces = st.sampled_from(FRAGMENTS) | st.text(characters, max_size=8)


def texts(longest: int = 40) -> st.SearchStrategy[str]:
    """Texts of up to ``longest`` pieces, some of them repeated, of any valid characters."""
    several = st.lists(pieces, min_size=1, max_size=longest)
    joined = st.tuples(st.sampled_from(["", " "]), several).map(lambda x: x[0].join(x[1]))
    repeated = st.tuples(pieces, st.integers(2, 30 * longest)).map(lambda x: x[0] * x[1])
    return joined | repeated | st.tuples(joined, repeated, joined).map("".join)


def any_texts() -> st.SearchStrategy[str]:
    """The same, empty and blank ones, and ones that are not valid Unicode."""
    broken = st.tuples(texts(3), lone_surrogates, texts(3)).map("".join)
    return st.one_of(texts(), texts(), texts(), broken, st.sampled_from(["", " ", "\u3000\n"]))


# --- options ------------------------------------------------------------------------------------


def options() -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of `Options` of every combination, also those that do not go together."""
    some = st.none() | st.integers(1, 70)
    return st.fixed_dictionaries(
        {
            "top_k": st.integers(1, 12),
            "max_answer_len": st.none() | st.integers(1, 20),
            "max_seq_len": some,
            "doc_stride": st.none() | st.integers(0, 70),
            "max_question_len": some,
            "handle_impossible_answer": st.booleans(),
            "align_to_words": st.booleans(),
            "scoring": st.sampled_from(["probability", "shared", "logit"]),
        }
    )


# --- arguments that are none --------------------------------------------------------------------

numbers = (
    st.integers(-3, 5)
    | st.sampled_from([2**31, 2**32 + 1, -(2**63), 2**63, 2**70])
    | st.floats()
    | st.just(math.pi)
)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=3) | st.binary(max_size=3)
tensors = st.tuples(
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from(
        [torch.float32, torch.float64, torch.int32, torch.int64, torch.bool, torch.uint8]
    ),
).map(lambda x: torch.ones(x[0], dtype=x[1]))
anything = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.sampled_from(["question", "context", "id"]) | scalars, inner, max_size=3
        )
    ),
    max_leaves=6,
)
