"""What all rooms of kernels share. Only rooms called `kernels` import Numba.

- `jit.py`: how kernels are compiled and kept, and the machine operations that Numba lacks.
"""
