"""Every cell: its equations, its state, its gradients, and what its parameters are."""

import pytest
import torch
from torch import nn

from modeling.config.network import RecurrentConfig
from modeling.config.optimization import OptimizerConfig
from modeling.networks.recurrent import CELLS, Cell, MinGRU, RecurrentModel, linear_scan, scanned
from modeling.training.optim import Muon, optimizers

VOCAB = 50
SMALL = {"kind": "recurrent", "layers": 3, "width": 32, "context": 16}
VARIANTS = {
    "modern": {},
    "feed-forward": {"feed_forward": 48, "hidden": 24, "norm": "layer", "bias": True, "tied": True, "softcap": 10.0},
    "classic": {"residual": False, "zero_init": False, "norm_place": "none"},
    "post-norm": {"norm_place": "post", "norm": "layer", "zero_init": False, "feed_forward": 16},
}


def build(cell: str, variant: str = "modern") -> RecurrentModel:
    """A model with weights that are not zero anywhere."""
    torch.manual_seed(0)
    model = RecurrentModel(RecurrentConfig.model_validate(SMALL | {"cell": cell} | VARIANTS[variant]), VOCAB)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def ids(rows: int = 3, length: int = 16) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", CELLS)
def test_reading_in_pieces_with_a_state_is_reading_at_once(cell, variant):
    model, tokens = build(cell, variant), ids()
    state = model.initial_state(3)
    with torch.no_grad():
        pieces = [model(tokens[:, a:b], state=state) for a, b in ((0, 5), (5, 6), (6, 7), (7, 16))]
        expected = model(tokens)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=1e-5, rtol=1e-5)
    nll, is_argmax = model.token_losses(tokens, tokens.roll(1))
    assert torch.equal(is_argmax, expected.argmax(-1) == tokens.roll(1))
    torch.testing.assert_close(nll.mean(), model(tokens, tokens.roll(1)).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_cells_of_torch_compute_a_state_in_bf16_that_fp32_holds(cell):
    model = build(cell)
    state = model.initial_state(3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.hidden(ids(), state)
    for tensor in state.tensors.values():
        assert tensor.dtype == torch.float32 and tensor.any()
        assert torch.equal(tensor, tensor.bfloat16().float())


def test_the_state_of_a_mingru_is_not_rounded_between_windows_in_bf16():
    model = build("mingru")
    for block in model.blocks:  # gates that keep the state as it is
        nn.init.zeros_(block.cell.inputs["update_gate"].weight)
        nn.init.constant_(block.cell.inputs["update_gate"].bias, -30.0)
    state = model.initial_state(3)
    before = {name: torch.rand(tensor.shape) for name, tensor in state.tensors.items()}
    state.tensors = dict(before)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for part in ids().split(4, dim=1):
            model.hidden(part, state)
    for name, tensor in state.tensors.items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=1e-6)


def test_a_state_forgets_some_of_its_texts():
    model = build("lstm")
    state = model.initial_state(3)
    model.hidden(ids(), state)
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    state.forget(torch.tensor([False, True, False]))
    for name, tensor in state.tensors.items():
        assert torch.equal(tensor[[0, 2]], before[name][[0, 2]])
        assert not tensor[1].any()


@pytest.mark.parametrize("cell", CELLS)
def test_a_position_sees_all_before_it_and_nothing_after(cell):
    model, tokens = build(cell), ids(1)
    changed = tokens.clone()
    changed[0, 7] += 1
    with torch.no_grad():
        differs = ((model(tokens) - model(changed % VOCAB)).abs() > 1e-5).any(dim=-1)[0].tolist()
    assert differs == [False] * 7 + [True] * 9


@pytest.mark.parametrize("cell", CELLS)
def test_blocks_start_as_the_identity_and_some_may_be_left_out(cell):
    config = RecurrentConfig.model_validate(SMALL | {"cell": cell, "feed_forward": 16})
    model, tokens = RecurrentModel(config, VOCAB), ids()
    expected = model(tokens)
    model.active_layers = 1
    assert torch.equal(model(tokens), expected)
    model = build(cell)
    whole = model(tokens)
    model.active_layers = 1
    state = model.initial_state(3)
    assert not torch.allclose(model(tokens, state=state), whole)
    read = {name.split(".")[0] for name, tensor in state.tensors.items() if tensor.any()}
    assert read == {"2"}  # the last one


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_cell_computes_what_the_module_of_torch_does(cell):
    config = RecurrentConfig.model_validate(SMALL | {"cell": cell, "hidden": 24})
    ours, theirs = Cell(config), {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](32, 24, batch_first=True)
    ours.initialize()
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        for part, modules in (("ih", ours.inputs), ("hh", ours.recurrent)):
            getattr(theirs, f"weight_{part}_l0").copy_(torch.cat([linear.weight for linear in modules.values()]))
            getattr(theirs, f"bias_{part}_l0").copy_(torch.cat([linear.bias for linear in modules.values()]))
        y, states = ours(x, [torch.zeros(2, 24)] * ours.states)
        expected, after = theirs(x)
    torch.testing.assert_close(y, expected)
    for state, theirs_after in zip(states, after if cell == "lstm" else [after], strict=True):
        torch.testing.assert_close(state, theirs_after[0])


def test_min_gru_is_its_recurrence():
    cell = MinGRU(RecurrentConfig.model_validate(SMALL | {"cell": "mingru"}))
    cell.initialize()
    x, h = torch.randn(2, 9, 32), torch.rand(2, 32)
    y, (after,) = cell(x, [h])
    for t in range(9):
        z, new = torch.sigmoid(cell.inputs["update_gate"](x[:, t])), cell.inputs["candidate"](x[:, t])
        h = (1 - z) * h + z * torch.where(new >= 0, new + 0.5, torch.sigmoid(new))
        torch.testing.assert_close(y[:, t], h)
    torch.testing.assert_close(after, h)


def test_a_scan_has_the_right_gradients_and_is_the_same_in_passes_over_all_positions(monkeypatch):
    keep, add = (torch.rand(3, 37, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    state = torch.randn(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda keep, add: linear_scan(keep, add, state), (keep, add))
    with torch.no_grad():
        one_by_one = scanned(keep, add, state)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(scanned(keep, add, state), one_by_one)


def test_a_scan_stays_finite_where_sums_of_logarithms_do_not():
    keep = torch.cat([torch.zeros(1, 2000, 4), torch.full((1, 2000, 4), 1e-30), torch.ones(1, 2000, 4)], dim=1)
    h = linear_scan(keep, torch.ones_like(keep), torch.full((1, 4), 1e30))
    assert h.isfinite().all()
    assert h[0, -1, 0] == 2001


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_matrices_begin_orthogonal_and_gates_that_keep_the_state_open(cell):
    model = RecurrentModel(RecurrentConfig.model_validate(SMALL | {"cell": cell}), VOCAB)
    matrices = {name: p for name, p in model.named_parameters() if ".recurrent." in name and p.ndim == 2}
    assert len(matrices) == (0 if cell == "mingru" else 3 * len(CELLS[cell]))
    for matrix in matrices.values():
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(32), atol=1e-5, rtol=0)
    biases = {name: p for name, p in model.named_parameters() if name.endswith("bias") and p.any()}
    kept = {"rnn": None, "gru": "update_gate", "lstm": "forget_gate", "mingru": "update_gate"}[cell]
    assert {name.split(".")[-2] for name in biases} == ({kept} if kept else set())
    assert all((p == (-1 if cell == "mingru" else 1)).all() for p in biases.values())


@pytest.mark.parametrize("cell", CELLS)
def test_every_gate_is_a_matrix_of_its_own_to_the_optimizer(cell):
    model = build(cell, "feed-forward")
    parameters, kinds = dict(model.named_parameters()), model.parameter_kinds()
    assert kinds.keys() == parameters.keys()
    muon = next(o for o in optimizers(model, OptimizerConfig(), torch.float32) if isinstance(o, Muon))
    shapes = {tuple(p.shape) for group in muon.param_groups for p in group["params"]}
    assert shapes == {(24, 32), (32, 24), (48, 32), (32, 48)} | ({(24, 24)} if cell != "mingru" else set())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns_a_tiny_text_by_heart(cell, precision):
    torch.manual_seed(0)
    config = RecurrentConfig(kind="recurrent", cell=cell, layers=2, width=48, context=16, feed_forward=96)
    model, text = RecurrentModel(config, VOCAB), ids(4, 17)
    chosen = optimizers(model, OptimizerConfig(), precision)
    for _ in range(60):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = model(text[:, :-1], text[:, 1:])
        loss.backward()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
    assert loss.item() < 0.2  # nothing in these ids can be known but by heart: log(50) is 3.9


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_compiled_model_has_the_loss_the_gradients_and_the_state_of_the_eager_one(cell):
    model, text = build(cell, "feed-forward").train(), ids(3, 17)
    found = []
    for run in (model, torch.compile(model, backend="aot_eager")):
        state = model.initial_state(3)
        model.zero_grad(set_to_none=True)
        for _ in range(2):
            loss = run(text[:, :-1], text[:, 1:], state=state)
        loss.backward()
        found.append((loss.detach(), state.tensors, {n: p.grad.clone() for n, p in model.named_parameters()}))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
