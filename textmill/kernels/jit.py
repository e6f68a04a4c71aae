"""How kernels are compiled, kept and called, and the few machine operations that Numba lacks.

Numba (Lam, Pitrou and Seibert, "Numba: A LLVM-based Python JIT Compiler", LLVM-HPC 2015) compiles a function for the
types of its arguments when it is first called. The kernels of a tokenizer take 20 s, so the machine code is kept.

A kernel takes at most five arguments, each a thing that has a name:

- A NamedTuple, between kernels, costs nothing: only its fields exist in machine code. The functions that are `inlined`
  take and return them freely.
- A call from Python takes apart each NamedTuple that it hands over, which costs 1 µs where an array costs 0.1 µs.
  Kernels that are called once for a training, or for 32,768 words, take them all the same.
- The encoder is also called for ten words, which takes 2 µs. Its twenty arrays and numbers cost as much to hand over
  one by one, and 10 µs in NamedTuples. So they are in a record, a structured array of one row, which has named fields
  too and costs what one array does: of an array it holds the address. The Python object that owns the record keeps the
  arrays alive and the addresses right, and a kernel first makes NamedTuples of them (`…View`).

Numba counts the references to an array that is taken out of a NamedTuple, by atomic instructions, and not all of these
are optimized away. So a kernel unpacks its NamedTuples before its long loops, and does not rebind them there.
"""

from __future__ import annotations

import functools
import gc
import hashlib
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.registry import CPUDispatcher
from numba.core.runtime import rtsys
from numba.extending import intrinsic

from textmill.kernels.compiling import NoCache, compiling

# Numba consists of 50,000 objects that live as long as the process. The garbage collector would visit them again and
# again, twice at the end of the process, for 0.1 s.
gc.freeze()

AHEAD = 12  # how many steps of a loop ahead its memory is asked for, with `prefetch`


@functools.cache
def _room_digest(room: Path) -> str:
    """Digest of all that the machine code of a room's kernels is made of.

    Kernels call functions, and take constants, from files of their own folder and of this one alone; what is elsewhere
    is an argument.
    """
    sources = [source for folder in (Path(__file__).parent, room) for source in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


class _KernelCache(FunctionCache):
    """Numba's cache of machine code, with four differences.

    - A kernel contains the code of the kernels that it calls, in other files too, while Numba looks only at the file of
      the kernel itself. Here a change of any file of its folder, or of this one, discards the machine code.
    - Numba unpickles machine code before it discards it, which fails if a NamedTuple that the kernel takes has another
      name now. Here the digest is part of the version, which is compared first.
    - Numba loads its whole compiler before it loads machine code, for half a second in every process. Here the cache
      loads only the runtime that the code calls.
    - Code that is not there is compiled by one process, which says so, while others wait for it (`compiling.py`).
    """

    def __init__(self, function, room):
        super().__init__(function)
        self._room = room
        file, digest = self._cache_file, _room_digest(Path(function.__code__.co_filename).parent)
        file._version, file._source_stamp = f"{file._version} {digest}", digest

    def load_overload(self, sig, target_context):
        rtsys.initialize(target_context)
        code = self._read(sig, target_context)
        if code is None and compiling.take_turn(self._room, Path(self.cache_path)):
            code = self._read(sig, target_context)  # another process may just have compiled it
        if code is None:
            compiling.announce(self._room)
        return code

    def _read(self, sig, target_context):
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


class Kernel(CPUDispatcher):
    """A function that is compiled for the types of its arguments when it is first called with them."""

    def __init__(self, function, **options):
        super().__init__(function, targetoptions={"nopython": True, **options})
        room = function.__module__.rpartition(".")[0].removesuffix(".kernels")
        try:
            self._cache = _KernelCache(function, room)
        except RuntimeError:
            self._cache = NoCache(room)

    def compile(self, sig):
        with compiling:
            return super().compile(sig)

    def _compilation_chain_init_hook(self):
        """Leave out the extensions that other packages have for Numba: no kernel has their types, and importing them
        takes up to half a second."""


OPTIONS = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def kernel(function):
    """Compile `function` without the GIL and cache the machine code beside its source or in NUMBA_CACHE_DIR.

    Where neither that folder nor the user's cache folder can be written (a read-only installation), the kernel is
    compiled in every process instead.
    """
    return Kernel(function, **OPTIONS)


def inlined(function):
    """A small function that becomes part of every kernel that calls it: a call costs more than its work."""
    return njit(forceinline=True, **OPTIONS)(function)


@inlined
def address(array):
    """Where an array begins in memory. It must stay referenced, which arguments of a kernel are."""
    return np.int64(array.ctypes.data)


@intrinsic
def item_size(typing_context, array):
    """Bytes of an item of an array as int64: a constant of the compiled kernel, which `array.itemsize` is not."""

    def generate(context, builder, signature, arguments):
        item = context.get_data_type(signature.args[0].dtype)
        return ir.Constant(ir.IntType(64), context.get_abi_sizeof(item))

    return types.int64(array), generate


@inlined
def copy_row(target, i, source, j):
    """target[i] = source[j] for arrays of four columns; Numba's own assignment of slices takes seconds to compile."""
    for column in range(4):
        target[i, column] = source[j, column]


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _loader(bits, result):
    @intrinsic
    def load(typing_context, address):
        def generate(context, builder, signature, arguments):
            value = builder.load(_pointer(builder, arguments[0], ir.IntType(bits)))
            value.align = 1
            return builder.zext(value, ir.IntType(64)) if bits < 64 else value

        return result(types.int64), generate

    return load


# load8(address) -> int64, load32 and load64(address) -> uint64: little-endian, unaligned, unchecked
load8 = _loader(8, types.int64)
load32 = _loader(32, types.uint64)
load64 = _loader(64, types.uint64)


def _storer(bits):
    @intrinsic
    def store(typing_context, address, value):
        def generate(context, builder, signature, arguments):
            kind = ir.IntType(bits)
            value = builder.trunc(arguments[1], kind) if bits < 64 else arguments[1]
            builder.store(value, _pointer(builder, arguments[0], kind)).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, types.uint64), generate

    return store


# store8, store32 and store64(address, value): the low bits of a uint64, little-endian, unaligned, unchecked
store8, store32, store64 = _storer(8), _storer(32), _storer(64)


@intrinsic
def trailing_zeros(typing_context, value):
    """Number of zero bits below the lowest one bit of a uint64 as int64; 64 if there is none."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def leading_zeros(typing_context, value):
    """Number of zero bits above the highest one bit of a uint64 as int64; 64 if there is none."""

    def generate(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def prefetch(typing_context, address):
    """Ask for the cache line at an address."""

    def generate(context, builder, signature, arguments):
        i8p, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [i8p], ir.FunctionType(ir.VoidType(), [i8p, i32, i32, i32])
        )
        pointer = builder.inttoptr(arguments[0], i8p)
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def bytes_between(typing_context, address, fold, low, span):
    """Compare the 64 bytes at an address at once: bit i of the uint64 says low <= (byte[i] | fold) < low + span.

    LLVM turns the vector operations into whatever the processor has (AVX-512, AVX2, SSE2, NEON).
    """

    def generate(context, builder, signature, arguments):
        i8 = ir.IntType(8)
        vector = ir.VectorType(i8, 64)

        def splat(value):
            lane = builder.insert_element(
                ir.Constant(vector, ir.Undefined), builder.trunc(value, i8), ir.Constant(ir.IntType(32), 0)
            )
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
            return builder.shuffle_vector(lane, ir.Constant(vector, ir.Undefined), zeros)

        values = builder.load(_pointer(builder, arguments[0], vector))
        values.align = 1
        shifted = builder.sub(builder.or_(values, splat(arguments[1])), splat(arguments[2]))
        inside = builder.icmp_unsigned("<", shifted, splat(arguments[3]))
        return builder.bitcast(inside, ir.IntType(64))

    return types.uint64(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def lowest_of_64(typing_context, address):
    """The lowest of the 64 uint32 at an address, as uint64; a few vector operations."""

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(32), 64)
        values = builder.load(_pointer(builder, arguments[0], vector))
        values.align = 4
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.IntType(32), [vector]), "llvm.vector.reduce.umin.v64i32"
        )
        return builder.zext(builder.call(reduce, [values]), ir.IntType(64))

    return types.uint64(types.int64), generate
