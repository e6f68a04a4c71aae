"""Token files of other trainers: imported, exported and inspected, byte for byte and with their documents."""

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows.cli.tokenizer import app
from textmill.errors import UserError
from tokenization.arrays import TokenArrays
from tokenization.token_files import exporting, readers
from tokenization.token_files.exporting import export_arrays
from tokenization.token_files.importing import import_arrays, new_folder
from tokenization.token_files.readers import open_token_file
from tokenization.tokenizer import Tokenizer

EOT = 300
BYTES = {bytes([b]): b for b in range(256)}
NARROW = Tokenizer(BYTES, "gpt2", {"<|endoftext|>": EOT})
WIDE = Tokenizer(BYTES, "gpt2", {"<|endoftext|>": EOT, "<|last|>": 70_000})
DOCUMENTS = [[1, 2, 3], [4], [], [5, 6], [7]]
FLAT = [1, 2, 3, EOT, 4, EOT, EOT, 5, 6, EOT, 7, EOT]
TEXTMILL = Path(sys.executable).parent / "textmill"


def bare(path, tokens, dtype="<u2"):
    np.array(tokens, dtype).tofile(path)
    return path


def with_header(path, tokens, magic=20240520, version=1, dtype="<u2"):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + np.array(tokens, dtype).tobytes())
    return path


def megatron(path, documents, code=8, dtype="<u2"):
    """documents: of sequences of tokens. Written from the description of the format alone."""
    sequences = [sequence for document in documents for sequence in document]
    path.write_bytes(b"".join(np.array(sequence, dtype).tobytes() for sequence in sequences))
    sizes = [len(sequence) for sequence in sequences]
    places = [sum(sizes[:i]) * np.dtype(dtype).itemsize for i in range(len(sizes))]
    bounds = [sum(map(len, documents[:i])) for i in range(len(documents) + 1)]
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sizes), len(bounds))
    index += struct.pack(f"<{len(sizes)}i{len(sizes)}q{len(bounds)}q", *sizes, *places, *bounds)
    path.with_suffix(".idx").write_bytes(index)
    return path


def imported(out, train, validation=None, tokenizer=NARROW, **how):
    splits = {"train": [open_token_file(path, **how) for path in train]}
    splits["validation"] = [open_token_file(path, **how) for path in validation or train]
    import_arrays(splits, tokenizer, out)
    return TokenArrays(out)


def documents_of(arrays):
    return [arrays.document(i).tolist() for i in range(arrays.documents)]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nanogpt_both_ways(tmp_path):
    train, val = bare(tmp_path / "train.bin", FLAT), bare(tmp_path / "val.bin", [8, EOT])
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Trap()))
    arrays = imported(tmp_path / "ours", [train], [val])
    assert documents_of(arrays) == [[*document, EOT] for document in DOCUMENTS]
    assert (arrays.bytes, arrays.vocab_size, arrays.token_bytes[:3].tolist()) == (7, 301, [1, 1, 1])
    assert [path.name for path in export_arrays(tmp_path / "ours", tmp_path / "out", "nanogpt")] == [
        "train.bin",
        "val.bin",
    ]
    assert files(tmp_path / "out") == {"train.bin": train.read_bytes(), "val.bin": val.read_bytes()}
    bare(tmp_path / "wide.bin", FLAT, "<u4")
    assert documents_of(imported(tmp_path / "wide", [tmp_path / "wide.bin"], dtype="uint32")) == documents_of(arrays)


def sprung():
    raise AssertionError("a pickle was read")


class Trap:
    def __reduce__(self):
        return sprung, ()


@pytest.mark.parametrize(
    ("magic", "version", "dtype", "tokenizer"), [(20240520, 1, "<u2", NARROW), (20240801, 7, "<u4", WIDE)]
)
def test_llm_c_both_ways(tmp_path, magic, version, dtype, tokenizer):
    first = with_header(tmp_path / "a.bin", [EOT, 1, 2, EOT, 3, EOT, EOT], magic, version, dtype)
    cut = with_header(tmp_path / "b.bin", [4, EOT, 5, 6], magic, version, dtype)  # begins and ends inside of documents
    arrays = imported(tmp_path / "ours", [first, cut], [first], tokenizer)
    assert documents_of(arrays) == [[1, 2, EOT], [3, EOT], [EOT], [EOT], [4, EOT], [5, 6]]
    export_arrays(tmp_path / "ours", tmp_path / "out", "llm.c")
    assert files(tmp_path / "out") == {
        "train_000000.bin": first.read_bytes(),
        "train_000001.bin": cut.read_bytes(),
        "val_000000.bin": first.read_bytes(),
    }


def test_documents_of_llm_c_begin_with_the_end_of_text_and_ours_end_with_it(tmp_path):
    path = with_header(tmp_path / "a.bin", [EOT, 1, 2, EOT, EOT, 3])
    assert documents_of(imported(tmp_path / "ours", [path])) == [[1, 2, EOT], [EOT], [3, EOT]]


@pytest.mark.parametrize(
    ("code", "dtype", "tokenizer"), [(8, "<u2", NARROW), (4, "<i4", WIDE), (5, "<i8", WIDE), (3, "<i2", NARROW)]
)
def test_megatron_both_ways(tmp_path, code, dtype, tokenizer):
    path = megatron(tmp_path / "some_document.bin", [[[*document, EOT]] for document in DOCUMENTS], code, dtype)
    arrays = imported(tmp_path / "ours", [path], tokenizer=tokenizer)
    assert documents_of(arrays) == [[*document, EOT] for document in DOCUMENTS]
    written = export_arrays(tmp_path / "ours", tmp_path / "out", "megatron")
    assert [file.name for file in written] == ["train.bin", "validation.bin"]
    if (code, tokenizer) in ((8, NARROW), (4, WIDE)):  # as Megatron chooses the dtype itself
        assert written[0].read_bytes() == path.read_bytes()
        assert written[0].with_suffix(".idx").read_bytes() == path.with_suffix(".idx").read_bytes()


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.lists(st.sampled_from([1, 2, EOT]), max_size=4), max_size=3), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_documents_of_megatron_keep_their_bounds(tmp_path_factory, documents, block):
    """Whatever sequences they are of, with the end-of-text token at the end, inside or not at all."""
    folder = tmp_path_factory.mktemp("megatron")
    path = megatron(folder / "x.bin", documents)
    if not any(sequence for document in documents for sequence in document):
        with pytest.raises(UserError, match="holds no tokens"):
            open_token_file(path)
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in (readers, exporting):
            patch.setattr(module, "BLOCK", block)
        arrays = imported(folder / "ours", [path])
        whole = [[token for sequence in document for token in sequence] for document in documents]
        assert documents_of(arrays) == [d if d[-1:] == [EOT] else [*d, EOT] for d in whole]
        export_arrays(folder / "ours", folder / "out", "megatron")
    assert documents_of(imported(folder / "again", [folder / "out" / "train.bin"])) == documents_of(arrays)


def test_megatron_reads_what_we_write(tmp_path):
    indexed = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="needs megatron-core, on PYTHONPATH for instance"
    )
    for tokenizer, dtype in ((NARROW, np.uint16), (WIDE, np.int32)):
        source = bare(tmp_path / "train.bin", FLAT)
        folder = tmp_path / str(tokenizer.vocab_size)
        imported(folder / "ours", [source], tokenizer=tokenizer)
        export_arrays(folder / "ours", folder / "out", "megatron")
        dataset = indexed.IndexedDataset(str(folder / "out" / "train"))
        assert [dataset[i].tolist() for i in range(len(dataset))] == [[*document, EOT] for document in DOCUMENTS]
        assert dataset.document_indices.tolist() == list(range(len(DOCUMENTS) + 1))
        assert dataset.index.dtype == dtype
        builder = indexed.IndexedDatasetBuilder(str(folder / "theirs.bin"), dtype=dtype)
        for document in DOCUMENTS:
            builder.add_document([*document, EOT], [len(document) + 1])
        builder.finalize(str(folder / "theirs.idx"))
        for suffix in (".bin", ".idx"):
            ours = (folder / "out" / "train").with_suffix(suffix)
            assert ours.read_bytes() == (folder / "theirs").with_suffix(suffix).read_bytes()


def damaged(index, at, form, *values):
    content = bytearray(index.read_bytes())
    struct.pack_into(form, content, at, *values)
    index.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path, index: damaged(index, 9, "<Q", 2), "has version 2"),
        (lambda path, index: damaged(index, 17, "<B", 6), "names the dtype 6, which is none of integers"),
        (lambda path, index: damaged(index, 18, "<Q", 6), "should have"),
        (lambda path, index: damaged(index, 34, "<i", -1), "sequences do not follow one another"),
        (lambda path, index: damaged(index, 34 + 5 * 4, "<q", 2), "sequences do not follow one another"),
        (lambda path, index: damaged(index, 34 + 5 * 12 + 8, "<q", 5), "bounds of documents are not in order"),
        (lambda path, index: index.write_bytes(index.read_bytes()[:20]), "fewer than its header"),
        (lambda path, index: index.write_bytes(index.read_bytes() + bytes(5)), "a mode for each sequence"),
        (lambda path, index: path.write_bytes(path.read_bytes()[:-2]), "has 22 bytes but its index is of 24"),
    ],
)
def test_a_damaged_index_is_one_line(tmp_path, harm, message):
    path = megatron(tmp_path / "x.bin", [[[*document, EOT]] for document in DOCUMENTS])
    harm(path, path.with_suffix(".idx"))
    with pytest.raises(UserError, match=message) as error:
        open_token_file(path)
    assert "\n" not in str(error.value)


def test_refusals_are_one_line_and_leave_nothing(tmp_path):
    train = bare(tmp_path / "train.bin", FLAT)
    (tmp_path / "empty.bin").touch()
    (tmp_path / "odd.bin").write_bytes(b"abc")
    (tmp_path / "text.txt").write_text("no tokens")
    for path, how, message in (
        ("nowhere.bin", {}, "is not a file"),
        ("empty.bin", {}, "holds no tokens"),
        ("odd.bin", {}, "3 bytes, which is not a multiple of uint16's size"),
        ("text.txt", {}, "is not a token file"),
        ("train.bin", {"form": "llm.c"}, "is not a file of llm.c: it reads as nanogpt"),
        ("train.bin", {"dtype": "float32"}, "uint16, uint32 or int64, not float32"),
        (with_header(tmp_path / "v9.bin", [1], version=9).name, {}, "has version 9"),
        (bare(tmp_path / "wide.bin", FLAT, "<u4").name, {}, "looks like uint32"),
    ):
        with pytest.raises(UserError, match=message):
            open_token_file(tmp_path / path, **how)
    short = with_header(tmp_path / "short.bin", FLAT)
    short.write_bytes(short.read_bytes()[:-2])
    with pytest.raises(UserError, match="should hold 12 tokens"):
        open_token_file(short)
    for tokens in ([1, 2, 301, EOT], [1, 2, 260, EOT]):  # beyond the vocabulary, and in a gap of it
        with pytest.raises(UserError, match=rf"has the token {tokens[2]} near 2, which is not an id"):
            imported(tmp_path / "out", [bare(tmp_path / "other.bin", tokens)])
    with pytest.raises(UserError, match="no files for validation"):
        import_arrays({"train": [open_token_file(train)], "validation": []}, NARROW, tmp_path / "out")
    assert not list(tmp_path.glob("*out*")) + list(tmp_path.glob(".*"))
    imported(tmp_path / "ours", [train])
    with pytest.raises(UserError, match="exists already"):
        imported(tmp_path / "ours", [train])
    with pytest.raises(UserError, match="token arrays of ours already"):
        readers.token_files([tmp_path / "ours"])


def test_what_a_format_cannot_hold_is_not_exported(tmp_path):
    inside = megatron(tmp_path / "x.bin", [[[1, EOT, 2, EOT]], [[3, EOT]]])
    imported(tmp_path / "ours", [inside])
    for form in ("nanogpt", "llm.c"):
        with pytest.raises(UserError, match="2 documents in train but 3 ends of text"):
            export_arrays(tmp_path / "ours", tmp_path / "out", form)
    imported(tmp_path / "wide", [inside], tokenizer=WIDE)
    with pytest.raises(UserError, match=r"nanoGPT reads uint16, but .* has 70,001 ids"):
        export_arrays(tmp_path / "wide", tmp_path / "out", "nanogpt")
    assert not list(tmp_path.glob("*out*"))


def test_an_index_of_another_kind_is_not_passed_over(tmp_path):
    path = megatron(tmp_path / "x.bin", [[[*document, EOT]] for document in DOCUMENTS])
    for magic in (b"MMIDIDY\x00\x00", b"TNTIDX\x00\x00\x01", b""):
        index = path.with_suffix(".idx")
        index.write_bytes(magic + index.read_bytes()[9:] if magic else b"")
        for form in (None, "megatron", "llm.c"):
            with pytest.raises(UserError, match=r"x\.idx is not an index of Megatron-LM.*or give the format nanogpt"):
                open_token_file(path, form)
        assert open_token_file(path, "nanogpt").tokens.tolist() == FLAT


def test_a_header_without_its_number_is_not_read_as_tokens(tmp_path):
    path = with_header(tmp_path / "x.bin", FLAT, magic=20240521)
    for form in (None, "llm.c"):
        with pytest.raises(UserError, match=r"begins as llm\.c's header of 1,024 bytes does.*\(20240521\)"):
            open_token_file(path, form)
    assert len(open_token_file(path, "nanogpt").tokens) == 512 + len(FLAT)


def test_integers_of_another_size_are_told_apart(tmp_path):
    path = bare(tmp_path / "x.bin", FLAT, "<i8")
    with pytest.raises(UserError, match="looks like int64: give its dtype, int64"):
        open_token_file(path)
    with pytest.raises(UserError, match=r"looks like int64, because every second uint32 is 0"):
        open_token_file(path, dtype="uint32")
    assert documents_of(imported(tmp_path / "ours", [path], dtype="int64")) == [[*d, EOT] for d in DOCUMENTS]
    narrow = with_header(tmp_path / "narrow.bin", FLAT)
    index = megatron(tmp_path / "index.bin", [[[*document, EOT]] for document in DOCUMENTS])
    for known in (narrow, index):
        with pytest.raises(UserError, match="says that its tokens are uint16, not uint32; leave the dtype out"):
            open_token_file(known, dtype="uint32")
        assert open_token_file(known, dtype="uint16").tokens.tolist() == FLAT


def test_a_file_is_taken_once_by_whatever_path(tmp_path, monkeypatch):
    for name in ("train", "valid"):
        megatron(tmp_path / f"{name}.bin", [[[1, EOT]]])
    (tmp_path / "link.bin").symlink_to("train.bin")
    train, valid = tmp_path / "train.bin", tmp_path / "valid.bin"
    every = readers.split_files([*sorted(tmp_path.glob("[tv]*")), tmp_path / "link.bin"])
    assert every == {"train": [train], "validation": [valid]}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.bin").write_bytes(b"1234")
    for held_out in (Path("b.bin"), Path("../") / tmp_path.name / "b.bin", tmp_path / "b.bin"):
        split = readers.split_files([train, tmp_path / "b.bin", Path("train.bin")], [held_out, tmp_path / "b.bin"])
        assert split == {"train": [train], "validation": [held_out]}


def test_a_file_called_validation_is_not_dropped(tmp_path):
    train, val, held_out = (bare(tmp_path / f"{name}.bin", FLAT) for name in ("train", "val", "held"))
    with pytest.raises(UserError, match=r"val\.bin is held out by its name, but --validation names other files"):
        readers.split_files([train, val], [held_out])
    assert readers.split_files([train, val], [held_out, val])["validation"] == [held_out, val]


def test_one_call_at_a_time_fills_a_folder(tmp_path):
    out = tmp_path / "ours"
    with new_folder(out) as folder:
        (folder / "mine").touch()
        with pytest.raises(UserError, match=r"another run is writing to .*ours"), new_folder(out):
            pass
        (tmp_path / "link").symlink_to("ours")
        with pytest.raises(UserError, match=r"another run is writing to .*link"), new_folder(tmp_path / "link"):
            pass
    assert [path.name for path in out.iterdir()] == ["mine"]
    with pytest.raises(UserError, match="exists already"), new_folder(out):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "ours"]


def test_a_call_that_looked_before_another_ended_does_not_take_its_folder(tmp_path, monkeypatch):
    """The lock is taken just after the other renamed the folder, or removed it."""
    out, unfinished = tmp_path / "ours", tmp_path / ".ours.unfinished"
    for end in (lambda: unfinished.rename(out), unfinished.rmdir):

        def late(descriptor, end=end):
            end()
            return True

        monkeypatch.setattr("textmill.kept.try_lock", late)
        with pytest.raises(UserError, match="another run is writing to"), new_folder(out):
            pytest.fail("the folder was given to two")
        assert not unfinished.exists()
        if out.exists():
            out.rmdir()


def test_an_empty_folder_is_filled_where_it_is(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("elsewhere")
    for name, real in (("link", "real"), ("dangling", "elsewhere")):
        with new_folder(tmp_path / name) as folder:
            (folder / "file").touch()
        assert (tmp_path / name).is_symlink()
        assert [path.name for path in (tmp_path / real).iterdir()] == ["file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "elsewhere", "link", "real"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    train = bare(tmp_path / "train.bin", FLAT)
    (tmp_path / "here").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path / "here")
    imported(tmp_path / "ours", [train])
    for out, message in (
        (Path(), "is the current folder"),
        (tmp_path / "here", "is the current folder"),
        (tmp_path / "circle", "exists already"),
        (train, "exists already"),
        (train / "x", "cannot be a folder"),
        (train / "x" / "y", "cannot be a folder"),
        (tmp_path / ("x" * 250), "cannot be a folder"),
        (Path("/"), "exists already"),
    ):
        with pytest.raises(UserError, match=message) as error:
            imported(out, [train])
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=message):
            export_arrays(tmp_path / "ours", out, "megatron")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "here", "ours", "train.bin"]


def test_pairs_of_sentences_are_not_exported_as_text(tmp_path):
    imported(tmp_path / "ours", [bare(tmp_path / "train.bin", FLAT)])
    (tmp_path / "ours" / "pairs.json").write_text("{}")
    for form in readers.FORMATS:
        with pytest.raises(UserError, match="holds pairs of sentences"):
            export_arrays(tmp_path / "ours", tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


# ---- the command line


@pytest.fixture
def arrays():
    def run(*arguments, exit_code=0):
        result = CliRunner().invoke(app, ["arrays", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


@pytest.fixture
def nanogpt(tmp_path, tokenizer):
    """A folder of nanoGPT's, of a tokenizer with 480 ids."""
    folder = tmp_path / "nanogpt"
    folder.mkdir()
    for name, count in (("train", 900), ("val", 120)):
        texts = [f"Document {i} has words of a list and of a text, {i * 7}." for i in range(count)]
        bare(
            folder / f"{name}.bin", [t for text in texts for t in [*tokenizer.encode_ordinary(text), tokenizer.eot_id]]
        )
    return folder


def test_import_inspect_and_export(arrays, nanogpt, trained, tmp_path):
    told = arrays("import", nanogpt, "-o", tmp_path / "ours", "--tokenizer", trained)
    assert "of 900 documents to train on" in told
    told = arrays("inspect", tmp_path / "ours")
    assert "textmill, uint16" in told
    assert "'Document 0 has words" in told
    facts = " ".join(arrays("inspect", nanogpt).split())
    assert "nanogpt, uint16" in facts
    assert "documents unknown without --tokenizer largest id 475" in facts
    for form in ("nanogpt", "llm.c", "megatron"):
        arrays("export", tmp_path / "ours", tmp_path / f"as-{form}", "--format", form)
        facts = " ".join(arrays("inspect", tmp_path / f"as-{form}", "-t", trained).split())
        assert f"format {form}, uint16" in facts
        assert "documents 900" in facts
        arrays("import", tmp_path / f"as-{form}", "-o", tmp_path / f"again-{form}", "-t", trained)
        assert files(tmp_path / f"again-{form}") == files(tmp_path / "ours")
    assert files(tmp_path / "as-nanogpt") == files(nanogpt)


def test_an_inspection_is_a_document_for_scripts_too(arrays, nanogpt, trained, tmp_path):
    arrays("import", nanogpt, "-o", tmp_path / "ours", "-t", trained)
    train, held_out = json.loads(arrays("inspect", tmp_path / "ours", "--json"))
    assert (train["name"], held_out["name"]) == (f"{tmp_path / 'ours'} (train)", f"{tmp_path / 'ours'} (validation)")
    assert (train["format"], train["dtype"], train["documents"], train["damage"]) == ("textmill", "uint16", 900, [])
    assert train["text"].startswith("Document 0 has words") and len(train["first"]) == 32
    [bare_file] = json.loads(arrays("inspect", nanogpt / "train.bin", "--json"))
    assert (bare_file["format"], bare_file["documents"], bare_file["text"]) == ("nanogpt", None, None)
    assert bare_file["tokens"] == train["tokens"]
    damaged(tmp_path / "ours" / "train-00000.bin", 0, "<H", 481)
    told = CliRunner().invoke(app, ["arrays", "inspect", str(tmp_path / "ours"), "--json"])
    assert "holds the token 481" in json.loads(told.stdout)[0]["damage"][0]
    assert isinstance(told.exception, UserError)


def test_other_bounds_of_documents_are_damage_where_their_checksum_is_known(arrays, nanogpt, trained, tmp_path):
    """Two documents made one, so that every end is still an end of text."""
    arrays("import", nanogpt, "-o", tmp_path / "ours", "-t", trained)
    index = tmp_path / "ours" / "train-00000.idx"
    ends = np.fromfile(index, "<u8")
    ends[5] = ends[4]
    ends.tofile(index)
    with pytest.raises(UserError, match=r"train-00000\.idx is not what meta\.json says: its SHA-256 is another"):
        arrays("inspect", tmp_path / "ours")
    meta = tmp_path / "ours" / "meta.json"
    known = json.loads(meta.read_text())
    del known["splits"]["train"]["files"][0]["index_sha256"]  # as arrays were imported before
    meta.write_text(json.dumps(known))
    arrays("inspect", tmp_path / "ours")


def test_files_held_out_are_named(arrays, nanogpt, trained, tmp_path):
    for name, held_out in (("val.bin", "a.bin"), ("train.bin", "b.bin")):
        (nanogpt / name).rename(nanogpt / held_out)
    told = arrays("import", nanogpt, "--validation", nanogpt / "a.bin", "-o", tmp_path / "ours", "-t", trained)
    assert "900 documents to train on" in told
    assert TokenArrays(tmp_path / "ours", "validation").documents == 120


def test_damage_is_found(arrays, nanogpt, trained, tmp_path):
    arrays("import", nanogpt, "-o", tmp_path / "ours", "-t", trained)
    with (nanogpt / "train.bin").open("r+b") as file:
        file.write(struct.pack("<H", 481))
    with pytest.raises(UserError, match=r"train\.bin holds the token 481, which is not an id of this tokenizer"):
        arrays("inspect", nanogpt, "-t", trained)
    with (tmp_path / "ours" / "train-00000.bin").open("r+b") as file:
        file.write(struct.pack("<H", 481))
    with pytest.raises(UserError, match="holds the token 481, which is not an id of its 480"):
        arrays("inspect", tmp_path / "ours")
    index = tmp_path / "ours" / "validation-00000.idx"
    damaged(index, 0, "<Q", 1 << 40)
    with pytest.raises(UserError, match=r"not an id of its 480 \(and 1 more\)"):
        arrays("inspect", tmp_path / "ours")
    index.write_bytes(index.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"validation-00000\.idx has 952 bytes instead of 960"):
        arrays("inspect", tmp_path / "ours")


def edited(meta, change):
    content = json.loads(meta.read_text())
    change(content)
    meta.write_text(json.dumps(content))


def flip(place, at=-1):
    content = bytearray(place.read_bytes())
    content[at] ^= 1
    place.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda ours: flip(ours / "train-00000.bin", 200),
            r"train-00000\.bin is not what meta\.json says: its SHA-256",
        ),
        (lambda ours: damaged(ours / "train-00000.idx", 0, "<Q", 1), r"\(train\): documents end, by an \.idx, without"),
        (lambda ours: flip(ours / "token_bytes.npy", -8), r"token_bytes\.npy has other bytes of tokens"),
        (lambda ours: flip(ours / "token_bytes.npy", 0), r"token_bytes\.npy is missing or damaged"),
        (lambda ours: flip(ours / "token_bytes.npy", 10), r"token_bytes\.npy is missing or damaged"),
        (lambda ours: np.savez((ours / "token_bytes.npy").open("wb")), r"token_bytes\.npy is missing or damaged"),
        (lambda ours: (ours / "token_bytes.npy").unlink(), r"token_bytes\.npy is missing or damaged"),
        (lambda ours: np.save(ours / "token_bytes.npy", np.zeros(3)), r"is not the bytes of each of 480 ids"),
        (lambda ours: edited(ours / "meta.json", lambda meta: meta["splits"].clear()), "'train'; it has: none"),
        (
            lambda ours: edited(ours / "meta.json", lambda meta: meta["splits"]["train"].update(tokens=1)),
            r"meta\.json is damaged \(splits\.train: .*do not add up to its tokens",
        ),
        (
            lambda ours: edited(
                ours / "meta.json",
                lambda meta: meta["splits"].update(train={"tokens": 0, "documents": 0, "bytes": 0, "files": []}),
            ),
            "holds no tokens to train on",
        ),
        (
            lambda ours: edited(
                ours / "meta.json", lambda meta: meta["splits"]["train"]["files"][0].update(tokens=10**30)
            ),
            r"meta\.json is damaged \(splits\.train\.files\.0\.tokens: Input should be less",
        ),
    ],
)
def test_damage_that_keeps_sizes_and_ids_is_found(arrays, nanogpt, trained, tmp_path, harm, message):
    arrays("import", nanogpt, "-o", tmp_path / "ours", "-t", trained)
    arrays("inspect", tmp_path / "ours")
    harm(tmp_path / "ours")
    with pytest.raises(UserError, match=message):
        arrays("inspect", tmp_path / "ours")


def test_damaged_sources_are_found(arrays, tmp_path):
    ours = tmp_path / "ours"
    imported(ours, [bare(tmp_path / "train.bin", FLAT)])
    sources = {"a": {"tokens": 6, "documents": 2}, "b": {"tokens": 6, "documents": 3}}
    edited(ours / "meta.json", lambda meta: meta["splits"]["train"]["files"][0].update(sources=sources))
    np.array([0, 0, 1, 1, 1], "<u2").tofile(ours / "train-00000.src")
    arrays("inspect", ours)
    for numbers, message in (
        ([0, 1, 1, 1, 1], r"\(train\) has other tokens of sources in its \.src"),
        ([0, 0, 1, 1, 2], r"train-00000\.src is damaged"),
        ([0, 0], r"train-00000\.src has 4 bytes instead of 10"),
    ):
        np.array(numbers, "<u2").tofile(ours / "train-00000.src")
        with pytest.raises(UserError, match=message):
            arrays("inspect", ours)


def test_each_folder_is_judged_by_its_own_tokenizer(arrays, nanogpt, trained, tmp_path):
    arrays("import", nanogpt, "-o", tmp_path / "ours", "-t", trained)
    imported(tmp_path / "other", [bare(tmp_path / "x.bin", FLAT)])
    told = arrays("inspect", tmp_path / "ours", tmp_path / "other")
    assert "'Document 0 has words" in told
    assert "of 301 ids" in told
    facts = " ".join(arrays("inspect", tmp_path / "ours", tmp_path / "x.bin").split())
    assert "documents unknown without --tokenizer" in facts


def test_an_import_needs_a_tokenizer(arrays, nanogpt, tmp_path):
    with pytest.raises(UserError, match="--tokenizer: say what the tokens were made with"):
        arrays("import", nanogpt, "-o", tmp_path / "ours")


@pytest.mark.long
def test_a_killed_import_leaves_nothing_that_is_taken_for_arrays(trained, tmp_path):
    bare(tmp_path / "train.bin", np.resize(np.arange(200), 60_000_000))
    bare(tmp_path / "val.bin", [1, 2, 475])
    out = tmp_path / "ours"
    command = [TEXTMILL, "tokenizer", "arrays", "import", tmp_path, "-o", out, "-t", trained]
    process = subprocess.Popen(command)
    unfinished = tmp_path / ".ours.unfinished" / "train-00000.bin"
    while not (unfinished.exists() and unfinished.stat().st_size):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    for name, count in (("train", 100), ("val", 3)):
        bare(tmp_path / f"{name}.bin", [1, 2, 475] * count)
    subprocess.run(command, check=True, capture_output=True)
    assert len(TokenArrays(out)) == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "train.bin", "val.bin"]


@pytest.mark.slow
def test_two_imports_at_once_give_one_whole_dataset(trained, tmp_path):
    out = tmp_path / "ours"
    for name, tokens in (("a", [1, 2, 475]), ("b", [3, 4, 475])):
        (tmp_path / name).mkdir()
        bare(tmp_path / name / "train.bin", np.resize(tokens, 15_000_000))
        bare(tmp_path / name / "val.bin", tokens)
    command = [TEXTMILL, "tokenizer", "arrays", "import", "-o", out, "-t", trained]
    first = subprocess.Popen([*command, tmp_path / "a"])
    unfinished = tmp_path / ".ours.unfinished" / "train-00000.bin"
    while not (unfinished.exists() and unfinished.stat().st_size):
        assert first.poll() is None
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run([*command, tmp_path / "b"], capture_output=True, text=True)
    first.send_signal(signal.SIGCONT)
    assert (second.returncode, first.wait()) == (2, 0)
    assert "another run is writing to" in second.stderr
    assert "Traceback" not in second.stderr
    assert TokenArrays(out).document(0).tolist() == [1, 2, 475]
    assert subprocess.run([TEXTMILL, "tokenizer", "arrays", "inspect", out], capture_output=True).returncode == 0


@pytest.mark.slow
def test_what_was_imported_is_trained_on(nanogpt, trained, tmp_path):
    """From files of nanoGPT to text of a model, by commands alone (docs/training.md)."""
    ours, model = tmp_path / "ours", tmp_path / "model"
    run = {"check": True, "capture_output": True, "text": True, "env": os.environ | {"CUDA_VISIBLE_DEVICES": ""}}
    subprocess.run([TEXTMILL, "tokenizer", "arrays", "import", nanogpt, "-o", ours, "-t", trained], **run)
    tiny = {"layers": 1, "width": 32, "heads": 2, "context": 32}
    config = {"preset": "nano", "steps": 20, "batch": 4, "evaluate_every": 20, "evaluate_tokens": 512, "model": tiny}
    command = ["-m", "modeling.training.process", "pretrain", "--config", json.dumps(config), "--tokens", ours]
    subprocess.run([sys.executable, *command, "--origin", ours / "tokenizer", "--out", model], **run)
    stats = json.loads((model / "stats.json").read_text())
    assert stats["steps"] == 20
    assert 0 < stats["bits_per_byte"] < 20
    written = subprocess.run([TEXTMILL, "generate", model, "Document", "--max-tokens", "8"], **run)
    assert written.stdout.startswith("Document")
    told = subprocess.run([TEXTMILL, "evaluate", model, ours], **run).stdout
    assert "bits" in told
