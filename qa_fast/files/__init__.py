"""Files: others' opened with care, ours written whole or not at all.

- `reading`: open, watch and fingerprint any file
- `json_text`: JSON and JSONL
- `parquet`: Parquet files and folders of them
- `writing`: write a file whole or not at all; locks
- `wording`: errors and values in one line
"""
