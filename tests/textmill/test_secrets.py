"""What counts as a secret, and where it is taken out."""

from __future__ import annotations

import io
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from textmill import secrets
from textmill.errors import UserError
from textmill.secrets import hashed, holds_secret, mask, mask_addresses, mask_logs, masked, masked_errors, remember


@pytest.fixture(autouse=True)
def unknown(monkeypatch):
    """Nothing is remembered from other tests, or for them."""
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://me:pw@example.org/a", "https://***@example.org/a"),
        ("https://hf_token@example.org/a", "https://***@example.org/a"),
        ("s3://KEY:SE/CR@ET@bucket/a", "s3://***@bucket/a"),
        ("postgresql+asyncpg://u:p/w@host:5432/name", "postgresql+asyncpg://***@host:5432/name"),
        ("tls://u:p@[::1]:8786", "tls://***@[::1]:8786"),
        ("https://e.org/a?X-Amz-Credential=K%2F20260101&X-Amz-Expires=60", "https://e.org/a?***"),
        ("https://e.org/a?sv=2022&se=2026&sig=ab%3D", "https://e.org/a?***"),
        ("https://e.org/a?Expires=1&Signature=x&Key-Pair-Id=y", "https://e.org/a?***"),
        ("https://e.org/a?file=a&access_token=x#top", "https://e.org/a?***#top"),
        ("https://e.org/a?apiKey=x", "https://e.org/a?***"),
        ("'https://a:b@c/?token=d' and s3://e:f@g", "'https://***@c/?***' and s3://***@g"),
        ("Failed for url: /a?part=1&token=x (Caused by", "Failed for url: /a?*** (Caused by"),
    ],
)  # fmt: skip
def test_users_passwords_and_signed_queries_are_masked(address, expected):
    assert mask_addresses(address) == expected
    assert mask_addresses(expected) == expected


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org:8080/users/me@example.org", "https://example.org/get?file=a.parquet&page=2",
        "https://example.org/?monkey=1&tokenizer=gpt2&author=x&signatures=3", "hf://datasets/OWNER/NAME@main/data",
        "abfs://container@account.dfs.core.windows.net/a", "http://[::1]:8080/a@b", "['https://a.org', 'me@b.org']",
        "https://me:${PASSWORD}@example.org/a?sig=${SIG}", "https://${USER}:${PASSWORD}@example.org",
        "postgresql+asyncpg://me:***@host/name",
    ],
)  # fmt: skip
def test_other_addresses_stay_as_they_are(address):
    assert mask_addresses(address) == address


def test_settings_are_masked_all_the_way_down():
    settings = {"a": [{"b": "s3://k:s@bucket"}, 1, None], "deny": ["/*?token=*"], "c": True}
    assert masked(settings) == {"a": [{"b": "s3://***@bucket"}, 1, None], "deny": ["/*?token=*"], "c": True}
    assert holds_secret(settings) and not holds_secret(masked(settings))


def test_an_identity_tells_secrets_apart_without_saying_them():
    one, other = hashed("https://e.org/?token=one"), hashed("https://e.org/?token=other")
    assert one != other and one.startswith("https://e.org/?*** (SHA-256 ")
    assert hashed("https://e.org/?page=1") == "https://e.org/?page=1"


def test_what_was_remembered_is_masked_wherever_it_stands():
    remember("ftp://reader1:Pa%24sword1@host/a?sig=00ff00ff")
    assert mask("bucket 'reader1:Pa%24sword1@host'; Pa$sword1, 00ff00ff, x00ff00ffx") == (
        "bucket '***@host'; ***, ***, x00ff00ffx"
    )
    assert mask("{'Authorization': 'Bearer abc.def'}") == "{'Authorization': 'Bearer ***'}"


def test_a_password_that_is_a_plain_word_is_masked_in_addresses_only():
    remember("postgresql://textmill:textmill@host/textmill")
    assert mask("textmill: postgresql://textmill:textmill@host/textmill") == "textmill: postgresql://***@host/textmill"


def test_variables_that_are_called_like_a_secret_are_known(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-0123456789")
    monkeypatch.setenv("SSL_KEY", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://me:Pr0xyPass@proxy")
    mask_logs()
    said = mask(f"hf_0123456789 false-0123456789 {tmp_path} Pr0xyPass")
    assert said == f"*** false-0123456789 {tmp_path} ***"


def test_a_mistake_never_says_a_secret():
    assert str(UserError("cannot read https://u:p@host/a")) == "cannot read https://***@host/a"


def test_errors_of_others_are_replaced_where_they_say_one():
    with (
        pytest.raises(RuntimeError, match=r"^OSError: \[Errno 5\] lost: 's3://\*\*\*@bucket/a'$") as raised,
        masked_errors(),
    ):
        raise OSError(5, "lost", "s3://k:s@bucket/a")
    assert raised.value.__suppress_context__
    with pytest.raises(KeyError, match=r"^'a'$"), masked_errors():
        raise KeyError("a")


class Answering(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def lines():
    """What the loggers of libraries write, from debugging messages on."""
    factory = logging.getLogRecordFactory()
    written, logger = io.StringIO(), logging.getLogger("urllib3")
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    mask_logs()
    yield written
    logging.setLogRecordFactory(factory)
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_no_log_line_of_a_library_says_a_secret(lines):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    requests.get(f"http://u:p@127.0.0.1:{server.server_port}/a.parquet?X-Amz-Signature=00ff", timeout=10)
    server.shutdown()
    server.server_close()
    assert '"GET /a.parquet?*** HTTP/1.1" 403' in lines.getvalue()
    assert "00ff" not in lines.getvalue()


def test_no_traceback_in_a_log_says_a_secret(lines):
    try:
        raise ValueError("ftp://u:p4ssword@host")
    except ValueError:
        logging.getLogger("urllib3.any").exception("lost %s", "ftp://u:p4ssword@host/%s")
    assert "lost ftp://***@host/%s" in lines.getvalue() and "ValueError: ftp://***@host" in lines.getvalue()
