"""tokenizer.json against Hugging Face's own libraries: the same ids, or one line that names the field."""

import copy
import json

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.errors import UserError
from tokenization.config import byte_characters
from tokenization.hugging_face import from_hugging_face, write_hugging_face
from tokenization.interchange import load_any
from tokenization.tokenizer import Tokenizer

BYTES = {bytes([b]): b for b in range(256)}
LEARNED = BYTES | {b"at": 256, b" the": 258, "é".encode(): 260, b"ats": 300, b"<|": 301}
SPECIALS = {
    "gaps": {"<|endoftext|>": 400, "<|pad|>": 700},
    "before the learned": {"<|endoftext|>": 257, "<|pad|>": 259},
    "learned": {"at": 302, "<|endoftext|>": 303},
    "a byte": {"a": 350, "<|endoftext|>": 310},
    "prefixes of each other": {"<|end|>": 500, "<|end|>of": 400, "<|end": 401},
    "blanks and letters of all kinds": {" at": 310, "<|é|>": 311, "｜fin｜": 320, "é": 333, "<|a b|>": 334},
}
TEXTS = ["at the cats", "ab<|endoftext|><|pad|>", "<|end|>of <|end|>o <|endo", "é <|é|>é｜fin｜ at<|a b|>  the\n\n"]
PIECES = [
    "at",
    "ats",
    "c",
    " the",
    "<|endoftext|>",
    "<|pad|>",
    "<|end|>",
    "of",
    "<|end",
    "é",
    "<|é|>",
    " ",
    "｜fin｜",
    "\n",
]


def exported(tokenizer, folder):
    write_hugging_face(tokenizer, folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("name", SPECIALS)
def test_special_tokens_keep_their_ids(tmp_path, name):
    ours = Tokenizer(LEARNED, "cl100k", SPECIALS[name])
    theirs = exported(ours, tmp_path)
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = from_hugging_face(tmp_path / "tokenizer.json")
    assert (again.tokens, again.special_tokens, again.pattern) == (ours.tokens, ours.special_tokens, ours.pattern)
    for special, token_id in ours.special_tokens.items():
        assert theirs.token_to_id(special) == fast.convert_tokens_to_ids(special) == token_id
        assert special in fast.all_special_tokens or fast.added_tokens_decoder[token_id].special

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(TEXTS) | st.lists(st.sampled_from(PIECES), max_size=9).map("".join) | st.text(max_size=20))
    def same(text):
        ids = ours.encode(text, allowed_special="all")
        assert theirs.encode(text).ids == ids
        assert fast(text, add_special_tokens=False).input_ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text

    same()
    for token, token_id in ours.tokens.items():
        if token.isascii():
            assert theirs.decode([token_id], skip_special_tokens=False) == token.decode()


def test_a_seed_model_with_gaps(tmp_path):
    (tmp_path / "gap.model").write_text(
        "bpetokenizer v1\n\\S+|\\s+\n2\n<|endoftext|> 300\n<|pad|> 400\n97 98\n", encoding="utf-8"
    )
    theirs = exported(load_any(str(tmp_path / "gap.model")), tmp_path / "out")
    assert theirs.encode("ab<|endoftext|><|pad|>").ids == [256, 300, 400]


@pytest.mark.parametrize("pattern", ["cl100k", "o200k"])
def test_vocabularies_with_the_gaps_of_tiktokens(tokenizer, tmp_path, pattern):
    first = len(tokenizer.tokens)
    names = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
    special = {name: first + 1 + i for i, name in enumerate(names)} | {"<|endofprompt|>": first + 20}
    ours = Tokenizer(tokenizer.tokens, pattern, special)
    text = f"train{''.join(special)} merging<|endofprompt|>"
    assert exported(ours, tmp_path).encode(text).ids == ours.encode(text, allowed_special="all")


@pytest.mark.parametrize("name", ["Ġthe", "Ã©", "\ue000at"])
def test_a_special_token_that_text_could_be_taken_for_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="would take ordinary text for the special token"):
        write_hugging_face(Tokenizer(LEARNED, "cl100k", {name: 400}), tmp_path)


# ---- import

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
GOOD = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {
            "id": token_id,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token_id, content in ((259, "<e>"), (260, "<e>f"))
    ],
    "normalizer": None,
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\S+|\s+"}, "behavior": "Isolated", "invert": False},
            {**BYTE_LEVEL, "use_regex": False},
        ],
    },
    "post_processor": BYTE_LEVEL,
    "decoder": BYTE_LEVEL,
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {byte_characters()[b]: b for b in range(256)} | {"ab": 256, "Ġab": 257, "abc": 258},
        "merges": ["a b", "Ġ ab", "ab c"],
    },
}
SPLIT = ("pre_tokenizer", "pretokenizers", 0)
VOCAB, MERGES = GOOD["model"]["vocab"], GOOD["model"]["merges"]
TIKTOKENS_CL100K = (  # in which Hugging Face takes any number of digits for one word
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
WITH_ADDED = VOCAB | {"<e>": 259, "<e>f": 260}


def changed(place, value):
    content = copy.deepcopy(GOOD)
    target = content
    for step in place[:-1]:
        target = target[step]
    if value is KeyError:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return content


def agree(content, path, texts):
    """Read a tokenizer.json here and there, and compare the ids; False if it is refused here, in one line."""
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        ours = from_hugging_face(path)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(str(path))
        return False
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for text in texts:
        assert theirs.encode(text).ids == ours.encode(text, allowed_special="all"), text
    return True


IMPORT_TEXTS = ["", "ab abc abcab", " ab<e>ab<e>f <e>", "A<e> <e>b\n\tx", "é漢字 \U0001f600abc", "  ab"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("version",), "1.0"),
        (("post_processor",), None),
        (("post_processor",), {"type": "Sequence", "processors": [BYTE_LEVEL]}),
        (("decoder",), None),
        (("normalizer",), {"type": "Sequence", "normalizers": []}),
        (("added_tokens",), []),
        (("pre_tokenizer",), BYTE_LEVEL),
        (("pre_tokenizer",), {k: v for k, v in BYTE_LEVEL.items() if k != "use_regex"}),
        ((*SPLIT, "invert"), True),
        (("model", "ignore_merges"), KeyError),
        (("model", "ignore_merges"), True),
        (("model", "end_of_word_suffix"), ""),
        (("model", "continuing_subword_prefix"), ""),
        (("model", "unk_token"), "ab"),
        (("model", "type"), KeyError),
        (("model", "dropout"), 0.0),
        (("model", "merges"), ["#version: 0.2", *MERGES]),
        (("model", "merges"), [["a", "b"], ["Ġ", "ab"], ["ab", "c"]]),
        (("model", "vocab"), WITH_ADDED),
    ],
)
def test_what_is_encoded_exactly_is_read(tmp_path, place, value):
    assert agree(changed(place, value), tmp_path / "tokenizer.json", IMPORT_TEXTS)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("truncation",), {"max_length": 2}, "truncation is"),
        (("padding",), {"strategy": {"Fixed": 9}}, "padding is"),
        (("normalizer",), {"type": "NFC"}, "normalizer"),
        (("normalizer",), {"type": "Lowercase"}, "normalizer"),
        (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, "normalizer"),
        (("post_processor",), {"type": "TemplateProcessing"}, "post_processor"),
        (("decoder",), {"type": "WordPiece"}, "decoder"),
        (("decoder",), {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": ""},
                                                         BYTE_LEVEL]}, "decoder changes"),
        (("pre_tokenizer",), None, "pre_tokenizer is null"),
        (("pre_tokenizer",), KeyError, "pre_tokenizer is missing"),
        (("pre_tokenizer",), [], "pre_tokenizer"),
        (("pre_tokenizer",), {"type": "Whitespace"}, "pre_tokenizer"),
        (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": []}, "pre_tokenizer"),
        (("pre_tokenizer",), {**BYTE_LEVEL, "add_prefix_space": True}, "add_prefix_space is true"),
        ((*SPLIT, "behavior"), "Contiguous", "behavior is \"Contiguous\""),
        ((*SPLIT, "behavior"), "MergedWithNext", "behavior"),
        ((*SPLIT, "behavior"), "Removed", "takes text away"),
        ((*SPLIT, "behavior"), "unheard-of", "behavior"),
        ((*SPLIT, "behavior"), KeyError, "behavior is missing"),
        ((*SPLIT, "pattern"), {"String": " "}, "pattern"),
        ((*SPLIT, "pattern"), None, "pattern is null"),
        ((*SPLIT, "pattern"), {"Regex": "("}, "not a valid regular expression"),
        ((*SPLIT, "pattern"), {"Regex": "gpt2"}, "leaves out"),
        ((*SPLIT, "pattern"), {"Regex": TIKTOKENS_CL100K}, r"'\{1,3\}\+', which .* read differently"),
        ((*SPLIT, "pattern"), {"Regex": r"\w+"}, "leaves out"),
        ((*SPLIT, "pattern"), {"Regex": r"[\p{L}&&[^\p{Han}]]+|\s+|."}, "&&"),
        (("added_tokens",), None, "added_tokens is null"),
        (("added_tokens", 0, "lstrip"), True, "lstrip is true"),
        (("added_tokens", 0, "rstrip"), True, "rstrip is true"),
        (("added_tokens", 1, "single_word"), True, "single_word is true"),
        (("added_tokens", 1, "normalized"), True, "overlap"),
        (("added_tokens", 1, "content"), "<e>", "twice"),
        (("added_tokens", 1, "content"), "Ġx", "ordinary text"),
        (("added_tokens", 1, "content"), "abc", "abc"),
        (("added_tokens", 1, "id"), 300, "has the id 300, but Hugging Face gives it 260"),
        (("added_tokens", 1, "id"), "260", "id"),
        (("model",), [], "model"),
        (("model",), None, "model"),
        (("model", "type"), "WordPiece", "model.type is \"WordPiece\""),
        (("model", "dropout"), 0.1, "model.dropout is 0.1"),
        (("model", "continuing_subword_prefix"), "##", "model.continuing_subword_prefix"),
        (("model", "end_of_word_suffix"), "</w>", "model.end_of_word_suffix"),
        (("model", "merges"), KeyError, "model.merges is missing"),
        (("model", "merges"), None, "model.merges"),
        (("model", "merges"), [], "'ab', which model.merges does not make"),
        (("model", "merges"), ["a b", "Ġ ab"], "'abc', which model.merges does not make"),
        (("model", "merges"), ["a b", "Ġ ab", "a bc"], "model.merges has 'a bc'"),
        (("model", "merges"), [*MERGES, "x y"], "model.merges has 'x y'"),
        (("model", "merges"), ["Ġ ab", "a b", "ab c"], "another order"),
        (("model", "merges"), ["a b c"], "model.merges has 'a b c'"),
        (("model", "merges"), [*MERGES, "#version: 0.2"], "model.merges has '#version: 0.2'"),
        (("model", "vocab"), WITH_ADDED | {"xyz": 301}, "'xyz', which model.merges does not make"),
        (("model", "vocab"), WITH_ADDED | {"▁a": 301}, "▁a"),
        (("model", "vocab"), VOCAB | {"ab": 255}, "share an id"),
        (("model", "vocab"), VOCAB | {"ab": -1}, "model.vocab.ab is -1"),
        (("model", "vocab"), {"a": 0, "b": 1, "<e>": 259, "<e>f": 260}, "not two tokens"),
        (("model", "vocab"), [], "model.vocab"),
        (("model", "unheard_of"), 1, "model.unheard_of is unknown"),
        (("unheard_of",), 1, "unheard_of is unknown"),
        (("version",), "2.0", "version is"),
    ],
)  # fmt: skip
def test_all_else_is_refused_with_the_name_of_the_field(tmp_path, place, value, message):
    path = tmp_path / "tokenizer.json"
    assert not agree(changed(place, value), path, [])
    with pytest.raises(UserError, match=message):
        from_hugging_face(path)


def test_a_token_without_merges_is_read_where_merges_are_ignored(tmp_path):
    content = changed(("model", "vocab"), VOCAB | {"xyz": 261})
    content["model"]["ignore_merges"] = True
    content["added_tokens"] = []
    assert agree(content, tmp_path / "tokenizer.json", ["xyz xyz\nxyz xy axyz"])


PLACES = [
    (key, *rest)
    for key, value in GOOD.items()
    for rest in [(), *((k,) for k in value or () if isinstance(value, dict))]
] + [(*SPLIT, key) for key in GOOD["pre_tokenizer"]["pretokenizers"][0]]
PLACES += [("pre_tokenizer", "pretokenizers", 1, key) for key in BYTE_LEVEL]
PLACES += [("added_tokens", i, key) for i in range(2) for key in GOOD["added_tokens"][0]]
VALUES = [None, True, False, 0, 1.5, -1, "", "a", [], [None], {}, {"type": "BPE"}, "Isolated", "Removed", KeyError]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(VALUES))
def test_whatever_stands_in_a_field_the_ids_are_the_same_or_it_is_refused(tmp_path_factory, place, value):
    agree(changed(place, value), tmp_path_factory.getbasetemp() / "mutated.json", IMPORT_TEXTS)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_tokenizer_json_is_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json") as error:
        from_hugging_face(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_any(str(tmp_path))
