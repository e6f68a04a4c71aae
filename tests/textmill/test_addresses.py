"""Addresses that name variables of the environment in place of a secret."""

from __future__ import annotations

import pytest

from textmill import secrets
from textmill.addresses import expand, is_resolvable, not_masked, shown, without_secrets
from textmill.errors import UserError
from textmill.secrets import mask


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(secrets, "_known", set())
    monkeypatch.setenv("DATA_PASSWORD", "p@ss/word-1")
    monkeypatch.setenv("SIGNED", "https://example.org/a?sig=a%3Db")
    monkeypatch.setenv("BUCKET", "s3://bucket/store")
    monkeypatch.delenv("MISSING", raising=False)


def test_variables_are_looked_up_where_an_address_is_opened():
    assert expand("https://me:${DATA_PASSWORD}@example.org/") == "https://me:p%40ss%2Fword-1@example.org/"
    assert expand("${SIGNED}") == expand("$SIGNED") == "https://example.org/a?sig=a%3Db"
    assert expand("${BUCKET}/below") == "s3://bucket/store/below"
    assert expand("https://me:pa$word@example.org/$a") == "https://me:pa$word@example.org/$a"
    assert mask("the password p@ss/word-1") == "the password ***"


def test_a_variable_that_is_not_set_is_a_mistake():
    assert not is_resolvable("s3://${MISSING}") and is_resolvable("${BUCKET}")
    with pytest.raises(UserError, match=r"^s3://\$\{MISSING\} names a variable .*: export MISSING=…$"):
        expand("s3://${MISSING}")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("${BUCKET}/a", "s3://bucket/store/a"), ("${SIGNED}", "${SIGNED}"), ("${MISSING}/a", "${MISSING}/a"),
        ("sftp://me:${DATA_PASSWORD}@host/a", "sftp://me:${DATA_PASSWORD}@host/a"),
        ("sftp://me:literal@host/a", "sftp://***@host/a"), ("data/*.parquet", "data/*.parquet"),
    ],
)  # fmt: skip
def test_what_is_shown_of_an_address_says_no_secret(address, expected):
    assert shown(address) == expected


@pytest.mark.parametrize("address", ["https://***@host/a", "https://host/a?***"])
def test_a_masked_address_is_refused(address):
    with pytest.raises(ValueError, match=r"holds \*\*\* where a secret was"):
        not_masked(address)


def test_a_signed_url_is_known_without_its_query_and_any_other_with_it():
    signed = "https://me:pw@e.org/a.parquet?X-Amz-Date=20260101T000000Z&X-Amz-Signature={}"
    assert {without_secrets(signed.format(sign)) for sign in ("0f", "1e")} == {"https://e.org/a.parquet"}
    assert without_secrets("https://e.org/get?file=a.parquet") == "https://e.org/get?file=a.parquet"
    files = {without_secrets(f"https://e.org/get?file={name}&access_token=0f1e2d") for name in "ab"}
    assert files == {"https://e.org/get?file=a", "https://e.org/get?file=b"}
