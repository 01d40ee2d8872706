"""postprocess_qa_predictions, compared with the published algorithm on real and on made-up features."""

from __future__ import annotations

import json
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qa_fast import postprocess_qa_predictions
from qa_fast.dropin.pipeline import pipeline

from ..helpers import run_qa
from ..helpers.strategies import budget
from ..helpers.tiny import DATA, tiny_model, tokenizer_of

Row = dict[str, Any]


@cache
def squad() -> tuple[list[Row], list[Row], tuple[np.ndarray, np.ndarray]]:
    """SQuAD questions, their features (several to an example) and the bundled model's logits."""
    lines = (DATA / "golden.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [row for row in map(json.loads, lines) if row["set"] == "squad2"]
    qa = pipeline(device="cpu")
    features = run_qa.make_features(qa.tokenizer, examples, max_length=96, stride=32)
    inputs = {
        name: torch.tensor([feature[name] for feature in features])
        for name in qa.tokenizer.model_input_names
    }
    with torch.inference_mode():
        output = qa.model(**inputs)
    return examples, features, (output.start_logits.numpy(), output.end_logits.numpy())


def written(folder: Path, prefix: str = "") -> tuple[Any, ...]:
    """Texts, n-best lists and null odds (or None) from the files."""
    names = ("predictions", "nbest_predictions", "null_odds")
    paths = [folder / f"{prefix}{name}.json" for name in names]
    return tuple(json.loads(p.read_text("utf-8")) if p.exists() else None for p in paths)


def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    """Equal texts, logits, order and null odds; probabilities but for rounding."""
    texts, nbest, null_odds = found
    assert texts == expected[0]
    assert list(nbest) == list(expected[1])
    for name, entries in nbest.items():
        wanted = expected[1][name]
        for key in ("text", "start_logit", "end_logit"):
            assert [entry[key] for entry in entries] == [entry[key] for entry in wanted]
        probability = [entry["probability"] for entry in wanted]
        assert [entry["probability"] for entry in entries] == pytest.approx(probability, abs=1e-9)
        assert all(e.keys() == wanted[0].keys() for e in entries)
    assert null_odds == (expected[2] or None)


OPTIONS = {
    "squad1": {},
    "squad2": {"version_2_with_negative": True},
    "threshold": {"version_2_with_negative": True, "null_score_diff_threshold": -3.0},
    "short": {"n_best_size": 3, "max_answer_length": 4},
    "one_best_and_null": {"version_2_with_negative": True, "n_best_size": 1},
    "long": {"n_best_size": 50, "max_answer_length": 128, "version_2_with_negative": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_squad_is_answered_as_by_a_loop_over_all_spans(name: str, tmp_path: Path) -> None:
    examples, features, logits = squad()
    assert len(features) > 2 * len(examples)
    options = OPTIONS[name]
    found = postprocess_qa_predictions(
        examples, features, logits, **options, output_dir=str(tmp_path)
    )
    expected = run_qa.postprocess(examples, features, logits, **options, all_candidates=True)
    assert found == expected[0]
    assert list(found) == [example["id"] for example in examples]
    same(written(tmp_path), expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_squad_is_answered_as_by_run_qa_where_its_candidates_suffice(
    name: str, tmp_path: Path
) -> None:
    examples, features, logits = squad()
    options = OPTIONS[name]
    postprocess_qa_predictions(examples, features, logits, **options, output_dir=tmp_path)
    ours, theirs = written(tmp_path), run_qa.postprocess(examples, features, logits, **options)
    n = options.get("n_best_size", 20)
    top_starts, top_ends = (set(np.sort(side, axis=1)[:, -n:].ravel().tolist()) for side in logits)
    compared = 0
    for example in examples:
        i = example["id"]
        seen = all(
            entry["start_logit"] in top_starts and entry["end_logit"] in top_ends
            for entry in ours[1][i]
            if entry["text"]
        )
        if seen:
            compared += 1
            same(
                tuple(part and {i: part[i]} for part in ours),
                tuple(part and {i: part[i]} for part in theirs),
            )
        else:
            best = [max(e["start_logit"] + e["end_logit"] for e in x[1][i]) for x in (ours, theirs)]
            assert best[0] >= best[1]
    assert compared > len(examples) / 3


def datasets_of(*tables: Any) -> list[Any]:
    datasets = pytest.importorskip("datasets")
    return [datasets.Dataset.from_list(rows) for rows in tables]


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def selected(rows: list[Row]) -> Any:
    """A data set that is a selection of another one."""
    (data,) = datasets_of([*rows, *rows])
    order = np.random.default_rng(0).permutation(len(rows))
    return data.select([*(order + len(rows))]).select(np.argsort(order))


def fixed_size(rows: list[Row]) -> Any:
    """Offsets as lists of a fixed size and of another integer, as a data set may declare them."""
    datasets = pytest.importorskip("datasets")
    (data,) = datasets_of(rows)
    pair = datasets.Sequence(datasets.Value("int32"), length=2)
    data = data.cast_column("offset_mapping", datasets.Sequence(pair))
    return datasets.concatenate_datasets([data.select(range(7)), data.select(range(7, len(data)))])


FORMS = {
    "dataset": lambda rows: datasets_of(rows)[0],
    "formatted": lambda rows: datasets_of(rows)[0].with_format("torch", columns=["input_ids"]),
    "selected": selected,
    "fixed_size": fixed_size,
    "columns": columns,
    "tuple": tuple,
    "empty_for_none": lambda rows: [
        {**row, "offset_mapping": [pair or [] for pair in row["offset_mapping"]]} for row in rows
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_features(form: str) -> None:
    examples, features, logits = squad()
    expected = postprocess_qa_predictions(examples, features, logits, True)
    assert postprocess_qa_predictions(examples, FORMS[form](features), logits, True) == expected


@pytest.mark.parametrize("form", ["dataset", "columns", "tuple"])
def test_forms_of_examples(form: str) -> None:
    examples, features, logits = squad()
    rows = [{name: row[name] for name in ("id", "context")} for row in examples]
    expected = postprocess_qa_predictions(examples, features, logits)
    assert postprocess_qa_predictions(FORMS[form](rows), features, logits) == expected


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: torch.from_numpy(x),
        lambda x: x.astype(np.float64),
        lambda x: np.asfortranarray(x),
        lambda x: np.pad(x, ((0, 0), (0, 9)), constant_values=-100.0),
        lambda x: np.pad(x, ((0, 0), (0, 9)), constant_values=100.0),
    ],
    ids=["tensor", "float64", "columns_first", "padded_low", "padded_high"],
)
def test_forms_of_logits(convert: Any) -> None:
    examples, features, logits = squad()
    expected = postprocess_qa_predictions(examples, features, logits, True)
    assert (
        postprocess_qa_predictions(examples, features, [convert(x) for x in logits], True)
        == expected
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_logits_on_a_gpu(tmp_path: Path) -> None:
    examples, features, logits = squad()
    on_gpu = [torch.from_numpy(side).cuda() for side in logits]
    postprocess_qa_predictions(examples, features, on_gpu, True, output_dir=tmp_path)
    same(
        written(tmp_path), run_qa.postprocess(examples, features, logits, True, all_candidates=True)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_added_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    """Few bits, many ties: the order that run_qa defines is kept."""
    examples, features, logits = squad()
    narrow = [torch.from_numpy(side).to(dtype) for side in logits]
    wide = [side.float().numpy() for side in narrow]
    everything = {"n_best_size": 3000, "max_answer_length": 4}
    postprocess_qa_predictions(examples, features, narrow, output_dir=tmp_path, **everything)
    expected = run_qa.postprocess(examples, features, wide, **everything, all_candidates=True)
    same(written(tmp_path), expected)


def test_order_of_features_changes_nothing(tmp_path: Path) -> None:
    """Features of an example need not follow each other; among themselves their order counts."""
    examples, features, logits = squad()
    expected = postprocess_qa_predictions(examples, features, logits, True)
    order = np.random.default_rng(0).permutation(len(features))
    shuffled = [features[i] for i in order]
    postprocess_qa_predictions(
        examples, shuffled, [side[order] for side in logits], True, output_dir=tmp_path
    )
    assert written(tmp_path)[0] == expected


OFFSETS = st.lists(st.booleans(), min_size=0, max_size=6)


@st.composite
def made_up(draw: Any) -> tuple[list[Row], list[Row], tuple[np.ndarray, np.ndarray]]:
    """Small integers as logits, so that spans tie; gaps, short rows, tokens without characters."""
    width = draw(st.integers(3, 9))
    logit = st.integers(-2, 2).map(float) | st.sampled_from([0.5, -7.25])
    examples, features, rows = [], [], []
    for number in range(draw(st.integers(1, 3))):
        examples.append({"id": f"e{number}", "context": "abcdefghij"})
        for _ in range(draw(st.integers(1, 3))):
            offsets: list[Any] = [None, None]
            for position in range(2, draw(st.integers(2, width))):
                inside = draw(st.integers(0, 5))
                offsets.append(None if inside == 0 else (position, position + min(inside - 1, 1)))
            feature: Row = {"example_id": f"e{number}", "offset_mapping": offsets}
            if draw(st.booleans()):
                may_start = draw(st.lists(st.booleans(), min_size=width, max_size=width))
                feature["token_is_max_context"] = {
                    str(i): may for i, may in enumerate(may_start) if may or i % 2
                }
            features.append(feature)
            rows.append([draw(st.lists(logit, min_size=width, max_size=width)) for _ in range(2)])
    start, end = np.array(rows, np.float32).transpose(1, 0, 2)
    return examples, features, (start, end)


@budget(150)
@given(data=made_up(), negative=st.booleans(), length=st.integers(1, 9))
def test_made_up_features(tmp_path_factory: Any, data: Any, negative: bool, length: int) -> None:
    examples, features, logits = data
    options = {"version_2_with_negative": negative, "max_answer_length": length, "n_best_size": 200}
    folder = tmp_path_factory.mktemp("made_up")
    postprocess_qa_predictions(examples, features, logits, **options, output_dir=folder)
    try:
        expected = run_qa.postprocess(examples, features, logits, **options, all_candidates=True)
    except StopIteration:  # the example fails where several spans have no text
        texts, nbest, _ = written(folder)
        fake = [name for name in nbest if nbest[name][0]["text"] == "empty"]
        assert fake
        assert all(texts[name] in ("empty", "") for name in fake)
    else:
        same(written(folder), expected)


EXAMPLE = {"id": "a", "context": "Ada wrote it."}
FEATURE = {"example_id": "a", "offset_mapping": [None, None, (0, 3), (4, 9), None]}
LOGITS = (np.array([[3, 0, 1, 0, 0]], np.float32), np.array([[4, 0, 0, 1, 0]], np.float32))


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("offsets", [[None] * 5, [None, None, (4, 4), None, None]])
def test_the_fake_answer(offsets: list[Any], negative: bool, tmp_path: Path) -> None:
    feature = {**FEATURE, "offset_mapping": offsets}
    arguments = [EXAMPLE], [feature], LOGITS, negative
    postprocess_qa_predictions(*arguments, output_dir=tmp_path)
    if negative and offsets[2]:  # where the example fails
        texts, nbest, null_odds = written(tmp_path)
        assert texts == {"a": ""}
        assert null_odds == {"a": 7.0}
        assert [entry["text"] for entry in nbest["a"]] == ["empty", "", ""]
        assert sum(entry["probability"] for entry in nbest["a"]) == pytest.approx(1)
    else:
        same(written(tmp_path), run_qa.postprocess(*arguments))
        assert written(tmp_path)[1]["a"][0]["text"] == "empty"


@pytest.mark.parametrize("negative", [False, True])
def test_examples_without_features_are_answered_and_reported(
    negative: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """run_qa cuts features, not examples, to its --max_eval_samples."""
    other = {"id": "b", "context": "Nobody read it."}
    data = [other, EXAMPLE, {**other, "id": "c"}], [FEATURE], LOGITS
    with caplog.at_level(logging.WARNING):
        postprocess_qa_predictions(*data, negative, output_dir=tmp_path)
    same(written(tmp_path), run_qa.postprocess(*data, negative))
    assert written(tmp_path)[0]["c"] == "empty"
    assert "2 of the 3 examples have no feature" in caplog.text
    assert "'b'" in caplog.text


def test_no_features_at_all() -> None:
    nothing = np.empty((0, 5), np.float32)
    assert postprocess_qa_predictions([EXAMPLE], [], (nothing, nothing)) == {"a": "empty"}
    assert postprocess_qa_predictions([], [], (nothing, nothing), True) == {}


def test_cls_elsewhere(tmp_path: Path) -> None:
    """XLNet's features: context first, [CLS] last, padding before both."""
    tokenizer = tokenizer_of("xlnet")
    examples = [{"id": "a", "question": "Who wrote it?", "context": "Ada wrote it. " * 20}]
    features = run_qa.make_features(tokenizer, examples, max_length=48, stride=16)
    assert len(features) > 2
    start, end = np.random.default_rng(0).normal(size=(2, len(features), 48)).astype(np.float32)
    postprocess_qa_predictions(
        examples,
        [{**row, "cls_index": 47} for row in features],
        (start, end),
        True,
        output_dir=tmp_path,
    )
    expected = run_qa.postprocess(
        examples, features, (start, end), True, all_candidates=True, cls_index=47
    )
    same(written(tmp_path), expected)


def test_minus_infinity_is_never(tmp_path: Path) -> None:
    start, end = LOGITS[0].copy(), LOGITS[1].copy()
    start[0, [0, 2]] = -np.inf
    postprocess_qa_predictions([EXAMPLE], [FEATURE], (start, end), True, output_dir=tmp_path)
    texts, nbest, null_odds = written(tmp_path)
    assert texts == {"a": "wrote"}
    assert [entry["text"] for entry in nbest["a"]] == ["wrote", ""]
    assert null_odds == {"a": -np.inf}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize("max_context", [None, {"2": True}])
def test_non_finite_logits_name_the_example(value: float, position: int, max_context: Any) -> None:
    start = LOGITS[0].copy()
    start[0, position] = value
    feature = {**FEATURE, "token_is_max_context": max_context}
    if position == 3 and max_context:  # no answer starts there
        assert postprocess_qa_predictions([EXAMPLE], [feature], (start, LOGITS[1]))
        return
    with pytest.raises(ValueError, match="logits of example 'a' hold NaN or infinity"):
        postprocess_qa_predictions([EXAMPLE], [feature], (start, LOGITS[1]))


def test_files_prefix_and_log_level(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("qa_fast.dropin.run_qa")
    before = logger.level
    data = [{**EXAMPLE, "context": "Ådå wrote it."}], [FEATURE], LOGITS
    postprocess_qa_predictions(*data, False, 20, 30, 0.0, str(tmp_path), "eval", logging.INFO)
    logger.setLevel(before)
    names = {"eval_predictions.json", "eval_nbest_predictions.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    text = (tmp_path / "eval_predictions.json").read_text("utf-8")
    assert text == json.dumps({"a": "Ådå wrote"}, indent=4) + "\n"
    assert "Post-processing 1 examples split into 1 features." in caplog.text
    assert str(tmp_path / "eval_predictions.json") in caplog.text


def replaced(name: str, value: Any) -> Any:
    return [EXAMPLE], [{**FEATURE, name: value}], LOGITS


ERRORS = {
    "one_array": (([EXAMPLE], [FEATURE], LOGITS[:1]), "must be two arrays.*got 1 items"),
    "five_arrays": (([EXAMPLE], [FEATURE], LOGITS * 3), "must be two arrays.*got 6 items"),
    "rows": (([EXAMPLE], [FEATURE] * 2, LOGITS), r"there are 2 features; got \[1, 5\]"),
    "shapes": (([EXAMPLE], [FEATURE], (LOGITS[0], LOGITS[1][:, :3])), r"got \[1, 5\] and \[1, 3\]"),
    "flat": (([EXAMPLE], [FEATURE], (LOGITS[0][0], LOGITS[1][0])), r"\[features, tokens\]"),
    "same_id": (([EXAMPLE] * 2, [FEATURE], LOGITS), "examples 0 and 1 have the same id, 'a'"),
    "unknown_id": (replaced("example_id", "z"), "feature 0 is of example 'z', which is not given"),
    "no_context": (
        ([{"id": "a"}], [FEATURE], LOGITS),
        r"example 0 has no 'context'; it has \['id'",
    ),
    "no_offsets": (([EXAMPLE], [{"example_id": "a"}], LOGITS), "feature 0 has no 'offset_mapping'"),
    "no_column": (({"id": ["a"]}, [FEATURE], LOGITS), "the examples have no column 'context'"),
    "no_rows": (("abc", [FEATURE], LOGITS), "examples must be a datasets.Dataset.*got str"),
    "not_a_row": ((["abc"], [FEATURE], LOGITS), "example 0 has no 'id'; it has type str"),
    "array": (
        replaced("offset_mapping", np.zeros((5, 2))),
        "offset_mapping of feature 0 is of typ",
    ),
    "raw_offsets": (
        replaced("offset_mapping", [(0, 0), (0, 3), (0, 0), (0, 3), (0, 0)]),
        r"offset_mapping of feature 0 begins with \(0, 0\).*must be None",
    ),
    "cls_index": (replaced("cls_index", 5), "cls_index of feature 0 must be from 0 to 4; got 5"),
    "nbest": (([EXAMPLE], [FEATURE], LOGITS, False, 0), "n_best_size must be an integer of at lea"),
    "length": (([EXAMPLE], [FEATURE], LOGITS, False, 1, 0), "max_answer_length must be an integer"),
    "negative": (
        replaced("offset_mapping", [None, (-3, 3)]),
        r"feature 0 has \(-3, 3\) at token 1",
    ),
    "reversed": (replaced("offset_mapping", [None, (9, 4)]), r"feature 0 has \(9, 4\) at token 1"),
    "beyond": (replaced("offset_mapping", [None, (0, 14)]), "no range of .* of 13 characters"),
    "no_pair": (
        replaced("offset_mapping", [None, (0,)]),
        r"feature 0 has \(0,\) at token 1; it must",
    ),
    "too_large": (
        replaced("offset_mapping", [None, (0, 2**70)]),
        r"feature 0 has \(0, 1180\d+\) at",
    ),
    "max_context": (replaced("token_is_max_context", [1]), "of feature 0 must be a dict.*got list"),
    "cls_text": (replaced("cls_index", "x"), "cls_index of feature 0 must be from 0 to 4; got x"),
    "context_none": (([{"id": "a", "context": None}], [FEATURE], LOGITS), "example 0 .* got None"),
    "context_bytes": (
        ([{"id": "a", "context": b"x"}], [FEATURE], LOGITS),
        "example 0 .* got bytes",
    ),
    "id_list": (
        ([{**EXAMPLE, "id": [1]}], [FEATURE], LOGITS),
        "id of example 0 must be a string or",
    ),
    "stacked": (([EXAMPLE], [FEATURE], np.stack(LOGITS * 2)), "must be two arrays.*got 4 items"),
    "complex": (
        ([EXAMPLE], [FEATURE], [x + 1j for x in LOGITS]),
        "start logits .* numbers.*complex",
    ),
    "ragged": (
        ([EXAMPLE], [FEATURE], ([[1, 2], [1]], LOGITS[1])),
        "start logits must be an array of",
    ),
    "text": (
        ([EXAMPLE], [FEATURE], [x.astype(str) for x in LOGITS]),
        "start logits .* numbers.*U32",
    ),
    "too_great": (
        ([EXAMPLE], [FEATURE], [x.astype(float) * 1e300 for x in LOGITS]),
        "logits of example 'a' hold NaN or infinity, or more than float32 can",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str, tmp_path: Path) -> None:
    arguments, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        postprocess_qa_predictions(*arguments, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


FILE_KEYS = {
    "tuple": ([(1, 2)], r"the id of example 0 is \(1, 2\), and a file's keys are"),
    "bytes": ([b"a"], "got bytes"),
    "same_text": ([1, "1"], "the ids of examples 0 and 1, 1 and '1', are both '1' in a file"),
}


@pytest.mark.parametrize("case", FILE_KEYS)
def test_ids_that_no_file_can_hold(case: str, tmp_path: Path) -> None:
    ids, message = FILE_KEYS[case]
    examples = [{**EXAMPLE, "id": name} for name in ids]
    features = [{**FEATURE, "example_id": ids[0]}]
    assert postprocess_qa_predictions(examples, features, LOGITS)[ids[0]] == "Ada wrote"
    with pytest.raises(ValueError, match=message):
        postprocess_qa_predictions(examples, features, LOGITS, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.array, torch.tensor])
def test_ids_that_are_integers_are_written_as_run_qa_writes_them(kind: Any, tmp_path: Path) -> None:
    examples, features = [{**EXAMPLE, "id": kind(7)}], [{**FEATURE, "example_id": kind(7)}]
    found = postprocess_qa_predictions(examples, features, LOGITS, True, output_dir=tmp_path)
    assert found == {7: ""}
    expected = run_qa.postprocess(
        [{**EXAMPLE, "id": 7}], [{**FEATURE, "example_id": 7}], LOGITS, True
    )
    same(written(tmp_path), [{str(key): value for key, value in x.items()} for x in expected])


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    examples, features, logits = squad()
    expected = postprocess_qa_predictions(examples, features, logits, True)
    frames = pandas.DataFrame(examples), pandas.DataFrame(features)
    assert postprocess_qa_predictions(*frames, logits, True) == expected
    # As a Parquet file gives them back: arrays of arrays.
    arrays = frames[1].assign(
        offset_mapping=[
            np.array([None, *(pair and np.array(pair) for pair in row), None], object)[1:-1]
            for row in frames[1]["offset_mapping"]
        ]
    )
    assert postprocess_qa_predictions(frames[0], arrays, logits, True) == expected
    with pytest.raises(ValueError, match="examples have no column 'context'; they have"):
        postprocess_qa_predictions(frames[0].drop(columns="context"), features, logits)


@pytest.mark.parametrize("pair", [np.array, torch.tensor, list])
def test_a_pair_of_offsets_may_be_an_array(pair: Any) -> None:
    feature = {**FEATURE, "offset_mapping": [o and pair(o) for o in FEATURE["offset_mapping"]]}
    assert postprocess_qa_predictions([EXAMPLE], [feature], LOGITS) == {"a": "Ada wrote"}


def test_tables_of_pyarrow() -> None:
    pa = pytest.importorskip("pyarrow")
    feature = {**FEATURE, "offset_mapping": [o and list(o) for o in FEATURE["offset_mapping"]]}
    tables = pa.Table.from_pylist([EXAMPLE]), pa.Table.from_pylist([feature])
    assert postprocess_qa_predictions(*tables, LOGITS) == {"a": "Ada wrote"}


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


STACKED = {
    "array": np.stack,
    "tensor": lambda x: torch.from_numpy(np.stack(x)),
    "lists": lambda x: [side.tolist() for side in x],
    "objects": lambda x: [side.astype(object) for side in x],
    "integers": lambda x: [side.astype(int) for side in x],
    "big_endian": lambda x: [side.astype(">f4") for side in x],
    "backwards": lambda x: [side[:, ::-1].copy()[:, ::-1] for side in x],
    "read_only": lambda x: [read_only(side) for side in x],
    "two_dtypes": lambda x: (x[0].astype(np.float16), x[1]),
    "with_gradient": lambda x: [torch.from_numpy(side).requires_grad_() for side in x],
}


@pytest.mark.parametrize("form", STACKED)
def test_logits_in_plain_forms_are_used(form: str) -> None:
    logits = STACKED[form](LOGITS)
    assert postprocess_qa_predictions([EXAMPLE], [FEATURE], logits) == {"a": "Ada wrote"}


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("huge", [10**9, sys.maxsize, 10**30])
def test_all_spans_are_listed(huge: int, negative: bool, tmp_path: Path) -> None:
    """Also of one long example among short ones, for which no place is kept as for the long one."""
    examples, features, logits = squad()
    long = [i for i, row in enumerate(features) if row["example_id"] == features[0]["example_id"]]
    kept, ids = long[:1], {features[0]["example_id"]}
    for i, row in enumerate(features):
        if row["example_id"] not in ids and len(ids) < 3:
            ids.add(row["example_id"])
            kept.append(i)
    short = [None, None, (0, 3), (4, 9)]
    data = (
        [row for row in examples if row["id"] in ids],
        [
            {**features[i], "offset_mapping": short} if n else features[i]
            for n, i in enumerate(kept)
        ],
        [side[kept] for side in logits],
    )
    options = {"n_best_size": huge, "max_answer_length": huge}
    postprocess_qa_predictions(*data, negative, **options, output_dir=tmp_path)
    same(written(tmp_path), run_qa.postprocess(*data, negative, **options, all_candidates=True))
    lengths = [len(nbest) for nbest in written(tmp_path)[1].values()]
    assert min(lengths) < 10 < 2000 < max(lengths)


def test_errors_of_data_sets() -> None:
    examples, features = datasets_of([EXAMPLE], [FEATURE])
    with pytest.raises(ValueError, match=r"features have no column 'example_id'; they have \['off"):
        postprocess_qa_predictions(examples, features.remove_columns("example_id"), LOGITS)
    with pytest.raises(ValueError, match=r"features must be a datasets.Dataset.* got IterableData"):
        postprocess_qa_predictions(examples, features.to_iterable_dataset(), LOGITS)
    (features,) = datasets_of([FEATURE, {**FEATURE, "offset_mapping": None}])
    with pytest.raises(ValueError, match="offset_mapping is missing"):
        postprocess_qa_predictions(examples, features, [np.tile(x, (2, 1)) for x in LOGITS])


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"output_dir .*nowhere' is not a folder"):
        postprocess_qa_predictions([EXAMPLE], [FEATURE], LOGITS, output_dir=tmp_path / "nowhere")


def test_a_trainer_evaluates_with_it(tmp_path: Path) -> None:
    """A short fine-tuning run as run_qa does it, which learns its few questions by heart."""
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
    datasets = pytest.importorskip("datasets")
    from transformers import EvalPrediction, Trainer, TrainingArguments, default_data_collator

    class QuestionAnsweringTrainer(Trainer):
        def __init__(
            self, *args: Any, eval_examples: Any, post_process_function: Any, **kwargs: Any
        ):
            super().__init__(*args, **kwargs)
            self.eval_examples, self.post_process_function = eval_examples, post_process_function

        def evaluate(self, eval_dataset: Any = None, **_: Any) -> dict[str, float]:
            features = eval_dataset or self.eval_dataset
            metric, self.compute_metrics = self.compute_metrics, None
            try:
                output = self.evaluation_loop(
                    self.get_eval_dataloader(features), "Evaluation", prediction_loss_only=False
                )
            finally:
                self.compute_metrics = metric
            prediction = self.post_process_function(
                self.eval_examples, features, output.predictions
            )
            metrics = metric(prediction)
            self.log(metrics)
            return metrics

    names = ["Ada", "Ben", "Cleo", "Dora"]
    examples = datasets.Dataset.from_list(
        [
            {
                "id": str(i),
                "question": f"Who wrote note {i}?",
                "context": f"This note {i:02} is not long. {name} wrote it.",
                "answers": {"text": [name], "answer_start": [26]},
            }
            for i, name in enumerate(names * 4)
        ]
    )
    assert all(row["context"][26:].startswith(row["answers"]["text"][0]) for row in examples)
    tokenizer = tokenizer_of("wordpiece")
    rows = run_qa.make_features(tokenizer, list(examples), max_length=64, stride=16)
    for row, name in zip(rows, names * 4, strict=True):
        inside = [o and o[0] >= 26 and o[1] <= 26 + len(name) for o in row["offset_mapping"]]
        row["start_positions"] = inside.index(True)
        row["end_positions"] = 63 - inside[::-1].index(True)
    features = datasets.Dataset.from_list(rows)
    labels = ["start_positions", "end_positions"]

    def post_process(examples: Any, features: Any, predictions: Any) -> EvalPrediction:
        answers = postprocess_qa_predictions(
            examples, features, predictions, output_dir=str(tmp_path), prefix="eval"
        )
        formatted = [{"id": i, "prediction_text": text} for i, text in answers.items()]
        truth = [{"id": row["id"], "answers": row["answers"]} for row in examples]
        return EvalPrediction(predictions=formatted, label_ids=truth)

    def exact_match(prediction: EvalPrediction) -> dict[str, float]:
        pairs = zip(prediction.predictions, prediction.label_ids, strict=True)
        hits = [p["prediction_text"] in truth["answers"]["text"] for p, truth in pairs]
        return {"exact_match": 100 * sum(hits) / len(hits)}

    trainer = QuestionAnsweringTrainer(
        model=tiny_model(tokenizer),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=60,
            learning_rate=2e-2,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=5,
            eval_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            label_names=labels,
            seed=0,
        ),
        train_dataset=features,
        eval_dataset=features.remove_columns(labels),
        eval_examples=examples,
        post_process_function=post_process,
        data_collator=default_data_collator,
        compute_metrics=exact_match,
    )
    before = trainer.evaluate()["exact_match"]
    trainer.train()
    after = trainer.evaluate()["exact_match"]
    assert before < 50 < 95 < after
    assert json.loads((tmp_path / "eval_predictions.json").read_text("utf-8"))["1"] == "Ben"
