"""Continuing text and filling blanks."""

import numpy as np
import pytest
import torch

from modeling.checkpoint import CheckpointConfig
from modeling.config.network import TransformerConfig
from modeling.inference.generate import (
    Blanked,
    Checkpoint,
    Sampling,
    TextStream,
    blanked,
    choose_tokens,
    cropped,
    fill,
    generate,
    load,
    stream,
)
from modeling.networks.transformer import GPT
from textmill.errors import UserError
from tokenization.sentence_pairs import lay_out
from tokenization.tokenizer import Tokenizer

GREEDY = Sampling(max_tokens=60, temperature=0)


@pytest.fixture(scope="module")
def causal(pretrained):
    return load(pretrained, device="cpu")


def test_it_continues_in_the_language_it_learned(causal):
    text = generate(causal, ["the cat "], GREEDY)[0]
    assert text.split()[0] in {"sees", "hears", "finds"}


def test_greedy_output_is_the_same_with_and_without_the_cache(causal):
    # 60 tokens from a window of 32: the window moves on eight times
    assert generate(causal, ["the cat"], GREEDY, use_state=True) == generate(
        causal, ["the cat"], GREEDY, use_state=False
    )


def test_prompts_of_different_lengths_in_one_batch_give_what_each_gives_alone(causal):
    sentences = "a dog hears rain. the cat sees the sea. the bird finds a tree. "
    prompts = ["a dog", "the bird finds rain. the c", "t", "x" * 50, sentences + "the c", "", sentences]
    together = generate(causal, prompts, GREEDY)
    assert together == [generate(causal, [prompt], GREEDY)[0] for prompt in prompts]
    assert all(together)


def test_of_a_prompt_that_is_longer_than_the_window_its_last_tokens_are_read(causal):
    end = "s a tree. the bird hears a dog. "
    ids = causal.tokenizer.encode_ordinary(end)
    assert len(ids) == causal.model.config.context
    logits = causal.model(torch.tensor([ids]))[:, -1].masked_fill(causal.forbidden(0), -torch.inf)
    one = Sampling(max_tokens=1, temperature=0)
    assert generate(causal, ["the cat see" + end], one) == [causal.tokenizer.decode([int(logits.argmax())])]


def test_while_it_writes_the_window_keeps_most_of_what_was_written(causal):
    read = []
    with causal.model.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[1])):
        generate(causal, ["the cat sees rain. " * 5], Sampling(max_tokens=20, temperature=0))
    assert read[0] == 32
    assert {length for length in read[1:] if length > 1} == {28}


def test_a_text_begins_as_documents_do_in_training(causal):
    begun = []
    with causal.model.register_forward_pre_hook(lambda module, inputs: begun.append(inputs[0][0].tolist())):
        generate(causal, ["the cat"], Sampling(max_tokens=1))
    assert begun == [[causal.tokenizer.eot_id, *causal.tokenizer.encode_ordinary("the cat")]]


@pytest.mark.parametrize("temperature", [1e-12, 1e-300])
def test_a_temperature_near_zero_takes_the_most_probable_token(temperature, causal):
    almost = Sampling(max_tokens=20, temperature=temperature)
    assert generate(causal, ["the cat"], almost) == generate(causal, ["the cat"], Sampling(20, temperature=0))


@pytest.mark.parametrize("temperature", [1e39, 1e308])
def test_a_temperature_that_fp32_does_not_hold_makes_all_tokens_as_probable(temperature, causal):
    logits = torch.tensor([[9.0, 0.0, -9.0, -torch.inf]]).expand(3000, 4)
    drawn = choose_tokens(logits, Sampling(temperature=temperature), torch.Generator().manual_seed(0))
    assert torch.bincount(drawn, minlength=4).tolist() == pytest.approx([1000, 1000, 1000, 0], abs=100)
    assert generate(causal, ["the cat"], Sampling(max_tokens=3, temperature=temperature))[0]


def test_no_prompt_at_all_gives_no_text(causal):
    assert generate(causal, []) == []


def test_a_prompt_that_fills_the_window_is_read_whole(causal):
    prompt = "the cat sees a tree. a dog hears"  # 32 tokens of a byte each
    assert len(causal.tokenizer.encode_ordinary(prompt)) == causal.model.config.context
    ids = torch.tensor([causal.tokenizer.encode_ordinary(prompt)])
    logits = causal.model(ids)[:, -1].masked_fill(causal.forbidden(causal.tokenizer.eot_id), -torch.inf)
    next_token = causal.tokenizer.decode([int(logits.argmax())])
    read = []
    with causal.model.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[1])):
        assert generate(causal, [prompt], Sampling(max_tokens=1, temperature=0)) == [next_token]
    assert read == [32]


def test_a_seed_decides_the_sample(causal):
    one, again, other = (generate(causal, ["the "], Sampling(max_tokens=40, seed=seed))[0] for seed in (1, 1, 2))
    assert one == again != other


def test_streaming_gives_the_same_text_in_pieces(causal):
    sampling = Sampling(max_tokens=40, seed=3)
    pieces = list(stream(causal, "the ", sampling))
    assert len(pieces) > 10
    assert "".join(pieces) == generate(causal, ["the "], sampling)[0]


def test_it_stops_before_a_stop_string(causal):
    whole = generate(causal, ["the cat"], GREEDY)[0]
    until = generate(causal, ["the cat"], Sampling(max_tokens=60, temperature=0, stop=(". ",)))[0]
    assert until == whole.split(". ")[0]


def test_an_empty_prompt_starts_a_document(causal):
    assert generate(causal, [""], Sampling(max_tokens=3, temperature=0))[0]


def test_text_streams_hold_back_half_characters_and_half_stop_strings():
    text = TextStream(stop=("END",))
    pieces = [text.feed(bytes([byte])) for byte in "é E EN END x".encode()]
    assert "".join(pieces) == "é E EN "
    assert pieces[0] == ""  # the first byte of é
    assert text.stopped
    open_end = TextStream(stop=("END",))
    assert open_end.feed(b"the EN") + open_end.rest() == "the EN"


@pytest.mark.parametrize(
    ("settings", "possible"),
    [({"top_k": 2}, {0, 1}), ({"top_p": 0.7}, {0, 1}), ({"top_p": 0.5}, {0}), ({"top_k": 1}, {0}), ({}, {0, 1, 2})],
)
def test_sampling_draws_only_from_the_most_probable(settings, possible):
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(400, 3)
    drawn = choose_tokens(logits, Sampling(temperature=1.0, **settings), torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == possible


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(20_000, 3)
    drawn = choose_tokens(logits, Sampling(temperature=1.0), torch.Generator().manual_seed(0))
    assert (drawn.bincount() / 20_000).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_k": 0}, {"top_p": 0.0},
        {"top_p": float("nan")}, {"max_tokens": -1}, {"seed": -1}, {"seed": 2**63}, {"seed": 2**80},
    ],
)  # fmt: skip
def test_senseless_settings_are_errors(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_blanks_are_filled_with_what_belongs_there(finetuned):
    masked = load(finetuned, device="cpu")
    filled = fill(masked, "the b[MASK]rd see[MASK] a tree.")
    assert filled.text == "the bird sees a tree."
    assert [blank[0][0] for blank in filled.candidates] == ["i", "s"]
    assert all(0 < prob <= 1 for blank in filled.candidates for _, prob in blank)


def random_masked(tokenizer, context=16, pair_length=None) -> Checkpoint:
    torch.manual_seed(0)
    config = TransformerConfig(layers=1, width=16, heads=2, context=context)
    model = GPT(config, tokenizer.vocab_size, causal=False).eval()
    about = CheckpointConfig(config, tokenizer.vocab_size, "masked", True, {})
    return Checkpoint(model, tokenizer, about, pair_length=pair_length)


def test_a_sample_text_is_cropped_to_the_window_around_its_blank(tokenizer):
    text = "aa bb cc [MASK] dd ee"
    assert cropped(text, random_masked(tokenizer, context=100)) == text
    assert cropped(text, random_masked(tokenizer, context=9)) == "cc [MASK] dd"
    assert cropped(text, random_masked(tokenizer, context=2)) == "[MASK]"
    assert Blanked("[MASK]", random_masked(tokenizer)).length == 2
    assert cropped(text, random_masked(tokenizer, context=100, pair_length=11)) == "cc [MASK] dd"


def test_a_blank_after_a_space_is_filled_with_the_beginning_of_a_word(tokenizer):
    spaced = Tokenizer(tokenizer.tokens | {b" cat": 300, b" dog": 301}, "gpt2", tokenizer.special_tokens)
    mask = tokenizer.special_tokens["[MASK]"]
    checkpoint = random_masked(spaced)
    read = Blanked("a [MASK]b[MASK]", checkpoint)
    assert read.ids.tolist() == [spaced.eot_id, ord("a"), mask, ord("b"), mask]
    assert read.begin_words == [True, False]
    filled = fill(checkpoint, "a [MASK]b[MASK]")
    assert {token for token, _ in filled.candidates[0]} == {" cat", " dog"}
    assert len(filled.candidates[1]) == 5
    assert filled.text.startswith(("a cat", "a dog"))


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("It [MASK]. So what?", "It [MASK].", "So what?"),
        ("one, [MASK] more", "one, [MASK] more", ""),
        ("A. B. Long [MASK] sentence here.", "A. B.", "Long [MASK] sentence here."),
        ("A tall title\nand [MASK]", "A tall title", "and [MASK]"),
    ],
)
def test_a_model_of_pairs_reads_a_text_as_the_pairs_it_was_tuned_on(text, first, second, tokenizer):
    checkpoint = random_masked(tokenizer, context=64, pair_length=60)
    pair = [np.array(blanked(part, tokenizer)[0], np.int64) for part in (first, second)]
    expected = lay_out([(pair[0], pair[1])], len(pair[0]) + len(pair[1]) + 3, tokenizer.special_tokens)[0][0]
    read = []
    with checkpoint.model.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0][0].tolist())):
        filled = fill(checkpoint, text)
    assert read == [expected.tolist()]
    before, after = text.split("[MASK]")
    assert filled.text.startswith(before) and filled.text.endswith(after)
    with pytest.raises(UserError, match="the text has 109 tokens but the window holds 60"):
        fill(checkpoint, "[MASK]" + "x" * 105)


def test_each_kind_of_checkpoint_says_what_it_cannot_do(causal, finetuned):
    masked = load(finetuned, device="cpu")
    with pytest.raises(UserError, match="fills blanks"):
        generate(masked, ["the"])
    with pytest.raises(UserError, match="continues text"):
        fill(causal, "the [MASK]")
    with pytest.raises(UserError, match="no blank"):
        fill(masked, "the cat")
    with pytest.raises(UserError, match="the window holds 32"):
        fill(masked, "the [MASK] " * 20)


def test_a_folder_that_is_no_checkpoint_is_an_error(tmp_path, tokens):
    for folder in (tmp_path, tokens, tmp_path / "missing"):
        with pytest.raises(UserError, match="is not a checkpoint"):
            load(folder)


def test_damaged_weights_are_an_error(pretrained, tmp_path):
    for path in pretrained.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
