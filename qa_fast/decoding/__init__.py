"""Logits in, the best answer spans out: exact, on any device.

- `spans`: `decode_spans`, `warmup` and the PyTorch operator
- `search`: `SpanSearch`, the checked arguments as one value that every backend takes
- `tensors`: what a caller's tensors must be, and how they get to the logits' device
- `reach`: the longest row and the most chunks of a question, which the kernels have to know
- `c_backend`: on a CPU
- `triton_backend`: on a GPU, with ``qa_fast.kernels``
- `torch_backend`: anywhere else
- `tokens`: probabilities of single tokens
- `reference`: the contract in float64, N x N, by which the others are checked
"""
