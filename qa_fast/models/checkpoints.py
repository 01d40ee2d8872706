"""Models and tokenizers by name, from a folder or from the Hugging Face Hub, as data only.

Transformers reads the files. What it would do with a file that means harm, or is broken, is settled
here: weights are safetensors and nothing is unpickled, code that comes with a model does not run,
unless the caller allows it; and whatever goes wrong is a `CheckpointError`, an OSError of one line.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .torch_settings import as_by_default

BUNDLED_MODEL = Path(__file__).parent / "minilm-l6-squad"

_LOADS = 5  # before it is given up
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_IF_PICKLES_ARE_ALLOWED = (
    " reads pickled weights (pytorch_model.bin), where there are such, and save_pretrained() of the "
    "model then writes safe ones"
)


class Reason(NamedTuple):
    """Why a model cannot be loaded: a text, in which the name of a permission may stand.

    Attributes:
        before: the text before it, or all.
        permission: "allow_pickle" or "trust_remote_code"; "" where neither would help.
        after: the text behind it.
    """

    before: str
    permission: str = ""
    after: str = ""

    def __str__(self) -> str:
        return self.before + (f"{self.permission}=True" if self.permission else "") + self.after


class CheckpointError(OSError):
    """A model or a tokenizer cannot be loaded.

    Attributes:
        reason: why, with what cannot be loaded before it.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


def load_model(
    source: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Any:
    """A model for question answering, on the CPU.

    Args:
        source: a folder, or a model id on the Hub.
        dtype: its weights' type; "auto" for the checkpoint's own. See `dtype_to_load`.
        allow_pickle: also read weights that are pickled (``pytorch_model.bin``), where there are no
            others; PyTorch then unpickles tensors only (``weights_only=True``).
        trust_remote_code: run the code that comes with the model, where it has any.

    Raises:
        OSError: it cannot be found or loaded; or the weights of a whole part of it, such as the layer
            that answers, are not there.

    Warns:
        UserWarning: single weights are not there, and are random.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    with _one_line_errors("model", source):
        where = _where(source) or _commit(source)
        config = AutoConfig.from_pretrained(
            str(source), trust_remote_code=trust_remote_code, **where
        )
        if not trust_remote_code:
            _check_attention(config)
        if not allow_pickle:
            _check_index(source, config, where)
        # The argument was renamed in Transformers 4.56.
        version = tuple(map(int, transformers.__version__.split(".")[:2]))
        # A download keeps its bars.
        quiet = _no_progress_bars() if "local_files_only" in where else nullcontext()
        with quiet, torch.inference_mode(False), as_by_default("cpu"):
            model, found = _undisturbed(
                lambda: AutoModelForQuestionAnswering.from_pretrained(
                    str(source),
                    config=config,
                    trust_remote_code=trust_remote_code,
                    use_safetensors=None if allow_pickle else True,
                    output_loading_info=True,
                    **{"dtype" if version >= (4, 56) else "torch_dtype": dtype},
                    **where,
                ),
                dtype,
            )
        missing = sorted(found["missing_keys"])
        _check_weights(model, missing)
    if missing:
        warnings.warn(
            f"the checkpoint of {str(source)!r} lacks weights that are random now, and answers may be "
            f"wrong: {_in_short(missing)}",
            UserWarning,
            stacklevel=2,
        )
    return model


def _undisturbed(load: Callable[[], tuple[Any, Any]], dtype: str | torch.dtype) -> tuple[Any, Any]:
    """What ``load`` gives: a model of ``dtype``, and something else; no weights rounded by mistake.

    Where another thread loads a model of another type meanwhile, torch's default dtype changes under
    this load, and some of its weights get that of the other.
    """
    narrow_before: list[str] | None = None
    for _ in range(_LOADS):
        found = load()
        narrow = _narrow_weights(found[0], dtype)
        # Chance does not repeat itself: the same ones twice are meant to be so.
        if not narrow or narrow == narrow_before:
            return found
        narrow_before = narrow
    raise _Refusal(
        "torch's default dtype changed while it was loaded, as it does while other threads load models "
        "of other types: load one after the other"
    )


def _narrow_weights(model: Any, dtype: str | torch.dtype) -> list[str]:
    """Weights of another type than was asked for, one that does not hold all values of that."""
    wanted: Any = dtype
    if dtype == "auto":
        wanted = getattr(model.config, "dtype", None) or getattr(model.config, "torch_dtype", None)
    wanted = getattr(torch, wanted) if isinstance(wanted, str) else wanted
    return [
        f"{name} {weight.dtype}"
        for name, weight in model.named_parameters()
        if isinstance(wanted, torch.dtype)
        and weight.is_floating_point()
        and weight.dtype != wanted
        and weight.itemsize <= wanted.itemsize
    ]


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """A tokenizer.

    Args:
        source: as in `load_model`.
        trust_remote_code: as in `load_model`.

    Raises:
        OSError: it cannot be found or loaded, or has no vocabulary.
    """
    from transformers import AutoTokenizer

    with _one_line_errors("tokenizer", source):
        where = _where(source)
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), trust_remote_code=trust_remote_code, **where
        )
        # Where its files are missing, some releases of Transformers make one of special tokens only.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise _Refusal(
                "it has no vocabulary: its files, such as tokenizer.json, are not there; "
                "tokenizer.save_pretrained() writes them"
            )
    return tokenizer


def _where(source: str | Path) -> dict[str, Any]:
    """Arguments that keep Transformers from looking for a folder's files on the Hub."""
    if Path(source).is_dir():
        return {"local_files_only": True}
    if os.path.lexists(source):
        raise _Refusal("it is not a folder")
    return {}


def _commit(source: str | Path) -> dict[str, Any]:
    """Arguments that make Transformers read all of a model's files from the newest commit.

    Without a commit it has a Space on the Hub convert pickled weights, and sends it the user's token.
    """
    from transformers.utils.hub import cached_file

    path = cached_file(str(source), "config.json", _raise_exceptions_for_missing_entries=False)
    return {} if path is None else {"revision": Path(path).parent.name}


def _check_attention(config: Any) -> None:
    """Attention by the name of a repository is machine code from there."""
    name = getattr(config, "_attn_implementation", None)
    if isinstance(name, str) and "/" in name:
        asks = (
            f"its config.json asks for attention code from {name!r}, which runs with your rights; "
        )
        raise _Refusal(asks, "trust_remote_code", " allows that")


def _check_index(source: str | Path, config: Any, where: dict[str, Any]) -> None:
    """An index of weights may name any file, also a pickled one, or one outside of the folder."""
    from transformers.utils.hub import cached_file

    for name in {_INDEX, str(getattr(config, "transformers_weights", None) or _INDEX)}:
        if not name.endswith(".index.json"):
            continue
        path = cached_file(
            str(source),
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **where,
        )
        if path is None:
            continue
        shards = json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"].values()
        for shard in shards:
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise _Refusal(f"{name} names {shard!r}, which is no safetensors file beside it")


def _check_weights(model: Any, missing: list[str]) -> None:
    """Weights that the checkpoint lacks are random: a whole part of them makes the answers so."""
    absent = set(missing)
    parts = [
        name
        for name, part in model.named_children()
        if (own := {f"{name}.{key}" for key, _ in part.named_parameters()}) and own <= absent
    ]
    if parts:
        raise _Refusal(
            f"the checkpoint has no weights for {' and '.join(parts)} of {type(model).__name__} "
            f"({_in_short(missing)}), so its answers would be random: it was not trained to answer "
            "questions. Take one that was, or train it first"
        )


def _in_short(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


class _Refusal(Exception):
    """What is wrong with a model, as the parts of a `Reason`."""


@contextmanager
def _one_line_errors(what: str, source: str | Path) -> Iterator[None]:
    """Whatever goes wrong inside, from a missing file to a broken one, as one OSError of one line.

    Which exceptions broken files raise differs between formats and releases of Transformers,
    tokenizers and safetensors; any class occurs.
    """
    try:
        yield
    except Exception as error:
        broken = _broken_tokenizer(source) if what == "tokenizer" else None
        if isinstance(error, ImportError) and broken is None:
            raise  # it names what to install
        reason = Reason(broken) if broken else _reason(error, source)
        before = f"cannot load the {what} {str(source)!r}: {reason.before}"
        raise CheckpointError(reason._replace(before=before)) from error


def _reason(error: Exception, source: str | Path) -> Reason:
    """What is wrong and what to do, of what Transformers says at length or in riddles."""
    if isinstance(error, _Refusal):
        return Reason(*error.args)
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return Reason(
            "it comes with code of its own, which would run with your rights: read it, and if you "
            "trust it, load with ",
            "trust_remote_code",
        )
    if "size mismatch" in text or "ignore_mismatched_sizes" in text:
        return Reason("its weights do not have the shapes that its config.json says")
    short = text.partition(". ")[0][:300]
    if not isinstance(error, (OSError, ValueError)):
        short = f"{type(error).__name__}: {short}"
    none = f"file named {_WEIGHTS}" in text
    if Path(source).is_dir():
        if none and any(Path(source).glob("*.bin")):
            before = f"the folder holds no {_WEIGHTS}; "
            return Reason(before, "allow_pickle", _IF_PICKLES_ARE_ALLOWED)
        if none:
            return Reason(f"the folder holds no {_WEIGHTS}")
        if type(error).__name__ == "SafetensorError":
            return Reason(f"the file of its weights is broken ({short})")
        return Reason(
            f"the folder must hold a whole Transformers model with its tokenizer ({short})"
        )
    if none:
        return Reason(f"there is no {_WEIGHTS} in it; ", "allow_pickle", _IF_PICKLES_ARE_ALLOWED)
    return Reason(
        "there is no such folder, and the Hugging Face Hub has no such model or cannot be reached; "
        f"leave the model out to use the bundled one ({short})"
    )


def _broken_tokenizer(source: str | Path) -> str | None:
    """What is wrong with the files of a folder's tokenizer; None where that cannot be told.

    Some releases of Transformers speak of something else then, as they try other files.
    """
    import tokenizers

    path = Path(source) / "tokenizer.json"
    if not path.is_file():
        files = ("vocab*", "merges.txt", "*.model")  # of old tokenizers
        if Path(source).is_dir() and not any(any(Path(source).glob(name)) for name in files):
            return "the folder holds no tokenizer.json; tokenizer.save_pretrained() writes one"
        return None
    try:
        tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        return f"its tokenizer.json is broken ({' '.join(str(error).split())[:300]})"
    return None


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Without the bar that Transformers draws while it reads weights, which takes a blink here."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
