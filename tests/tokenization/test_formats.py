"""Files: ours, tiktoken's, Hugging Face's, the seed's."""

import random
import shutil
import sys
from functools import partial
from itertools import groupby

import pytest
import regex
import tiktoken
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.errors import UserError
from tokenization.config import ENCODING_SIZES
from tokenization.formats import load_tokenizer, save_tokenizer, write_tiktoken
from tokenization.hugging_face import from_hugging_face, write_hugging_face
from tokenization.interchange import (
    from_legacy,
    from_tiktoken,
    load_any,
    merges_of,
    to_tiktoken,
    write_legacy,
)
from tokenization.patterns import NAMED
from tokenization.tokenizer import Tokenizer

BYTES = {bytes([b]): b for b in range(256)}


def test_saved_and_loaded_again(tokenizer, trained, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "copy")
    for file in ("ranks.tiktoken", "tokenizer.yaml", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "copy" / file).read_bytes() == (trained / file).read_bytes()
    loaded = load_tokenizer(tmp_path / "copy")
    assert (loaded.tokens, loaded.pattern, loaded.special_tokens) == (
        tokenizer.tokens,
        tokenizer.pattern,
        tokenizer.special_tokens,
    )


def states(write, folder, copies):
    """Copies of a folder as a kill leaves it, before everything that `write` changes there."""
    active = True

    def hook(event, arguments):
        nonlocal active
        if active and event in {"open", "os.rename", "os.remove"} and str(arguments[0]).startswith(str(folder)):
            active = False  # what copies is not what writes
            shutil.copytree(folder, copies / f"{len(list(copies.iterdir())):02}")
            active = True

    copies.mkdir()
    sys.addaudithook(hook)
    write(folder)
    active = False  # no hook can be taken away
    return sorted(copies.iterdir())


@pytest.mark.parametrize("write", [save_tokenizer, write_tiktoken])
def test_a_kill_while_one_tokenizer_replaces_another(write, tokenizer, tmp_path):
    """Ranks of one with the pattern and the special tokens of the other would give other ids without a word."""
    other = Tokenizer(BYTES, "gpt2", {"<|endoftext|>": 256})
    save_tokenizer(other, tmp_path / "out")
    killed = states(partial(write, tokenizer), tmp_path / "out", tmp_path / "killed")
    assert len(killed) > 8
    found = []
    for folder in (*killed, tmp_path / "out"):
        try:
            loaded = load_tokenizer(folder)
        except UserError as error:
            assert "is missing" in str(error)
            found.append("none")
        else:
            [same] = [each for each in (tokenizer, other) if each.special_tokens == loaded.special_tokens]
            assert (loaded.tokens, loaded.pattern) == (same.tokens, same.pattern)
            found.append("new" if same is tokenizer else "old")
        write(tokenizer, folder)
        assert load_tokenizer(folder).tokens == tokenizer.tokens
        assert not list(folder.glob(".*"))
    assert [name for name, _ in groupby(found)] == ["old", "none", "new"]


def write_saved(folder, pattern):
    """A folder as a tokenizer with this pattern was saved before patterns had to be portable."""
    save_tokenizer(Tokenizer(BYTES, "gpt2", {"<|endoftext|>": 256}), folder)
    content = yaml.safe_load((folder / "tokenizer.yaml").read_text(encoding="utf-8"))
    (folder / "tokenizer.yaml").write_text(yaml.safe_dump(content | {"pattern": pattern}), encoding="utf-8")
    return folder


OLDER = [
    r"\b\w+\b|\W", r"^\s+|\S+|\s+", r"(?i)'s|\w+|\W", r"\p{N}{1,3}+|[^\p{N}]+", r"[^\W\d_]+|[\W\d_]", r"\pL+|\PL+",
    r"\xe9|[\s\S]", r"\w+|[^\w\s]+|\s+", r"[[:alpha:]]+|[\s\S]",
]  # fmt: skip


@pytest.mark.parametrize("pattern", OLDER)
def test_an_older_tokenizer_cuts_words_as_it_was_trained(tmp_path, pattern):
    text = "  a\u200db, It'S 12345 é\n\n می\u200cخواهم ² end"
    tokens = dict(BYTES)
    words = [match.group().encode() for match in regex.finditer(pattern, text)]
    assert b"".join(words) == text.encode()
    for word in words:  # each word is a token, and so is what lies across two of them
        for end in range(2, len(word) + 1):
            tokens.setdefault(word[:end], len(tokens))
    folder = write_saved(tmp_path, pattern)
    ours = Tokenizer(tokens, load_tokenizer(folder).pattern.regex, {})
    assert [ours.token_bytes(i) for i in ours.encode_ordinary(text)] == words


@pytest.mark.parametrize("pattern", OLDER)
def test_an_older_tokenizer_is_saved_again_without_the_files_that_would_be_wrong(tmp_path, pattern, caplog):
    older = load_tokenizer(write_saved(tmp_path / "older", pattern))
    save_tokenizer(older, tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").pattern == older.pattern
    assert not (tmp_path / "again" / "tokenizer.json").exists()
    assert "no tokenizer.json for Hugging Face: the split pattern has" in caplog.text


def test_an_older_special_token_that_text_could_be_taken_for_is_saved_again(tokenizer, tmp_path, caplog):
    older = Tokenizer(tokenizer.tokens, "cl100k", {"<|endoftext|>": 500, "<|Ã©|>": 501})
    save_tokenizer(tokenizer, tmp_path)  # whose files for Hugging Face must not be taken for those of the other
    save_tokenizer(older, tmp_path)
    assert load_tokenizer(tmp_path).special_tokens == older.special_tokens
    assert not list(tmp_path.glob("tokenizer*.json"))
    assert "no tokenizer.json for Hugging Face: Hugging Face would take ordinary text" in caplog.text


@pytest.mark.parametrize("pattern", OLDER)
def test_an_older_tokenizer_does_not_leave_for_programs_that_read_its_pattern_differently(tmp_path, pattern):
    older = load_tokenizer(write_saved(tmp_path / "older", pattern))
    for write in (write_hugging_face, write_tiktoken, lambda tokenizer, _: to_tiktoken(tokenizer)):
        with pytest.raises(UserError, match="read differently"):
            write(older, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tiktoken_reads_the_ranks(tokenizer, trained, texts):
    tiktoken_load = pytest.importorskip("tiktoken.load")
    ranks = tiktoken_load.load_tiktoken_bpe(str(trained / "ranks.tiktoken"))
    assert ranks == tokenizer.tokens
    assert to_tiktoken(tokenizer).encode(texts[0], allowed_special="all") == tokenizer.encode(texts[0])


@pytest.mark.parametrize("pattern", NAMED)
def test_hugging_face_gives_the_same_ids(tokenizer, texts, pattern, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    ours = Tokenizer(tokenizer.tokens, pattern, tokenizer.special_tokens)
    write_hugging_face(ours, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*texts[:200], "", "  a\n\n b ", "it's [MASK] IT'S<|endoftext|>\t 12345 ...\n"]:
        ids = ours.encode(text, allowed_special="all")
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text
    assert from_hugging_face(tmp_path / "tokenizer.json").tokens == ours.tokens


def made_up(seed: int) -> Tokenizer:
    rng = random.Random(seed)
    tokens = dict(BYTES)
    while len(tokens) < 330:
        left, right = rng.choice([t for t in tokens if t in (b"a", b"b", b" ") or len(t) > 1]), rng.choice([b"a", b"b"])
        tokens.setdefault(left + right, len(tokens))
    return Tokenizer(tokens, "cl100k", {})


MADE_UP = [made_up(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    loaded = []
    for i, ours in enumerate(MADE_UP):
        folder = tmp_path_factory.mktemp(f"hugging-face-{i}")
        write_hugging_face(ours, folder)
        loaded.append(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
    return loaded


@settings(max_examples=200)
@given(which=st.integers(0, 2), text=st.text("ab ", max_size=80) | st.text(max_size=40))
def test_hugging_face_gives_the_same_ids_for_odd_vocabularies(theirs, which, text):
    assert theirs[which].encode(text).ids == MADE_UP[which].encode_ordinary(text)


def test_transformers_loads_the_folder(tokenizer, trained, texts):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(trained)
    text = f"{texts[3]}<|endoftext|>[MASK]"
    assert theirs(text).input_ids == tokenizer.encode(text, allowed_special="all")
    assert (theirs.eos_token_id, theirs.mask_token_id, len(theirs)) == (tokenizer.eot_id, 476, 480)


def test_legacy_round_trip(tokenizer, texts, tmp_path):
    write_legacy(tokenizer, tmp_path / "model")
    loaded = from_legacy(tmp_path / "model")
    assert loaded.encode_ordinary(texts[0]) == tokenizer.encode_ordinary(texts[0])
    assert loaded.special_tokens == tokenizer.special_tokens
    tokens = [bytes([b]) for b in range(256)]
    for left, right in merges_of(tokenizer):
        tokens.append(tokens[left] + tokens[right])
    assert tokens == list(tokenizer.tokens)


def test_the_seeds_own_model(shared_data, tmp_path):
    model = shared_data / "umb100k-1.model"
    loaded = from_legacy(model)
    assert loaded.pattern.name == "seed"
    write_legacy(loaded, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == model.read_bytes()
    text = "The University of Massachusetts Boston\n\n\t offers 1234 courses; it's déjà vu 漢字 …\r\n"
    assert loaded.decode(loaded.encode_ordinary(text)) == text
    assert loaded.encode_ordinary(text) == to_tiktoken(loaded).encode_ordinary(text)


def test_load_any(trained, tokenizer, tmp_path):
    for source in (trained, trained / "tokenizer.json", trained / "ranks.tiktoken"):
        assert load_any(str(source)).tokens == tokenizer.tokens
    with pytest.raises(UserError, match="nowhere is neither"):
        load_any("nowhere")


def test_a_plain_file_of_ranks_needs_a_pattern(trained, tokenizer, tmp_path):
    plain = tmp_path / "plain.tiktoken"
    plain.write_bytes((trained / "ranks.tiktoken").read_bytes())
    loaded = load_any(str(plain), "cl100k")
    assert (loaded.tokens, loaded.pattern, loaded.special_tokens) == (tokenizer.tokens, tokenizer.pattern, {})
    with pytest.raises(UserError, match=r"plain\.tiktoken holds ranks and no split pattern; say --pattern gpt2"):
        load_any(str(plain))
    for wrong, message in (("nope", "unknown split pattern"), (r"\w+", "leaves out"), ("[a&&b]|.", "differently")):
        with pytest.raises(UserError, match=message):
            load_any(str(plain), wrong)
    for source in (trained, trained / "ranks.tiktoken", trained / "tokenizer.json", "gpt2", "nowhere"):
        with pytest.raises(UserError, match=f"--pattern is for a .tiktoken file .*; {source} is not one"):
            load_any(str(source), "cl100k")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"some text\n", b""])
def test_a_file_that_is_not_a_tokenizer_is_refused_with_what_to_give(tmp_path, content):
    (tmp_path / "some.png").write_bytes(content)
    with pytest.raises(UserError, match=r"some\.png is not a tokenizer: give a folder of train_tokenizer"):
        load_any(str(tmp_path / "some.png"))


def test_named_encodings_are_asked_of_tiktoken(tmp_path, monkeypatch):
    """tiktoken checks the cached files' SHA-256, so that offline only their absence can be shown."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    for name in ENCODING_SIZES:
        with pytest.raises(UserError, match=rf"{name} is not in tiktoken's cache and cannot be .*TIKTOKEN_CACHE_DIR"):
            from_tiktoken(name)
    with pytest.raises(UserError, match="no usable tiktoken encoding 'nope'"):
        from_tiktoken("nope")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ranks.tiktoken", None, "ranks.tiktoken is missing"),
        ("ranks.tiktoken", "AA== 0\nnonsense\n", "line 2: not a base64 token"),
        ("ranks.tiktoken", "AA== 0\nAQ== 0\n", "one rank to two tokens"),
        ("ranks.tiktoken", "AA== 0\n", "lacks the byte 0x01"),
        ("tokenizer.yaml", "pattern: [", "is damaged"),
        ("tokenizer.yaml", "a: b", "is damaged: TokenizerYaml, pattern: Field required"),
        ("tokenizer.yaml", "- a", "is damaged: TokenizerYaml"),
        ("tokenizer.yaml", "pattern: 5\nspecial_tokens: {}", "TokenizerYaml, pattern: "),
        ("tokenizer.yaml", "pattern: gpt2\nspecial_tokens: 5", "TokenizerYaml, special_tokens: "),
        ("tokenizer.yaml", "pattern: gpt2\nspecial_tokens: {<s>: abc}", "TokenizerYaml, special_tokens.<s>: "),
        ("tokenizer.yaml", "pattern: gpt2\nspecial_tokens: {<s>: -4}", "TokenizerYaml, special_tokens.<s>: "),
        ("tokenizer.yaml", "pattern: gpt2\nspecial_tokens: {}\nrules: 5", "is damaged: TextRules"),
    ],
)
def test_damaged_folders(tokenizer, tmp_path, file, content, message):
    save_tokenizer(tokenizer, tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_a_line_of_a_legacy_file_that_does_not_fit(tmp_path):
    (tmp_path / "model").write_text("bpetokenizer v1\n\\w\n0\n97 98\n97 x\n")
    with pytest.raises(UserError, match="line 5"):
        from_legacy(tmp_path / "model")


# ---- vocabularies as large as tiktoken's


def so_many(count: int) -> dict[bytes, int]:
    """A vocabulary of this size, whose tokens are an earlier one and a byte more."""
    rng = random.Random(count)
    tokens = list(BYTES)
    known = set(tokens)
    ends = [bytes([b]) for b in " etaoinshrdlu\n\xc3\xa9".encode("latin-1") + b"ABC129.,"]
    while len(tokens) < count:
        token = rng.choice(tokens) + rng.choice(ends)
        if token not in known and len(token) < 12:
            known.add(token)
            tokens.append(token)
    return {token: i for i, token in enumerate(tokens)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base", "o200k_harmony"])
def test_encodings_of_tiktokens_size_keep_every_id(name, tmp_path, monkeypatch):
    """The public vocabularies are downloaded; here others of the same size take their place, between the same gaps."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    size = 100_256 if name == "cl100k_base" else 199_998
    monkeypatch.setattr("tiktoken_ext.openai_public.load_tiktoken_bpe", lambda *_, **__: so_many(size))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    theirs = tiktoken.get_encoding(name)
    ours = from_tiktoken(name)
    assert ours.vocab_size == theirs.n_vocab == ENCODING_SIZES[name]
    assert ours.special_tokens["<|endofprompt|>"] == (100_276 if name == "cl100k_base" else 200_018)
    save_tokenizer(ours, tmp_path)
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = from_hugging_face(tmp_path / "tokenizer.json")
    assert (again.tokens, again.special_tokens, again.pattern) == (ours.tokens, ours.special_tokens, ours.pattern)
    rng = random.Random(0)
    alphabet = " etaoinshrdluéABC129.,\n漢\U0001f600"
    for _ in range(200):
        pieces = ["".join(rng.choices(alphabet, k=rng.randrange(20))) for _ in range(5)]
        text = "".join(piece + rng.choice([*ours.special_tokens, ""]) for piece in pieces)
        ids = theirs.encode(text, allowed_special="all")
        assert ours.encode(text, allowed_special="all") == again.encode(text, allowed_special="all") == ids
        assert loaded.encode(text).ids == fast(text).input_ids == ids
        assert loaded.decode(ids, skip_special_tokens=False) == theirs.decode(ids) == text


def test_one_of_two_special_tokens_with_one_id_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr("tiktoken_ext.openai_public.load_tiktoken_bpe", lambda *_, **__: BYTES)
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    special = from_tiktoken("o200k_harmony").special_tokens
    assert (special["<|endofprompt|>"], "<|reserved_200018|>" in special) == (200_018, False)
    assert "<|reserved_200018|> has the id of another special token and is left out" in caplog.text
