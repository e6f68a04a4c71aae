"""The order of indices against the algorithm in plain Python."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.arrays import shuffled
from tokenization.kernels.reference import permuted


@settings(max_examples=100)
@given(st.integers(1, 3000) | st.integers(1, 1 << 40), st.integers(0, 5), st.integers(0, 3))
def test_order_equals_the_reference(n, seed, epoch):
    keys = np.random.SeedSequence([seed, epoch]).generate_state(4, np.uint64).tolist()
    indices = np.unique(np.linspace(0, n - 1, 20).astype(np.int64))
    assert shuffled(indices, n, seed, epoch).tolist() == [permuted(index, n, keys) for index in indices.tolist()]
