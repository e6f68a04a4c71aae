"""What all rooms of kernels share. Only rooms called `kernels` import Numba.

- `compiling.py`: how compiling is announced, and done by one process at a time.
- `jit.py`: how kernels are compiled and kept, and the machine operations that Numba lacks.
"""
