"""Encodings and networks as modules: they train as torch's own would, with one buffer for a table's gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from methods.kernels.adam import GridAdam
from methods.kernels.grid import Grid, grid_encode
from methods.kernels.modules import GridEncoding, ReluNetwork, truncated_exp

GRID = Grid(levels=3, base=4, growth=2.0, log2_size=8)


def test_an_encoding_is_the_grid_with_its_table():
    x = torch.rand(20, 3)
    encoding = GridEncoding.between(4, 16, 3, log2_size=8)
    assert encoding.grid == Grid.between(4, 16, 3, log2_size=8)
    assert torch.equal(encoding(x), grid_encode(x, encoding.table, encoding.grid))
    assert torch.equal(encoding(x, 0b101), grid_encode(x, encoding.table, encoding.grid, 0b101))
    assert encoding.table.abs().max() <= 1e-4
    assert list(encoding.state_dict()) == ["table"]


@pytest.mark.parametrize("when", ["before", "between", "never"])
@pytest.mark.parametrize("to_none", [True, False])
def test_an_encoding_trains_like_a_plain_table_wherever_gradients_are_cleared(when, to_none):
    encoding = GridEncoding(GRID, spread=1.0)
    plain = torch.nn.Parameter(encoding.table.detach().clone())

    def train(encode, table: Tensor) -> Tensor:
        optimiser = torch.optim.SGD([table], lr=0.1)
        for seed in range(4):
            x = torch.rand(30, 3, generator=torch.Generator().manual_seed(seed))
            if when == "before":
                optimiser.zero_grad(set_to_none=to_none)
            loss = encode(x).square().sum() + encode(x.flip(0)[:7]).sum()
            if when == "between":
                optimiser.zero_grad(set_to_none=to_none)
            loss.backward()
            optimiser.step()
        return table.detach()

    ours, theirs = train(encoding, encoding.table), train(lambda x: grid_encode(x, plain, GRID), plain)
    # The same products, added to what is there in another order; four steps.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_an_encoding_keeps_one_buffer_for_its_gradient():
    encoding = GridEncoding(GRID)
    encoding(torch.rand(5, 3)).sum().backward()
    buffer = encoding.table.grad
    encoding.zero_grad(set_to_none=True)
    encoding(torch.rand(5, 3)).sum().backward()
    assert encoding.table.grad is buffer


def test_a_gradient_that_somebody_put_there_is_added_to():
    encoding = GridEncoding(GRID)
    out = encoding(torch.rand(5, 3))
    encoding.table.grad = torch.ones_like(encoding.table)
    out.sum().backward()
    assert encoding.table.grad.sum().item() == pytest.approx(encoding.table.numel() + 5 * GRID.width, rel=1e-5)


def test_an_encoding_without_a_gradient_makes_none():
    encoding = GridEncoding(GRID)
    with torch.no_grad():
        encoding(torch.rand(5, 3))
    encoding(torch.rand(5, 3))
    assert encoding.table.grad is None
    encoding.requires_grad_(False)
    assert not encoding(torch.rand(5, 3)).requires_grad


def test_an_encoding_of_halves_and_a_copy_of_one_train_too():
    encoding = GridEncoding(GRID).half()
    encoding(torch.rand(5, 3)).sum().backward()
    assert encoding.table.grad.dtype == torch.float16
    original = GridEncoding(GRID)
    original(torch.rand(5, 3)).sum().backward()
    before = original.table.grad.clone()
    copied = copy.deepcopy(original)
    copied(torch.rand(5, 3)).sum().backward()
    assert torch.equal(original.table.grad, before)
    assert copied.table.grad.any()


def test_an_encoding_and_its_optimiser_fit_a_function():
    torch.manual_seed(0)
    encoding = GridEncoding(GRID)
    optimiser = GridAdam(encoding.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        x = torch.rand(256, 3)
        optimiser.zero_grad()
        loss = (encoding(x).sum(dim=-1) - torch.sin(6 * x[:, 0])).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile does it itself
def test_modules_in_a_compiled_graph_equal_eager_ones():
    torch.compiler.reset()
    modules = GridEncoding(GRID, spread=1.0), ReluNetwork([GRID.width, 8, 1])
    x = torch.rand(20, 3)

    def field(x: Tensor) -> Tensor:
        encoding, network = modules
        return truncated_exp(network(encoding(x)))

    made = []
    for function in (torch.compile(field, fullgraph=True, backend="aot_eager"), field):
        for module in modules:
            module.zero_grad()
        out = function(x)
        out.sum().backward()
        made.append([out.detach(), *(p.grad.clone() for module in modules for p in module.parameters())])
    for compiled, eager in zip(*made, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-6)  # fusing may round once less


def test_a_relu_network_is_torchs_linear_layers():
    network = ReluNetwork([5, 8, 8, 2])
    layers = [torch.nn.Linear(w.shape[1], w.shape[0], bias=False) for w in network.weights]
    for layer, weight in zip(layers, network.weights, strict=True):
        layer.weight = weight
    plain = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    x, shared, index = torch.rand(10, 3), torch.rand(4, 2), torch.arange(10) % 4
    # Sums of at most 8 products of at most about 1, in three layers.
    whole = torch.cat([x, shared[index]], dim=-1)
    torch.testing.assert_close(network(x, shared, index), plain(whole), rtol=0, atol=2**-19)
    torch.testing.assert_close(network(whole), plain(whole), rtol=0, atol=2**-19)


def test_the_truncated_exponential_is_exp_with_a_gradient_that_stops_growing():
    x = torch.tensor([-3.0, 0.0, 14.0, 15.0, 16.0, 40.0], requires_grad=True)
    y = truncated_exp(x)
    y.sum().backward()
    assert torch.equal(y, x.detach().exp())
    assert torch.equal(x.grad, x.detach().clamp(max=15).exp())
    assert torch.autograd.gradcheck(truncated_exp, torch.linspace(-2, 2, 5).double().requires_grad_())
