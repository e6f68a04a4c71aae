import gzip
import ssl
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard

from scraping.crawling import connections
from scraping.crawling.connections import is_global
from scraping.crawling.fetch import (
    Fetcher,
    FetchError,
    ForbiddenAddressError,
    Request,
    Response,
    Stopped,
    TransientHostError,
)  # fmt: skip


@pytest.fixture
def fetcher():
    fetcher = Fetcher("textmill/test (+me@example.org)", private_addresses=True)
    yield fetcher
    fetcher.close()


def get(fetcher, url, *, timeout=5.0, max_bytes=100_000, skip_body=None):
    return fetcher.fetch(Request(url, delay=0, timeout=timeout, max_bytes=max_bytes, skip_body=skip_body))


def test_one_connection_and_who_we_are(site, fetcher):
    site.routes["/"] = "<p>hello"
    for _ in range(3):
        assert get(fetcher, site.url()).body == b"<p>hello"
    assert len({hit.connection for hit in site.log}) == 1
    headers = site.log[0].headers
    assert headers["User-Agent"] == "textmill/test (+me@example.org)"
    assert headers["Host"] == site.host


def test_a_connection_that_the_server_closed_is_opened_again(site, fetcher, answer):
    site.routes["/"] = answer("hello", headers={"Connection": "close"})
    assert [get(fetcher, site.url()).body for _ in range(2)] == [b"hello"] * 2

    def close_silently(handler):
        handler.close_connection = True
        return answer("bye")

    site.routes["/silent"] = close_silently
    assert [get(fetcher, site.url("/silent")).body for _ in range(3)] == [b"bye"] * 3


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_content_encodings(site, fetcher, answer, encoding, compress):
    site.routes["/"] = answer(compress(b"text " * 100), headers={"Content-Encoding": encoding})
    assert get(fetcher, site.url()).body == b"text " * 100


@pytest.mark.parametrize("encoding", ["none", "UTF-8", "identity", "text/html", "binary", "8bit", ""])
def test_names_that_are_no_content_encoding_are_passed_over(site, fetcher, answer, encoding):
    site.routes["/"] = answer("<p>hello", headers={"Content-Encoding": encoding})
    site.routes["/gzip"] = answer(gzip.compress(b"<p>hello"), headers={"Content-Encoding": f"{encoding}, gzip"})
    assert get(fetcher, site.url()).body == b"<p>hello"
    assert get(fetcher, site.url("/gzip")).body == b"<p>hello"


def test_informational_answers_are_not_the_answer(site, fetcher):
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n"

    def hinted(handler):
        handler.wfile.write(hints + b"HTTP/1.1 102 Processing\r\n\r\n" + final + b"hello")
        handler.close_connection = False

    site.routes["/"] = hinted
    for _ in range(2):  # over one connection: no answer is taken for the next one's
        response = get(fetcher, site.url())
        assert (response.status, response.body, response.headers.get("Link")) == (200, b"hello", None)


def test_endless_informational_answers_are_cut_at_the_deadline(site, fetcher):
    site.routes["/"] = lambda handler: drip(handler, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")
    with pytest.raises(TransientHostError, match="in time"):
        get(fetcher, site.url(), timeout=0.5)


def test_cookies_are_brought_back_to_their_host_alone(site, other_site, fetcher, answer):
    site.routes["/"] = answer("x", headers={"Set-Cookie": "id=1; Path=/; HttpOnly"})
    site.routes["/next"] = other_site.routes["/"] = "y"
    assert [get(fetcher, site.url(path)).cookies for path in ("/", "/next")] == [0, 1]
    get(fetcher, other_site.url())
    assert [hit.headers.get("Cookie") for hit in site.log + other_site.log] == [None, "id=1", None]
    another = Fetcher("textmill/test", private_addresses=True)
    get(another, site.url("/next"))
    another.close()
    assert "Cookie" not in site.log[-1].headers, "a cookie lives as long as its crawl"


def test_a_bomb_is_cut_after_the_limit(site, fetcher, answer):
    site.routes["/"] = answer(gzip.compress(bytes(200_000_000)), headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="larger than"):
        get(fetcher, site.url())


def test_limits_on_bytes(site, fetcher, answer):
    site.routes["/declared"] = answer(b"x", headers={"Content-Length": "100001"})
    site.routes["/long"] = answer(bytes(100_001))
    site.routes["/just"] = answer(bytes(100_000))
    for path in ("/declared", "/long"):
        with pytest.raises(FetchError, match="larger than 100,000 bytes"):
            get(fetcher, site.url(path))
    assert len(get(fetcher, site.url("/just")).body) == 100_000


def drip(handler, head: bytes, drop: bytes = b"x"):
    handler.wfile.write(head)
    try:
        for _ in range(600):
            handler.wfile.write(drop)
            time.sleep(0.05)
    except OSError:
        pass  # cut, as it should be


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTT",
    ],
    ids=["body", "body without length", "header", "status line"],
)
def test_a_dripping_server_is_cut_at_the_deadline(site, fetcher, head):
    site.routes["/"] = lambda handler: drip(handler, head)
    start = time.monotonic()
    with pytest.raises(FetchError, match=r"took too long|in time"):
        get(fetcher, site.url(), timeout=0.5)
    assert time.monotonic() - start < 15


def test_a_silent_server_is_cut_at_the_deadline(site, fetcher):
    site.routes["/"] = lambda handler: time.sleep(30)
    start = time.monotonic()
    with pytest.raises(TransientHostError, match="in time"):
        get(fetcher, site.url(), timeout=0.5)
    assert time.monotonic() - start < 15


def test_a_truncated_body_is_trouble(site, fetcher):
    site.routes["/"] = lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf")
    with pytest.raises(TransientHostError, match="broke off"):
        get(fetcher, site.url())


GARBAGE = pytest.mark.parametrize(
    "garbage", [b"\x00\x01\x02\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"]
)


@GARBAGE
def test_garbage_on_a_kept_connection_is_not_asked_for_again_at_once(site, fetcher, garbage):
    site.routes["/"] = "fine"
    site.routes["/broken"] = lambda handler: handler.wfile.write(garbage)
    assert get(fetcher, site.url()).body == b"fine"
    with pytest.raises(TransientHostError):
        get(fetcher, site.url("/broken"))
    assert site.paths() == ["/", "/broken"]
    assert len({hit.connection for hit in site.log}) == 1


@GARBAGE
def test_garbage_is_trouble(site, fetcher, garbage):
    site.routes["/"] = lambda handler: handler.wfile.write(garbage)
    with pytest.raises(TransientHostError):
        get(fetcher, site.url())


@pytest.mark.parametrize("head", ["Content-Type: text/html\r\n", "Content-Type: text/html\r\nX-Robots-T", ""])
def test_an_answer_that_is_cut_off_in_its_headers_is_trouble(site, fetcher, head):
    site.routes["/"] = lambda handler: handler.wfile.write(f"HTTP/1.1 200 OK\r\n{head}".encode())
    with pytest.raises(TransientHostError, match="cut off in its headers"):
        get(fetcher, site.url())


@pytest.mark.parametrize("line", ["no header", ": no name", "X Y: two words", "é: 1", "<html>"])
def test_headers_behind_a_line_that_is_none_count(site, fetcher, line):
    head = f"HTTP/1.1 103 Early Hints\r\n{line}\r\n\r\nHTTP/1.1 200 OK\r\n{line}\r\nX-Robots-Tag : noindex\r\n"
    answer = f"{head}X-Long: a\r\n b\r\n{line}\r\nContent-Length: 2\r\n\r\nokay".encode()
    site.routes["/"] = lambda handler: handler.wfile.write(answer)
    response = get(fetcher, site.url())
    assert (response.status, response.body, response.headers["X-Robots-Tag"]) == (200, b"ok", "noindex")
    assert response.headers["X-Long"].split() == ["a", "b"]


def test_a_compressed_body_that_is_cut_off_is_trouble(site, fetcher):
    for encoding, body in (("gzip", gzip.compress(b"text " * 1000)), ("deflate", zlib.compress(b"text " * 1000))):
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode()
        site.routes["/"] = lambda handler, answer=head + body[:-12]: handler.wfile.write(answer)
        with pytest.raises(TransientHostError, match="broke off"):
            get(fetcher, site.url())


def test_broken_compression(site, fetcher, answer):
    site.routes["/"] = answer(b"\x1f\x8bnot gzip beyond its mark", headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="cannot be decompressed"):
        get(fetcher, site.url())


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_a_page_that_is_only_said_to_be_compressed(site, fetcher, answer, encoding):
    site.routes["/"] = answer(b"<p>plain", headers={"Content-Encoding": encoding})
    assert get(fetcher, site.url()).body == b"<p>plain"


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, br"])
def test_encodings_that_were_not_asked_for(site, fetcher, answer, encoding):
    site.routes["/"] = answer(zstandard.compress(b"text"), headers={"Content-Encoding": encoding})
    with pytest.raises(FetchError, match=f"content encoding {encoding}"):
        get(fetcher, site.url())


def test_a_skipped_body_is_not_read_and_the_next_request_works(site, fetcher, answer):
    site.routes["/big"] = answer(bytes(5_000_000), content_type="video/mp4")
    site.routes["/small"] = answer("gone", 404, headers={"Content-Encoding": "br"})
    response = get(fetcher, site.url("/big"), skip_body=lambda response: response.content_type)
    assert (response.skip_reason, response.body) == ("video/mp4", b"")
    response = get(fetcher, site.url("/small"), skip_body=lambda response: "status")
    assert (response.status, response.body) == (404, b"")
    site.routes["/"] = "next"
    assert get(fetcher, site.url()).body == b"next"
    assert site.log[-1].connection == site.log[-2].connection, "a small skipped body does not cost the connection"


def test_private_addresses_are_refused_before_connecting(site):
    fetcher = Fetcher("textmill/test", resolver=lambda host, port: [("127.0.0.1", int(site.host.split(":")[1]))])
    with pytest.raises(ForbiddenAddressError, match=r"public\.example has the private address 127\.0\.0\.1"):
        get(fetcher, "http://public.example/")
    fetcher.close()
    assert site.log == []


def test_the_vetted_address_is_the_one_connected_to(site):
    answers = iter([[("127.0.0.1", int(site.host.split(":")[1]))], [("10.0.0.1", 80)]])
    fetcher = Fetcher("textmill/test", private_addresses=True, resolver=lambda host, port: next(answers))
    site.routes["/"] = "hello"
    assert get(fetcher, "http://any.example/").body == b"hello"
    assert site.log[0].headers["Host"] == "any.example"
    fetcher.close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("64:ff9b::5db8:d822", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("::1", False), ("fe80::1%eth0", False), ("fd00::1", False),
        ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("::", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert is_global(address) is public


def test_all_addresses_are_tried(site):
    addresses = [("127.0.0.1", 1), ("::1", 1), ("127.0.0.1", int(site.host.split(":")[1]))]
    fetcher = Fetcher("textmill/test", private_addresses=True, resolver=lambda host, port: addresses)
    site.routes["/"] = "hello"
    assert get(fetcher, "http://any.example/").body == b"hello"
    del addresses[2]
    fetcher.leave("any.example")
    with pytest.raises(TransientHostError, match=r"connection refused|no answer"):
        get(fetcher, "http://any.example/")
    fetcher.close()


def test_hosts_of_one_address_take_turns(site):
    address = [("127.0.0.1", int(site.host.split(":")[1]))]
    fetcher = Fetcher("textmill/test", private_addresses=True, resolver=lambda host, port: address)

    def slowly(handler):
        time.sleep(0.05)
        return "hello"

    site.routes["/"] = slowly
    requests = [Request(f"http://{n}.example/", delay=0.05, timeout=20, max_bytes=100) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert {response.status for response in pool.map(fetcher.fetch, requests)} == {200}
    starts = sorted(hit.start for hit in site.log)
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(starts))
    fetcher.close()


def test_so_many_connections_are_kept_and_no_more(site, monkeypatch):
    monkeypatch.setattr(connections, "_MAX_KEPT", 5)
    address = [("127.0.0.1", int(site.host.split(":")[1]))]
    fetcher = Fetcher("textmill/test", private_addresses=True, resolver=lambda host, port: address)
    site.routes["/"] = "hello"
    before = len(list(Path("/proc/self/fd").iterdir()))
    for n in range(40):
        assert get(fetcher, f"http://{n}.example/").status == 200
    assert len(fetcher._connections._open) == 5
    for n in range(35, 40):
        get(fetcher, f"http://{n}.example/")
    assert len({hit.connection for hit in site.log}) == 40, "the ones used last are kept"
    fetcher.close()
    deadline = time.time() + 60  # the server's ends are in this process, too
    while len(list(Path("/proc/self/fd").iterdir())) > before + 1 and time.time() < deadline:
        time.sleep(0.01)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_unresolvable_hosts_are_trouble(fetcher):
    with pytest.raises(TransientHostError, match=r"cannot resolve no-such-host\.invalid"):
        get(fetcher, "http://no-such-host.invalid/")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120), ("0", 0), ("", None), ("soon", None), ("²", None), ("9" * 5000, None),
        ("Mon, 01 Jan 10000000000 00:00:00 GMT", None),
        (formatdate(1000, usegmt=True), 400),
    ],
)  # fmt: skip
def test_retry_after(value, seconds):
    response = Response("http://a/", 503, {"Retry-After": value})
    assert response.retry_after(now=600) == seconds
    assert Response("http://a/", 503, {"Retry-After": formatdate(0)}).retry_after(now=600) == 0


def test_retry_after_pauses_the_host(site, fetcher, answer):
    site.routes["/"] = answer(status=429, headers={"Retry-After": "300"})
    assert get(fetcher, site.url()).status == 429
    assert 240 < fetcher.gate(site.host).seconds_left() <= 300


def test_interrupting_ends_a_read(site, fetcher):
    site.routes["/"] = lambda handler: time.sleep(30)
    threading.Timer(0.2, fetcher.interrupt).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        get(fetcher, site.url(), timeout=30)
    assert time.monotonic() - start < 15


def test_certificates_are_checked_by_name_although_an_address_is_connected_to(tmp_path, monkeypatch):
    key, certificate = self_signed("good.example", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), SecureHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr("scraping.crawling.connections._tls_context", None)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetcher = Fetcher(
        "textmill/test", private_addresses=True, resolver=lambda host, port: [("127.0.0.1", server.server_port)]
    )
    assert get(fetcher, "https://good.example/").body == b"secret"
    with pytest.raises(TransientHostError, match="certificate refused"):
        get(fetcher, "https://bad.example/")
    monkeypatch.setattr("scraping.crawling.connections._tls_context", None)
    monkeypatch.delenv("SSL_CERT_FILE")
    fetcher.leave("good.example")
    with pytest.raises(TransientHostError, match="certificate refused"):
        get(fetcher, "https://good.example/")
    fetcher.close()
    server.shutdown()
    server.server_close()
    monkeypatch.setattr("scraping.crawling.connections._tls_context", None)


class SecureHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_):
        pass


def self_signed(name: str, folder):
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "key.pem", folder / "certificate.pem"
