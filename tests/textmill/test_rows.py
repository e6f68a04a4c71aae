"""Rows of JSON lines and of tables: what is told of a file that is none."""

from __future__ import annotations

import pytest

from textmill.errors import UserError
from textmill.rows import ROW_FILES, read_rows


@pytest.mark.parametrize("suffix", ROW_FILES)
@pytest.mark.parametrize("before", [0, 1, 5000])
def test_the_line_that_is_not_utf_8_is_told(suffix, before, tmp_path):
    path = tmp_path / f"rows{suffix}"
    head = b"" if "json" in suffix else b"a\n"
    good = b'{"a": "gr\xc3\xbcn"}\n' if "json" in suffix else b"gr\xc3\xbcn\n"
    path.write_bytes(head + good * before + good.replace(b"\xc3\xbc", b"\xfc") + good)
    number = before + (1 if "json" in suffix else 2)
    with pytest.raises(UserError, match=rf"rows{suffix}:{number}: not UTF-8 text \(invalid start byte\)"):
        list(read_rows(path, "a"))
