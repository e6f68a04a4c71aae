"""What is predicted: masked tokens, hidden spans, several tokens at once."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from modeling.config.section import Section
from textmill.settings import added


class MaskingConfig(Section):
    """Which tokens are hidden from a masked model (Devlin et al. 2019), and where it predicts them."""

    mask_rate: float = Field(0.3, gt=0, lt=1, description="Share of tokens to predict in training (Wettig et al. 2023)")
    mask_random: float = Field(0.1, ge=0, le=1, description="Of these, share replaced by a random token, not [MASK]")
    mask_keep: float = Field(0.1, ge=0, le=1, description="Of these, share left as they are")
    mask_unit: Literal["token", "word", "span"] = added(
        "token", description="What is hidden whole in training: tokens, words, or spans of words"
    )
    span_length: float = added(
        5.0, ge=1, description="span: mean words of one; lengths are geometric, and cut at 10 (Joshi et al. 2020)"
    )
    evaluate_mask_rate: float = Field(0.15, gt=0, lt=1, description="Share of tokens masked in evaluation")
    shift: bool = Field(True, description="Predict token i from position i-1, as the causal weights learned to")

    @model_validator(mode="after")
    def _rates_fit(self) -> MaskingConfig:
        if self.mask_random + self.mask_keep > 1:
            raise ValueError("mask_random + mask_keep exceed 1")
        return self

    @model_validator(mode="after")
    def _spans_have_a_length(self) -> MaskingConfig:
        if self.mask_unit != "span" and self.span_length != MaskingConfig.model_fields["span_length"].default:
            raise ValueError(f"span_length is of mask_unit: span, not {self.mask_unit}; leave it out")
        return self


class MultiTokenConfig(Section):
    """Multi-token prediction: what a position says of the next token also has to give account of those after it.

    Gloeckle et al. 2024 give each of them a head. Here the same logits serve all, and the model stays what it is.
    """

    weights: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        min_length=1, max_length=8,
        description="What the losses of the token after the next, of the one after that, and so on weigh at first; "
        "that of the next weighs 1",
    )  # fmt: skip
    until: float = Field(0.5, gt=0, le=1, description="Share of the steps over which these weights fall to 0")

    def at(self, step: int, steps: int) -> list[float]:
        """The weights of a step (0-based) of a run; none from where they are 0."""
        left = 1 - step / (self.until * steps)
        return [left * weight for weight in self.weights] if left > 0 else []


class SourceTarget(NamedTuple):
    """Tokens of a source and of its target."""

    source: int
    target: int


def token_count(window: int | SourceTarget) -> int:
    """Tokens of a window, or of a source and its target together."""
    return window if isinstance(window, int) else sum(window)


class SpanCorruptionConfig(Section):
    """Which spans of a text are hidden from an encoder-decoder, which writes them (Raffel et al. 2020, T5)."""

    noise_density: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that is hidden")
    mean_span: float = Field(3.0, ge=1, description="Tokens of a hidden span, on average")

    def counts(self, length: int) -> tuple[int, int]:
        """How many tokens of a window of `length` are hidden, and in how many spans: each has a token before it."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        return noise, min(max(round(noise / self.mean_span), 1), length - noise)

    def lengths(self, length: int) -> SourceTarget:
        """Of a window of `length`: a sentinel for each span on both sides, and the end of each side."""
        noise, spans = self.counts(length)
        return SourceTarget(length - noise + spans + 1, noise + spans + 1)

    def window(self, context: int) -> int:
        """Tokens of the longest window whose source and target have at most `context` tokens each, at least 2."""
        length = 2
        while max(self.lengths(length + 1)) <= context:
            length += 1
        return length


EVALUATED_SPANS = SpanCorruptionConfig()  # whatever training hides, so that runs compare
