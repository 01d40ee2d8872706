"""A warp of compute capability 9.0 that runs the kernels' machine code on the CPU, and counts.

Run as a script it decodes random logits so, from the launchers to the results, and prints a line of
JSON for every call: whether the results are those of the CPU's backend, and the instructions of every
launch, executed and as bench/machine_code.py counts them.

Just what Triton's compiler made of this project's kernels is known; an instruction that is not raises.
Lanes are columns of NumPy arrays. Lanes that part at a branch go on one after the other, the rearmost
first, until they meet again. A load or store that is in no tensor, or not aligned, raises.
"""

from __future__ import annotations

import ctypes
import json
import re
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

LANES = 32
PARAMETERS = 0x210  # where a kernel's arguments begin in the bank of constants
Lanes = NDArray[Any]

# Reconvergence and barriers: lanes of one warp need none here.
NO_EFFECT = {
    "BAR", "BMOV", "BREAK", "BSSY", "BSYNC", "ENDCOLLECTIVE", "NOP", "WARPSYNC", "YIELD",
}  # fmt: skip
COMPARISONS: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "GT": np.greater, "GE": np.greater_equal, "LT": np.less, "LE": np.less_equal,
    "EQ": np.equal, "NE": np.not_equal,
}  # fmt: skip
COMBINE = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}


class Memory:
    """The memory of tensors, by address."""

    def __init__(self) -> None:
        self.buffers: dict[int, NDArray[np.uint8]] = {}

    def add(self, tensor: torch.Tensor) -> int:
        """Address of a tensor; all of its storage can be read and written."""
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        data: Any = (ctypes.c_uint8 * size).from_address(storage.data_ptr())
        self.buffers[storage.data_ptr()] = np.frombuffer(data, np.uint8)
        return tensor.data_ptr()

    def at(self, address: int, size: int) -> NDArray[np.uint8]:
        """``size`` bytes at an address."""
        if address % size:
            raise AssertionError(f"{size} bytes at {address:#x} are not aligned")
        for begin, data in self.buffers.items():
            if begin <= address and address + size <= begin + len(data):
                return data[address - begin : address - begin + size]
        raise AssertionError(f"{size} bytes at {address:#x} are in no tensor")


def constants(values: list[tuple[str, int]]) -> bytes:
    """The bank of constants for arguments, given as Triton's types and values."""
    bank = bytearray(PARAMETERS)
    for kind, value in values:
        wide = kind.startswith("*") or kind == "i64"
        bank += bytes(-len(bank) % (8 if wide else 4))
        bank += struct.pack("<q" if wide else "<i", value)
    return bytes(bank) + bytes(64)  # scratch memory that these kernels have none of


class Warp:
    """One warp, and what it has run.

    Args:
        blocks: control-flow graph, from ``machine_code.blocks_of``.
        constants: from `constants`.
        memory: what loads and stores see.
        program: index of the program in its grid.
    """

    def __init__(self, blocks: list[Any], constants: bytes, memory: Memory, program: int) -> None:
        self.blocks, self.constants, self.memory, self.program = blocks, constants, memory, program
        self.registers = {
            "R": np.zeros((256, LANES), np.uint32),
            "UR": np.zeros((64, LANES), np.uint32),
        }
        self.predicates = {
            "P": np.zeros((8, LANES), bool),
            "UP": np.zeros((8, LANES), bool),
        }
        self.stack: dict[tuple[int, int], int] = {}  # words of each lane, by address
        self.times = [0] * len(blocks)
        self.executed = 0

    def run(self, most: int = 1_000_000) -> None:
        """Run to the end; ``most`` instructions."""
        at = np.zeros(LANES, int)
        alive = np.ones(LANES, bool)
        while alive.any():
            b = at[alive].min()
            going = alive & (at == b)
            jumping = np.zeros(LANES, bool)
            self.times[b] += 1
            for instruction in self.blocks[b].instructions:
                self.executed += 1
                if self.executed > most:
                    raise AssertionError(f"more than {most} instructions")
                mask = going.copy()
                if instruction.predicate:
                    mask &= self.predicate(instruction.predicate[1:])
                kind = instruction.kind
                if kind == "BRA":
                    if ".DIV" not in instruction.name:
                        if also := re.match(r"(!?U?P\w+),", instruction.operands):
                            mask &= self.predicate(also[1])
                        jumping = mask
                elif kind == "EXIT":
                    alive &= ~mask
                    going &= ~mask
                    if not going.any():
                        break
                elif kind not in NO_EFFECT:
                    self.execute(instruction, mask)
            successors = self.blocks[b].successors
            at[going & jumping] = successors[0] if successors else -1
            at[going & ~jumping] = successors[-1] if successors else -1

    # Operands.

    def bits(self, name: str) -> Lanes:
        """[32] uint32: a register, a constant, or an immediate integer."""
        name = name.strip().replace(".reuse", "")
        if found := re.fullmatch(r"(U?R)(\d+|Z)(?:\.(H[01])_H[01])?", name):
            if found[2] == "Z":
                return np.zeros(LANES, np.uint32)
            value = self.registers[found[1]][int(found[2])]
            if found[3]:
                value = (value >> np.uint32(16 * int(found[3][1]))) & np.uint32(0xFFFF)
            return value
        if found := re.fullmatch(r"c\[0x0\]\[(0x[0-9a-f]+)\]", name):
            word = struct.unpack_from("<I", self.constants, int(found[1], 16))[0]
            return np.full(LANES, word, np.uint32)
        return np.full(LANES, int(name, 0) & 0xFFFFFFFF, np.uint32)

    def unsigned(self, name: str) -> Lanes:
        """[32] uint64 below 2**32, or 2**32 for the negative of a zero, as the carry asks for."""
        name = name.strip()
        if re.match(r"-U?R", name):
            return np.uint64(1 << 32) - self.bits(name[1:]).astype(np.uint64)
        if name.startswith("~"):
            return (~self.bits(name[1:])).astype(np.uint64)
        return self.bits(name).astype(np.uint64)

    def signed(self, name: str) -> Lanes:
        """[32] int64."""
        return self.unsigned(name).astype(np.uint32).view(np.int32).astype(np.int64)

    def real(self, name: str) -> Lanes:
        """[32] float32."""
        name = name.strip().replace(".reuse", "")
        sign, rest = np.float32(-1 if name.startswith("-") else 1), name.lstrip("+-")
        if rest.startswith("|"):
            return sign * np.abs(self.bits(rest.strip("|")).view(np.float32))
        if re.match(r"U?R|c\[", rest):
            return sign * self.bits(rest).view(np.float32)
        return np.full(LANES, sign * np.float32(rest.replace("QNAN", "nan")))

    def wide(self, name: str) -> Lanes:
        """[32] uint64: a pair of registers or constants."""
        name = name.strip().replace(".reuse", "").replace(".64", "")
        if found := re.fullmatch(r"(U?R)(\d+)", name):
            low, high = self.registers[found[1]][int(found[2]) : int(found[2]) + 2].astype(
                np.uint64
            )
            return low | (high << np.uint64(32))
        if found := re.fullmatch(r"c\[0x0\]\[(0x[0-9a-f]+)\]", name):
            word = struct.unpack_from("<Q", self.constants, int(found[1], 16))[0]
            return np.full(LANES, word, np.uint64)
        return np.zeros(LANES, np.uint64)

    def predicate(self, name: str) -> Lanes:
        """[32] bool."""
        found = re.fullmatch(r"(!?)(U?P)([0-6T])", name.strip())
        assert found, name
        value = (
            np.ones(LANES, bool) if found[3] == "T" else self.predicates[found[2]][int(found[3])]
        )
        return ~value if found[1] else value

    def address(self, name: str) -> Lanes:
        """[32] uint64: what stands in brackets after the descriptor."""
        found = re.search(r"\[(R\w+)(?:\.64)?(?:\+(-?0x[0-9a-f]+))?\]$", name)
        assert found, name
        return self.wide(found[1]) + np.uint64(int(found[2] or "0", 16) & ((1 << 64) - 1))

    def write(self, name: str, value: Lanes, mask: Lanes) -> None:
        """Write a register, in the lanes of ``mask``: the low 32 bits, or a float32."""
        found = re.fullmatch(r"(U?R)(\d+|Z)", name.strip())
        assert found, name
        if found[2] != "Z":
            bits = value.view(np.uint32) if value.dtype == np.float32 else value.astype(np.uint32)
            register = self.registers[found[1]][int(found[2])]
            register[mask] = bits[mask]

    def write_wide(self, name: str, value: Lanes, mask: Lanes) -> None:
        """Write a pair of registers."""
        found = re.fullmatch(r"(U?R)(\d+)", name.strip())
        assert found, name
        self.write(name, value & np.uint64(0xFFFFFFFF), mask)
        self.write(f"{found[1]}{int(found[2]) + 1}", value >> np.uint64(32), mask)

    def write_predicate(self, name: str, value: Lanes, mask: Lanes) -> None:
        """Write a predicate."""
        found = re.fullmatch(r"(U?P)([0-6T])", name.strip())
        assert found, name
        if found[2] != "T":
            self.predicates[found[1]][int(found[2])][mask] = value[mask]

    # Instructions.

    def execute(self, instruction: Any, mask: Lanes) -> None:
        """One instruction, in the lanes of ``mask``."""
        kind, *modifiers = instruction.name.split(".")
        operands = [x.strip() for x in re.split(r",(?![^\[]*\])", instruction.operands)]
        # The uniform datapath does the same with registers of its own.
        names = {"USEL": "SEL", "R2UR": "R2UR", "S2UR": "S2R"}
        kind = names.get(kind, kind[1:] if re.match(r"U[A-Z]", kind) else kind)
        method = getattr(self, f"_{kind.lower()}", None)
        if method is None:
            raise NotImplementedError(str(instruction))
        method(operands, set(modifiers), mask)

    def _mov(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        if "64" in modifiers:
            self.write_wide(x[0], self.wide(x[1]), mask)
        else:
            self.write(x[0], self.bits(x[1]), mask)

    _ldc = _mov

    def _s2r(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        special = {"SR_TID.X": np.arange(LANES), "SR_CTAID.X": np.full(LANES, self.program)}
        self.write(x[0], special[x[1]], mask)

    def _cs2r(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        assert x[1] == "SRZ"
        self.write_wide(x[0], np.zeros(LANES, np.uint64), mask)

    def _r2ur(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        first = self.bits(x[-1])[mask.argmax()]
        self.write(x[-2], np.full(LANES, first), np.ones(LANES, bool))

    def _imad(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        is_signed = modifiers & {"WIDE", "HI"} and "U32" not in modifiers
        read = self.signed if is_signed else self.unsigned
        product = (read(x[1]) * read(x[2])).astype(np.uint64)
        if "WIDE" in modifiers:
            self.write_wide(x[0], product + self.wide(x[3]), mask)
            return
        if "HI" in modifiers:  # of a sum of 64 bits
            self.write(x[0], (product + self.wide(x[3])) >> np.uint64(32), mask)
            return
        total = product + self.unsigned(x[3])
        if "X" in modifiers:
            total = total + self.predicate(x[4])
        self.write(x[0], total, mask)

    def _iadd3(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        carries = [name for name in x[1:3] if re.fullmatch(r"U?P[0-6T]", name)]
        terms = x[1 + len(carries) :]
        total = sum((self.unsigned(name) for name in terms[:3]), np.zeros(LANES, np.uint64))
        if "X" in modifiers:
            total = total + sum(self.predicate(name).astype(np.uint64) for name in terms[3:])
        self.write(x[0], total, mask)
        for n, name in enumerate(carries):
            self.write_predicate(name, total >> np.uint64(32) > n, mask)

    def _viadd(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        self.write(x[0], self.unsigned(x[1]) + self.unsigned(x[2]), mask)

    def _iabs(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        self.write(x[0], np.abs(self.signed(x[1])), mask)

    def _lea(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        carry = x.pop(1) if re.fullmatch(r"U?P[0-6T]", x[1]) else None
        if "HI" not in modifiers:
            shifted = self.unsigned(x[1]) << np.uint64(int(x[3], 0))
            total = (shifted & np.uint64(0xFFFFFFFF)) + self.unsigned(x[2])
        else:
            if "SX32" in modifiers:
                value, rest = self.signed(x[1]).view(np.uint64), x[3:]
            else:
                value, rest = self.unsigned(x[1]) | (self.unsigned(x[3]) << np.uint64(32)), x[4:]
            total = ((value << np.uint64(int(rest[0], 0))) >> np.uint64(32)) + self.unsigned(x[2])
            if "X" in modifiers:
                total = total + self.predicate(rest[1])
        self.write(x[0], total, mask)
        if carry:
            self.write_predicate(carry, total >> np.uint64(32) > 0, mask)

    def _lop3(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        predicate = x.pop(0) if re.fullmatch(r"U?P[0-6T]", x[0]) else None
        a, b, c = (self.bits(name) for name in x[1:4])
        found = np.zeros(LANES, np.uint32)
        for row in range(8):
            if int(x[4], 0) >> row & 1:
                found |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        self.write(x[0], found, mask)
        if predicate:
            self.write_predicate(predicate, found != 0, mask)

    def _plop3(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        a, b, c = (self.predicate(name).astype(int) for name in x[2:5])
        self.write_predicate(x[0], (int(x[5], 0) >> (4 * a + 2 * b + c)) & 1 == 1, mask)

    def _shf(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        low, high = self.unsigned(x[1]), self.unsigned(x[3])
        n = self.unsigned(x[2]) & np.uint64(63)
        both = low | (high << np.uint64(32))
        if "L" in modifiers:
            found = (both << n) >> np.uint64(32) if "HI" in modifiers else low << n
        elif "HI" in modifiers:
            found = self.signed(x[3]) >> n.astype(np.int64) if "S32" in modifiers else high >> n
        else:
            found = both.view(np.int64) >> n.astype(np.int64) if "S64" in modifiers else both >> n
        self.write(x[0], found, mask)

    def _compared(self, x: list[str], found: Lanes, modifiers: set[str], mask: Lanes) -> None:
        combine = next(COMBINE[name] for name in COMBINE if name in modifiers)
        self.write_predicate(x[0], combine(found, self.predicate(x[4])), mask)
        self.write_predicate(x[1], combine(~found, self.predicate(x[4])), mask)

    def _isetp(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        read = self.unsigned if "U32" in modifiers else self.signed
        a, b = read(x[2]), read(x[3])
        name = next(name for name in COMPARISONS if name in modifiers)
        found = COMPARISONS[name](a, b)
        if "EX" in modifiers:  # the high halves; the last operand is the comparison of the low ones
            low = self.predicate(x[5])
            found = found | low if name == "NE" else (found & (a != b)) | ((a == b) & low)
        self._compared(x, found, modifiers, mask)

    def _fsetp(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        a, b = self.real(x[2]), self.real(x[3])
        unordered = np.isnan(a) | np.isnan(b)
        name = next(name for name in modifiers if name.removesuffix("U") in COMPARISONS)
        found = COMPARISONS[name.removesuffix("U")](a, b) & ~unordered
        self._compared(x, found | unordered if name.endswith("U") else found, modifiers, mask)

    def _sel(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        self.write(x[0], np.where(self.predicate(x[3]), self.bits(x[1]), self.bits(x[2])), mask)

    def _fsel(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        self.write(x[0], np.where(self.predicate(x[3]), self.real(x[1]), self.real(x[2])), mask)

    def _fmnmx(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        a, b = self.real(x[1]), self.real(x[2])
        self.write(x[0], np.where(self.predicate(x[3]), np.fmin(a, b), np.fmax(a, b)), mask)

    def _vimnmx(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        read = self.unsigned if "U32" in modifiers else self.signed
        values = np.stack([read(name) for name in x[1:-1]])
        self.write(x[0], np.where(self.predicate(x[-1]), values.min(0), values.max(0)), mask)

    _vimnmx3 = _vimnmx
    _imnmx = _vimnmx

    def _viaddmnmx(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        total = (self.unsigned(x[1]) + self.unsigned(x[2])).astype(np.uint32).view(np.int32)
        values = np.stack([total.astype(np.int64), self.signed(x[3])])
        self.write(x[0], np.where(self.predicate(x[4]), values.min(0), values.max(0)), mask)

    def _prmt(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        both = self.unsigned(x[1]) | (self.unsigned(x[3]) << np.uint64(32))
        found = np.zeros(LANES, np.uint64)
        for n in range(4):
            which = (self.unsigned(x[2]) >> np.uint64(4 * n)) & np.uint64(15)
            assert (which < 8).all(), "copies of a sign are not known"
            found |= ((both >> (which * np.uint64(8))) & np.uint64(255)) << np.uint64(8 * n)
        self.write(x[0], found, mask)

    def _shfl(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        lane, n = np.arange(LANES), self.signed(x[3])
        sources = {"BFLY": lane ^ n, "IDX": n & 31, "UP": lane - n, "DOWN": lane + n}
        source = next(sources[name] for name in sources if name in modifiers)
        inside = (source >= 0) & (source < LANES)
        self.write(x[1], self.bits(x[2])[np.where(inside, source, lane)], mask)
        self.write_predicate(x[0], inside, mask)

    def _redux(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        values = (self.signed if "S32" in modifiers else self.unsigned)(x[1])[mask]
        reductions: dict[str, Callable[..., Any]]
        reductions = {"MAX": np.max, "MIN": np.min, "SUM": np.sum, "OR": np.bitwise_or.reduce}
        found = next(reductions[name] for name in reductions if name in modifiers)(values)
        self.write(x[0], np.full(LANES, found), np.ones(LANES, bool))

    def _p2r(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        kept = self.bits(x[3])
        shift = np.uint32(next((8 * n for n in range(4) if f"B{n}" in modifiers), 0))
        found = np.zeros(LANES, np.uint32)
        for n in range(7):
            found |= self.predicates["P"][n].astype(np.uint32) << np.uint32(n)
        self.write(x[0], (self.bits(x[2]) & ~(kept << shift)) | ((found & kept) << shift), mask)

    def _r2p(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        shift = next((8 * n for n in range(4) if f"B{n}" in modifiers), 0)
        for n in range(7):
            if int(x[2], 0) >> n & 1:
                value = (self.bits(x[1]) >> np.uint32(n + shift)) & np.uint32(1)
                self.write_predicate(f"P{n}", value == 1, mask)

    def _hadd2(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        assert (modifiers, x[1]) == ({"F32"}, "-RZ")
        self.write(
            x[0], self.bits(x[2]).astype(np.uint16).view(np.float16).astype(np.float32), mask
        )

    def _hfma2(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        assert x[1:3] == ["-RZ", "RZ"]
        high, low = (int(np.float16(half).view(np.uint16)) for half in x[3:5])
        self.write(x[0], np.full(LANES, high << 16 | low), mask)

    def _fadd(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        self.write(x[0], self.real(x[1]) + self.real(x[2]), mask)

    def _fmul(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        self.write(x[0], self.real(x[1]) * self.real(x[2]), mask)

    def _ffma(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        product = self.real(x[1]).astype(np.float64) * self.real(x[2])
        self.write(x[0], (product + self.real(x[3])).astype(np.float32), mask)

    def _i2fp(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        self.write(x[0], self.signed(x[1]).astype(np.float32), mask)

    def _i2f(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        value = (self.unsigned if "U32" in modifiers else self.signed)(x[1])
        found = value.astype(np.float32)
        if "RP" in modifiers:  # rounded up
            low = found.astype(np.float64) < value
            found = np.where(low, np.nextafter(found, np.float32(np.inf)), found)
        self.write(x[0], found, mask)

    def _f2i(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        assert {"U32", "TRUNC"} <= modifiers
        value = np.clip(np.trunc(self.real(x[1]).astype(np.float64)), 0, 2**32 - 1)
        self.write(x[0], value.astype(np.uint64), mask)

    def _mufu(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        functions = {"EX2": np.exp2, "LG2": np.log2, "RCP": np.reciprocal}
        function = next(functions[name] for name in functions if name in modifiers)
        self.write(x[0], function(self.real(x[1])), mask)

    def _popc(self, x: list[str], _modifiers: set[str], mask: Lanes) -> None:
        self.write(x[0], np.array([int(value).bit_count() for value in self.bits(x[1])]), mask)

    def _ldg(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        size = _size(modifiers)
        found = re.fullmatch(r"R(\d+)", x[0])
        assert found, x
        address = self.address(x[1])
        for lane in np.flatnonzero(mask):
            data = bytes(self.memory.at(int(address[lane]), size))
            data += bytes(-size % 4)
            for n in range(len(data) // 4):
                word = int.from_bytes(data[4 * n : 4 * n + 4], "little")
                self.registers["R"][int(found[1]) + n, lane] = word

    def _stg(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        size = _size(modifiers)
        address = self.address(x[0])
        words = [self.bits(x[1])] if size <= 4 else []
        if size > 4:
            found = re.fullmatch(r"R(\d+)", x[1])
            assert found, x
            words = [self.registers["R"][int(found[1]) + n] for n in range(size // 4)]
        for lane in np.flatnonzero(mask):
            data = b"".join(int(word[lane]).to_bytes(4, "little") for word in words)
            self.memory.at(int(address[lane]), size)[:] = np.frombuffer(data[:size], np.uint8)

    def _ldl(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        for n, name, address in self._local(x[0], x[1], modifiers):
            words = [
                self.stack[lane, address[lane] + 4 * n] if mask[lane] else 0
                for lane in range(LANES)
            ]
            self.write(name, np.array(words), mask)

    def _stl(self, x: list[str], modifiers: set[str], mask: Lanes) -> None:
        for n, name, address in self._local(x[1], x[0], modifiers):
            word = self.bits(name)
            for lane in np.flatnonzero(mask):
                self.stack[int(lane), int(address[lane]) + 4 * n] = int(word[lane])

    def _local(self, name: str, where: str, modifiers: set[str]) -> list[tuple[int, str, Lanes]]:
        """Registers of a load or store to what is spilled, and the address [32] of the first."""
        found = re.fullmatch(r"\[(R\d+)(?:\+(-?0x[0-9a-f]+))?\]", where)
        assert found, where
        address = self.signed(found[1]) + int(found[2] or "0", 16)
        if _size(modifiers) == 4:
            return [(0, name, address)]
        return [(n, f"R{int(name[1:]) + n}", address) for n in range(_size(modifiers) // 4)]


def _size(modifiers: set[str]) -> int:
    """Bytes of a lane's load or store."""
    assert not modifiers & {"S8", "S16"}, "signs are not known"
    sizes: Mapping[str, int] = {"U8": 1, "U16": 2, "64": 8, "128": 16}
    return next((size for name, size in sizes.items() if name in modifiers), 4)


def random_call(work: Any, *, peaked: bool, seed: int) -> dict[str, Any]:
    """Arguments of ``decode_spans`` for one of static_cost.py's workloads."""
    from backends import ragged

    generator = torch.Generator().manual_seed(seed)
    chunks, n = work.batch, work.n
    logits = torch.randn(2, chunks, n, generator=generator) * 3
    if peaked:  # as a trained model's: few tokens far above the rest, side by side
        peak = torch.randint(n - 12, (2, chunks, 1), generator=generator)
        near = (torch.arange(n) >= peak) & (torch.arange(n) < peak + 12)
        logits = torch.where(near, logits + 12, logits - 6)
    start, end = logits.to(work.dtype)
    first = torch.randint(1, 12, (chunks,), generator=generator).clamp_max(n - 1)
    last = n - torch.randint(9, (chunks,), generator=generator)
    ids = torch.arange(chunks, dtype=torch.int32)
    questions = chunks if work.chunks is None else max(1, chunks // work.chunks)
    mask = torch.rand(chunks, n, generator=generator) < 0.9
    call: dict[str, Any] = {
        "context": torch.stack([first, torch.maximum(last, first)], 1).int(),
        "top_k": work.top_k,
        "max_answer_len": work.max_answer_len,
        "scoring": work.scoring,
        "null_in_spans": work.null_in_spans,
        "null_position": torch.zeros(chunks, dtype=torch.int32),
    }
    if work.whole_rows:
        del call["context"], call["null_position"]
    if work.mask:
        call["context_mask"] = mask
    if work.chunks is not None:
        call |= {"question_id": ids * questions // chunks, "num_questions": questions}
    if work.distinct:
        call["context_offset"] = ids * 7
    if work.ragged:
        logits, call = ragged((start, end), call, generator)
        start, end = logits
    return {"start_logits": start, "end_logits": end, **call}


def run_on_warps(work: Any, *, peaked: bool = False, seed: int = 0) -> dict[str, Any]:
    """Decode random logits with the kernels' machine code, and with the backend of the CPU."""
    import machine_code
    import static_cost
    from triton.runtime.jit import JITFunction

    import qa_fast
    from qa_fast.decoding import spans, triton_backend

    launches = []

    def run(kernel: Any, *args: Any, grid: Any, **kwargs: Any) -> None:
        kwargs.pop("warmup")
        launch, bound = static_cost.launch_of(kernel, grid, args, kwargs)
        compiled = static_cost.compile_launch(launch, 90)
        rounds = static_cost.rounds_of(work, launch)
        counted = machine_code.count(compiled["code"], rounds)
        one_step = machine_code.count(compiled["code"], {**rounds, "halving": 1})
        memory = Memory()
        values = [
            (
                kind,
                memory.add(bound[name]) if isinstance(bound[name], torch.Tensor) else bound[name],
            )
            for name, kind in launch.signature.items()
            if kind != "constexpr"
        ]
        executed = []
        for program in range(launch.programs):
            warp = Warp(counted.blocks, constants(values), memory, program)
            warp.run()
            executed.append(warp.executed)
        launches.append(
            {"kernel": launch.kernel, "executed": executed, "counted": counted.total,
             "per_step": one_step.total - counted.total,
             "lists": launch.integers.get("lists_per_program", 1)}
        )  # fmt: skip

    def decode(search: Any) -> Any:
        limits = {"max_seq_len": work.n, "max_chunks": work.chunks or 1}
        return triton_backend.decode(search.as_tensors()._replace(**limits))

    call = random_call(work, peaked=peaked, seed=seed)
    expected = qa_fast.decode_spans(**call)
    with (
        mock.patch.object(spans, "decode_on_cpu", decode),
        mock.patch.object(JITFunction, "run", run),
        np.errstate(all="ignore"),
    ):
        found = qa_fast.decode_spans(**call)
    same = all(
        torch.allclose(a, b, atol=1e-4, rtol=1e-5) if a.is_floating_point() else torch.equal(a, b)
        for a, b in zip(found, expected, strict=True)
    )
    return {"workload": str(work), "peaked": peaked, "same": same, "launches": launches}


def main(names: list[str]) -> None:
    """Print a line of JSON for each case; all, or those named by their index."""
    from static_cost import BUDGETS, VARIANTS, Workload

    plain = [work._replace(batch=4) for work in BUDGETS]
    varied = [plain[n % 2]._replace(**variant) for n, variant in enumerate(VARIANTS.values())]
    others = [
        Workload(20, 30, ragged=True, mask=True, distinct=True, chunks=3, batch=6),
        Workload(2, 30, chunks=64, batch=64),  # two rounds
        Workload(2, 30, chunks=64, batch=64, distinct=True, scoring="shared"),
        Workload(100, 100, batch=2),
        Workload(12, 15, n=128, batch=4),
        Workload(12, 15, n=1024, batch=2),
        Workload(12, None, n=700, batch=2),
        Workload(3, 600, n=2048, batch=1),
        Workload(1, 1, n=1, batch=1),
    ]
    cases = [(work, peaked) for work in plain for peaked in (False, True)]
    cases += [(work, False) for work in (*varied, *others)]
    for n, (work, peaked) in enumerate(cases):
        if not names or str(n) in names:
            print(json.dumps(run_on_warps(work, peaked=peaked, seed=n)), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    main(sys.argv[1:])
