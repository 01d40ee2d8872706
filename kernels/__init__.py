"""Triton kernels of qa_fast, installed as ``qa_fast.kernels``.

Started by the host:

- `span_topk`: lists of the k best spans of every chunk: how chunks are cut up, and the launch
- `merge_topk`: the k best spans of every question from these lists: the levels, and the launches
- `launch`: a start without Triton's look at each argument

On the GPU, lists of spans:

- `span_kernel`: the algorithm, and its kernel, which makes a list in five steps
- `tiles`: step 1: the chunk's row, the tile of it, and its logits
- `normalizer`: step 2: log-sum-exps, or whether all logits are finite
- `windows`: step 3: the best span of every start
- `candidates`: step 4: the starts that can matter
- `popping`: step 5: the spans of the best starts, and where they are written
- `lanes`: a row of tokens on the lanes of a warp

and their merge:

- `merge_kernel`: one group of lists, a warp each

The modules here import torch and triton and nothing of qa_fast; operators are registered in
``qa_fast/decoding/spans.py``. The version is there because a folder named ``kernels`` on ``sys.path``
can be taken for Hugging Face's package of that name, whose version Transformers asks for.
"""

__version__ = "0.0.0"
