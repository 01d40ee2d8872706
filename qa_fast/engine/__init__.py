"""Texts in, answers out: windows, batches, the model, the decoder.

- `engine`: `Engine`: windows read side by side, in the order of their pairs
- `loading`: a model by name, ready to read
- `graphs`: a model in the form of a graph, from a folder or made in memory
- `options`: `Options` and their defaults
- `streams`: a caller's pairs, cut into windows
- `windows`: the stages that a window goes through; `Stats`
- `workers`: who works on a window's texts: this process, or others
- `worker_process`: one of these others
- `batches`: which chunks are read together, and where they lie
- `forward`: run a `Runtime`; smaller batches when memory runs out
- `device`: how arrays get to a device and back; calls side by side
- `threads`: threads that are gone once they have been joined
- `candidates`: how many spans are decoded, of which questions together
- `errors`: what goes wrong with a batch, a model
"""

from qa_fast.data.errors import ExampleError as ExampleError

from .engine import Engine as Engine
from .errors import ModelError as ModelError
from .options import Options as Options
from .windows import Stats as Stats
