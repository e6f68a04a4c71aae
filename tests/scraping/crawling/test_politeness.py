import multiprocessing
import os
import resource
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from scraping.crawling.politeness import MAX_PAUSE, HostGate, Stopped, gate_of_address


def take_turns(folder, delay: float, turns: int, results) -> None:
    gate = HostGate("example.org", threading.Event(), folder)
    spans = []
    for _ in range(turns):
        with gate.turn(delay):
            start = time.time()
            time.sleep(0.01)
            spans.append((start, time.time()))
    results.put(spans)


def assert_apart(spans: list[tuple[float, float]], delay: float) -> None:
    spans = sorted(spans)
    for (_, end), (start, _) in pairwise(spans):
        assert start - end >= delay - 0.001


def test_threads_and_processes_share_one_turn(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    delay = 0.05
    workers = [context.Process(target=take_turns, args=(tmp_path, delay, 5, results)) for _ in range(2)]
    workers += [threading.Thread(target=take_turns, args=(tmp_path, delay, 5, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    spans = [span for _ in workers for span in results.get(timeout=120)]
    for worker in workers:
        worker.join()
    assert len(spans) == 20
    assert_apart(spans, delay)


def hold(folder, entered) -> None:
    began = time.time()
    with HostGate("example.org", threading.Event(), folder).turn(0.3):
        entered.put(began)
        time.sleep(600)


def test_a_killed_process_leaves_the_turn_but_not_the_delay(tmp_path):
    context = multiprocessing.get_context("spawn")
    entered = context.Queue()
    process = context.Process(target=hold, args=(tmp_path, entered))
    process.start()
    began = entered.get(timeout=120)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with HostGate("example.org", threading.Event(), tmp_path).turn(0):
        assert 0.3 <= time.time() - began < 200


def test_pauses_bind_everyone_and_are_bounded(tmp_path):
    one, other = (HostGate("example.org", threading.Event(), tmp_path) for _ in range(2))
    one.pause(1e9)
    assert MAX_PAUSE - 60 < other.seconds_left() <= MAX_PAUSE
    other.pause(1)
    assert one.seconds_left() > MAX_PAUSE - 60, "a shorter pause does not undo a longer one"
    assert HostGate("example.net", threading.Event(), tmp_path).seconds_left() == 0


def test_waiting_ends_when_the_crawl_does(tmp_path, caplog):
    stop = threading.Event()
    gate = HostGate("example.org", stop, tmp_path)
    gate.pause(600)
    threading.Timer(0.1, stop.set).start()
    start = time.time()
    with pytest.raises(Stopped), gate.turn(0):
        pass
    assert time.time() - start < 60
    assert "example.org wants no request for 600 s: waiting" in caplog.text


def test_a_turn_that_fails_to_begin_or_to_end_keeps_nobody_out(tmp_path):
    folder = tmp_path / "gates"
    gate, other = (HostGate("example.org", threading.Event(), folder) for _ in range(2))
    with pytest.raises(FileNotFoundError), gate.turn(0):  # a clean-up took the folder
        pass
    folder.mkdir()
    with gate.turn(0), gate.hold_if_idle() as idle:
        assert not idle
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # the disk is full
        with pytest.raises(OSError, match="File too large"), gate.turn(1):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for one in (other, gate):
        with one.turn(0):
            pass


def test_many_gates_hold_few_files_open(tmp_path):
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    gates = [HostGate(f"{n}.example.org", threading.Event(), tmp_path) for n in range(200)]
    for gate in gates:
        gate.pause(0.001)
        with gate.turn(0):
            assert open_files() <= before + 65


def test_an_address_has_one_gate_but_on_loopback_each_port_is_a_server_of_its_own():
    assert gate_of_address("192.0.2.1", 80) == gate_of_address("192.0.2.1", 443) != gate_of_address("192.0.2.2", 80)
    assert gate_of_address("127.0.0.1", 8000) != gate_of_address("127.0.0.1", 8001)
    assert gate_of_address("::1", 8000) == gate_of_address("::1", 8000)
