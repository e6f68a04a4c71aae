"""The model as `transformers` loads it with `trust_remote_code=True`.

An export whose architecture no class of `transformers` has takes this file along, with `loss_head.py`,
`language_model.py`, `functional.py`, `kan.py` and `transformer.py` of `modeling/networks` put before it: one file that
needs nothing but torch and transformers. (Read from the package, it is a module like any other.)
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput, MaskedLMOutput

from modeling.networks.transformer import GPT, rotary_table


class TextmillConfig(PreTrainedConfig):
    """The fields of the model's configuration under their own names, and what `transformers` asks for."""

    model_type = "textmill"

    def __init__(self, causal: bool = True, shift: bool = False, **fields: Any):
        super().__init__(**fields)
        self.causal, self.shift = causal, shift

    @property
    def num_hidden_layers(self) -> int:
        return self.layers

    @property
    def hidden_size(self) -> int:
        return self.width


class _Textmill(PreTrainedModel):
    config_class = TextmillConfig
    base_model_prefix = "gpt"
    main_input_name = "input_ids"
    # The loss is the mean of the batch at hand. Without this line Trainer believes of a model that takes `**kwargs`
    # that it divides by the tokens of all accumulated batches itself.
    accepts_loss_kwargs = False

    def __init__(self, config: TextmillConfig):
        super().__init__(config)
        fields = config.to_dict()
        architecture = SimpleNamespace(**fields | {"feed_forward": SimpleNamespace(**fields["feed_forward"])})
        self.gpt = GPT(cast("Any", architecture), config.vocab_size, config.causal)
        if config.tied:
            self._tied_weights_keys = {"gpt.head.weight": "gpt.embed.weight"}
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # weights come from the file; the rotary tables are in no file
        if isinstance(module, GPT) and self.config.positions == "rope":
            with torch.no_grad():
                for table, values in zip(
                    (module.rotary_cos, module.rotary_sin), rotary_table(self.config), strict=True
                ):
                    table.copy_(values)

    def get_input_embeddings(self) -> nn.Module:
        return self.gpt.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.gpt.embed = cast("nn.Embedding", value)

    def get_output_embeddings(self) -> nn.Module:
        return self.gpt.head


def documents_of(attention_mask: Tensor | None) -> Tensor | None:
    """Padding as a document by itself, which the text does not see; None where there is none."""
    if attention_mask is None or attention_mask.all():
        return None
    return (attention_mask == 0).long()


class TextmillForCausalLM(_Textmill, GenerationMixin):
    """Logits [B, T, V] for the next token; without a cache, so that generation recomputes the text at every step."""

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: object
    ) -> dict[str, Tensor | None]:
        window = slice(-self.config.context, None)
        return {
            "input_ids": input_ids[:, window],
            "attention_mask": None if attention_mask is None else attention_mask[:, window],
        }

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: object
    ) -> CausalLMOutput:
        logits = self.gpt(input_ids, documents=documents_of(attention_mask))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


class TextmillForMaskedLM(_Textmill):
    """Logits [B, T, V] for the token at each position; with `shift`, the first one has none to predict it."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: object
    ) -> MaskedLMOutput:
        documents = documents_of(attention_mask)
        logits = self.gpt(input_ids, documents=documents, whole=True)
        if self.config.shift:
            before = logits[:, :-1]
            if documents is not None:
                before = before.masked_fill((documents.diff(dim=1) != 0).unsqueeze(2), 0)
            logits = torch.cat((torch.zeros_like(logits[:, :1]), before), dim=1)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)
