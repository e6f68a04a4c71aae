"""Continuing text and filling blanks."""

import pytest
import torch

from modeling.checkpoint import CheckpointConfig
from modeling.config import ModelConfig
from modeling.inference.generate import (
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
from tokenization.tokenizer import Tokenizer

GREEDY = Sampling(max_tokens=60, temperature=0)


@pytest.fixture(scope="module")
def causal(pretrained):
    return load(pretrained, device="cpu")


def test_it_continues_in_the_language_it_learned(causal):
    text = generate(causal, ["the cat "], GREEDY)[0]
    assert text.split()[0] in {"sees", "hears", "finds"}


def test_greedy_output_is_the_same_with_and_without_the_cache(causal):
    # 60 tokens from a window of 32: the window moves on twice
    assert generate(causal, ["the cat"], GREEDY, use_cache=True) == generate(
        causal, ["the cat"], GREEDY, use_cache=False
    )


def test_prompts_of_different_lengths_in_one_batch_give_what_each_gives_alone(causal):
    prompts = ["a dog", "the bird finds rain. the c", "t", "x" * 50]
    together = generate(causal, prompts, Sampling(max_tokens=12, temperature=0))
    alone = [generate(causal, [prompt], Sampling(max_tokens=12, temperature=0))[0] for prompt in prompts]
    assert together[:3] == alone[:3]
    assert all(0 < len(text) <= 12 for text in together)


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


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"max_tokens": -1}])
def test_senseless_settings_are_errors(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_blanks_are_filled_with_what_belongs_there(finetuned):
    masked = load(finetuned, device="cpu")
    filled = fill(masked, "the b[MASK]rd see[MASK] a tree.")
    assert filled.text == "the bird sees a tree."
    assert [blank[0][0] for blank in filled.candidates] == ["i", "s"]
    assert all(0 < prob <= 1 for blank in filled.candidates for _, prob in blank)


def test_a_sample_text_is_cropped_to_the_window_around_its_blank(tokenizer):
    text = "aa bb cc [MASK] dd ee"
    assert cropped(text, tokenizer, 100) == text
    assert cropped(text, tokenizer, 9) == "cc [MASK] dd"
    assert cropped(text, tokenizer, 2) == "[MASK]"
    assert len(blanked("[MASK]", tokenizer)[0]) == 2


def test_a_blank_after_a_space_is_filled_with_the_beginning_of_a_word(tokenizer):
    spaced = Tokenizer(tokenizer.tokens | {b" cat": 300, b" dog": 301}, "gpt2", tokenizer.special_tokens)
    mask = tokenizer.special_tokens["[MASK]"]
    ids, begin_words = blanked("a [MASK]b[MASK]", spaced)
    assert ids == [spaced.eot_id, ord("a"), mask, ord("b"), mask]
    assert begin_words == [True, False]
    torch.manual_seed(0)
    model = GPT(ModelConfig(layers=1, width=16, heads=2, context=16), spaced.vocab_size, causal=False).eval()
    filled = fill(Checkpoint(model, spaced, CheckpointConfig(model.config, 302, "masked", True, {})), "a [MASK]b[MASK]")
    assert {token for token, _ in filled.candidates[0]} == {" cat", " dog"}
    assert len(filled.candidates[1]) == 5
    assert filled.text.startswith(("a cat", "a dog"))


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
    for path in pretrained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
