"""A Rust tokenizer that goes a shorter way through plain texts, to the same tokens.

Half of a tokenizer's time or more goes to normalizing a text and cutting it into words, with rules for
all of Unicode. For ASCII characters, dashes and quotation marks these rules say little: BERT's
normalizer only lower-cases them, and its words are what one short pattern finds; GPT-2's bytes, which
are made word by word, can be made for the whole text at once. The tokenizer's own parts are put
together so; its model, added tokens and the rest stay as they are.

What is left of a context's time is cutting it into words, the model, and about a sixth for offsets: Rust
makes a map of every byte of the text, which no call leaves out. An encoding without offsets
(``encode_batch_fast``) has no words either, so a context would have to be encoded again for its answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Encoding

# Words whose tokens a Unigram model remembers, instead of its 10,000: some 5 MB of English, 50 of
# Chinese, once for all threads. (BPE's memory is one per thread and stays as it is.)
UNIGRAM_WORDS = 1 << 15

# Signs beside ASCII's that English texts are full of: punctuation that no normalizer here changes.
_SIGNS = "–—‘’“”…"
# Of the control characters only those that every tokenizer takes for white space.
_not_plain = re.compile(rf"[^\t\n\r -~{_SIGNS}]").search

_MARKS = rf"!-/:-@\[-`{{-~{_SIGNS}"
_BERT_WORDS = rf"[^ \t\n\r{_MARKS}]++|[{_MARKS}]"
# GPT-2's pattern for bytes as characters; those of white space are "ĠĉĊč".
_GPT2_WORDS = (
    r"'(?:[stmd]|re|ve|ll)|Ġ?[A-Za-z]++|Ġ?[0-9]++|Ġ?[^ĠĉĊčA-Za-z0-9]++|[ĠĉĊč]+(?![^ĠĉĊč])|[ĠĉĊč]+"
)
# Where the two ways would part, if they did: each character beside letters, digits, signs and spaces.
_PROBE = " ".join(
    f"{c}{c} a{c}b A{c}1 1{c}B .{c}. {c}\t{c}\n{c}  {c}\r\n\r\n   {c}"
    for c in ("'s", "'S", "'ll", "'Re", *map(chr, range(32, 127)), *_SIGNS, "\t", "\n", "\r")
)


class Backend:
    """A Rust tokenizer of our own, and the shorter way to its tokens where there is one.

    Attributes:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        _remember_more_words(tokenizer.model)
        self._shorter = shorter_tokenizer(tokenizer)

    def __reduce__(self) -> tuple[Any, ...]:
        return Backend, (self.tokenizer,)

    def encode_batch(self, texts: Sequence[str], **options: Any) -> list[Encoding]:
        """What the tokenizer's ``encode_batch`` gives."""
        return self._encode("encode_batch", texts, options)

    def encode_batch_fast(self, texts: Sequence[str], **options: Any) -> list[Encoding]:
        """What the tokenizer's ``encode_batch_fast`` gives: encodings without offsets."""
        return self._encode("encode_batch_fast", texts, options)

    def _encode(self, method: str, texts: Sequence[str], options: dict[str, Any]) -> list[Encoding]:
        if self._shorter is None:
            return getattr(self.tokenizer, method)(texts, **options)
        plain = [_not_plain(text) is None for text in texts]
        encoded = {}
        for tokenizer, kind in ((self.tokenizer, False), (self._shorter, True)):
            mine = [text for text, is_plain in zip(texts, plain, strict=True) if is_plain is kind]
            encoded[kind] = iter(getattr(tokenizer, method)(mine, **options) if mine else ())
        return [next(encoded[kind]) for kind in plain]


def shorter_tokenizer(tokenizer: Any) -> Any | None:
    """A tokenizer that gives plain texts the same encodings in less time.

    Those have ASCII characters, dashes and quotation marks, tabs and line breaks, but no other control
    characters.

    Args:
        tokenizer: a Rust tokenizer that neither truncates nor pads. Its model is shared, not copied.

    Returns:
        The tokenizer, or None where no shorter way is known.
    """
    parts = _parts(tokenizer.normalizer, tokenizer.pre_tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    if parts is None or not all(map(_found_alike, added.values())):
        return None
    shorter = type(tokenizer)(tokenizer.model)
    normalizer, shorter.pre_tokenizer = parts
    if normalizer is not None:
        shorter.normalizer = normalizer
    if tokenizer.post_processor is not None:
        shorter.post_processor = tokenizer.post_processor
    for _, token in sorted(added.items()):
        (shorter.add_special_tokens if token.special else shorter.add_tokens)([token])
    if _told(shorter) != _told(tokenizer):
        return None
    return shorter


def _parts(normalizer: Any, pre_tokenizer: Any) -> tuple[Any, Any] | None:
    """A normalizer, or None, and a pre-tokenizer that do the same to plain texts in less time."""
    from tokenizers import Regex
    from tokenizers.normalizers import NFC, BertNormalizer, ByteLevel, Lowercase
    from tokenizers.pre_tokenizers import BertPreTokenizer, Split
    from tokenizers.pre_tokenizers import ByteLevel as ByteLevelWords

    def words(pattern: str) -> Any:
        return Split(Regex(pattern), "removed", invert=True)

    if type(normalizer) is BertNormalizer and type(pre_tokenizer) is BertPreTokenizer:
        return Lowercase() if normalizer.lowercase else None, words(_BERT_WORDS)
    if (
        type(normalizer) in (type(None), NFC)
        and type(pre_tokenizer) is ByteLevelWords
        and pre_tokenizer.use_regex
        and not pre_tokenizer.add_prefix_space
    ):
        return ByteLevel(), words(_GPT2_WORDS)
    return None


def _found_alike(token: Any) -> bool:
    """Whether an added token is found at the same places, whichever way a text is normalized.

    One that is looked for in the normalized text must not depend on white space, which the ways spell
    differently, nor on characters that one of them changes.
    """
    content: str = token.content
    flags = token.lstrip or token.rstrip or token.single_word
    alike = content.isascii() and content.isprintable() and " " not in content
    return not token.normalized or (alike and not flags)


def _told(tokenizer: Any) -> object:
    """What tells whether two tokenizers are the same one."""
    try:
        encoding = tokenizer.encode(_PROBE, add_special_tokens=False)
        probe: object = encoding.ids, encoding.offsets, encoding.word_ids
    except BaseException as error:
        if not is_tokenizers(error):
            raise
        probe = str(error)
    tokens = tokenizer.get_added_tokens_decoder().items()
    return probe, sorted((number, repr(token)) for number, token in tokens)


def _remember_more_words(model: Any) -> None:
    """Keep the tokens of more words, where a model computes them for long and its threads share them."""
    resize = getattr(model, "_resize_cache", None)  # not part of its documented interface
    if type(model).__name__ == "Unigram" and resize is not None:
        resize(UNIGRAM_WORDS)


def is_tokenizers(error: BaseException) -> bool:
    """Whether ``error`` is of the tokenizer: an exception, or a panic of its Rust code."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
