"""From PyTorch to graphs that other runtimes run, checked, and kept on the disk.

- `to_openvino`: a module of Transformers as an `OpenVINOModel`
- `int8`: quantization after training, and what stays as it was
- `cache`: a folder of graphs that were made before
- `openvino_package`: OpenVINO and NNCF, without their reports
"""
