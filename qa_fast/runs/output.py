"""What a run ends with, as the name of its output says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qa_fast.data.predictions import run_qa_files
from qa_fast.files.kinds import PACKED_SUFFIXES

Kind = Literal["folder", "parquet", "jsonl", "run_qa"]
_SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "run_qa",
    "": "folder",
}


@dataclass(frozen=True, slots=True)
class Output:
    """What a run ends with, as the name of it says.

    Attributes:
        path: the name.
        kind: "folder": a folder of Parquet files; "parquet" and "jsonl": one file; "run_qa": the
            JSON files of ``run_qa.py``.
    """

    path: Path
    kind: Kind

    @classmethod
    def of(cls, name: str | Path) -> Output:
        """The output of that name."""
        path = Path(name)
        if path.is_dir() or str(name).endswith(("/", os.sep)):
            return cls(path, "folder")
        if path.suffix in PACKED_SUFFIXES and Path(path.stem).suffix in _SUFFIXES:
            raise ValueError(
                f"output {str(name)!r}: outputs are not packed: name {path.stem!r}, and pack that when "
                "the run is complete"
            )
        if path.suffix not in _SUFFIXES:
            raise ValueError(
                f"output {str(name)!r}: its ending must be .parquet, .jsonl or .json (the files of "
                f"run_qa.py), or none for a folder of Parquet files; got {path.suffix!r}. A folder "
                "with a dot in its name is given with a slash at the end"
            )
        return cls(path, _SUFFIXES[path.suffix])

    @property
    def folder(self) -> Path:
        """Where the parts stand while the run goes on."""
        return self.path if self.kind == "folder" else self._beside(".parts")

    @property
    def manifest(self) -> Path:
        """The manifest of the finished run."""
        return (
            self.path / "manifest.json" if self.kind == "folder" else self._beside(".manifest.json")
        )

    @property
    def rejects(self) -> Path:
        """The rows that could not be answered, if there are any."""
        name = "rejects.jsonl"
        return self.path / name if self.kind == "folder" else self._beside(f".{name}")

    @property
    def files(self) -> list[Path]:
        """The files that the parts are put together to; none for a folder, which holds them."""
        if self.kind == "folder":
            return []
        return run_qa_files(self.path) if self.kind == "run_qa" else [self.path]

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)
