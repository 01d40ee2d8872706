"""Chunks in, logits out: planning batches and running the model on them.

A window's batches lie one after the other in one flat buffer, padding included, and so do their
logits: the decoder finds each chunk's row by its offset, so nothing is cut out or sorted back, and a
batch's inputs are views.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from itertools import chain
from traceback import clear_frames
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qa_fast.models.runtime import Runtime, UnusableOutput
from qa_fast.texts.chunks import Chunks, ranges

from .batches import Plan, bucket_widths, plan_batches
from .device import Device, Runner, one_by_one
from .errors import BatchError, OutOfMemory

# Batches after a shortage of memory before larger ones are tried again.
PATIENCE = 256


Failures = dict[int, Exception]
"""Chunks that the model failed at even alone, and its error; `OutOfMemory` where they did not fit."""


class Logits(NamedTuple):
    """What the model gave for a plan.

    Attributes:
        start: [P] float32.
        end: [P] float32.
        failed: chunks without logits; those are NaN here.
    """

    start: Tensor
    end: Tensor
    failed: Failures


class _Rows(NamedTuple):
    """Rows that the model reads in one call, and the places of their logits.

    Attributes:
        chunks: [C] the numbers of their chunks, the longest first; rows behind them are padding.
        length: [C] tokens in each.
        inputs: the model's arguments: [rows, width], by name.
        start: [rows, width] where the start logits go.
        end: [rows, width] where the end logits go.
    """

    chunks: npt.NDArray[np.int64]
    length: npt.NDArray[np.int32]
    inputs: dict[str, Tensor]
    start: Tensor
    end: Tensor

    def halves(self) -> Iterator[_Rows]:
        """The rows of one half of the chunks and of the other, each as wide as it has to be."""
        size = (len(self.length) + 1) // 2
        for first in range(0, len(self.length), size):
            part = slice(first, min(first + size, len(self.length)))
            # The longest come first: the second half can be narrower.
            corner = part, slice(int(self.length[part].max()))
            inputs = {name: tensor[corner].contiguous() for name, tensor in self.inputs.items()}
            yield _Rows(
                self.chunks[part], self.length[part], inputs, self.start[corner], self.end[corner]
            )


class Forward:
    """A model, and how it is called.

    Args:
        runtime: runs the model.
        tokenizer: for its padding, and for which arguments its model takes.
        max_batch_tokens: most tokens in a batch; None for what the runtime recommends.

    Attributes:
        runtime: as given.
        device: the device layer.
        max_batch_tokens: as given, or less after the device ran out of memory.
    """

    def __init__(self, runtime: Runtime, tokenizer: Any, *, max_batch_tokens: int | None) -> None:
        self.runtime = runtime
        self.device = Device(runtime.device)
        self.max_batch_tokens = max_batch_tokens or runtime.batch_tokens
        self._most_batch_tokens = self.max_batch_tokens
        self._since_shortage = 0
        self._accepted = runtime.arguments(tokenizer)
        size = runtime.vocabulary_size
        most = float("inf") if size is None else size
        pads = (tokenizer.pad_token_id, getattr(runtime.config, "pad_token_id", None), 0)
        # One that was added to the tokenizer only, the model would not know; padding is masked.
        self._pad_id = next(pad for pad in pads if pad is not None and 0 <= pad < most)
        self._warned = False
        self._works = False

    def plan(self, chunks: Chunks, max_seq_len: int, batch_size: int | None) -> Plan:
        """Lay ``chunks`` out in batches.

        Rows are padded on the right whatever the tokenizer says: then a token's position does not
        depend on the batch.
        """
        cut = partial(
            plan_batches,
            chunks.length,
            self.max_batch_tokens,
            widths=bucket_widths(max_seq_len) if self.runtime.few_shapes else None,
            step=self.runtime.width_step,
            most=max_seq_len,
        )
        sharing, read = self.runtime.sharing, partial(self._trials, chunks)
        batches = cut(batch_size, equal_lengths=sharing.equal_lengths)
        # Longest first: the last is a batch's shortest.
        padded = [b.width for b in batches if chunks.length[b.chunks[-1]] < b.width]
        width = max(padded, default=0)
        if not sharing.masks_padding(width, max_seq_len, chunks.row_offset, chunks.length, read):
            batches = cut(batch_size, equal_lengths=True)
        if any(len(batch.chunks) > 1 for batch in batches) and not sharing.keeps_rows_apart(
            chunks.row_offset, chunks.length, read
        ):
            batches = cut(1, equal_lengths=True)
        order = np.concatenate([batch.chunks for batch in batches] or [np.empty(0, np.int64)])
        room = [
            # What is left of a batch's last rows is padding of its last chunk.
            [batch.width] * (len(batch.chunks) - 1)
            + [(batch.rows - len(batch.chunks) + 1) * batch.width]
            for batch in batches
        ]
        size = np.array(list(chain.from_iterable(room)), np.int64)
        row_offset = np.empty_like(size)
        row_offset[order] = np.cumsum(size) - size
        pad = len(chunks.pool)
        piece_start = np.pad(chunks.piece_start[order], ((0, 0), (0, 1)), constant_values=pad)
        piece_length = np.pad(chunks.piece_length[order], ((0, 0), (0, 1)))
        piece_length[:, -1] = padding = size - chunks.length[order]
        places = ranges(piece_start.ravel(), piece_length.ravel())
        buffers = self._fill(chunks, places, int(padding.max(initial=0)))
        return Plan(batches, chunks.length, row_offset, buffers)

    def _fill(self, chunks: Chunks, places: npt.NDArray[np.int64], most: int) -> dict[str, Tensor]:
        """The model's arguments for P tokens, [P] each.

        Args:
            chunks: the chunks that hold them.
            places: [P] where each is in the chunks' pool; behind its end is padding.
            most: so far behind its end.
        """
        buffers = {}
        for name, pool, padding in (
            ("input_ids", chunks.pool, self._pad_id),
            ("attention_mask", np.ones_like(chunks.pool), 0),
            ("token_type_ids", chunks.pool_types, 0),
        ):
            if name in self._accepted:
                buffers[name] = self.device.host_buffer((len(places),), torch.int64)
                padded = np.append(pool.astype(np.int64), np.full(most, padding))
                # All places exist. To look for one that does not, NumPy would write to a copy first.
                np.take(padded, places, out=buffers[name].numpy(), mode="clip")
        return buffers

    def _trials(
        self, chunks: Chunks, *batches: list[npt.NDArray[np.int64]], width: int
    ) -> list[Tensor] | None:
        """`_trial` of batches: one of several rows is ``width`` wide, one of a row as wide as that.

        None where the model fails, whatever it raises: `run` meets it again, and says whose fault it is.
        """
        try:
            with self.runtime.ready():
                return [
                    self._trial(chunks, rows, width if len(rows) > 1 else len(rows[0]))
                    for rows in batches
                ]
        except Exception as error:
            clear_frames(error.__traceback__)
            if self.runtime.is_out_of_memory(error):
                self.runtime.free_memory()
            return None

    @torch.inference_mode()
    def _trial(self, chunks: Chunks, rows: list[npt.NDArray[np.int64]], width: int) -> Tensor:
        """Logits [rows, width, 2] of ``rows`` of the chunks' tokens, padded to ``width``."""
        shape = len(rows), width
        tokens = chunks.places
        places = np.full(shape, len(chunks.pool))
        for place, row in zip(places, rows, strict=True):
            place[: len(row)] = tokens[row]
        buffers = self._fill(chunks, places.ravel(), 1)
        inputs = {name: self.device.upload(buffer).view(shape) for name, buffer in buffers.items()}
        return torch.stack(self.runtime.try_out(inputs), dim=-1).cpu()

    def run(self, plan: Plan, workers: Runner = one_by_one) -> Logits:
        """Call the model on each batch; on a GPU this returns before the work is done.

        Where the model raises, smaller batches show whether that is for single chunks' sake.

        Raises:
            BatchError: it is not; or the device is lost.
            ValueError: the model returns something else than logits.
        """
        inputs = {name: self.device.upload(buffer) for name, buffer in plan.buffers.items()}
        size, device = plan.padded_tokens, self.device.device
        start = torch.empty(size, dtype=torch.float32, device=device)
        end = torch.empty_like(start)
        done = 0
        calls = []
        for batch in plan.batches:
            here = slice(done, done + batch.rows * batch.width)
            done = here.stop
            shape = batch.rows, batch.width
            views = {name: tensor[here].view(shape) for name, tensor in inputs.items()}
            out = start[here].view(shape), end[here].view(shape)
            rows = _Rows(batch.chunks, plan.length[batch.chunks], views, *out)
            calls.append(partial(self._run_batch, rows))
        with self.runtime.ready():
            found = (workers if self.runtime.reentrant else one_by_one)(calls)
        failed = {chunk: error for batch in found for chunk, error in batch.items()}
        if len(failed) == len(plan.length) > 1:
            _raise_first(failed)
        return Logits(start, end, failed)

    @torch.inference_mode()
    def _run_batch(self, batch: _Rows) -> Failures:
        """Fill the batch's logits with what the model gives."""
        rows, width = batch.start.shape
        if rows == 1 or rows * width <= self.max_batch_tokens:
            error = self._try(batch)
            if rows == 1 and isinstance(error, OutOfMemory):  # a shortage may pass
                error = self._try(batch)
            if error is None:
                return {}
            if self.runtime.is_device_lost(error):
                raise BatchError(batch.chunks.tolist(), error) from error
            too_large = isinstance(error, OutOfMemory)
            if rows == 1 and not (too_large and width > batch.length[0]):
                batch.start.fill_(torch.nan)
                batch.end.fill_(torch.nan)
                return {int(batch.chunks[0]): error}
            if too_large:
                self._lower_budget(rows * width)
        failed: Failures = {}
        for half in batch.halves():
            failed |= self._run_batch(half)
            # A model that has never worked is not tried with every single chunk.
            if not self._works and 1 < len(half.chunks) == len(failed):
                _raise_first(failed)
        return failed

    def _try(self, batch: _Rows) -> Exception | None:
        """Call the model once; what went wrong, if anything did.

        Raises:
            ValueError: the model returned something else than logits.
        """
        try:
            start, end = self.runtime(batch.inputs)
            batch.start.copy_(start)
            batch.end.copy_(end)
            self._works = True
            self._restore_budget()
            return None
        except UnusableOutput:
            raise
        except Exception as error:
            if not self.runtime.is_out_of_memory(error):
                clear_frames(error.__traceback__)  # or it would hold all tensors of the call
                return error
        # Only now, when the shortage's error with all that its traceback holds is gone.
        self.runtime.free_memory()
        return OutOfMemory()

    def _restore_budget(self) -> None:
        """Larger batches again, after many for which memory sufficed: a shortage may have passed."""
        self._since_shortage += 1
        if self._since_shortage >= PATIENCE and self.max_batch_tokens < self._most_batch_tokens:
            self._since_shortage = 0
            self.max_batch_tokens = min(2 * self.max_batch_tokens, self._most_batch_tokens)

    def _lower_budget(self, tokens: int) -> None:
        self._since_shortage = 0
        self.max_batch_tokens = min(self.max_batch_tokens, max(1, tokens // 2))
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"a batch of {tokens} tokens does not fit into the memory of "
                f"{self.device.device}: it is split, and later batches are smaller; "
                f"max_batch_tokens={self.max_batch_tokens} avoids this",
                RuntimeWarning,
                stacklevel=2,
            )


def _raise_first(failed: Failures) -> None:
    """Raise the first of the model's errors, if there is one, as that of all chunks."""
    for error in failed.values():
        if not isinstance(error, OutOfMemory):
            raise BatchError(list(failed), error) from error
