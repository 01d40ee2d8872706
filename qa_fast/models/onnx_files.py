"""Which file of a folder, or of a repository on the Hub, is the ONNX graph to run, and what it is.

Names are those that exporters give: ``model.onnx`` beside ``config.json``, or in ``onnx/``; and variants
such as ``model_fp16.onnx``. What a graph computes in is read from the graph, not from its name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .checkpoints import CheckpointError, Reason

FOLDERS = ("", "onnx/")
"""Where graphs lie in a folder or a repository; the first one counts."""

PLAIN = {"float32": "model.onnx", "float16": "model_fp16.onnx", "int8": "model_int8.onnx"}
"""The types that can be asked for, and the name that counts where several files are of one."""

# Parts of names, in the order in which they count; what has none of them is float32.
_NAMED = (
    ("int4", r"q4\w*|u?int4|bnb4|nf4"),
    ("int8", r"u?int8|q8|q?u?int8|quantized?"),
    ("float16", r"fp16|float16|half|o4"),
    ("bfloat16", r"bf16|bfloat16"),
)
_FLOATS = ("float32", "float16", "bfloat16")
# Operators on integers.
_ON_INTEGERS = re.compile(
    r".*Quant.*|.*Integer|Q(Linear|Ordered|Attention|Gemm|Embed|MoE).*|"
    r"MatMul(NBits|Bnb4|IntegerToFloat)"
)


class Graph(NamedTuple):
    """A file with a graph.

    Attributes:
        path: the file.
        data: the files beside it that hold its weights, where it does not hold them itself.
        dtype: "float32", "float16", "bfloat16" or, with integers of 8 bits or fewer, "int8".
        dynamic: it scales numbers by the greatest of a whole batch.
        state: size and time of change of each of the files, to see whether they are still the same.
    """

    path: Path
    data: tuple[Path, ...]
    dtype: str
    dynamic: bool
    state: tuple[tuple[int, int], ...]

    def check_unchanged(self) -> None:
        """Raise a `CheckpointError` where the files are not those that were read."""
        try:
            now = _state((self.path, *self.data))
        except OSError as error:
            raise refusal(self.path, f"its file is not there any more ({error})") from error
        if now != self.state:
            raise refusal(self.path, "its file has changed since it was first read: load it again")


def refusal(source: str | Path, reason: str) -> CheckpointError:
    """What to raise where ``source`` cannot be used as a graph."""
    return CheckpointError(Reason(f"cannot load the ONNX model {str(source)!r}: {reason}"))


def find_graph(source: str | Path, dtype: str | None = None) -> tuple[Path, Path | None]:
    """The file of the graph, and the folder of its configuration where there is one.

    Args:
        source: a folder, the path of one ``.onnx`` file, or a model id on the Hub.
        dtype: which of several, a key of `PLAIN`; None for ``model.onnx``, or the only one there is.

    Raises:
        CheckpointError: there is none, or not one of that type, or several.
    """
    if dtype is not None and dtype not in PLAIN:
        wanted = ", ".join(map(repr, PLAIN))
        raise ValueError(f"dtype of an ONNX model must be one of {wanted}, or None; got {dtype!r}")
    path = Path(source)
    if path.is_file():
        if path.suffix != ".onnx":
            raise refusal(source, "it is neither a folder nor a file whose name ends in .onnx")
        places = path.parent, path.parent.parent
        return path, next((p for p in places if (p / "config.json").is_file()), None)
    if path.is_dir():
        names = [f"{folder}{p.name}" for folder in FOLDERS for p in (path / folder).glob("*.onnx")]
        found = path / _choose(source, names, dtype)
        return found, path if (path / "config.json").is_file() else None
    if path.suffix == ".onnx" or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) is None:
        raise refusal(source, "there is no such file or folder")
    return _from_hub(str(source), dtype)


def _choose(source: str | Path, names: list[str], dtype: str | None) -> str:
    """One of ``names``."""
    # The same name in both folders is the same graph.
    by_name: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name.count("/"), name)):
        by_name.setdefault(PurePosixPath(name).name, name)
    if not by_name:
        raise refusal(
            source,
            "there is no file whose name ends in .onnx in it; qa-fast export makes such a folder",
        )
    listed = ", ".join(by_name.values())
    found = [n for n in by_name if dtype is None or _type_by_name(n) == dtype]
    plain = PLAIN[dtype or "float32"]
    if plain in found:
        return by_name[plain]
    if len(found) == 1:
        return by_name[found[0]]
    which = "which one is not said" if dtype is None else f"several are {dtype}"
    if not found:
        raise refusal(source, f"none of its graphs is {dtype} by its name; there are {listed}")
    raise refusal(source, f"{which} ({listed}): give the path of one of these files")


def _type_by_name(name: str) -> str:
    parts = re.split(r"[._-]", PurePosixPath(name).stem.lower())
    for dtype, words in _NAMED:
        if any(re.fullmatch(words, part) for part in parts):
            return dtype
    return "float32"


# --- the Hub ------------------------------------------------------------------------------------


def _from_hub(source: str, dtype: str | None) -> tuple[Path, Path | None]:
    """As `find_graph`; all files are of one commit."""
    from transformers.utils.hub import cached_file

    try:
        config = cached_file(source, "config.json")
        assert config is not None
        folder = Path(config).parent
        at = {"revision": folder.name}
        name = _choose(source, _names_on_hub(source, folder), dtype)
        path = cached_file(source, name, **at)
        assert path is not None
        for data in _data_of(_read(Path(path)), Path(path)):
            cached_file(source, str(PurePosixPath(name).parent / data), **at)
    except CheckpointError:
        raise
    except Exception as error:  # of many kinds, as the Hub, its client and the network are
        short = " ".join(str(error).split()).partition(". ")[0][:300]
        raise refusal(
            source,
            "there is no such folder, and the Hugging Face Hub has no such model or cannot be "
            f"reached ({short})",
        ) from error
    return Path(path), folder


def _names_on_hub(source: str, folder: Path) -> list[str]:
    """The graphs of a repository; those that were fetched before where the Hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().list_repo_files(source, revision=folder.name)
    except Exception:
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx")]
    return [
        name
        for name in files
        if name.endswith(".onnx") and name.removesuffix(PurePosixPath(name).name) in FOLDERS
    ]


# --- what is in a graph -------------------------------------------------------------------------


def read_graph(path: Path) -> Graph:
    """What the file at ``path`` holds.

    Raises:
        CheckpointError: no graph; or one with weights in a file outside of its folder.
    """
    model = _read(path)
    folder = path.parent
    # In the Hub's cache names are links into one folder, where the graph lies too.
    allowed = folder.resolve(), path.resolve().parent
    data = []
    for name in _data_of(model, path):
        file = folder / name
        if not file.is_file():
            raise refusal(path, f"its weights should be in {name!r}, and there is no such file")
        if not any(file.resolve().is_relative_to(place) for place in allowed):
            raise refusal(path, f"its weights should be in {name!r}, which leads out of its folder")
        data.append(file)
    operators = {node.op_type for node in _nodes(model)}
    elements: Counter[str] = Counter()
    for tensor in _tensors(model):
        kind = _type_of(tensor)
        if kind in _FLOATS:
            elements[kind] += _count(tensor)
    on_integers = any(map(_ON_INTEGERS.fullmatch, operators))
    dtype = "int8" if on_integers else max(_FLOATS, key=lambda name: elements[name])
    dynamic = any(op.startswith("DynamicQuantize") for op in operators)
    return Graph(path, tuple(data), dtype, dynamic, _state((path, *data)))


def _read(path: Path) -> Any:
    """The graph, without weights that lie in other files."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX is needed: pip install 'qa-fast[onnx]'") from error
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf's kinds
        short = " ".join(str(error).split())[:200] or type(error).__name__
        raise refusal(path, f"its file is broken or cannot be read ({short})") from error
    if not model.graph.node:
        raise refusal(path, "its file holds no graph")
    return model


def _data_of(model: Any, path: Path) -> list[str]:
    """The names of other files with weights, relative to the graph's folder."""
    names = {
        entry.value for t in _tensors(model) for entry in t.external_data if entry.key == "location"
    }
    for name in names:
        parts = re.split(r"[/\\]", name)
        if not name or not parts[0] or ".." in parts or Path(name).is_absolute() or ":" in name:
            raise refusal(path, f"its weights should be in {name!r}, which leads out of its folder")
    return sorted(names)


def _graphs(model: Any) -> Iterator[Any]:
    """All graphs and functions, also those inside of operators."""
    stack = [model.graph, *model.functions]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.HasField("g") else []
                stack += attribute.graphs


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    """All constant tensors."""
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else []
                yield from attribute.tensors


def _type_of(tensor: Any) -> str:
    import onnx

    kinds = onnx.TensorProto
    named = {kinds.FLOAT: "float32", kinds.FLOAT16: "float16", kinds.BFLOAT16: "bfloat16"}
    return named.get(tensor.data_type, "")


def _count(tensor: Any) -> int:
    found = 1
    for size in tensor.dims:
        found *= size
    return found


def _state(paths: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((status.st_size, status.st_mtime_ns) for status in (p.stat() for p in paths))
