"""An evaluation of questions whose texts try to run, to break the page, or to hide."""

from __future__ import annotations

import qa_fast
from qa_fast.data.answers import Prediction
from qa_fast.evaluation.evaluate import Evaluation

SCRIPT = "<script>window.pwned = 1</script>"
LONG = "wor🤗d " * 170_000  # a megabyte

# A title, a link, a colour by one byte, a bell, a line drawn over, a line turned round.
TERMINAL = "\x1b]0;pwned\x07\x1b]8;;http://x/\x1b\\link\x1b]8;;\x07\x9b31mred\x08\rover\x7f\u202eturned\u2028"

HOSTILE = {
    "script": SCRIPT,
    "end of a script": f"</script>{SCRIPT}",
    "end of a style": f"</style>{SCRIPT}",
    "comment": f"<!--<script>{SCRIPT}",
    "attribute": "\"'><img src=x onerror='window.pwned = 1'>",
    "template": "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "entity": "&lt;script&gt; &amp; &#x202e;",
    "right to left": "abc \u202edef\u202c \u2067ghi\u2069 שלום",
    "separators": "a\u2028b\u2029c\x00d\x0be",
    "terminal": TERMINAL,
    "astral": "🤗 𝔸da 👩\u200d👧",
}


def hostile_evaluation() -> Evaluation:
    """An evaluation with hostile texts at every place that a text can get to."""
    rows, predictions = [], []
    for name, text in HOSTILE.items():
        context = f"🤗 before {text} after Ada {text}"
        start = context.index(text)
        rows.append(
            {
                "id": f"{name} {text}",
                "title": text,
                "question": f"Which {name}? {text}",
                "context": context,
                "answers": {"text": [text, "Ada"], "answer_start": [start, context.index("Ada")]},
            }
        )
        n_best = [
            {"score": 2.0, "start": start, "end": start + len(text), "answer": text},
            {"score": 1.0, "start": 0, "end": 0, "answer": ""},
        ]
        predictions.append(
            Prediction(f"{name} {text}", text, start, start + len(text), 2.0, 1.0, n_best, 1)
        )
    context = f"{LONG}Ada {LONG}"
    rows.append({"id": "long", "question": "Who?", "context": context, "answers": ["Ada"]})
    n_best = [{"score": 0.0, "start": None, "end": None, "answer": "Ada"}] * 3
    predictions.append(Prediction("long", "Ada", None, None, 0.0, 3.0, n_best, 4))
    rows.append({"id": "none", "question": "Where?", "context": "Nowhere.", "answers": []})
    predictions.append(Prediction("none", "Nowhere", 0, 7, -1.0, 5.0, n_best, 1))
    rows.append({"id": SCRIPT, "question": "Missing?", "context": "x", "answers": ["x"]})
    return qa_fast.evaluate(rows, predictions)
