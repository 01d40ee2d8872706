"""Examples in, answers out: the records, and the files that hold them.

- `examples`: one question of a data set, and what a record must hold to be one
- `answers`: answers and predictions; no-answer probabilities
- `errors`: errors that carry their parts, for each surface to tell in its own words
- `golds`: gold answers, in any of the forms in use
- `shapes`: how data nest their rows: what one JSON value is
- `annotated`: rows whose answers are spans that people marked
- `sources`: JSON, Parquet and rows in memory, row by row
- `tables`: CSV and TSV
- `frames`: tables in memory, of pandas, polars and pyarrow
- `opening`: which source is meant, by its name or its kind
- `predictions`: files of predictions: Parquet, JSONL and those of run_qa
"""
