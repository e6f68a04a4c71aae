"""A run on a terminal: bars below the log, and lines where it is none."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXTMILL = str(Path(sys.executable).parent / "textmill")


@pytest.mark.slow
def test_a_terminal_shows_bars_and_a_file_lines(prefect_server, write_config, textmill, tmp_path):
    config = write_config()
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "TERM": "xterm-256color", "COLUMNS": "160"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [TEXTMILL, "run", str(config)],
        cwd=tmp_path,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # so Linux says that the other side is closed
            break
        if not read:
            break
        written += read
    assert process.wait(240) == 0, written.decode()
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    assert re.search(r"pretrain 1 x 32, 12 steps +\S*━", screen), screen
    assert "Traceback" not in screen
    log = [line for line in re.split(r"[\r\n]+", screen) if " | INFO " in line]
    assert not [line for line in log if "━" in line]  # no line of the log stands in one with a bar
    assert [line for line in log if "Finished in state Completed('7 built, 0 reused')" in line]

    lines = textmill("run", config, "--force", "scrape")
    _, err = lines.communicate(timeout=200)
    assert lines.returncode == 0, err
    assert "━" not in err and "\x1b[?25l" not in err
