"""A whole data set answered to disk: in parts, over processes, safe from crashes.

- `predict`: `predict` and its outcome
- `share`: one process's share of the rows
- `answering`: rows in, predictions or rejects out
- `output`: what a run ends with, as its name says
- `parts`: parts that are finished one by one
- `manifest`: whose results these are
- `merging`: parts put together at the end
- `provenance`: the model's hash, the engine's settings, versions
- `processes`: one process per device
- `child`: the program of such a process
- `progress`: how far a run is
- `stopping`: Ctrl-C and SIGTERM
"""
