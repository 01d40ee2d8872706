"""Models by name, as data only; what a model can take; the bundled one.

- `checkpoints`: load models and tokenizers from a folder or from the Hugging Face Hub
- `runtime`: `Runtime`, the protocol of what runs a model
- `torch_runtime`: PyTorch's modules, and callables
- `openvino_runtime`: `OpenVINOModel`, graphs of OpenVINO's
- `onnx_runtime`: `OnnxModel`, graphs that ONNX Runtime runs
- `onnx_files`: which file of a folder that is, and what it holds
- `conversion`: from PyTorch to these graphs, kept on the disk
- `graphs`: what the runtimes of graphs have in common
- `devices`: PyTorch's devices, and what their errors say
- `bfloat16`: whether a model is faster in it on this CPU, and near
- `dtypes`: the types that weights are loaded in
- `torch_settings`: what a thread may have set in PyTorch, and how to do without it
- `traits`: positions, vocabulary, arguments, the mask, eval mode, outputs
- `sharing`: which rows may share a batch
- `regions`: the layers that a model repeats, compiled once
- ``minilm-l6-squad``: the bundled model
"""
