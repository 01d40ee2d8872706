"""What `drift` has found, as JSON and in words."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qa_fast.evaluation.results import machine, scoring_versions
from qa_fast.files.writing import write_file_as_json

from .compare import Difference
from .differences import Differences
from .drift import Drift, Model, Variant


def write_drift(drift: Drift, path: str | Path, *, command_line: list[str] | None = None) -> None:
    """Write all that was found, and how, as JSON: whole or not at all.

    Args:
        drift: what to write.
        path: the file.
        command_line: the command that was run, where one was.
    """
    write_file_as_json(Path(path), record_of(drift, command_line=command_line))


def record_of(drift: Drift, *, command_line: list[str] | None = None) -> dict[str, Any]:
    """All that was found, and how, as an object of JSON; see `write_drift`."""
    return {
        "baseline": _record_of_model(drift.baseline),
        "variants": [_record_of_variant(variant) for variant in drift.variants],
        "notes": drift.notes,
        "remarks": drift.remarks,
        "settings": drift.settings,
        "machine": machine(),
        "versions": scoring_versions(),
        "command_line": command_line,
        "date": datetime.now(timezone.utc).isoformat(),
    }


def _record_of_model(model: Model) -> dict[str, Any]:
    found = asdict(model)
    return {"name": found.pop("name"), **found.pop("speed"), **found}


def _record_of_variant(variant: Variant) -> dict[str, Any]:
    return {
        **_record_of_model(variant.model),
        "in_words": [sentence(variant), *warnings(variant)],
        **_record_of_differences(variant.total),
        "times_as_fast": variant.times_as_fast._asdict(),
        "forward_times_as_fast": variant.forward_times_as_fast._asdict(),
        "by_data": {name: _record_of_differences(of) for name, of in variant.by_data.items()},
        "by_answer": {name: _record_of_differences(of) for name, of in variant.by_answer.items()},
    }


def _record_of_differences(found: Differences) -> dict[str, Any]:
    return {
        "questions": found.questions,
        "same_text": found.same_text,
        "same_characters": found.same_characters,
        "scored": found.scored,
        "exact": _record_of_difference(found.exact),
        "f1": _record_of_difference(found.f1),
        "only_baseline_right": found.only_baseline,
        "only_variant_right": found.only_variant,
        "mcnemar_p": found.p_value,
        "score_difference": found.score and asdict(found.score),
    }


def _record_of_difference(found: Difference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "baseline": found.a,
        "variant": found.b,
        "difference": found.b - found.a,
        "interval": [*found.interval],
    }


def sentence(variant: Variant) -> str:
    """What a variant gains and costs, in plain words."""
    total, fast = variant.total, variant.times_as_fast
    # Rounded, one question of many would be none.
    changed = total.questions - total.same_text
    share = f"{100 * total.changed:.1f}%" if changed else "none"
    parts = [f"{variant.model.name}: answers differ for {share} of {total.questions:,} questions"]
    if total.f1 is not None:
        a, b, (low, high) = total.f1.a, total.f1.b, total.f1.interval
        parts.append(
            f"F1 {a:.2f} -> {b:.2f}, difference {b - a:+.2f} (95% interval {low:+.2f} to {high:+.2f})"
        )
    parts.append(
        f"{fast.median:.2f} times as fast ({fast.low:.2f} to {fast.high:.2f} from turn to turn)"
    )
    return "; ".join(parts)


def warnings(variant: Variant) -> list[str]:
    """What speaks against a variant: an F1 that is lower than the baseline's beyond chance."""
    f1 = variant.total.f1
    if f1 is None or f1.interval.high >= 0:
        return []
    interval = f"95% interval {-f1.interval.high:.2f} to {-f1.interval.low:.2f}"
    lower = f"its F1 is {f1.a - f1.b:.2f} points lower ({interval})"
    return [f"{variant.model.name} is worse beyond chance: {lower}"]
