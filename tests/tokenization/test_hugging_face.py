"""tokenizer.json against Hugging Face's own libraries: the same ids, or one line that names the field."""

import copy
import json
import unicodedata

import pytest
import tokenizers
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from textmill.errors import UserError
from tokenization.config import byte_characters
from tokenization.formats import load_tokenizer, save_tokenizer, write_tiktoken
from tokenization.hugging_face import from_hugging_face, tokens_around, write_hugging_face
from tokenization.interchange import load_any, to_tiktoken, write_legacy
from tokenization.patterns import DIGITS, NAMED, in_passes, split_in_passes
from tokenization.rules import NFC_MAKES, TextRules, normalize_nfc
from tokenization.tokenizer import Tokenizer

BYTES = {bytes([b]): b for b in range(256)}
LEARNED = BYTES | {b"at": 256, b" the": 258, "é".encode(): 260, b"ats": 300, b"<|": 301}
SPECIALS = {
    "gaps": {"<|endoftext|>": 400, "<|pad|>": 700},
    "before the learned": {"<|endoftext|>": 257, "<|pad|>": 259},
    "learned": {"at": 302, "<|endoftext|>": 303},
    "a byte": {"a": 350, "<|endoftext|>": 310},
    "prefixes of each other": {"<|end|>": 500, "<|end|>of": 400, "<|end": 401},
    "blanks and letters of all kinds": {" at": 310, "<|é|>": 311, "｜fin｜": 320, "é|": 333, "<|a b|>": 334},
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

    @settings(max_examples=60)
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


@pytest.mark.parametrize("name", ["Ġthe", "Ã©", "é", "ĢĢ", "\ue000at"])  # é is the first byte of U+9000
def test_a_special_token_that_text_could_be_taken_for_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="would take ordinary text for the special token"):
        write_hugging_face(Tokenizer(LEARNED, "cl100k", {name: 400}), tmp_path)


@pytest.mark.parametrize(
    ("name", "step"), [("<m>", ("  ", "<m>")), ("<m>", ("#", "")), ("at", ("#", "a")), ("<;>", "NFC"), (":`:", "NFC")]
)
def test_a_special_token_that_normalizing_could_make_is_refused(tmp_path, name, step):
    ours = Tokenizer(LEARNED, r"\S+|\s+", {name: 400}, TextRules(normalizers=(step,)))
    with pytest.raises(UserError, match=f"would take text for the special token '{name}' where normalizing makes it"):
        write_hugging_face(ours, tmp_path)


@pytest.mark.parametrize(("name", "pattern"), [("<m>", r"\S+|\s+"), ("[MASK]", "cl100k")])
def test_a_special_token_that_normalizing_cannot_make_one_word_of_is_not(tmp_path, name, pattern):
    ours = Tokenizer(LEARNED, pattern, {name: 400}, TextRules(normalizers=("NFC",)))
    text = "at <m> [MASK] [MAS\u212a]"
    assert exported(ours, tmp_path).encode(text).ids == ours.encode(text, allowed_special="all")


def test_what_ascii_normalizing_makes():
    every = (chr(code) for code in range(0x80, 0x110000) if not 0xD800 <= code < 0xE000)
    assert {normal for c in every if (normal := unicodedata.normalize("NFC", c)).isascii()} == NFC_MAKES


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
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text, allowed_special="all"), text
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
        (("normalizer",), {"type": "NFC"}),
        (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
        (("normalizer",), {"type": "Replace", "pattern": {"String": "ab"}, "content": "c<e>"}),
        (("added_tokens", 0, "lstrip"), True),
        (("added_tokens", 0, "rstrip"), True),
        (("added_tokens", 1, "normalized"), True),
        (("added_tokens", 1, "special"), False),
        (("pre_tokenizer",), {**BYTE_LEVEL, "add_prefix_space": True}),
    ],
)
def test_what_is_encoded_exactly_is_read(tmp_path, place, value):
    assert agree(changed(place, value), tmp_path / "tokenizer.json", IMPORT_TEXTS)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("truncation",), {"max_length": 2}, "truncation is"),
        (("padding",), {"strategy": {"Fixed": 9}}, "padding is"),
        (("normalizer",), {"type": "Lowercase"}, "normalizer"),
        (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, "normalizer"),
        (("post_processor",), {"type": "TemplateProcessing"}, "post_processor"),
        (("post_processor",), {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
         "post_processor.TemplateProcessing is .*single leaves the text out"),
        (("post_processor",), {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
                               "single": [{"SpecialToken": {"id": "<e>", "type_id": 0}}]},
         "special_tokens lacks '<e>'"),
        (("decoder",), {"type": "WordPiece"}, "decoder"),
        (("decoder",), {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": ""},
                                                         BYTE_LEVEL]}, "decoder changes"),
        (("pre_tokenizer",), None, "pre_tokenizer is null"),
        (("pre_tokenizer",), KeyError, "pre_tokenizer is missing"),
        (("pre_tokenizer",), [], "pre_tokenizer"),
        (("pre_tokenizer",), {"type": "Whitespace"}, "pre_tokenizer"),
        (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": []}, "pre_tokenizer"),
        (("pre_tokenizer", "pretokenizers", 1, "add_prefix_space"), True, "add_prefix_space after a step that cuts"),
        (("normalizer",), {"type": "NFKC"}, "normalizer"),
        (("normalizer",), {"type": "Replace", "pattern": {"String": ""}, "content": "x"}, "empty pattern"),
        (("normalizer",), {"type": "Replace", "pattern": {"Regex": "a"}, "content": "x"}, "pattern"),
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
        ((*SPLIT, "pattern"), {"Regex": r"\s*|\S+"}, "matches nothing at 'Yes"),
        ((*SPLIT, "pattern"), {"Regex": r"x{2}?|\S|\s"}, r"'\{2\}\?', which .* read differently"),
        ((*SPLIT, "pattern"), {"Regex": r" ?[^(\s|[.,!?…。，、।۔،])]+"}, "read differently"),  # BLOOM's
        ((*SPLIT, "pattern"), {"Regex": "(" * 300 + "a" + ")" * 300}, "nested"),
        ((*SPLIT, "pattern"), {"Regex": r"[\p{L}&&[^\p{Han}]]+|\s+|."}, "&&"),
        (("added_tokens",), None, "added_tokens is null"),
        (("added_tokens", 1, "single_word"), True, "single_word is true"),
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


@settings(max_examples=300)
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


# ---- what people have

ROUGH = [
    "a", "B", "é", "É", "e\u0301", "\u1e69", "s\u0323\u0307", "\u0958", "\uac00", "\u1100\u1161", "漢字", "ひらがな",
    "12", "3\u0664\u096b", "²", "½", "it's", "IT'S", "don't", "don\u2019t", "_x", "x_y", "'ll", '!"', "...",
    "\r\n\n\t", "\u00a0",
    "\u2003", "\x1c", "\x85", "\u0300", "\U00011de3", "\U00016ff5", "\U0001f600", "\u0e01\u0e33",
    "\u0627\u064e\u0644\u0652",
    "\u200d", "\ue000",
]  # fmt: skip
SCRIPTS = st.lists(
    st.sampled_from([*ROUGH, " ", "  ", "    ", "\n", "\t\t", "<e>", "<e>f", "ab", "abc", " ab"]) | st.text(max_size=6),
    max_size=14,
).map("".join)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = NAMED["o200k"].regex
NFC, PREFIXED = {"type": "NFC"}, {**BYTE_LEVEL, "add_prefix_space": True}
CUT = {**BYTE_LEVEL, "use_regex": False}


def split_by(*expressions):
    return [{"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": False} for e in expressions]


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": [*steps]}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<e>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<e>": {"id": "<e>", "ids": [259], "tokens": ["<e>"]}},
}
ROBERTA = {"type": "RobertaProcessing", "sep": ["<e>f", 260], "cls": ["<e>", 259], "trim_offsets": True,
           "add_prefix_space": False}  # fmt: skip
SHAPES = {
    "GPT-2": {"pre_tokenizer": BYTE_LEVEL},
    "RoBERTa": {"pre_tokenizer": BYTE_LEVEL, "post_processor": ROBERTA, "flags": {"lstrip": True}},
    "RoBERTa with a space first": {"pre_tokenizer": PREFIXED, "post_processor": ROBERTA, "flags": {"rstrip": True}},
    "Pythia": {"pre_tokenizer": BYTE_LEVEL, "normalizer": NFC, "flags": {"special": False, "normalized": True}},
    "Qwen 2.5": {"pre_tokenizer": sequence(*split_by(QWEN), CUT), "normalizer": NFC, "flags": {"special": False}},
    "Llama 3": {
        "pre_tokenizer": sequence(*split_by(LLAMA), CUT),
        "post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]},
    },
    "o200k": {"pre_tokenizer": sequence(*split_by(O200K), CUT)},
    "DeepSeek-V3": {
        "pre_tokenizer": sequence(*split_by(r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", DEEPSEEK), CUT),
        "normalizer": {"type": "Sequence", "normalizers": []},
        "flags": {"special": False, "normalized": True},
    },
    "StarCoder": {"pre_tokenizer": sequence(digits(True), BYTE_LEVEL)},
    "runs of digits": {"pre_tokenizer": sequence(digits(False), CUT)},
    "a Split and GPT-2's": {"pre_tokenizer": sequence(*split_by(r"\p{N}"), BYTE_LEVEL)},
    "nested": {"pre_tokenizer": sequence(sequence(*split_by(r"\p{N}", r"\s+")), sequence(CUT))},
    "ModernBERT": {
        "pre_tokenizer": BYTE_LEVEL, "normalizer": NFC, "flags": {"lstrip": True},
        "blanks": {"special": False, "normalized": True},
    },
    "late blanks without a normalizer": {
        "pre_tokenizer": BYTE_LEVEL, "flags": {"lstrip": True}, "blanks": {"special": False, "normalized": True},
    },
    "Replace and NFC": {
        "pre_tokenizer": BYTE_LEVEL,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": " <e>"}, "content": "<e>"}, NFC]},
        "flags": {"normalized": True},
    },
}  # fmt: skip


def shaped(name, ignore_merges=False):
    """A tokenizer.json of this shape; its second added token has the flags, and added tokens of blanks may follow."""
    shape = dict(SHAPES[name])
    content = copy.deepcopy(GOOD)
    if blanks := shape.pop("blanks", None):
        runs = ("  ", "    ", "\n", "\t\t")
        plain = content["added_tokens"][0]
        content["added_tokens"] += [plain | {"id": 261 + i, "content": run} | blanks for i, run in enumerate(runs)]
    content["added_tokens"][1] |= shape.pop("flags", {})
    content["model"]["ignore_merges"] = ignore_merges
    return content | shape


BERT = {"type": "BertProcessing", "sep": ["<e>f", 260], "cls": ["<e>", 259]}


@pytest.mark.parametrize(
    "processor",
    [None, BYTE_LEVEL, TEMPLATE, ROBERTA, BERT, *(
        {"type": "Sequence", "processors": steps} for steps in ([], [BYTE_LEVEL], [BYTE_LEVEL, TEMPLATE])
    )],
)  # fmt: skip
def test_what_is_put_around_a_text_is_what_the_library_puts_there(processor, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(GOOD | {"post_processor": processor}), encoding="utf-8")
    theirs = tokenizers.Tokenizer.from_file(str(path)).encode("a").tokens
    around = tokens_around(from_hugging_face(path).usage)
    assert (around or "…").replace("…", "a").split() == theirs


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_that_people_have_are_read_exactly_and_written_again(tmp_path, name):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(shaped(name)), encoding="utf-8")
    theirs = tokenizers.Tokenizer.from_file(str(path))
    ours = from_hugging_face(path)
    save_tokenizer(ours, tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert (loaded.rules, loaded.usage, loaded.pattern) == (ours.rules, ours.usage, ours.pattern)
    again = from_hugging_face(tmp_path / "saved" / "tokenizer.json")
    assert (again.tokens, again.special_tokens, again.rules, again.usage) == (
        ours.tokens, ours.special_tokens, ours.rules, ours.usage)  # fmt: skip
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    flags = {i: (t.content, t.special) for i, t in theirs.get_added_tokens_decoder().items()}
    assert {i: (t.content, t.special) for i, t in written.get_added_tokens_decoder().items()} == flags

    @settings(max_examples=200)
    @given(SCRIPTS)
    @example("ab    <e>f the  <e>f\n\t\t<e>")
    @example("<e>f    a\n<e>f  \t\t<e>f<e>f\n<e>  ")
    def same(text):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all") == loaded.encode(text, allowed_special="all") == ids
        assert written.encode(text).ids == theirs.encode(text).ids == fast(text).input_ids
        for skip in (True, False):
            assert written.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert written.encode(text, "b").ids == theirs.encode(text, "b").ids
        # in which special tokens are text, and added tokens are not
        theirs.encode_special_tokens = True
        ids = theirs.encode(text, add_special_tokens=False).ids
        theirs.encode_special_tokens = False
        assert ours.encode_ordinary(text) == ours.encode(text, disallowed_special=()) == ids
        assert ours.encode_batch([text, text, ""])[1].tolist() == ids

    same()


def test_a_token_in_the_blanks_that_the_one_before_it_took_is_not_found(tmp_path):
    content = shaped("late blanks without a normalizer")
    for token in content["added_tokens"]:
        token.update(normalized=False, lstrip=True, rstrip=token["content"] == "<e>f")
    texts = ["<e>f  ab", "ab <e>f\n", "<e>f\t\tab <e>f    <e>"]  # tokenizers panics where such blanks end earlier
    assert agree(content, tmp_path / "tokenizer.json", texts)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\u0323", "\u0302"),
        pytest.param("", "", marks=pytest.mark.slow),
        pytest.param("\u0302", "", marks=pytest.mark.slow),
        pytest.param("a", "\u0323a", marks=pytest.mark.slow),
        pytest.param("\u1100", "\u1161", marks=pytest.mark.slow),
    ],
)
def test_all_code_points_are_normalized_as_there(before, after):
    text = "\n".join(f"{before}{chr(c)}{after}" for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    assert normalize_nfc(text).split("\n") == tokenizers.normalizers.NFC().normalize_str(text).split("\n")


MARKS = (
    "aeo\u0301\u0300\u0323\u0327\u0345\u1100\u1161\u11a8\uac00\u212b\u0958\u093c\u0f71\u0f72\U00011935\U00011930\u0898"
    "\U0001e4ec\U000105d2\u0307\U00016d67"
)


@settings(max_examples=300)
@given(st.text(st.sampled_from(MARKS), max_size=9))
def test_marks_in_any_order_are_normalized_as_there(text):
    assert normalize_nfc(text) == tokenizers.normalizers.NFC().normalize_str(text)


@pytest.mark.slow
@pytest.mark.parametrize("individual", [True, False])
def test_digits_are_the_same_code_points(individual):
    every = "".join(f"{chr(c)}a" for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    pattern = in_passes([DIGITS if individual else f"{DIGITS}+"])
    words = tokenizers.pre_tokenizers.Digits(individual_digits=individual).pre_tokenize_str(every)
    assert list(split_in_passes(pattern, every, every)) == [word for word, _ in words]


def test_what_a_pass_matches_emptily_is_told(tmp_path):
    content = GOOD | {"pre_tokenizer": sequence(*split_by(r"(?=B)", r"\S+"), CUT)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="matches nothing at"):
        from_hugging_face(tmp_path / "tokenizer.json").encode("aBa")


CONFIG = {
    "bos_token": "<e>", "eos_token": {"content": "<e>f", "lstrip": False}, "unk_token": None, "model_max_length": 2048,
    "chat_template": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}", "tokenizer_class": "X",
}  # fmt: skip


def test_roles_template_and_length_are_carried(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(shaped("Llama 3")), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<e>"}), encoding="utf-8")
    save_tokenizer(load_any(str(tmp_path)), tmp_path / "ours")
    write_hugging_face(load_any(str(tmp_path / "ours")), tmp_path / "again")
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (fast.bos_token_id, fast.eos_token_id, fast.pad_token_id, fast.unk_token) == (259, 260, 259, None)
    assert (fast.model_max_length, fast.chat_template) == (2048, CONFIG["chat_template"])
    assert fast("ab").input_ids == [259, 256]
    assert fast.apply_chat_template([{"role": "user", "content": "ab"}]).input_ids == [259, 256]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bos_token": "<s>"}, "bos_token in tokenizer_config.json is '<s>', which is not among added_tokens"),
        ({"bos_token": 5}, "bos_token"),
        ({"model_max_length": "long"}, "model_max_length"),
        ({"chat_template": 5}, "chat_template"),
        ({"add_prefix_space": True}, "add_prefix_space"),
        ({"added_tokens_decoder": {"259": {"content": "<e>", "lstrip": True, "special": True}}}, "another lstrip"),
        (
            {"added_tokens_decoder": {"259": {"content": "<e>", "normalized": True, "special": True}}},
            "another normalized",
        ),
        ({"additional_special_tokens": ["<new>"]}, "additional_special_tokens in .* has '<new>', which is not among"),
        ({"extra_special_tokens": [{"content": "<new>"}]}, "extra_special_tokens in .* has '<new>', which is not"),
        ({"image_token": "<new>"}, "image_token in .* has '<new>', which is not among"),
        ({"extra_special_tokens": {"image_token": "<new>"}}, "extra_special_tokens in .* has '<new>', which is not"),
        ({"added_tokens_decoder": {"400": {"content": "<x>"}}}, "added_tokens_decoder.400 in .* is '<x>'"),
        ([], "tokenizer_config.json"),
        (None, "tokenizer_config.json"),
    ],
)
def test_a_config_that_contradicts_is_refused_with_the_name_of_the_field(tmp_path, config, message):
    (tmp_path / "tokenizer.json").write_text(json.dumps(GOOD | {"pre_tokenizer": BYTE_LEVEL}), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        load_any(str(tmp_path))
    assert "\n" not in str(error.value)


def test_template_files_are_carried_and_what_is_left_behind_is_told(tmp_path, caplog):
    (tmp_path / "tokenizer.json").write_text(json.dumps(GOOD), encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text("A", encoding="utf-8")
    assert load_any(str(tmp_path)).usage.chat_template == "A"
    config = {"padding_side": "left", "clean_up_tokenization_spaces": True, "extra_special_tokens": ["<e>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool.jinja").write_text("B", encoding="utf-8")
    ours = load_any(str(tmp_path))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.usage.chat_template == theirs.chat_template == {"default": "A", "tool": "B"}
    lost = "extra_special_tokens, padding_side, clean_up_tokenization_spaces are not carried over"
    assert f"tokenizer_config.json: {lost}" in caplog.text
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"chat_template\.jinja is not a text in UTF-8"):
        load_any(str(tmp_path))


@pytest.mark.parametrize("name", SHAPES)
def test_what_others_lack_is_not_exported_to_them(tmp_path, name):
    (tmp_path / "tokenizer.json").write_text(json.dumps(shaped(name)), encoding="utf-8")
    ours = from_hugging_face(tmp_path / "tokenizer.json")
    if name in ("GPT-2", "Llama 3", "o200k"):
        assert to_tiktoken(ours).encode("ab abc", allowed_special="all") == ours.encode("ab abc")
        return
    for write in (write_tiktoken, write_legacy, lambda tokenizer, _: to_tiktoken(tokenizer)):
        with pytest.raises(UserError, match=r"this tokenizer has .*, which .* lacks"):
            write(ours, tmp_path / "out")
