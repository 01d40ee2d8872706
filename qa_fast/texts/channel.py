"""Python values between two processes: arrays through shared memory, all else through pipes."""

from __future__ import annotations

import pickle
from mmap import mmap
from struct import Struct
from typing import IO, Any

# Bytes of memory that two processes share, for arrays; those that do not fit go through the pipe. A
# window of a GPU has about 2 MB of them.
SHARED_BYTES = 4 << 20
_ALIGNED = 64
_HEAD = Struct("<QQ")


class Channel:
    """One end of a channel. The two ends speak in turn: a message is read before the next is sent.

    Args:
        receiver: bytes from the other end.
        sender: bytes to the other end.
        shared: memory that both ends see; None: all goes through the pipes.
    """

    def __init__(self, receiver: IO[bytes], sender: IO[bytes], shared: mmap | None = None) -> None:
        self.shared = shared
        self._receiver = receiver
        self._sender = sender

    def send(self, value: Any) -> None:
        """Send any value that can be pickled.

        Raises:
            OSError: the other end is gone.
        """
        arrays: list[pickle.PickleBuffer] = []
        data = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
        places = []
        through_pipe = []
        free = 0
        for array in arrays:
            raw = array.raw()
            if self.shared is not None and free + raw.nbytes <= len(self.shared):
                self.shared[free : free + raw.nbytes] = raw
                places.append((free, raw.nbytes))
                free += -(-raw.nbytes // _ALIGNED) * _ALIGNED
            else:
                places.append((-1, raw.nbytes))
                through_pipe.append(raw)
        where = pickle.dumps(places)
        for part in (_HEAD.pack(len(where), len(data)), where, data):
            self._sender.write(part)
        for raw in through_pipe:
            self._sender.write(raw)
        self._sender.flush()

    def receive(self) -> Any:
        """The next value; its arrays are copies.

        Raises:
            EOFError: the other end is gone.
        """
        where, data = _HEAD.unpack(self._read(_HEAD.size))
        places, data = pickle.loads(self._read(where)), self._read(data)
        arrays: list[bytearray] = []
        for begin, size in places:
            if begin < 0:
                arrays.append(bytearray(self._read(size)))
            else:
                assert self.shared is not None
                arrays.append(bytearray(memoryview(self.shared)[begin : begin + size]))
        return pickle.loads(data, buffers=arrays)

    def _read(self, size: int) -> bytes:
        data = self._receiver.read(size)
        if len(data) < size:
            raise EOFError
        return data
