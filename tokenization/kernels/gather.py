"""Batches of token arrays: windows copied out of a mapped file, and the random order in which they are visited.

Plain Python: `values[start : start + length]` for each window, and `reference.permuted`, the order of one index.

The windows of a batch are copied and widened to int64 in one pass, without a NumPy call for each. The order is a
Feistel network (Feistel, "Cryptography and Computer Privacy", Scientific American 1973): whatever the mixing function,
a round can be undone, so no two indices go to one place. It permutes a power of four; an index that lands outside the
range walks on until it is inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).

    n = 5, which takes 3 bits, so 2 x 2 bits and 16 places. If the network sends 0 to 9 and 9 to 3, then 0 goes to 3: 9
    is not below 5.
"""

from __future__ import annotations

import numpy as np

from textmill.kernels.jit import kernel


@kernel
def gather(values, starts, windows):
    """windows[i] = the values from starts[i] on, widened on the way; False from the first that is not all there."""
    length = windows.shape[1]
    for i in range(len(starts)):
        start = starts[i]
        if start < 0 or start > len(values) - length:
            return False
        source, window = values[start : start + length], windows[i]
        for j in range(length):
            window[j] = source[j]
    return True


@kernel
def permute(indices, n, half, keys, result):
    """result[i] = where the Feistel network over 2 x `half` bits sends indices[i], walked until it is below n."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    for i in range(len(indices)):
        value = np.uint64(indices[i])
        while True:
            left, right = value >> half, value & mask
            for key in keys:
                mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
                mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
                left, right = right, left ^ ((mixed >> np.uint64(33)) & mask)
            value = (left << half) | right
            if value < n:
                break
        result[i] = np.int64(value)
