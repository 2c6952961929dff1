"""MM-DiT: published sizes, diffusers' implementation, the middle of the table, the text as a set, refusals."""

from __future__ import annotations

import pytest
import torch
from network_files import settings_of
from torch import nn

from diffusion.network.mmdit import MMDiT, Stream
from diffusion.pretrained.base import NETWORK, Published, converted
from diffusion.pretrained.latent.sd3_transformer import sd3, sd3_links
from diffusion.types import Cond

SIZES = [("sd3_medium", 2028.33), ("sd35_medium", 2243.17), ("sd35_large", 8056.63)]
"""Parameters / 10^6 of the released networks, without the fixed table of coordinates."""
TINY = {"in_channels": 1, "resolution": 8, "width": 32, "depth": 2, "heads": 2, "cond_dim": 6, "token_dim": 5}


def awake(network: nn.Module) -> nn.Module:
    """Every weight random, so that everything counts in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2 + ("norm" in name and p.ndim == 1))
    return network


def mmdit(**settings: object) -> MMDiT:
    return MMDiT(**TINY | settings)


def inputs(dtype: torch.dtype = torch.float64, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, Cond]:
    random = torch.Generator().manual_seed(1)
    shapes = (2, 1, 8, size), (2, 6), (2, 4, 5)
    x, vector, tokens = (torch.randn(shape, generator=random, dtype=dtype) for shape in shapes)
    return x, torch.tensor([3.0, 870.5], dtype=dtype), Cond(vector=vector, tokens=tokens)


@pytest.mark.parametrize(("name", "millions"), SIZES)
def test_published_number_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = MMDiT(16, 128, cond_dim=2048, token_dim=4096, **settings_of(name))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


NEWER = {"qk_norm": "rms_norm", "dual_attention_layers": (0, 2)}


@pytest.mark.parametrize(
    ("newer", "dtype", "tolerance"),
    [
        ({}, torch.float32, 1e-5),
        ({}, torch.float64, 1e-10),
        (NEWER, torch.float32, 1e-5),
        (NEWER, torch.float64, 1e-6),  # their RMS is float32 always
    ],
)
def test_equals_diffusers_with_its_weights(newer: dict[str, object], dtype: torch.dtype, tolerance: float) -> None:
    """On images of another size than they are built for, and not square."""
    pytest.importorskip("diffusers")
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    theirs = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=1, out_channels=1, num_layers=3, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=5, caption_projection_dim=32, pooled_projection_dim=6,
        pos_embed_max_size=7, **newer,
    )  # fmt: skip
    theirs = awake(theirs).to(dtype).eval()
    overrides = sd3(theirs.config)
    keys = {key.partition(".")[2]: value for key, value in overrides.items() if key.startswith("network.")}
    network = MMDiT(1, 8, **keys)
    torch.testing.assert_close(network.coordinates, theirs.pos_embed.pos_embed.float(), rtol=0, atol=1e-6)
    published = Published(overrides, {"raw": theirs.state_dict()}, lambda net: sd3_links(net, {}))
    state, dropped = converted(published, network)
    assert not dropped
    network.to(dtype).load_state_dict({k.removeprefix(NETWORK): v for k, v in state["raw"].items()})
    if dtype == torch.float64:  # their sinusoids are float32 always
        theirs.time_text_embed.time_proj.forward = network.embedding.sinusoids
    x, time, cond = inputs(dtype, 12)
    with torch.no_grad():
        due = theirs(x, encoder_hidden_states=cond.tokens, pooled_projections=cond.vector, timestep=time).sample
        error = (network.eval()(x, time, cond) - due).abs().max()
    assert error < tolerance * max(1.0, float(due.abs().max()))
    back: dict[str, torch.Tensor] = {}
    for link in sd3_links(network, {}):
        own = network.state_dict()[link.ours.removeprefix(NETWORK)]
        back |= dict(zip(link.theirs, link.how.write(own), strict=True))
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("settings", [{}, {"qk_norm": True, "second_attention": [0]}, {"cond_dim": 0, "token_dim": 0}])
def test_gates_start_at_zero_and_every_parameter_learns(settings: dict[str, object]) -> None:
    network = mmdit(**settings)
    x, time, cond = inputs(torch.float32)
    cond = cond if "token_dim" not in settings else Cond()
    assert not network(x, time, cond).any()
    tokens, text, emb = torch.randn(2, 3, 32), torch.randn(2, 4, 32), torch.randn(2, 32)
    out, out_text = network.stack[0](tokens, text, emb, None)
    assert torch.equal(out, tokens), "every gate is 0: a block is the identity"
    assert torch.equal(out_text, text)
    awake(network)(x, time, cond).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    ends = "stack.1.text.attention.norm_q.weight"  # of queries whose answers nobody reads
    assert {n for n, p in network.named_parameters() if not p.grad.any()} <= {ends}


def test_checkpointing_changes_no_gradient() -> None:
    plain, saving = awake(mmdit()), awake(mmdit(checkpointing=True))
    for network in (plain, saving):
        network(*inputs(torch.float32)).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_tokens_are_a_set_and_masked_ones_do_not_exist() -> None:
    network = awake(mmdit()).double().eval()
    x, time, cond = inputs()
    tokens, mask = cond.tokens, torch.tensor([[True] * 3 + [False]] * 2)
    with torch.no_grad():
        out = network(x, time, Cond(vector=cond.vector, tokens=tokens, mask=mask))
        cut = network(x, time, Cond(vector=cond.vector, tokens=tokens[:, :3]))
        turned = network(x, time, Cond(vector=cond.vector, tokens=tokens[:, :3].flip(1)))
        other = network(x, time, Cond(vector=cond.vector, tokens=tokens + 1, mask=mask))
    torch.testing.assert_close(out, cut)
    torch.testing.assert_close(out, turned)
    assert not torch.allclose(out, other)


def test_an_image_has_the_middle_of_the_table() -> None:
    """A table twice as wide at half the step, and the coordinates of a smaller image in it."""
    network = mmdit(positions=8)
    table = network.coordinates.unflatten(1, (8, 8))
    assert torch.equal(network._middle(4, 2).unflatten(1, (4, 2)), table[:, 2:6, 3:5])
    whole = mmdit().coordinates.unflatten(1, (4, 4))
    torch.testing.assert_close(table[:, ::2, ::2], whole)
    assert awake(network)(*inputs(torch.float32, 16)).shape == (2, 1, 8, 16)


def test_bf16_stays_close() -> None:
    network = awake(mmdit(qk_norm=True)).eval()
    with torch.no_grad():
        exact = network(*inputs(torch.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(*inputs(torch.float32)).float()
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"patch": 3}, "cannot be cut into patches of 3x3"),
        ({"width": 30}, "a multiple of 4"),
        ({"heads": 5}, "32 channels cannot be split into 5 heads"),
        ({"positions": 3}, r"network\.positions is at least 4, got 3"),
        ({"second_attention": [1, 2]}, r"names the blocks \[2\], and there are 0 to 1"),
    ],
)
def test_refuses_what_it_cannot_build(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        mmdit(**settings)


@pytest.mark.parametrize(
    ("shape", "change", "sentence"),
    [
        ((2, 3, 8, 8), {}, "takes 1 channels"),
        ((2, 1, 8, 7), {}, "multiples of 2 up to 8"),
        ((2, 1, 8, 10), {}, "multiples of 2 up to 8"),
        ((2, 1, 8, 8), {"tokens": None}, "condition tokens of width 5"),
        ((2, 1, 8, 8), {"vector": None}, "condition vector of width 6"),
    ],
)
def test_refuses_what_it_was_not_built_for(shape: tuple[int, ...], change: dict[str, None], sentence: str) -> None:
    cond = Cond(**{"vector": torch.zeros(2, 6), "tokens": torch.zeros(2, 3, 5)} | change)
    with pytest.raises(ValueError, match=sentence):
        mmdit()(torch.zeros(shape), torch.zeros(2), cond)


@pytest.mark.slow
def test_compiled_by_region_with_the_same_outputs() -> None:
    network = awake(mmdit(second_attention=[0]))
    plain = network(*inputs(torch.float32))
    network.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(network(*inputs(torch.float32)), plain, rtol=1e-4, atol=1e-5)
    assert network.blocks
    assert any(isinstance(module, Stream) for module in network.modules())
