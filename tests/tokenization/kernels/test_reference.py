"""The examples of the algorithms in plain Python; what the kernels do is compared with these beside each kernel."""

import doctest

from tokenization.kernels import reference


def test_the_examples_are_true():
    results = doctest.testmod(reference)
    assert results.attempted >= 6 and not results.failed
