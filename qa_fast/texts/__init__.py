"""Texts into chunks of token ids, and token spans back into characters, without PyTorch.

- `chunker`: tokenize once, cut, remember contexts
- `chunks`: `Chunks`, and how they are put together
- `backend`: the Rust tokenizer, and a shorter way through plain texts
- `special_tokens`: where a tokenizer puts special tokens
- `problems`: what is wrong with a text
- `places`: token spans to words and characters
- `readings`: the answers of a question, each once
- `probabilities`: how probable they are among all its spans
- `calibration`: what a model is called with for some texts, to quantize it with
- `work`: all that is done to the texts of a window
- `worker`: the program of a process that does it
- `channel`: how two processes exchange arrays and texts
- ``squad1-train-240``: questions of SQuAD's, to calibrate models with
"""
