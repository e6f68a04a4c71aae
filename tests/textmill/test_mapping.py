"""The in-order maps: order, how far they read ahead, and what becomes of exceptions and of early ends."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from textmill.mapping import HERE, Threads, map_in_order, stream_in_order


def test_results_come_in_the_order_of_the_items_and_few_are_taken_ahead():
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    def slow_at_first(number):
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number

    with ThreadPoolExecutor(4) as pool:
        for number, result in enumerate(map_in_order(pool.submit, slow_at_first, items(), ahead=3)):
            assert result == number
            assert len(taken) <= number + 3
    assert taken == list(range(20))


def test_an_exception_is_raised_in_its_turn():
    results = []
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        for result in map_in_order(pool.submit, lambda n: 6 // n, [3, 2, 0, 1], ahead=4):
            results.append(result)
    assert results == [2, 3]


@pytest.mark.parametrize("threads", [1, 3])
def test_streams_come_in_order_and_what_precedes_an_exception_is_handed_on(threads):
    def numbers(item):
        yield from range(item)
        if item == 3:
            raise KeyError(item)

    seen = []
    for stream in HERE.stream(numbers, [2, 3, 1], spool=None, threads=threads):
        seen.append([])
        try:
            for number in stream:
                seen[-1].append(number)
        except KeyError:
            seen[-1].append("raised")
    assert seen == [[0, 1], [0, 1, 2, "raised"], [0]]


def test_an_endless_stream_that_nobody_reads_on_ends():
    made = []

    def endless(item):
        while True:
            made.append(item)
            yield item

    streams = stream_in_order(endless, [1, 2], threads=2)
    assert next(next(streams)) == 1
    streams.close()
    deadline = time.monotonic() + 240
    while any(thread.name.startswith("stream") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(made) < 20


def test_threads_work_in_the_context_of_who_gives_them_the_work():
    run = ContextVar("run", default="none")
    with Threads(2) as pool:
        for name in ("first", "second"):
            run.set(name)
            assert pool.submit(run.get).result() == name
            assert list(pool.map(lambda _: run.get(), range(3))) == [name] * 3
            assert list(map_in_order(pool.submit, lambda _: run.get(), range(3), ahead=2)) == [name] * 3
