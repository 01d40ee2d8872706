"""What the host costs where the model costs nothing: what stands beside a fast GPU.

    python bench/host.py
    python bench/host.py --data dev-v2.0.json --peer-python older/bin/python --save host_cpu
    python bench/host.py --data dev-v2.0.json --against ../before
    python bench/host.py --data dev-v2.0.json --profile --text shared --option default

The model copies pieces of a buffer of random numbers, on a CPU. Measured are:

- the whole stream: `Engine.read` of a list, on one core, two, four, up to all of them (a process each,
  which has only these cores and as many threads in PyTorch and in Rust)
- the stages of windows alone, one after the other, on one core, without the tokenizer's Rust (its
  encodings were made before), the model and the decoder: what is left holds Python's lock, so that
  threads cannot share it. ``cut`` makes windows of the pairs. ``freeing`` Rust's encodings holds the
  lock too. Beside it stands what can go on at the same time: Rust's ``encode_batch`` (which needs the
  lock at both ends), ``decode_spans`` in C, the model. These times are the processor's, which other
  programs on the machine disturb less
- the removed pipeline: transformers' ``pipeline("question-answering")`` with the same model, in an
  interpreter that has transformers 5.2.0, the last release with it, at batch sizes 1, 8 and 32; the best
  one counts. It gets the first questions of the stream only
- worker processes, on Linux: what is left for the process that drives the model, what one of them works
  on a question, and so how many questions a second four of them could be given, had each a core of its
  own
- another version of qa_fast, with ``--against``, in turns with this one

Windows have 256 questions, as on a CPU, and 4,096 with batches of 65,536 tokens, as on a GPU. What else
a GPU needs is not in these times: page-locked memory, kernels to launch.

Texts: ``shared`` (the questions in the order of the file, so that consecutive ones share a context) and
``unique`` (each context is used once). A file with too few questions is gone through several times, with
another number in front of the contexts and behind the questions each time.

Answers are compared before times are printed. Those of both versions, on any number of cores, must be
equal to the bit; those of the removed pipeline the same, or as good but for rounding.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from decode import processor
from host_process import STAGES, WINDOWS
from pipeline import BATCH_SIZES, BUNDLED_MODEL, agreement
from pipeline import texts as texts_of
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
SAMPLE = ROOT / "tests" / "recorded" / "squad2_sample.json"
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "top_k=5": {"top_k": 5},
    "logit": {"scoring": "logit", "align_to_words": False},
    "run_qa": {
        "scoring": "logit",
        "align_to_words": False,
        "top_k": 20,
        "spans_per_chunk": 20,
        "max_answer_len": 30,
    },
}
TEXTS = ("shared", "unique")
HELD = (*STAGES, "freeing")
BESIDE = ("rust", "decode", "model")
HEADINGS = {
    "four_workers": "four workers, questions/s",
    "questions_per_second": "questions/s",
    "cpu_microseconds": "CPU, us each",
}

Row = dict[str, Any]


class Process:
    """A process of `host_process`, which answers one request after the other.

    Args:
        kind: "ours" or "removed".
        texts: the file of texts.
        cores: how many it may use.
        python: its interpreter.
        root: a checkout whose ``qa_fast`` it imports; None for the one that is installed.

    Attributes:
        about: its versions.
    """

    def __init__(
        self, kind: str, texts: Path, cores: int, *, python: Path | str, root: Path | None = None
    ) -> None:
        threads = {"RAYON_NUM_THREADS": str(cores), "TOKENIZERS_PARALLELISM": "true"}
        path = {} if root is None else {"PYTHONPATH": str(root.resolve())}
        program = Path(__file__).with_name("host_process.py")
        self._process = subprocess.Popen(
            [python, program, kind, BUNDLED_MODEL, str(cores), texts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, **path},
        )
        self.about = self._answer()
        imported = self.about.pop("root", None)
        if root is not None and Path(imported) != root.resolve():
            sys.exit(f"qa_fast was imported from {imported}, not from {root}")

    def ask(self, do: str, text: str, count: int | None = None, **arguments: Any) -> Row:
        """Has the process do something with the first ``count`` pairs of a text."""
        assert self._process.stdin is not None
        print(
            json.dumps({"do": do, "text": text, "count": count, **arguments}),
            file=self._process.stdin,
            flush=True,
        )
        return self._answer()

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"a process ended with exit code {self._process.wait()}: see above")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # nothing more: it ends


def pairs_of(data: Path, kind: str, questions: int) -> list[tuple[str, str]]:
    """So many pairs of a file, which is gone through several times where it has fewer."""
    once = texts_of(data, kind, questions)
    again = [
        (f"{question} {turn}", f"{turn}. {context}")
        for turn in range(1, -(-questions // len(once)))
        for question, context in once
    ]
    return (once + again)[:questions]


def core_counts() -> list[int]:
    """One core, two, four, up to all."""
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({most, *(1 << n for n in range(most.bit_length()) if 1 << n <= most)})


def streams(
    processes: dict[str, Process], text: str, option: str, questions: int, rounds: int
) -> list[Row]:
    """Each version's questions per second, in turns, and how much faster it is than the last one."""
    found: dict[str, list[Row]] = {version: [] for version in processes}
    for turn in range(rounds + 1):
        for version, process in processes.items():
            run = process.ask("stream", text, options=OPTIONS[option])
            found[version] += [run] if turn else []  # the first one warms up
    *_, last = found.values()
    return [
        {
            "text": text,
            "options": option,
            "version": version,
            "questions_per_second": questions / min(run["seconds"] for run in runs),
            "ratio": statistics.median(
                other["seconds"] / run["seconds"] for run, other in zip(runs, last, strict=True)
            ),
            "cpu_microseconds": min(run["cpu"] for run in runs) / questions * 1e6,
            "digest": runs[0]["digest"],
        }
        for version, runs in found.items()
    ]


def stages(
    processes: dict[str, Process], text: str, option: str, window: str, count: int, rounds: int
) -> list[Row]:
    """Microseconds per question of each version's stages, and of what was taken out of them."""
    rows = []
    for version, process in processes.items():
        arguments = {"options": OPTIONS[option], "window": window, "rounds": rounds}
        seconds = process.ask("stages", text, count, **arguments)
        times = {name: value / count * 1e6 for name, value in seconds.items()}
        rows.append(
            {
                "text": text,
                "options": option,
                "version": version,
                "window": WINDOWS[window][0],
                "held": sum(times[name] for name in HELD),
                **{name: times[name] for name in (*HELD, *BESIDE)},
            }
        )
    return rows


def workers(process: Process, text: str, option: str, count: int, rounds: int) -> Row:
    """Microseconds per question in each process where others work on the texts, windows as on a GPU."""
    arguments = {"options": OPTIONS[option], "window": "GPU", "rounds": rounds}
    seconds = process.ask("workers", text, count, **arguments)
    times = {name: value / count * 1e6 for name, value in seconds.items()}
    driver = sum(times[name] for name in STAGES)
    return {
        "text": text,
        "options": option,
        "driver": driver,
        **times,
        "four_workers": 1e6 / max(driver + times["decode"], times["worker"] / 4),
    }


def removed_pipeline(removed: Process, ours: Process, text: str, count: int) -> Row:
    """The removed pipeline at its best batch size, and how many of its answers are ours."""
    expected = ours.ask("answers", text, count, options={})["answers"]
    rates, agree = {}, 1.0
    for size in BATCH_SIZES:
        removed.ask("stream", text, min(count, 32), batch_size=size)
        run = removed.ask("stream", text, count, batch_size=size)
        rates[size] = count / run["seconds"]
        agree = min(agree, agreement(run["answers"], expected))
    best = max(rates, key=rates.__getitem__)
    return {
        "text": text,
        "questions": count,
        "batch_size": best,
        "questions_per_second": rates[best],
        "agree": agree,
    }


def show(title: str, rows: list[Row], *columns: str) -> None:
    """Print rows as a table; a column that no row has is left out."""
    columns = tuple(name for name in columns if any(name in row for row in rows))
    table = Table(*(HEADINGS.get(name, name.replace("_", " ")) for name in columns), title=title)
    for row in rows:
        table.add_row(
            *(
                f"{x:,.0f}" if isinstance(x, float) and x >= 100
                else f"{x:.2f}" if isinstance(x, float)
                else str(x)
                for x in (row.get(name, "") for name in columns)
            )
        )  # fmt: skip
    Console(width=120).print(table)


def show_profile(process: Process, text: str, option: str, count: int, rounds: int) -> None:
    """Print the functions of the stages that take the most time themselves."""
    arguments = {"options": OPTIONS[option], "window": "GPU", "rounds": rounds}
    functions = process.ask("profile", text, count, **arguments)["functions"]
    rows = [
        {
            "own, us": own / (count * rounds) * 1e6,
            "in all, us": whole / (count * rounds) * 1e6,
            "calls": calls / (count * rounds),
            "function": place.replace(f"{ROOT}/", "").rpartition("site-packages/")[2],
        }
        for place, calls, own, whole in functions[:40]
    ]
    show(f"{text}, {option}: per question", rows, *rows[0])


def check(rows: list[Row], removed: list[Row]) -> None:
    """End with an error where answers are not what they should be."""
    digests: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        digests.setdefault((row["text"], row["options"]), set()).add(row["digest"])
    wrong = [
        f"{' '.join(what)}: answers differ" for what, found in digests.items() if len(found) > 1
    ]
    wrong += [
        f"{row['text']}: {row['agree']:.1%} of the removed pipeline's answers are ours"
        for row in removed
        if row["agree"] < 1
    ]
    if wrong:
        sys.exit("\n".join(wrong))


@contextmanager
def versions(texts: Path, cores: int, against: Path | None) -> Iterator[dict[str, Process]]:
    """A process of this version, and one of the other where there is one."""
    roots = {"now": None} if against is None else {"now": None, "before": against}
    with ExitStack() as stack:
        yield {
            version: stack.enter_context(
                Process("ours", texts, cores, python=sys.executable, root=root)
            )
            for version, root in roots.items()
        }


def report(results: dict[str, list[Row]]) -> None:
    """Print all tables."""
    ours, removed = results["streams"], results["removed pipeline"]
    for row in removed:
        rate = next(
            x["questions_per_second"]
            for x in ours
            if (x["cores"], x["text"], x["options"], x["version"])
            == (row["cores"], row["text"], "default", "now")
        )
        row["times_slower"] = rate / row["questions_per_second"]
    case = ("text", "options", "version")
    show("Engine.read", ours, "cores", *case, "questions_per_second", "ratio", "cpu_microseconds")
    stages = results["stages"]
    show("microseconds per question, one core", stages, *case, "window", "held", *HELD, *BESIDE)
    show(
        "microseconds per question with worker processes",
        results["workers"],
        *("text", "options", "driver", *STAGES, "worker", *BESIDE, "four_workers"),
    )
    if removed:
        columns = ("cores", "text", "questions", "batch_size", "questions_per_second")
        show("removed pipeline", removed, *columns, "times_slower", "agree")


def main(
    data: Annotated[Path, typer.Option(help="Questions in SQuAD's format.")] = SAMPLE,
    text: Annotated[list[str] | None, typer.Option(help="shared, unique.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help=f"Which options: {', '.join(OPTIONS)}.")
    ] = None,
    questions: Annotated[int, typer.Option(help="Questions in a stream.")] = 6000,
    rounds: Annotated[int, typer.Option(help="Runs of each; the least time counts.")] = 5,
    against: Annotated[
        Path | None, typer.Option(help="A checkout of another version, run in turns with this one.")
    ] = None,
    peer_python: Annotated[
        Path | None,
        typer.Option(help="A Python with transformers 5.2.0, for the removed pipeline."),
    ] = None,
    peer_questions: Annotated[int, typer.Option(help="Questions for the removed pipeline.")] = 300,
    profile: Annotated[
        bool, typer.Option("--profile", help="Only print each function's time in the stages.")
    ] = False,
    save: Annotated[str, typer.Option(help="Write bench/results/NAME.json.")] = "",
) -> None:
    """Measure what the host costs."""
    count = min(questions, WINDOWS["GPU"][0])
    kinds = text or list(TEXTS)
    cases = [(kind, name) for kind in kinds for name in option or OPTIONS]
    found: dict[str, list[Row]] = {
        name: [] for name in ("streams", "stages", "workers", "removed pipeline")
    }
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps({kind: pairs_of(data, kind, questions) for kind in kinds}))
        if profile:
            with versions(texts, 1, None) as processes:
                for case in cases:
                    show_profile(processes["now"], *case, count, rounds)
            return
        for cores in core_counts():
            with versions(texts, cores, against) as processes:
                about = {version: process.about for version, process in processes.items()}
                for case in cases:
                    rows = streams(processes, *case, questions, rounds)
                    found["streams"] += [{"cores": cores, **row} for row in rows]
                    for window in WINDOWS if cores == 1 else ():
                        found["stages"] += stages(processes, *case, window, count, rounds)
                    if cores == 1 and sys.platform == "linux":
                        found["workers"].append(workers(processes["now"], *case, count, rounds))
        if peer_python is not None:
            cores = core_counts()[-1]
            with (
                versions(texts, cores, None) as processes,
                Process("removed", texts, cores, python=peer_python) as removed,
            ):
                for kind in kinds:
                    row = removed_pipeline(removed, processes["now"], kind, peer_questions)
                    found["removed pipeline"].append({"cores": cores, **row})
                about["removed pipeline"] = removed.about
    check(found["streams"], found["removed pipeline"])
    report(found)
    if save:
        results = {
            "device": processor(),
            "cores": core_counts()[-1],
            "python": platform.python_version(),
            "versions": about,
            "date": time.strftime("%Y-%m-%d"),
            "data": data.name,
            "questions": questions,
            **found,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{save}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
