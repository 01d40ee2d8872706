"""Other libraries on top of the pipeline, or in its place: they run unchanged, or answer the same.

Each test is skipped where its library is not installed. None needs a network.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

import qa_fast
from qa_fast.dropin.pipeline import pipeline
from qa_fast.engine import Options

from ...helpers.tiny import BUNDLED, DATA, tiny_model, tokenizer_of
from .forms import ADA, CONTEXT, DICTS, MARIE

# What other libraries warn of is not ours to judge.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    qa_fast.register()
    yield
    qa_fast.unregister()


def squad_rows() -> list[dict[str, Any]]:
    """The sample of SQuAD 2.0, as the data set of that name on the Hub has it."""
    data = json.loads((DATA / "squad2_sample.json").read_text(encoding="utf-8"))["data"]
    return [
        {
            "id": qa["id"],
            "question": qa["question"],
            "context": paragraph["context"],
            "answers": {
                "text": [answer["text"] for answer in qa["answers"]],
                "answer_start": [answer["answer_start"] for answer in qa["answers"]],
            },
        }
        for article in data
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]


def words(text: str) -> list[str]:
    """As the SQuAD script normalizes answers."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def f1(prediction: str, gold: str) -> float:
    found, wanted = words(prediction), words(gold)
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


@pytest.mark.parametrize("count", [12, 1], ids=["twelve_rows", "one_row"])
@pytest.mark.parametrize("kind", ["path", "model"])
def test_evaluate(kind: str, count: int) -> None:
    """Hugging Face evaluate's evaluator("question-answering"), end to end."""
    evaluate = pytest.importorskip("evaluate")
    datasets = pytest.importorskip("datasets")
    text, number = datasets.Value("string"), datasets.Value("int32")
    answers = {"text": datasets.Sequence(text), "answer_start": datasets.Sequence(number)}

    class SquadF1(evaluate.Metric):  # type: ignore[misc,name-defined]
        """The metric's arithmetic; its published form would be downloaded."""

        def _info(self) -> Any:
            prediction = {"id": text, "prediction_text": text}
            features = {"predictions": prediction, "references": {"id": text, "answers": answers}}
            return evaluate.MetricInfo(
                description="", citation="", features=datasets.Features(features)
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            best = [
                max(f1(p["prediction_text"], gold) for gold in r["answers"]["text"])
                for p, r in zip(predictions, references, strict=True)
            ]
            return {"f1": 100 * sum(best) / len(best)}

    answerable = [row for row in squad_rows() if row["answers"]["text"]][:count]
    data = datasets.Dataset.from_list(answerable)
    model: Any = str(BUNDLED)
    if kind == "model":
        model = transformers.AutoModelForQuestionAnswering.from_pretrained(BUNDLED)
    found = evaluate.evaluator("question-answering").compute(
        model_or_pipeline=model,
        tokenizer=str(BUNDLED),
        data=data,
        metric=SquadF1(),
        squad_v2_format=False,
        device=-1,
    )
    results = pipeline(device="cpu")(question=data["question"], context=data["context"])
    ours = [
        max(f1(result["answer"], gold) for gold in row["answers"]["text"])
        for result, row in zip(results, answerable, strict=True)
    ]
    assert found["f1"] == pytest.approx(100 * sum(ours) / count)
    assert found["f1"] > 60


def test_mlflow(tmp_path: Path) -> None:
    """mlflow's Transformers flavour: save, load as pyfunc, predict from a dict, a list, a frame.

    And from what its scoring server makes of JSON.
    """
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("mlflow.pyfunc.scoring_server")
    pandas = pytest.importorskip("pandas")
    qa = transformers.pipeline("question-answering", model=str(BUNDLED), device="cpu")
    folder = str(tmp_path / "model")
    # Requirements given, because mlflow would look for torchvision to list it.
    mlflow.transformers.save_model(qa, folder, pip_requirements=["transformers"])
    loaded = mlflow.pyfunc.load_model(folder)
    assert loaded.predict(DICTS[0]) == ["London"]
    assert loaded.predict(DICTS) == ["London", "Warsaw"]
    assert loaded.predict(pandas.DataFrame(DICTS)) == ["London", "Warsaw"]
    # What the scoring server makes of a table as JSON: a dict of lists, in a list of one.
    table = {name: [row[name] for row in DICTS] for name in ("question", "context")}
    signed = str(tmp_path / "signed")
    signature = mlflow.models.infer_signature(table, ["London", "Warsaw"])
    mlflow.transformers.save_model(
        qa, signed, signature=signature, pip_requirements=["transformers"]
    )
    served = mlflow.pyfunc.load_model(signed)
    parse = mlflow.pyfunc.scoring_server.infer_and_parse_data
    schema = served.metadata.get_input_schema()
    assert served.predict(parse({"inputs": table}, schema)) == ["London", "Warsaw"]
    first = {name: texts[:1] for name, texts in table.items()}
    assert served.predict(parse({"inputs": first}, schema)) == ["London"]
    again = mlflow.transformers.load_model(folder)
    assert type(again).__module__ == "qa_fast.register"
    assert again(question=MARIE, context=CONTEXT)["answer"] == "Warsaw"


def test_txtai() -> None:
    """txtai's Questions takes the best start and the best end, each by itself.

    Where these two make a span of the context, the best span is that one. Where they do not, txtai
    gives a wrong text, an empty one, or an error; the adapter below, of its signature, never does.
    """
    questions_of = pytest.importorskip("txtai.pipeline").Questions
    theirs = questions_of(str(BUNDLED), gpu=False)
    qa = pipeline(device="cpu")

    def adapter(questions: list[str], contexts: list[str]) -> list[str | None]:
        pairs = zip(questions, contexts, strict=True)
        options = Options(max_answer_len=384)
        answers = []
        for reading in qa.engine.read(pairs, options, errors="return"):
            best = getattr(reading, "answers", None)
            answers.append(best[0]["answer"] if best and best[0]["score"] >= 0.05 else None)
        return answers

    assert adapter([ADA, MARIE], [CONTEXT] * 2) == ["London", "Warsaw"]
    for questions, contexts in (([ADA, ""], [CONTEXT] * 2), ([ADA] * 2, [CONTEXT, ""])):
        assert theirs(questions, contexts)[1] is None
        assert adapter(questions, contexts) == ["London", None]
    same = []
    for row in squad_rows():
        pair = [row["question"]], [row["context"]]
        try:
            (answer,) = theirs(*pair)
        except (TypeError, ValueError):  # a question's token, or [CLS], was among the best
            continue
        if answer:
            same.append(answer == adapter(*pair)[0])
    assert len(same) > 50
    assert all(same)


def test_haystack() -> None:
    """transformers-haystack's reader next to `qa_fast.Reader`, over documents of several chunks.

    Its model gets no token types, so the comparison is with a tokenizer that has none.
    """
    readers = pytest.importorskip("haystack_integrations.components.readers.transformers")
    haystack = pytest.importorskip("haystack")
    tokenizer = tokenizer_of("byte_bpe")
    theirs = readers.TransformersExtractiveReader(top_k=5, max_seq_length=200, stride=32)
    theirs.model, theirs.tokenizer = tiny_model(tokenizer), tokenizer
    theirs.device = haystack.utils.ComponentDevice.from_str("cpu")
    reader = qa_fast.Reader(theirs.model, tokenizer=tokenizer, device="cpu")
    texts = list(dict.fromkeys(row["context"] for row in squad_rows()))[:4]
    documents = [haystack.Document(content=text) for text in texts]
    number = {document.id: i for i, document in enumerate(documents)}
    for question in (ADA, MARIE, "Who built it?"):
        expected = theirs.run(query=question, documents=documents)["answers"]
        answers = reader(question, texts, top_k=5, max_seq_len=200, doc_stride=32)
        assert [(a["document"], a["start"], a["answer"]) for a in answers] == [
            (number[a.document.id], a.document_offset.start, a.data)
            if a.document
            else (None, 0, "")
            for a in expected
        ]
        scores = [a.score for a in expected]
        assert [a["score"] for a in answers] == pytest.approx(scores, abs=1e-5)
