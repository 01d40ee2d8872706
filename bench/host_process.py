"""A process that `host.py` starts: the engine, or the removed pipeline, with a model that costs nothing.

It takes one JSON object a line from standard input and answers each with one. ``host.py`` sets which
``qa_fast`` is imported (PYTHONPATH) and how many threads Rust has (RAYON_NUM_THREADS). Nothing here may
depend on the version of ``qa_fast`` but for a few names: `Engine.read`, the engine's stages, and its
chunker's ``_backend``.
"""

from __future__ import annotations

import cProfile
import gc
import json
import os
import pstats
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

Pairs = list[tuple[str, str]]
Times = dict[str, float]

# Questions in a window, and tokens in a batch where the engine has not its default: see `Engine`.
WINDOWS = {"CPU": (256, None), "GPU": (4096, 65536)}
STAGES = ("cut", "prepare", "start", "finish")  # first the pairs are cut into windows


def free_forward(rows: int = 1 << 14, width: int = 512) -> Callable[..., dict[str, Any]]:
    """The ``forward`` of a model that costs next to nothing: it copies pieces of a random buffer.

    Which piece depends on the sum of the row's tokens, to which padding, whose id is 0, adds nothing.
    So a row has the same logits in every batch, whoever puts that together, and questions about one
    context have answers in different places. Nearly all of the best spans have a text of their own, as
    with trained models.
    """
    import torch

    buffer = torch.randn(2, rows + width, generator=torch.Generator().manual_seed(0))
    start, end = buffer.unfold(1, width, 1)  # views: row r begins at the r-th number

    def forward(
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG001
        token_type_ids: torch.Tensor | None = None,  # noqa: ARG001
    ) -> dict[str, torch.Tensor]:
        row, size = input_ids.sum(1) % rows, input_ids.shape[1]
        return {
            "start_logits": start[:, :size].index_select(0, row),
            "end_logits": end[:, :size].index_select(0, row),
        }

    return forward


class Clock:
    """Adds up the seconds that the processor works in calls, one after the other."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its calls timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.process_time() - begin

        return timed


class Recorded:
    """A Rust tokenizer whose batches are timed, kept, and handed out again once it ``replays``.

    What it hands out again is never freed, which takes time too and is therefore timed apart.
    """

    def __init__(self, backend: Any) -> None:
        self.replays = False
        self.encoding, self.freeing = Clock(), Clock()
        self._backend = backend
        self._kept: dict[str, dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)
        if not name.startswith("encode_batch"):
            return method
        kept, encode = self._kept.setdefault(name, {}), self.encoding.timing(method)

        def encode_batch(texts: list[str], **options: Any) -> list[Any]:
            if self.replays:
                return [kept[text] for text in texts]
            encodings = encode(texts, **options)
            self.freeing.timing(list.clear)(method(texts, **options))
            kept.update(zip(texts, encodings, strict=True))
            return encodings

        return encode_batch


class Ours:
    """`Engine.read` and its stages.

    Args:
        tokenizer: its folder.
        cores: threads of PyTorch.
    """

    def __init__(self, tokenizer: str, cores: int) -> None:
        import torch
        from transformers import AutoTokenizer

        import qa_fast
        from qa_fast.engine import Engine, Options, windows

        class Free(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.forward = free_forward()

        torch.set_num_threads(cores)
        loaded = AutoTokenizer.from_pretrained(tokenizer)
        self._engines = {
            name: partial(Engine, Free(), loaded, max_batch_tokens=tokens)
            for name, (_, tokens) in WINDOWS.items()
        }
        self._options, self._windows = Options, windows
        self.about = {
            "qa_fast": qa_fast.__version__,
            "root": str(Path(qa_fast.__file__).parents[1]),
            "torch": torch.__version__,
        }

    def stream(self, pairs: Pairs, options: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        """Seconds for all pairs, those that the processor works for them, and the answers' digest.

        Args:
            pairs: the pairs.
            options: those of `Options`.
            arguments: those of `Engine.read`.
        """
        engine = self._engines["CPU"]()
        if arguments.get("num_workers"):
            started(engine, arguments["num_workers"])
        gc.collect()  # not of the last run's answers within this one's time
        begin = time.perf_counter(), time.process_time()
        readings = engine.read(pairs, self._options(**options), **arguments)
        answers = [reading.answers for reading in readings]
        seconds, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
        digest = sha256(json.dumps(answers).encode()).hexdigest()
        return {"seconds": seconds, "cpu": cpu, "digest": digest}

    def answers(self, pairs: Pairs, options: dict[str, Any]) -> dict[str, Any]:
        """The best answer of each pair."""
        readings = self._engines["CPU"]().read(pairs, self._options(**options))
        return {"answers": [reading.answers[0] for reading in readings]}

    def stages(
        self, pairs: Pairs, options: dict[str, Any], window: str, rounds: int
    ) -> dict[str, Any]:
        """Seconds of each stage, and of what was taken out of them, the least of ``rounds`` each."""
        with self._staged(pairs, options, window) as (run, recorded):
            found = [run() | recorded for _ in range(rounds)]
        return {name: min(times[name] for times in found) for name in found[0]}

    def workers(
        self, pairs: Pairs, options: dict[str, Any], window: str, rounds: int
    ) -> dict[str, Any]:
        """Seconds of the stages in the process that drives the model, and those of a worker process."""
        found = []
        for _ in range(rounds):
            engine = self._engines[window]()
            with self._outside(engine) as outside:
                (worker,) = started(engine, 1)
                begin = seconds_of(worker)
                stages = engine._stages(self._options(**options), None, 1)
                times = self._run(stages, pairs, WINDOWS[window][0], outside)
                found.append({"worker": seconds_of(worker) - begin, **times})
        return {name: min(times[name] for times in found) for name in found[0]}

    def profile(
        self, pairs: Pairs, options: dict[str, Any], window: str, rounds: int
    ) -> dict[str, Any]:
        """Of each function in all rounds: calls, own seconds, seconds with what it calls."""
        profile = cProfile.Profile()
        with self._staged(pairs, options, window) as (run, _):
            for _ in range(rounds):
                run(profile.runcall)
        stats: Any = pstats.Stats(profile)
        rows = [
            (pstats.func_std_string(place), calls, own, whole)
            for place, (_, calls, own, whole, _) in stats.stats.items()
        ]
        return {"functions": sorted(rows, key=lambda row: -row[2])}

    @contextmanager
    def _staged(
        self, pairs: Pairs, options: dict[str, Any], window: str
    ) -> Iterator[tuple[Callable[..., Times], Times]]:
        """A function that runs the stages one after the other, without Rust; and Rust's own times."""
        size, engine = WINDOWS[window][0], self._engines[window]()
        # Older versions, which this one may be compared with, have it themselves.
        chunker = engine._chunker if hasattr(engine, "_chunker") else engine._crew.chunker
        rust = Recorded(chunker._backend)
        fresh = type(chunker)

        with self._outside(engine) as outside:

            def run(call: Callable[..., Any] = lambda function, *given: function(*given)) -> Times:
                # One that has tokenized nothing yet.
                chunker = fresh(engine.tokenizer)
                chunker._backend = rust
                stages = engine._stages(self._options(**options), None)
                if hasattr(engine, "_crew"):
                    engine._crew.chunker = chunker
                else:
                    stages._chunker = chunker
                return self._run(stages, pairs, size, outside, call)

            run()  # records
            rust.replays = True
            run()  # warms up
            yield run, {"rust": rust.encoding.seconds, "freeing": rust.freeing.seconds}

    @contextmanager
    def _outside(self, engine: Any) -> Iterator[dict[str, Clock]]:
        """Clocks of what is taken out of the stages."""
        model, decode, windows = Clock(), Clock(), self._windows
        with (
            mock.patch.object(engine.model, "forward", model.timing(engine.model.forward)),
            mock.patch.object(windows, "decode_spans", decode.timing(windows.decode_spans)),
        ):
            yield {"model": model, "decode": decode}

    def _run(
        self,
        stages: Any,
        pairs: Pairs,
        size: int,
        outside: dict[str, Clock],
        call: Callable[..., Any] = lambda function, *given: function(*given),
    ) -> Times:
        """The seconds that the processor works in each stage, and in each of what is outside."""
        from qa_fast.engine.device import one_by_one
        from qa_fast.engine.streams import submit_windows

        times = dict.fromkeys(STAGES, 0.0)
        before = {name: clock.seconds for name, clock in outside.items()}

        def staged(stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
            begin = time.process_time() - sum(clock.seconds for clock in outside.values())
            result = call(function, *arguments)
            end = time.process_time() - sum(clock.seconds for clock in outside.values())
            times[stage] += end - begin
            return result

        for asked in staged("cut", list, submit_windows(pairs, size, size, lambda window: window)):
            prepared = staged("prepare", stages.prepare, asked)
            finish = staged("start", stages.start, prepared, one_by_one, False)
            del prepared  # the engine holds it no longer either
            staged("finish", finish)
        return times | {name: clock.seconds - before[name] for name, clock in outside.items()}


def started(engine: Any, num_workers: int) -> list[int]:
    """Have an engine start its worker processes, and wait for them; their numbers."""
    from qa_fast.engine import Options

    list(engine.read([("Who?", "Ada.")], Options(), num_workers=num_workers))
    engine._crew.wait()
    return [worker.process.pid for worker in engine._crew._workers]


def seconds_of(process: int) -> float:
    """What the processor has worked for a process on Linux, to a hundredth of a second."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Removed:
    """The removed pipeline; the arguments are those of `Ours`."""

    def __init__(self, tokenizer: str, cores: int) -> None:
        import torch
        import transformers

        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(cores)
        loaded = transformers.AutoTokenizer.from_pretrained(tokenizer)
        config = transformers.BertConfig(
            vocab_size=len(loaded), num_hidden_layers=1, hidden_size=2, num_attention_heads=1
        )
        model = transformers.BertForQuestionAnswering(config)
        model.forward = free_forward()
        self._pipeline = transformers.pipeline(
            "question-answering", model=model, tokenizer=loaded, device="cpu"
        )
        self.about = {"transformers": transformers.__version__, "torch": torch.__version__}

    def stream(self, pairs: Pairs, batch_size: int) -> dict[str, Any]:
        """Seconds for all pairs, and their answers."""
        questions, contexts = map(list, zip(*pairs, strict=True))
        begin = time.perf_counter()
        answers = self._pipeline(question=questions, context=contexts, batch_size=batch_size)
        return {"seconds": time.perf_counter() - begin, "answers": answers}


def serve(kind: str, tokenizer: str, cores: str, texts: str) -> None:
    """Answers requests until there are none.

    Args:
        kind: "ours" or "removed".
        tokenizer: its folder.
        cores: how many cores to use.
        texts: a JSON file with lists of pairs, by name. A request names one, ``text``, and of how many
            pairs of it, ``count``, it wants what to know (``do``); the rest are arguments.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    pairs = {
        name: [(question, context) for question, context in rows]
        for name, rows in json.loads(Path(texts).read_text(encoding="utf-8")).items()
    }
    provider = {"ours": Ours, "removed": Removed}[kind](tokenizer, int(cores))
    gc.collect()
    gc.freeze()  # or to look through all that was imported would be part of some times, not of others
    print(json.dumps(provider.about), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        asked = pairs[request.pop("text")][: request.pop("count")]
        found = getattr(provider, request.pop("do"))(asked, **request)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
