"""Memory for tensors: made with a dtype and a device, and looked at before C is given its address."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

import qa_fast
from qa_fast.decoding import c_backend, spans
from qa_fast.decoding.search import SpanSearch

from ..helpers.backends import assert_identical, assert_right, decode
from ..helpers.programs import run_python

PACKAGE = Path(qa_fast.__file__).parent
FILES = sorted({*PACKAGE.rglob("*.py"), *(Path(__file__).parents[2] / "kernels").glob("*.py")})

# What makes tensors of torch's default dtype or on its default device, unless it is told.
FACTORIES = {
    "arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "empty", "empty_permuted",
    "empty_quantized", "empty_strided", "eye", "frombuffer", "full", "hamming_window", "hann_window",
    "kaiser_window", "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm",
    "range", "scalar_tensor", "sparse_coo_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
# Methods whose result has the dtype of its values, not that of the tensor whose method it is.
INFERS_DTYPE = {"new_tensor", "new"}


def left_to_defaults(code: str) -> list[str]:
    """Places in ``code`` that make a tensor without saying its dtype or its device."""
    tree = ast.parse(code)
    modules, functions = {"torch"}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {a.asname for a in node.names if a.name == "torch" and a.asname}
        if isinstance(node, ast.ImportFrom) and node.module == "torch" and not node.level:
            functions |= {alias.asname or alias.name: alias.name for alias in node.names}

    def maker(node: ast.AST) -> str | None:
        """The factory that an expression names."""
        if isinstance(node, ast.Name):
            return functions.get(node.id)
        if isinstance(node, ast.Attribute):
            of_torch = isinstance(node.value, ast.Name) and node.value.id in modules
            return node.attr if of_torch or node.attr in INFERS_DTYPE else None
        return None

    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    wrong = []
    for node in ast.walk(tree):
        name, call = maker(node), calls.get(id(node))
        said = {keyword.arg for keyword in call.keywords} if call else set()
        needed = {"dtype", "device"} if name in FACTORIES else set()
        if name in INFERS_DTYPE and call:
            needed = {"dtype"}
        if name is not None and name.endswith("Tensor") and call:
            needed = {"a factory"}  # torch.FloatTensor(3)
        if needed - said:
            wrong.append(f"line {node.lineno}: {ast.unparse(call or node)}")  # type: ignore[attr-defined]
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: "-".join(path.parts[-2:]))
def test_every_tensor_is_made_with_a_dtype_and_a_device(path: Path) -> None:
    assert left_to_defaults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "torch.empty(3)",
        "torch.empty(3, dtype=torch.float32)",
        "torch.full((2,), -1, device=device)",
        "torch.as_tensor([1.0])",
        "torch.arange(3, dtype=torch.int64)",
        "torch.zeros(3, **options)",
        "torch.FloatTensor(3)",
        "torch.Tensor([1.0])",
        "x.new_tensor([1.0])",
        "map(torch.tensor, rows)",
        "import torch as t\nt.ones(3)",
        "from torch import zeros\nzeros(3)",
        "from torch import empty as room\nroom(3, device='cpu')",
        "def f():\n    from torch import Tensor\n    return Tensor(3)",
    ],
)
def test_the_check_finds_what_is_left_to_defaults(code: str) -> None:
    assert len(left_to_defaults(code)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "torch.empty(3, dtype=torch.float32, device='cpu')",
        "torch.zeros_like(x)",
        "x.new_empty((2, 3))",
        "np.zeros(3)",
        "def f(x: torch.Tensor) -> torch.Tensor: ...",
        "from numpy import empty\nempty(3)",
    ],
)
def test_the_check_lets_pass_what_names_them(code: str) -> None:
    assert left_to_defaults(code) == []


# ---- what C is given ----------------------------------------------------------------------------------


def search(chunks: int = 3, n: int = 8) -> SpanSearch:
    """One that has all tensors."""
    start, end = torch.randn(2, chunks, n, generator=torch.Generator().manual_seed(0))
    return SpanSearch(
        start_logits=start,
        end_logits=end,
        context=torch.tensor([[1, n]] * chunks, dtype=torch.int32),
        context_mask=torch.ones(chunks, n, dtype=torch.bool),
        row_offset=torch.arange(chunks) * n,
        question_id=torch.arange(chunks, dtype=torch.int32),
        context_offset=torch.zeros(chunks, dtype=torch.int32),
        null_position=torch.zeros(chunks, dtype=torch.int32),
        num_questions=chunks,
        top_k=4,
        max_answer_len=3,
        scoring="logit",
        null_in_spans=False,
        max_seq_len=n,
        max_chunks=1,
    )


def misaligned(x: torch.Tensor) -> torch.Tensor:
    memory = bytearray(x.nbytes + 1)
    moved = torch.frombuffer(memory, dtype=x.dtype, offset=1, count=x.numel()).view(x.shape)
    return moved.copy_(x)


class Wrapper(torch.Tensor):
    """A tensor without memory of its own around another, as those that are spread over devices."""

    inner: torch.Tensor

    def __new__(cls, inner: torch.Tensor) -> Wrapper:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, _: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        arguments, named = (
            tree_map(lambda x: x.inner if isinstance(x, cls) else x, given)
            for given in (arguments, named or {})
        )
        return function(*arguments, **named)


BUFFERS = [
    "end_logits", "context_mask", "row_offset", "context", "question_id", "context_offset",
    "null_position",
]  # fmt: skip
CHANGES = {
    "dtype": lambda x: x.to(torch.int16),
    "wider": lambda x: x.to(torch.float64),
    "too-few": lambda x: x[:-1],
    "too-many": lambda x: torch.cat([x, x]),
    "device": lambda x: x.to("meta"),
    "no-memory": lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype, device="cpu"),
    "wrapper": lambda x: Wrapper(x),
    "wrapper-of-a-slice": lambda x: Wrapper(torch.cat([x, x])[len(x) :]),
}


@pytest.mark.skipif(c_backend.library() is None, reason="needs the compiled decoder")
@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_c_is_given_no_buffer_that_is_not_what_it_takes_it_for(name: str, change: Any) -> None:
    given = search()
    changed = change(getattr(given, name))
    if name == "context":  # the number of chunks is its
        given = given._replace(null_position=torch.zeros(len(changed), dtype=torch.int32))
    with pytest.raises(ValueError, match=r"must be .* elements of .* in the memory of the CPU"):
        c_backend.decode(given._replace(**{name: changed}))


@pytest.mark.skipif(c_backend.library() is None, reason="needs the compiled decoder")
def test_c_is_given_no_results_of_another_size() -> None:
    given = search()._replace(question_id=None, num_questions=2)
    with pytest.raises(ValueError, match="a question per chunk, not 2"):
        c_backend.decode(given)


def test_logits_that_lie_in_memory_in_unusual_ways() -> None:
    """Not aligned, yet to be negated, of a subclass: the same answers."""
    start, end = search().start_logits, search().end_logits
    want = spans.decode_spans(start, end)
    negative = torch.complex(start, -start).conj().imag
    assert negative.is_neg()
    for unusual in (misaligned(start), negative, torch.nn.Parameter(start), Wrapper(start)):
        assert_identical(want, spans.decode_spans(unusual, end))
    assert_identical(want, spans.decode_spans(start, Wrapper(end)))


# ---- all spans that there are -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("scoring", ["probability", "shared", "logit"])
@pytest.mark.parametrize("options", [{}, {"max_answer_len": 5}, {"null_in_spans": True}], ids=str)
def test_all_spans_of_chunks_of_many_lengths(
    backend: str, scoring: str, options: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(3)
    start, end = torch.randint(-3, 4, (2, 7, 20), generator=generator).float()
    context = torch.tensor([[1, 20], [3, 4], [0, 0], [20, 20], [0, 20], [19, 20], [2, 9]])
    question = torch.tensor([0, 0, 0, 1, 3, 3, 3])
    options = {
        "max_answer_len": None,
        **options,
        "scoring": scoring,
        "num_questions": 5,
        "top_k": 700,
    }
    options["context_offset"] = torch.tensor([0, 2, 0, 0, 0, 19, 4])
    given = start, end, context, question
    assert_right(decode(backend, *given, **options), given, options)


ALL_SPANS = """
import resource, torch, qa_fast
from qa_fast.decoding import c_backend
start, end = torch.randn(2, 1500, 64)
question = torch.zeros(1500, dtype=torch.int32)
place = torch.arange(1500, dtype=torch.int32) * 32
few = qa_fast.decode_spans(start, end, None, question, top_k=2, context_offset=place)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (3 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for library in (c_backend.library(), None):
    c_backend.library = lambda: library
    found = qa_fast.decode_spans(
        start, end, None, question, top_k=10**6, max_answer_len=15, context_offset=place
    )
    print(int((found.chunk >= 0).sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_time_are_those_of_the_answers_whatever_top_k_is() -> None:
    """Lists of a million entries for each of the 1,500 chunks of a question would take 18 GB.

    Half of the chunk's 64 tokens are the next one's too: to look through all answers for each new
    one would take days.
    """
    in_a_chunk, in_two = 64 * 15 - 15 * 7, 32 * 15 - 15 * 7
    answers = 1500 * in_a_chunk - 1499 * in_two
    assert run_python(ALL_SPANS).split() == [str(answers)] * 2
