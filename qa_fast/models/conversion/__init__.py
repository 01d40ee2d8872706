"""From PyTorch to graphs that other runtimes run, checked, and kept on the disk.

- `export`: a folder with a graph, held against the module that it is from
- `to_onnx`: a module of Transformers as an ONNX graph, in float32 or int8
- `to_openvino`: a module of Transformers as an `OpenVINOModel`
- `int8`: quantization after training, and what stays as it was
- `cache`: a folder of graphs that were made before
- `openvino_package`: OpenVINO and NNCF, without their reports
"""
