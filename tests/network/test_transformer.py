"""DiT, the MLP and cross-attention: published sizes, an independent implementation, invariances, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from network_files import settings_of
from torch import nn

from diffusion.network.base import Network
from diffusion.network.dit import DiT
from diffusion.network.mlp import MLP
from diffusion.network.song_unet import SongUNet
from diffusion.network.unet import UNet
from diffusion.types import Cond


def awake(network: nn.Module) -> nn.Module:
    """The zero-initialised ends of the branches made random, so that everything counts in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    return network


def dit(**settings: object) -> DiT:
    keys = {"in_channels": 1, "resolution": 8, "width": 32, "depth": 2, "heads": 2}
    return DiT(**keys | settings)


def unet(**settings: object) -> UNet:
    keys = {"in_channels": 1, "resolution": 8, "channels": 16, "channel_mult": [1, 2], "num_res_blocks": 1}
    return UNet(**keys | {"attention": [4]} | settings)


def ncsnpp() -> SongUNet:
    more = {"taps": [1, 3, 3, 1], "fourier_scale": 16.0, "residual_input": True}
    return SongUNet(1, 8, channels=16, channel_mult=[1, 2], num_res_blocks=1, attention=[4], dropout=0.0, **more)


@pytest.mark.parametrize(("name", "millions"), [("dit_s2", 33), ("dit_b2", 130), ("dit_l2", 458), ("dit_xl2", 675)])
def test_published_number_of_parameters(name: str, millions: int) -> None:
    """Peebles & Xie 2023, table 1: latents of 4 channels, 32x32, 1000 classes and a null row, learned variance.

    The table counts the fixed coordinates of the 256 tokens too, and rounds in either direction: within 0.5M.
    """
    keys = settings_of(name)
    with torch.device("meta"):
        network = DiT(in_channels=4, resolution=32, learned_variance=True, cond_dim=keys["width"], **keys)
    count = sum(p.numel() for p in network.parameters()) + (1001 + 256) * keys["width"]
    assert abs(count / 1e6 - millions) < 0.6


def test_dit_equals_diffusers_with_its_weights() -> None:
    """Their frequencies are shifted by one against the paper's code, so ours are set to be, here only."""
    pytest.importorskip("diffusers")
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    width, depth = 32, 3
    theirs = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=depth, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    theirs = awake(theirs).double().eval()
    ours = dit(in_channels=4, learned_variance=True, depth=depth, cond_dim=width).double().eval()
    ours.embedding.shift = 1
    source = theirs.state_dict()
    first = "transformer_blocks.0.norm1.emb."
    for i in range(depth):  # there each block embeds time and class on its own
        for key in [k for k in source if k.startswith(first)]:
            source[key.replace("blocks.0", f"blocks.{i}")] = source[key]
    theirs.load_state_dict(source)
    places = {
        "embedding.linear1": f"{first}timestep_embedder.linear_1",
        "embedding.linear2": f"{first}timestep_embedder.linear_2",
        "stem": "pos_embed.proj",
        "modulation": "proj_out_1",
        "head": "proj_out_2",
    }
    for i in range(depth):
        block = f"transformer_blocks.{i}"
        places |= {
            f"stack.{i}.modulation": f"{block}.norm1.linear",
            f"stack.{i}.attention.out": f"{block}.attn1.to_out.0",
            f"stack.{i}.mlp1": f"{block}.ff.net.0.proj",
            f"stack.{i}.mlp2": f"{block}.ff.net.2",
        }
    target = {f"{a}.{kind}": source[f"{b}.{kind}"] for a, b in places.items() for kind in ("weight", "bias")}
    for i in range(depth):
        for kind in ("weight", "bias"):
            target[f"stack.{i}.attention.qkv.{kind}"] = torch.cat(
                [source[f"transformer_blocks.{i}.attn1.to_{x}.{kind}"] for x in "qkv"]
            )
    ours.load_state_dict(target)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    time, label = torch.tensor([3.0, 870.0], dtype=torch.float64), torch.tensor([9, 0])
    vector = source[f"{first}class_embedder.embedding_table.weight"][label]
    with torch.no_grad():
        reference = theirs(x, timestep=time, class_labels=label).sample
        torch.testing.assert_close(ours(x, time, Cond(vector=vector)), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [dit, unet])
def test_tokens_are_a_set_and_masked_ones_do_not_exist(build: type[Network]) -> None:
    network = awake(build(token_dim=5)).double().eval()
    x, label = torch.randn(2, 1, 8, 8).double(), torch.tensor([1.0, 700.0]).double()
    tokens, mask = torch.randn(2, 4, 5).double(), torch.tensor([[True] * 3 + [False]] * 2)
    with torch.no_grad():
        out = network(x, label, Cond(tokens=tokens, mask=mask))
        cut = network(x, label, Cond(tokens=tokens[:, :3]))
        turned = network(x, label, Cond(tokens=tokens[:, :3].flip(1)))
        other = network(x, label, Cond(tokens=tokens + 1, mask=mask))
    torch.testing.assert_close(out, cut)
    torch.testing.assert_close(out, turned)
    assert not torch.allclose(out, other)


def test_text_joins_a_network_without_a_sound() -> None:
    """Cross-attention ends in zeros: weights trained without text give the same output with it."""
    x, label = torch.randn(1, 1, 8, 8), torch.tensor([40.0])
    with_text, without = dit(token_dim=5), awake(dit())
    with_text.load_state_dict(without.state_dict(), strict=False)
    torch.testing.assert_close(with_text(x, label, Cond(tokens=torch.randn(1, 3, 5))), without(x, label, Cond()))


@pytest.mark.parametrize("settings", [{}, {"checkpointing": True}, {"token_dim": 5, "cond_dim": 6}])
def test_dit_starts_as_zero_and_every_parameter_learns(settings: dict[str, object]) -> None:
    network = dit(**settings)
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])
    cond = Cond(
        vector=torch.randn(2, 6) if "cond_dim" in settings else None,
        tokens=torch.randn(2, 3, 5) if "token_dim" in settings else None,
    )
    assert not network(x, label, cond).any()
    awake(network)(x, label, cond).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_dit_tells_places_apart() -> None:
    """Without coordinates, exchanging two patches would exchange the outputs and nothing else."""
    network = awake(dit()).double().eval()
    x, label = torch.randn(1, 1, 8, 8).double(), torch.tensor([5.0]).double()
    exchanged = x.clone()
    exchanged[..., :2, :2], exchanged[..., 4:6, 6:] = x[..., 4:6, 6:], x[..., :2, :2]
    with torch.no_grad():
        a, b = network(x, label, Cond()), network(exchanged, label, Cond())
        assert not torch.allclose(a[..., :2, :2], b[..., 4:6, 6:])
        network.coordinates.zero_()
        a, b = network(x, label, Cond()), network(exchanged, label, Cond())
        torch.testing.assert_close(a[..., :2, :2], b[..., 4:6, 6:])


@pytest.mark.parametrize("shape", [(5, 2), (5, 2, 1, 1), (5, 1, 4, 4)])
def test_mlp_takes_points_and_images(shape: tuple[int, ...]) -> None:
    network = MLP(shape[1], resolution=shape[-1] if len(shape) == 4 else 1, width=16, depth=2, cond_dim=3)
    x, label, cond = torch.randn(shape), torch.rand(5) * 1000, Cond(vector=torch.randn(5, 3))
    out = network(x, label, cond)
    assert out.shape == x.shape
    assert not out.any()
    awake(network)(x, label, cond).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_mlp_learns_a_gaussians_denoiser() -> None:
    """x = x0 + eps with both standard normal: the best guess of x0 is x / 2, whose error is 1/2."""
    torch.manual_seed(0)
    network = MLP(2, width=32, depth=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(200):
        x0 = torch.randn(256, 2)
        loss = (network(x0 + torch.randn_like(x0), torch.zeros(256), Cond()) - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(2000, 2) * 2**0.5
    with torch.no_grad():
        assert (network(x, torch.zeros(2000), Cond()) - x / 2).square().mean() < 0.02


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"patch": 3}, "cannot be cut into patches of 3x3"),
        ({"width": 30}, "a multiple of 4"),
        ({"heads": 5}, "32 channels cannot be split into 5 heads"),
    ],
)
def test_dit_refuses_what_it_cannot_build(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dit(**settings)


@pytest.mark.parametrize("network", [dit(), MLP(1, resolution=8, width=16, depth=1), unet()])
def test_refuses_what_it_was_not_built_for(network: Network) -> None:
    label = torch.zeros(2)
    with pytest.raises(ValueError, match="in_channels"):
        network(torch.zeros(2, 3, 8, 8), label, Cond())
    with pytest.raises(ValueError, match="cond_dim"):
        network(torch.zeros(2, 1, 8, 8), label, Cond(vector=torch.zeros(2, 4)))


@pytest.mark.parametrize("build", [dit, unet])
def test_refuses_tokens_of_another_width(build: type[Network]) -> None:
    with pytest.raises(ValueError, match="token_dim"):
        build(token_dim=5)(torch.zeros(2, 1, 8, 8), torch.zeros(2), Cond(tokens=torch.zeros(2, 3, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("build", [dit, unet, ncsnpp])
def test_compiled_by_region_with_the_same_keys_and_outputs(build: type[Network]) -> None:
    network = awake(build())
    keys, x, label = list(network.state_dict()), torch.randn(2, 1, 8, 8), torch.tensor([1.0, 900.0])
    plain = network(x, label, Cond())
    network.compile(fullgraph=True, backend="aot_eager")
    compiled = network(x, label, Cond())
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
    assert list(network.state_dict()) == keys
    compiled.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_mode_with_cuda_graphs_compiles_the_whole_and_hands_out_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen, kept = awake(dit()), [], []

    def recorded(call, **settings):
        seen.append(settings["mode"])

        def replay(*inputs):
            kept.append(call(*inputs))
            return kept[-1]

        return replay

    monkeypatch.setattr(torch, "compile", recorded)
    network.compile(mode="reduce-overhead")
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 900.0]), Cond()
    output = network(*inputs)
    assert seen == ["reduce-overhead"]
    assert torch.equal(output, kept[0])
    assert output.data_ptr() != kept[0].data_ptr()
    assert copy.deepcopy(network)._compiled_call_impl is None
