"""What is drawn of the functions of a KAN."""

from itertools import pairwise

import pytest
import torch

from modeling.checkpoint import load_model
from modeling.inference.edges import inputs_of, learned_functions
from modeling.training.pretrain import pretrain
from textmill.progress import quiet

TEXT = "the cat sees the sea. a dog hears rain."


@pytest.fixture(scope="module", params=["kan-spline", "kan-rbf", "kan-rational"])
def checkpoint(request, tokens, tokenizer_folder, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    model = {"layers": 3, "width": 32, "heads": 2, "context": 32, "feed_forward": request.param, "activation": "silu"}
    pretrain(tokens, tokenizer_folder, tiny(model=model, steps=20), out, quiet)
    return out


def test_the_curves_are_what_the_layers_compute(checkpoint):
    model, _ = load_model(checkpoint)
    rows = learned_functions(checkpoint, TEXT)
    assert rows == learned_functions(checkpoint, TEXT)
    blocks = [row[0].title.partition(",")[0] for row in rows]
    assert blocks == ["block 1", "block 1", "block 3", "block 3"]
    for row, name in zip(rows, ["0.A", "0.B", "2.A", "2.B"], strict=True):
        rational = hasattr(model.blocks[0].feed_forward, "before")
        part = {"A": "before", "B": "between"} if rational else {"A": "up", "B": "down"}
        module = getattr(model.blocks[int(name[0])].feed_forward, part[name[2]])
        for shown in row:
            assert shown.x[0] <= -2 and shown.x[-1] >= 2 and shown.spread == sorted(shown.spread)
            x = torch.tensor(shown.x)
            if rational:
                assert len(shown.learned) == module.groups
                inputs = torch.zeros(len(x), 8 * module.groups)
                inputs[:, 0::8] = x[:, None]  # one input of each group
                expected = module(inputs)[:, 0::8].T
            else:
                source, place = map(int, shown.title.partition(": ")[2].split(" → "))
                module.onto_grid = lambda x: x
                inputs = torch.zeros(len(x), module.base.in_features)
                inputs[:, source] = x
                outputs = module(inputs)[:, place]
                at_zero = module(torch.zeros(1, module.base.in_features))[0, place]
                others = at_zero - edge_at(shown, 0.0)
                expected = (outputs - others)[None]
            torch.testing.assert_close(torch.tensor(shown.learned), expected.detach(), atol=2e-3, rtol=1e-3)


def edge_at(shown, x):
    """The value of the only curve at x, between two of its points."""
    points = list(zip(shown.x, shown.learned[0], strict=True))
    (x0, y0), (x1, y1) = next(pair for pair in pairwise(points) if pair[0][0] <= x <= pair[1][0])
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def test_the_edges_shown_are_those_that_vary_most_over_the_text(checkpoint, tokenizer):
    model, _ = load_model(checkpoint)
    forward = model.blocks[2].feed_forward
    if hasattr(forward, "before"):
        return
    ids = torch.tensor([[tokenizer.eot_id, *tokenizer.encode_ordinary(TEXT)][:32]])
    x_NI = inputs_of([forward.up], model, ids)[forward.up]
    forward.up.onto_grid = lambda x: x
    zero = forward.up(torch.zeros(1, 32))
    variances = []
    for source in range(32):
        alone = torch.zeros_like(x_NI)
        alone[:, source] = x_NI[:, source]
        variances.append((forward.up(alone) - zero).var(0, unbiased=False))
    variance_IO = torch.stack(variances)
    best = variance_IO.max(1).values.topk(4)
    expected = [f"block 3, up: {source} → {variance_IO[source].argmax()}" for source in best.indices.tolist()]
    assert [shown.title for shown in learned_functions(checkpoint, TEXT)[2]] == expected


def test_a_model_with_mlps_has_no_functions_to_show(pretrained):
    assert learned_functions(pretrained, TEXT) == []
