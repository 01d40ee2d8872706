"""Fixed calls of `decode_spans` that between them take every path through the kernels, for gpu.py.

A variant fixes what kernels are specialized on, and how the logits look; a seed gives the logits. So
the kernels of all variants can be compiled ahead, and every seed is a fresh input for the same ones.
The sizes are small, since the float64 reference is slow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decode import GROWTH, Workload
from qa_fast.kernels import span_topk
from torch import Tensor

from qa_fast.decoding.reference import ReferenceSpans, logsumexp

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from backends import expected, ragged

Call = tuple[tuple[Any, ...], dict[str, Any]]

# Longer rows have no matrix of all spans in memory: their reference is `long_reference`.
LONGEST_MATRIX = 4096


@dataclass(frozen=True)
class Variant:
    """A call, but for its logits.

    Attributes:
        id: its name.
        n: tokens in a row.
        chunks: rows.
        top_k: as in `decode_spans`, like the other arguments of the same names below.
        max_answer_len: likewise.
        scoring: likewise.
        null_in_spans: likewise.
        dtype: of the logits.
        logits: what they look like: "smooth"; "peaked" around a few places, as a trained model's are;
            "ties" of many; "minus-inf" in half of the places; "bad", with a NaN or an infinity;
            "huge", near the largest float32; "equal", all of them.
        context: which tokens are context: "usual", all but a few at either end; "any" range per
            chunk; "empty", some of them; "ends", contexts of a token or none at the rows' ends;
            "none", which is the argument's None.
        per_question: chunks of a question; 0: no question ids. The last question may have fewer.
        overlap: the contexts of a question's chunks overlap, and spans are to be distinct.
        ragged: flat rows, in any order and with gaps.
        mask: a context mask.
        null: the null position: "first", as an integer; "absent", -1 as an integer; or "any", a
            tensor of positions inside and outside the context, and -1.
        shifted: the second run gets tensors that begin a number past what vector loads are aligned to.
        tuning: fields of `span_topk.TUNING` that differ from the default.
        compared: with the reference. Else it is one of those whose kernels are only to be compiled, for
            what is timed later.
    """

    id: str
    n: int = 384
    chunks: int = 3
    top_k: int = 20
    max_answer_len: int | None = 30
    scoring: str = "probability"
    null_in_spans: bool = False
    dtype: str = "float16"
    logits: str = "smooth"
    context: str = "usual"
    per_question: int = 0
    overlap: bool = False
    ragged: bool = False
    mask: bool = False
    null: str = "first"
    shifted: bool = False
    tuning: dict[str, Any] = field(default_factory=dict)
    compared: bool = True

    def smaller(self) -> Variant:
        """The same for Triton's interpreter, which takes a tenth of a second for a program."""
        return replace(self, n=min(self.n, 1100), chunks=min(self.chunks, 70))

    def call(self, seed: int) -> Call:
        """Arguments on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        shape = self.chunks, self.n

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high, shape[:1], generator=generator)

        start, end = self._logits(generator)
        few = min(self.n // 4, 20)
        low, high = few + 0 * integers(0, 1), self.n - integers(0, few + 1)
        if self.context == "any":
            low, high = torch.stack([integers(0, self.n + 1) for _ in range(2)]).sort(0).values
        elif self.context == "empty":
            high = torch.where(integers(0, 2).bool(), low, high)
        elif self.context == "ends":
            low = torch.where(integers(0, 2).bool(), 0, self.n - 1)
            high = low + integers(0, 2)
        context = None if self.context == "none" else torch.stack([low, high], 1)
        options: dict[str, Any] = {
            "top_k": self.top_k,
            "max_answer_len": self.max_answer_len,
            "scoring": self.scoring,
            "null_in_spans": self.null_in_spans,
            "null_position": {"first": 0, "absent": -1}.get(self.null, integers(-1, self.n)),
        }
        if self.mask:
            options["context_mask"] = torch.rand(shape, generator=generator) < 0.7
        question = None
        if self.per_question:
            question = torch.arange(self.chunks) // self.per_question
            options["num_questions"] = -(-self.chunks // self.per_question)
        if self.overlap:
            place = torch.arange(self.chunks) % max(1, self.per_question)
            options["context_offset"] = place * max(1, self.n // 3)
        call: Call = (start, end, context, question), options
        return ragged(*call, generator) if self.ragged else call

    def _logits(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = self.chunks, self.n

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator)

        def places() -> Tensor:
            return torch.randint(0, self.n, (self.chunks, 1), generator=generator)

        start, end = 3 * noise(), 3 * noise()
        if self.logits == "peaked":
            position = torch.arange(self.n)
            for x in (start, end):
                x.div_(5).sub_(6)
            for height in (14, 12, 9):
                place = places()
                for x in (start, end):
                    x.add_(height * torch.exp(-(position - place).abs() / 2.0))
                    place = place + torch.randint(0, 5, place.shape, generator=generator)
        elif self.logits == "ties":
            start, end = (start / 4).round(), (end / 4).round()
        elif self.logits == "minus-inf":
            start[noise() < 0] = -torch.inf
            end[noise() < 1] = -torch.inf
        elif self.logits == "bad":
            for x, value in ((start, torch.nan), (end, torch.inf)):
                x[int(places()[0]) % self.chunks, places()[0]] = value
        elif self.logits == "huge":
            start, end = (x.sign() * torch.finfo(torch.float32).max / 2.5 for x in (start, end))
        elif self.logits == "equal":
            start, end = (torch.full(shape, float(noise()[0, 0])) for _ in range(2))
        dtype = getattr(torch, self.dtype)
        return start.to(dtype), end.to(dtype)


def _variants() -> list[Variant]:
    make = Variant
    found = [make(f"k{k}", top_k=k) for k in (1, 2, 12, 20, 32, 33, 100, 128)]
    found += [
        make(f"{dtype}-k{k}", dtype=dtype, top_k=k)
        for dtype in ("bfloat16", "float32") for k in (1, 20)
    ]  # fmt: skip
    found += [
        make(f"limit-{limit}-k{k}", n=n, max_answer_len=limit, top_k=k)
        for limit, k, n in (
            (1, 20, 384), (15, 12, 384), (33, 20, 384), (100, 20, 384), (None, 1, 384),
            (None, 20, 384), (None, 100, 384), (1000, 20, 1200), (None, 20, 1200),
        )
    ]  # fmt: skip
    found += [
        make(f"n{n}-k{k}", n=n, top_k=k)
        for n, k in (
            (1, 1), (7, 20), (33, 12), (64, 20), (127, 1), (256, 20), (300, 12), (383, 20), (385, 1),
            (512, 20), (513, 12), (513, 1), (1024, 20), (1025, 12), (2100, 12),
        )
    ]  # fmt: skip
    found += [
        make(f"{logits}-k{k}", logits=logits, top_k=k, dtype=dtype, context="any")
        for logits, dtype, ks in (
            ("peaked", "float16", (1, 12, 20, 100)), ("ties", "float16", (1, 12, 20, 100)),
            ("minus-inf", "bfloat16", (1, 20)), ("bad", "float32", (1, 20)),
            ("huge", "float32", (20,)), ("equal", "float16", (20,)),
        )
        for k in ks
    ]  # fmt: skip
    found += [
        make(f"context-{context}-k{k}", context=context, top_k=k, chunks=6)
        for context, k in (("empty", 20), ("ends", 20), ("ends", 1), ("none", 20), ("none", 1))
    ]
    found += [
        make("ragged-k1", ragged=True, top_k=1, dtype="bfloat16", context="any"),
        make("ragged-k20", ragged=True, dtype="bfloat16", context="any", null="any"),
        make("ragged-questions", ragged=True, dtype="bfloat16", per_question=2, overlap=True),
        make("mask-k1", mask=True, top_k=1),
        make("mask-k20", mask=True, null="any", context="any"),
        make("mask-k100", mask=True, top_k=100, ragged=True),
        make("null-in-spans-k1", null_in_spans=True, top_k=1, null="any"),
        make("null-in-spans-k20", null_in_spans=True, null="any", context="any"),
        make("null-in-spans-no-limit", null_in_spans=True, max_answer_len=None, mask=True),
        make("null-in-spans-k100", null_in_spans=True, top_k=100, context="any"),
        make("null-absent", null="absent"),
        make("null-any-k1", null="any", top_k=1, context="any"),
        make("logit-k1", scoring="logit", top_k=1),
        make("logit-k20", scoring="logit", logits="ties"),
        make("shared-k20", scoring="shared"),
    ]
    found += [
        make(f"questions-{scoring}-k{k}", scoring=scoring, top_k=k, per_question=per, chunks=7,
             overlap=overlap, logits=logits, context="any", null="any")
        for scoring, k, per, overlap, logits in (
            ("probability", 1, 2, True, "smooth"), ("probability", 20, 3, True, "ties"),
            ("shared", 20, 3, True, "smooth"), ("logit", 20, 3, False, "ties"),
            ("logit", 100, 3, True, "smooth"), ("probability", 12, 4, False, "bad"),
        )
    ]  # fmt: skip
    found += [
        make(f"many-{chunks}-{scoring}-k{k}", n=n, chunks=chunks, per_question=chunks, top_k=k,
             scoring=scoring, overlap=overlap, logits=logits, max_answer_len=5)
        for chunks, scoring, k, n, overlap, logits in (
            (70, "probability", 1, 40, False, "smooth"), (70, "shared", 2, 33, True, "ties"),
            (70, "logit", 2, 40, True, "bad"), (700, "probability", 20, 24, False, "smooth"),
            (700, "shared", 20, 24, True, "peaked"), (3000, "probability", 20, 16, True, "ties"),
            (3000, "logit", 12, 16, False, "smooth"), (3000, "logit", 40, 16, True, "smooth"),
        )
    ]  # fmt: skip
    found += [
        make("lists-in-turn-k1", n=33, chunks=5000, top_k=1),
        make("lists-in-turn-k12", n=33, chunks=5000, top_k=12, logits="peaked"),
        make("many-2-questions", n=24, chunks=1300, per_question=1000, top_k=5, overlap=True),
        make("long-4096-k12", n=4096, chunks=2, top_k=12, max_answer_len=15),
        make("long-4096-questions", n=4096, chunks=2, per_question=2, overlap=True),
        make("long-32768-k1", n=32768, chunks=2, top_k=1),
        make("long-32768-k12-span-1000", n=32768, chunks=2, top_k=12, max_answer_len=1000),
        make("long-131072-k20", n=131072, chunks=2),
        make("long-131072-k20-no-limit", n=131072, chunks=1, max_answer_len=None),
        make("long-131072-k100-logit", n=131072, chunks=1, top_k=100, scoring="logit"),
    ]
    return found


def tunings() -> list[dict[str, Any]]:
    """What may be better than `span_topk.TUNING`: fields that differ from it."""
    default = getattr(span_topk, "TUNING", None)
    if default is None:
        return []
    grid = [*product((64,), (4, 8, 16, 32), (64, None)), (128, 8, 64)]
    names = "list_size", "lists_per_program", "max_registers"
    found = [dict(zip(names, values, strict=True)) for values in grid]
    differing = [{k: v for k, v in x.items() if v != getattr(default, k)} for x in found]
    return sorted(filter(None, differing), key=len)  # the smallest changes first


def _variants_of_tunings() -> list[Variant]:
    """Kernels that only the sweep of tunings needs, on logits that are hard for them."""
    kinds = [x for x in tunings() if "lists_per_program" not in x]
    return [
        Variant(
            f"k{k}-{','.join(f'{a}={b}' for a, b in x.items())}", top_k=k, logits=logits, tuning=x
        )
        for x in kinds
        for k, logits in ((1, "ties"), (12, "peaked"), (20, "ties"))
        if k > 1 or "list_size" not in x
    ]


def timed_works() -> tuple[list[Workload], list[Workload]]:
    """What decoding is timed at: by itself, and next to what others do."""
    alone = [
        *(Workload(384, k, 30, 1_000_000, x) for x in ("float16", "float32") for k in (1, 12, 20)),
        *(Workload(384, k, 30, n, "float16") for k in (1, 20) for n in (1, 10, 100, 1_000, 10_000)),
        *(Workload(384, 20, 30, 100_000, "float16", per_question=q) for q in (2, 100_000)),
        *(
            Workload(384, k, limit, 500_000, "float16")
            for k, limit in ((100, 30), (20, None), (12, 15), (20, 100))
        ),
        Workload(384, 20, 30, 1_000_000, "bfloat16"),
    ]  # fmt: skip
    next_to_others = [
        *(Workload(384, k, 30, 4_096, x) for x in ("float16", "float32") for k in (1, 12, 20)),
        Workload(384, 20, 30, 100_000, "float16"),
        Workload(384, 20, 30, 100_000, "float16", per_question=100_000),
    ]  # fmt: skip
    return alone, next_to_others


def growing_works() -> list[tuple[Workload, bool]]:
    """The same over the length of a row, and whether the matrix of all spans has room."""
    return [
        (Workload(n, 12, 15, most // n, "float16"), matrix)
        for n in GROWTH
        for most, matrix in ((2**22, False), (2**29 // n, True))
        if not matrix or n <= 4096
    ]


def _variants_of_works() -> list[Variant]:
    alone, next_to_others = timed_works()
    works = [*alone, *next_to_others, *(work for work, _ in growing_works())]
    found = {}
    for work in works:
        scorings = ("probability", "logit") if work in next_to_others else ("probability",)
        for scoring in scorings:
            variant = Variant(
                f"timed-n{work.n}-k{work.top_k}-L{work.max_answer_len}-{work.dtype}-{scoring}"
                + f"-q{work.per_question}" * bool(work.per_question),
                n=work.n,
                chunks=2 if work.per_question < 3 else 700,  # these take two rounds
                top_k=work.top_k,
                max_answer_len=work.max_answer_len,
                scoring=scoring,
                dtype=work.dtype,
                per_question=min(work.per_question, 700),
                compared=False,
            )
            found[variant.id] = variant
    return list(found.values())


SHIFTED = (
    "k1",
    "k20",
    "n64-k20",
    "context-none-k20",
    "mask-k20",
    "ragged-k20",
    "questions-shared-k20",
)
VARIANTS = {
    variant.id: replace(variant, shifted=variant.id in SHIFTED)
    for variant in _variants() + _variants_of_tunings() + _variants_of_works()
}


def reference(call: Call) -> tuple[ReferenceSpans, Callable[[int], ReferenceSpans]]:
    """What the float64 reference gives for a call, and with so many more spans, none left out."""
    (start, end, context, question), options = call
    if context is None:
        context = torch.tensor([[0, start.shape[1]]] * len(start))
    plain = {name: x for name, x in options.items() if name != "max_seq_len"}
    top_k = options["top_k"]
    if start.ndim == 2 and start.shape[1] > LONGEST_MATRIX:
        long = partial(long_reference, start, end, context, options)
        return long(top_k), lambda beyond: long(top_k + beyond)
    if (offset := plain.pop("row_offset", None)) is not None:
        rows = offset[:, None] + torch.arange(options["max_seq_len"])
        start, end = start[rows], end[rows]
        if "context_mask" in plain:
            plain["context_mask"] = plain["context_mask"][rows]
    short = partial(expected, start, end, context, question)

    def further(beyond: int) -> ReferenceSpans:
        return short(**{**plain, "top_k": top_k + beyond, "distinct": False})

    return short(**plain), further


def long_reference(
    start_logits: Tensor, end_logits: Tensor, context: Tensor, options: dict[str, Any], top_k: int
) -> ReferenceSpans:
    """The reference without its matrix, for finite logits and chunks that are questions by themselves.

    All of the ``top_k`` best spans begin at the starts whose best span is as good as the ``top_k``-th
    best of these; only the spans of these starts are looked at.
    """
    rows, n = start_logits.shape
    limit = min(options["max_answer_len"] or n, n)
    null = options["null_position"]
    found = ReferenceSpans(
        score=np.full((rows, top_k), -np.inf),
        start=np.full((rows, top_k), -1),
        end=np.full((rows, top_k), -1),
        chunk=np.full((rows, top_k), -1),
        null_score=np.full(rows, -np.inf),
        nonfinite=np.zeros(rows, dtype=bool),
    )
    for c in range(rows):
        low, high = context[c].tolist()
        # Sums are rounded to float32, in which scores are defined; the normalizer is not.
        s, e = (x[c].float().numpy() for x in (start_logits, end_logits))
        norm = 0.0
        if options["scoring"] != "logit":
            support = [*range(low, high), *([null] if null >= 0 and not low <= null < high else [])]
            norm = sum(logsumexp(x[support].astype(np.float64)) for x in (s, e))
        if null >= 0:
            found.null_score[c] = float(s[null] + e[null]) - norm
        best_end, width = e[low:high].copy(), 1
        while width < limit:  # the maximum of windows of 1, 2, 4, ... tokens, then of `limit`
            step = min(width, limit - width)
            best_end[:-step] = np.maximum(best_end[:-step], best_end[step:])
            width += step
            if width >= high - low:
                break
        best = s[low:high] + best_end
        least = np.sort(best)[-top_k] if len(best) >= top_k else -np.inf
        spans = [
            (-float(s[i] + e[j]), i, j)
            for i in (np.flatnonzero(best >= least) + low).tolist()
            for j in (np.flatnonzero(s[i] + e[i : min(i + limit, high)] >= least) + i).tolist()
        ]
        for rank, (score, i, j) in enumerate(sorted(spans)[:top_k]):
            found.score[c, rank] = -score - norm
            found.start[c, rank], found.end[c, rank], found.chunk[c, rank] = i, j, c
    return found
