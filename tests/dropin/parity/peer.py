"""The removed pipeline, run by another interpreter: one with a Transformers before 5.3.

    PEER_PYTHON tests/dropin/parity/peer.py JOBS ANSWERS

JOBS and ANSWERS are JSON Lines. A job is a call, {"model", "question", "context", "args"}, or the
name of one of the call forms, {"model", "form"}; "mend" names a class without known faults (below). This
file needs torch and Transformers only, and runs outside the tests' package.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from forms import FORMS, outcome
from transformers.pipelines import question_answering as removed


class WithoutSpace(removed.QuestionAnsweringPipeline):
    """The removed pipeline with no white space at the ends of an answer.

    Tokenizers whose tokens carry the space before them gave such answers. A mismatch that is none with
    this is of that kind.
    """

    def postprocess(self, model_outputs: Any, top_k: int = 1, **kwargs: Any) -> Any:
        """Look at four times as many spans while white space makes answers fewer than ``top_k``."""
        self.context = model_outputs[0]["example"].context_text
        select, factor, seen = removed.select_starts_ends, 1, -1
        while True:
            self.with_space: set[str] = set()
            self.spans = 0

            def more(*args: Any, factor: int = factor) -> Any:
                *others, count, handle, length = args
                found = select(*others, factor * count, handle, length)
                self.spans += len(found[0])
                return found

            removed.select_starts_ends = more
            try:
                found = super().postprocess(model_outputs, top_k=top_k, **kwargs)
            finally:
                removed.select_starts_ends = select
            answers = [a for a in (found if isinstance(found, list) else [found]) if a["answer"]]
            if len(answers) >= min(top_k, len(self.with_space)) or self.spans == seen:
                return found
            factor, seen = 4 * factor, self.spans

    def get_indices(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Past white space."""
        start, end = super().get_indices(*args, **kwargs)
        text = self.context[start:end]
        self.with_space.add(text.lower())
        start += len(text) - len(text.lstrip())
        return start, start + len(text.strip())

    def get_answer(self, answers: Any, target: str) -> Any:
        """Blank ones are dropped: their score goes to an answer that is in no list."""
        return super().get_answer(answers, target) if target else {"score": 0.0}


class Mended(WithoutSpace):
    """The same without two faults more, both with tokenizers unlike BERT's.

    - Where a tokenizer pads on the left, it let question tokens and separators be answers.
    - It took the first token for [CLS], wherever the tokenizer puts that, if it has one at all.

    A mismatch that is none with these mended too is one of these two.
    """

    def preprocess(self, *args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        context = 1 if self.tokenizer.padding_side == "right" else 0
        for item in super().preprocess(*args, **kwargs):
            mask = [s != context for s in item["encoding"].sequence_ids]
            ids = item["input_ids"][0].tolist()
            place = ids.index(self.tokenizer.cls_token_id) if self.tokenizer.cls_token else None
            if place is not None:
                mask[place] = False
            item["p_mask"] = torch.tensor([mask]).long()
            yield item

    def postprocess(self, model_outputs: Any, **kwargs: Any) -> Any:
        """Give the decoder the null position first, where it looks for it."""
        select = removed.select_starts_ends

        def shifted(start: Any, end: Any, p_mask: Any, attention: Any, *rest: Any) -> Any:
            logits = [np.asarray(start), np.asarray(end)]
            masks = [np.asarray(p_mask), np.asarray(attention)]
            if self.tokenizer.cls_token is None:  # a first token that is in no support
                logits = [np.pad(x, ((0, 0), (1, 0))) for x in logits]
                masks = [np.pad(x, ((0, 0), (1, 0)), constant_values=1) for x in masks]
            else:  # the last token becomes the first
                logits, masks = ([np.roll(x, 1, axis=1) for x in xs] for xs in (logits, masks))
            starts, ends, scores, null = select(*logits, *masks, *rest)
            return starts - 1, ends - 1, scores, null

        removed.select_starts_ends = shifted
        try:
            return super().postprocess(model_outputs, **kwargs)
        finally:
            removed.select_starts_ends = select


@cache
def load(model: str, mend: str | None) -> Any:
    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    dtype = {"dtype" if version >= (4, 56) else "torch_dtype": torch.float32}
    return transformers.pipeline(
        "question-answering",
        model=model,
        device="cpu",
        pipeline_class=globals()[mend] if mend else None,
        **dtype,
    )


def answer(job: dict[str, Any]) -> Any:
    pipeline = load(job["model"], job.get("mend"))
    if "form" in job:
        return outcome(FORMS[job["form"]], pipeline)
    try:
        found = pipeline(question=job["question"], context=job["context"], **job["args"])
    # The tokenizer's panics are no Exceptions.
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"answers": found if isinstance(found, list) else [found]}


def main(jobs: str, answers: str) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    lines = Path(jobs).read_text(encoding="utf-8").splitlines()
    with Path(answers).open("w", encoding="utf-8") as file:
        file.write(json.dumps({"transformers": transformers.__version__}) + "\n")
        for line in lines:
            file.write(json.dumps(answer(json.loads(line))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
