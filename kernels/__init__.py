"""Triton kernels of qa_fast, installed as ``qa_fast.kernels``.

The modules here import torch and triton and nothing of qa_fast; operators are registered in
``qa_fast/decoding/spans.py``. The version is there because a folder named ``kernels`` on ``sys.path``
can be taken for Hugging Face's package of that name, whose version Transformers asks for.
"""

__version__ = "0.0.0"
