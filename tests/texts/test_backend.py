"""The shorter way through plain texts gives what the tokenizer itself gives, or is not taken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from qa_fast.texts.backend import Backend, shorter_tokenizer
from qa_fast.texts.special_tokens import rust_tokenizer

from ..helpers.tiny import FAMILIES, texts, tokenizer_of
from ..helpers.zoo import ZOO, family_tokenizer

SHORTER = ("bundled", "wordpiece", "byte_bpe", "no_special", "untrimmed")
ATTRIBUTES = (
    "ids",
    "tokens",
    "offsets",
    "word_ids",
    "sequence_ids",
    "type_ids",
    "special_tokens_mask",
    "attention_mask",
)
CHARACTERS = "".join(map(chr, range(32, 127))) + "–—‘’“”…\t\n\r"
PLAIN = st.lists(
    st.one_of(
        st.text(CHARACTERS, max_size=8),
        st.text(" \t\n\r", max_size=4),
        st.sampled_from(
            ["'s", "'LL", "[SEP]", "</s>", "<mask>", "Ada", "1.5", "don't", "a–b", "“x”"]
        ),
    ),
    max_size=20,
).map("".join)


def backend_of(family: str) -> Any:
    return rust_tokenizer(tokenizer_of(family))


def seen(encodings: list[Any]) -> list[tuple[Any, ...]]:
    return [tuple(getattr(encoding, name) for name in ATTRIBUTES) for encoding in encodings]


def assert_same(tokenizer: Any, given_texts: list[str]) -> None:
    backend = Backend(tokenizer)
    for method in ("encode_batch", "encode_batch_fast"):
        for special in (False, True):
            mine, its = (
                seen(getattr(one, method)(given_texts, add_special_tokens=special))
                for one in (backend, tokenizer)
            )
            assert mine == its


@pytest.mark.parametrize("family", SHORTER)
@given(plain=PLAIN)
def test_plain_texts_have_the_same_encodings(family: str, plain: str) -> None:
    assert_same(backend_of(family), [plain])


@pytest.mark.parametrize("family", [*FAMILIES, "untrimmed"])
def test_which_families_have_a_shorter_way(family: str) -> None:
    assert (shorter_tokenizer(backend_of(family)) is not None) == (family in SHORTER)


@pytest.mark.parametrize("family", [*FAMILIES, "untrimmed"])
def test_texts_of_all_kinds_in_one_call_come_back_in_order(family: str) -> None:
    spelled = ["", " ", "\n", "Ada.", "na\u00efve", "a\x0bb", "a\x1fb", "\x00", "\x7f", "a\u2028b"]
    assert_same(
        backend_of(family), [*spelled, *texts(), *CHARACTERS, *(f"a{c}b" for c in CHARACTERS)]
    )


@pytest.mark.parametrize("name", ZOO)
def test_every_familys_own_class_has_the_same_encodings(name: str) -> None:
    tokenizer = rust_tokenizer(family_tokenizer(name))
    lines = [line for text in texts()[:12] for line in text.split(". ")]
    plain = [line.encode("ascii", "ignore").decode() for line in lines]
    assert_same(tokenizer, [*lines, *plain, f" {CHARACTERS} ", "don't  You'LL \n\n x"])


ADDED = {
    "plain": AddedToken("ada", normalized=True),
    "upper_case": AddedToken("Ada", normalized=True),
    "space": AddedToken("of the", normalized=True),
    "tab": AddedToken("of\tthe", normalized=True),
    "accent": AddedToken("caf\u00e9", normalized=True),
    "left": AddedToken("was", normalized=True, lstrip=True),
    "right": AddedToken("was", normalized=True, rstrip=True),
    "single": AddedToken("was", normalized=True, single_word=True),
    "as_it_is_with_space": AddedToken("of\nthe", normalized=False),
    "as_it_is_left": AddedToken("was", normalized=False, lstrip=True, rstrip=True),
    "as_it_is_single": AddedToken("was", normalized=False, single_word=True),
    "special": AddedToken("<x>", normalized=False, special=True),
}


@pytest.mark.parametrize("kind", ADDED)
@pytest.mark.parametrize("family", SHORTER)
def test_added_tokens_are_found_where_the_tokenizer_finds_them(family: str, kind: str) -> None:
    tokenizer = backend_of(family)
    (tokenizer.add_special_tokens if kind == "special" else tokenizer.add_tokens)([ADDED[kind]])
    found = [
        "Ada was adamant",
        "one of the\tmany of\tthe of\nthe",
        "cafe of",
        "was  was\nwas",
        "<x>was",
    ]
    assert_same(tokenizer, found)
    taken = shorter_tokenizer(tokenizer) is not None
    assert taken == (kind in ("plain", "upper_case", "special") or kind.startswith("as_it_is"))


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
@pytest.mark.parametrize("clean_text", [True, False])
def test_every_setting_of_berts_normalizer(
    lowercase: bool, strip_accents: bool | None, clean_text: bool
) -> None:
    tokenizer = backend_of("wordpiece")
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, clean_text=clean_text
    )
    assert shorter_tokenizer(tokenizer) is not None
    assert_same(tokenizer, [CHARACTERS, *(f"A{c}b {c}{c}" for c in CHARACTERS), *texts()])


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": normalizers.Lowercase()},
        {"normalizer": normalizers.Replace("a", "b")},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
    ],
    ids=["lower", "replace", "prefix", "no_regex", "white_space"],
)
def test_other_parts_are_left_alone(changes: dict[str, Any]) -> None:
    tokenizer = backend_of("byte_bpe")
    for name, part in changes.items():
        setattr(tokenizer, name, part)
    assert shorter_tokenizer(tokenizer) is None
    assert_same(tokenizer, texts())


def test_a_normalizer_that_composes_characters_is_passed_by() -> None:
    tokenizer = backend_of("byte_bpe")
    tokenizer.normalizer = normalizers.NFC()
    assert shorter_tokenizer(tokenizer) is not None
    assert_same(tokenizer, [CHARACTERS, "e\u0301 e", *texts()])


def test_the_tokenizer_is_left_as_it_was() -> None:
    tokenizer = backend_of("bundled")
    before = copy.deepcopy(tokenizer).to_str()
    Backend(tokenizer).encode_batch(["Ada"])
    assert tokenizer.to_str() == before


def test_a_unigram_model_that_remembers_more_words_gives_the_same() -> None:
    # More distinct words than it remembers by itself; the second time they are remembered or not.
    tokenizer = backend_of("unigram")
    words = [f"{a}{b} " for a in CHARACTERS[33:80] for b in range(0, 12_000, 47)]
    expected = seen(tokenizer.encode_batch(words))
    backend = Backend(copy.deepcopy(tokenizer))
    assert expected == seen(backend.encode_batch(words)) == seen(backend.encode_batch(words))
