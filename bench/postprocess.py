"""`postprocess_qa_predictions` next to the Python loop of Transformers' run_qa example, on a CPU.

    python bench/postprocess.py
    python bench/postprocess.py --data dev-v2.0.json

Both get the same 5,000 features of SQuAD questions, with logits of the bundled model, first as the
example has them (a `datasets.Dataset`), then as a list of dicts, which spares the loop the reading of
rows. Without ``--data`` the questions are those of the tests, repeated, with noise added to the logits.

The loop is the one that the tests compare with (tests/helpers/run_qa.py). It looks at the 20 best starts
x the 20 best ends; ours looks at all. So before anything is timed: all answers must be equal, but where
ours scores more and the loop has not seen it; and the first ones must equal those of a loop over all
spans.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import rich
import torch
import typer
from rich.table import Table

import qa_fast

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))
import run_qa  # noqa: E402

RESULTS = Path(__file__).parent / "results"
THOROUGH = 100
"""Examples that are also compared with a loop over all spans."""


def examples_of(data: Path | None, most: int) -> list[dict[str, str]]:
    """Questions of a SQuAD file, or of the tests' sample."""
    if data is None:
        lines = (ROOT / "tests/recorded/golden.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["set"] in ("squad2", "xquad_en")]
    else:
        rows = [
            {**question, "context": paragraph["context"]}
            for article in json.loads(data.read_text(encoding="utf-8"))["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    return [{name: row[name] for name in ("id", "question", "context")} for row in rows[:most]]


def logits_of(model: Any, features: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """[C, N] start and end logits."""
    found = []
    with torch.inference_mode():
        for i in range(0, len(features), 32):
            batch = {
                name: torch.tensor([feature[name] for feature in features[i : i + 32]])
                for name in ("input_ids", "attention_mask", "token_type_ids")
            }
            output = model(**batch)
            found.append(torch.stack([output.start_logits, output.end_logits]))
    start, end = torch.cat(found, dim=1).numpy()
    return start, end


def repeat(examples: Any, features: Any, logits: Any, least: int) -> tuple[Any, Any, Any]:
    """The same, over and over, for so many features: new ids, and noise added to the logits."""
    times = -(-least // len(features))
    examples = [{**row, "id": f"{row['id']}-{i}"} for i in range(times) for row in examples]
    features = [
        {**row, "example_id": f"{row['example_id']}-{i}"} for i in range(times) for row in features
    ]
    noise = np.random.default_rng(0)
    start, end = (np.tile(side, (times, 1)) for side in logits)
    start, end = (x + noise.normal(0, 0.5, x.shape).astype(np.float32) for x in (start, end))
    return examples, features, (start, end)


def compare(examples: Any, features: Any, logits: Any, options: dict[str, Any]) -> dict[str, int]:
    """Counts of equal answers; ends the run where ours is worse or not that of the thorough loop."""
    with tempfile.TemporaryDirectory() as folder:
        texts = qa_fast.postprocess_qa_predictions(
            examples, features, logits, output_dir=folder, **options
        )
        nbest = json.loads(Path(folder, "nbest_predictions.json").read_text(encoding="utf-8"))
    loop_texts, loop_nbest, _ = run_qa.postprocess(examples, features, logits, **options)

    def score(entries: list[dict[str, Any]]) -> float:
        entries = [entry for entry in entries if entry["text"]]
        return max(entry["start_logit"] + entry["end_logit"] for entry in entries)

    other = [i for i in texts if texts[i] != loop_texts[i]]
    worse = [i for i in other if score(nbest[i]) <= score(loop_nbest[i])]
    lists = sum(
        [e["text"] for e in nbest[i]] == [e["text"] for e in loop_nbest[i]]
        and np.allclose(
            [e["probability"] for e in nbest[i]], [e["probability"] for e in loop_nbest[i]]
        )
        for i in texts
    )
    some = examples[:THOROUGH]
    ids = {row["id"] for row in some}
    rows = [i for i, row in enumerate(features) if row["example_id"] in ids]
    thorough = run_qa.postprocess(
        some, [features[i] for i in rows], [x[rows] for x in logits], **options, all_candidates=True
    )[0]
    unlike = [i for i in ids if texts[i] != thorough[i]]
    if worse or unlike:
        sys.exit(f"answers differ: {worse[:5]} are worse, {unlike[:5]} are not the best")
    return {
        "examples": len(texts),
        "equal_answers": len(texts) - len(other),
        "better_answers": len(other),
        "equal_nbest_lists": lists,
    }


def seconds(call: Callable[[], Any], times: int) -> float:
    """The median of several calls."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def main(
    data: Annotated[
        Path | None, typer.Option(help="A SQuAD file; without it the tests' sample, repeated.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "postprocess_cpu",
    size: Annotated[int, typer.Option("--features", help="How many features.")] = 5000,
    check: Annotated[bool, typer.Option(help="Only compare the answers.")] = False,
) -> None:
    """Compare and time, and write bench/results/NAME.json."""
    qa = qa_fast.pipeline(device="cpu")
    examples = examples_of(data, size)
    features = run_qa.make_features(qa.tokenizer, examples)[:size]
    of_features = {row["example_id"] for row in features}
    examples = [row for row in examples if row["id"] in of_features]
    logits = logits_of(qa.model, features)
    if data is None:
        examples, features, logits = repeat(examples, features, logits, size)
    torch.set_num_threads(1)

    rows = []
    sets = datasets.Dataset.from_list(examples), datasets.Dataset.from_list(features)
    for negative in (False, True):
        options = {"version_2_with_negative": negative}
        equality = compare(examples, features, logits, options)
        if check:
            rich.print(equality)
            continue
        for form, given in (("Dataset", sets), ("list of dicts", (examples, features))):
            for files in (False, True):
                with tempfile.TemporaryDirectory() as folder:
                    ours = seconds(
                        lambda given=given, files=files, folder=folder, options=options: (
                            qa_fast.postprocess_qa_predictions(
                                *given, logits, **options, output_dir=folder if files else None
                            )
                        ),
                        5,
                    )

                    def loop(given: Any = given, files: bool = files, folder: str = folder) -> None:
                        found = run_qa.postprocess(*given, logits, **options)  # noqa: B023
                        for i, content in enumerate(found if files else ()):
                            text = json.dumps(content, indent=4)
                            Path(folder, f"{i}.json").write_text(text, encoding="utf-8")

                    theirs = seconds(loop, 1 if form == "Dataset" else 2)
                rows.append(
                    {
                        **options,
                        "features": form,
                        "files": files,
                        "loop_seconds": theirs,
                        "seconds": ours,
                        "ratio": theirs / ours,
                        **equality,
                    }
                )
    if check:
        return
    table = Table("features", "with null", "files", "loop, s", "ours, s", "times", "equal")
    for row in rows:
        table.add_row(
            row["features"],
            str(row["version_2_with_negative"]),
            str(row["files"]),
            f"{row['loop_seconds']:.2f}",
            f"{row['seconds']:.3f}",
            f"{row['ratio']:.1f}",
            f"{row['equal_answers']} of {row['examples']}, {row['better_answers']} better",
        )
    rich.print(table)
    RESULTS.mkdir(exist_ok=True)
    results = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "datasets": datasets.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "data": data.name if data else "golden.jsonl, repeated",
        "features": len(features),
        "tokens": logits[0].shape[1],
        "n_best_size": 20,
        "max_answer_length": 30,
        "threads": 1,
        "postprocess": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
