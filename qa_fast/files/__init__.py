"""Files: others' opened with care, ours written whole or not at all.

- `reading`: open, watch and fingerprint any file
- `kinds`: what a file is, by its first bytes
- `unpacking`: gzip, bzip2, xz, zstd, UTF-16 and UTF-32, as UTF-8
- `json_text`: JSON and JSONL
- `parquet`: Parquet files and folders of them
- `writing`: write a file whole or not at all; locks
- `wording`: errors and values in one line
"""
