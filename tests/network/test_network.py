"""The networks: published sizes, an independent implementation, invariances, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from network_files import settings_of
from torch import nn

from diffusion.network.attention import attend
from diffusion.network.base import Network
from diffusion.network.blocks import Upsample
from diffusion.network.dit import DiT
from diffusion.network.unet import UNet
from diffusion.types import Cond


def from_config(name: str, **settings: object) -> UNet:
    """A network from its file, the interpolated keys given by hand."""
    return UNet(**settings_of(name) | settings)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """The zero-initialised ends of the branches made random, so that everything counts in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    return network


def tiny(**settings: object) -> UNet:
    keys = {"in_channels": 1, "resolution": 8, "channels": 16, "channel_mult": [1, 2], "num_res_blocks": 1}
    return UNet(**keys | {"attention": [4]} | settings)


SIZES = [  # file, resolution, classes, learned variance, parameters / 10^6 as published
    ("ddpm_cifar10", 32, 0, False, 35.7),  # Ho et al. 2020, appendix B
    ("ddpm_lsun256", 256, 0, False, 114),
    ("adm_imagenet64", 64, 1000, True, 296),  # Dhariwal & Nichol 2021, table 11
    ("adm_imagenet128", 128, 1000, True, 422),
    ("adm_imagenet256", 256, 1000, True, 554),
    ("adm_imagenet512", 512, 1000, True, 559),
    ("adm_lsun256", 256, 0, True, 552.8),  # 552M in the table, which truncates; 552.8M from its released code
]


@pytest.mark.parametrize(("name", "resolution", "classes", "learned", "millions"), SIZES, ids=[s[0] for s in SIZES])
def test_published_number_of_parameters(
    name: str, resolution: int, classes: int, learned: bool, millions: float
) -> None:
    width = 4 * settings_of(name)["channels"]
    with torch.device("meta"):
        network = from_config(
            name, in_channels=3, resolution=resolution, learned_variance=learned, cond_dim=width if classes else 0
        )
    count = parameters(network) + classes * width  # the papers' networks hold the class embedding
    digits = len(str(millions).partition(".")[2])
    assert round(count / 1e6, digits) == millions


# --- against diffusers ------------------------------------------------------------------------------------------------

DDPM = {"channels": 32, "channel_mult": [1, 2, 2], "num_res_blocks": 2, "attention": [8]}
"""The paper's structure, narrower and 16x16, so that a test of float64 outputs is quick. 128 channels is 32 groups in
both implementations; at 32 and 64 ours takes fewer groups than diffusers by default, so it is built with ours."""


def diffusers_unet(size: int, widths: list[int], attention: list[bool], groups: int) -> nn.Module:
    """google/ddpm-cifar10-32's options: asymmetric padding, shifted frequencies, sines first, epsilon 1e-6."""
    unet_2d = pytest.importorskip("diffusers.models.unets.unet_2d")
    return unet_2d.UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        block_out_channels=tuple(widths),
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        layers_per_block=2,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
        norm_num_groups=groups,
    )


def copied(ours: UNet, theirs: nn.Module, levels: int) -> None:
    """Every weight of ``theirs`` put at its place in ``ours``; both must be used up."""
    source = {k: v.detach() for k, v in theirs.state_dict().items()}
    target: dict[str, torch.Tensor] = {}

    def take(mine: str, other: str) -> None:
        for kind in ("weight", "bias"):
            target[f"{mine}.{kind}"] = source.pop(f"{other}.{kind}")

    def residual(mine: str, other: str) -> None:
        for a, b in (("norm1", "norm1"), ("conv1", "conv1"), ("emb", "time_emb_proj"), ("norm2", "norm2")):
            take(f"{mine}.{a}", f"{other}.{b}")
        take(f"{mine}.conv2", f"{other}.conv2")
        if f"{other}.conv_shortcut.weight" in source:
            take(f"{mine}.skip", f"{other}.conv_shortcut")

    def attention(mine: str, other: str) -> None:
        take(f"{mine}.norm", f"{other}.group_norm")
        take(f"{mine}.attention.out", f"{other}.to_out.0")
        for kind in ("weight", "bias"):
            target[f"{mine}.attention.qkv.{kind}"] = torch.cat([source.pop(f"{other}.to_{x}.{kind}") for x in "qkv"])

    take("embedding.linear1", "time_embedding.linear_1")
    take("embedding.linear2", "time_embedding.linear_2")
    take("stem", "conv_in")
    take("norm", "conv_norm_out")
    take("head", "conv_out")
    residual("middle.0", "mid_block.resnets.0")
    attention("middle.1", "mid_block.attentions.0")
    residual("middle.2", "mid_block.resnets.1")
    i = j = 0
    for level in range(levels):
        for block in range(2):
            residual(f"down.{i}.0", f"down_blocks.{level}.resnets.{block}")
            if f"down_blocks.{level}.attentions.{block}.group_norm.weight" in source:
                attention(f"down.{i}.1", f"down_blocks.{level}.attentions.{block}")
            i += 1
        if level < levels - 1:
            take(f"down.{i}.0.conv", f"down_blocks.{level}.downsamplers.0.conv")
            i += 1
        for block in range(3):
            residual(f"up.{j}.0", f"up_blocks.{level}.resnets.{block}")
            place = 1
            if f"up_blocks.{level}.attentions.{block}.group_norm.weight" in source:
                attention(f"up.{j}.1", f"up_blocks.{level}.attentions.{block}")
                place = 2
            if block == 2 and level < levels - 1:
                take(f"up.{j}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv")
            j += 1
    assert not source
    ours.load_state_dict(target)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_equals_diffusers_with_its_weights(memory_format: str) -> None:
    ours = UNet(3, 16, **DDPM, memory_format=memory_format).double().eval()
    theirs = awake(diffusers_unet(16, [32, 64, 64], [False, True, False], groups=8)).double().eval()
    for norm in (m for m in ours.modules() if isinstance(m, nn.GroupNorm)):
        norm.num_groups = 8
    copied(ours, theirs, levels=3)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([7.0, 930.0], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, label, Cond()), theirs(x, label).sample, rtol=1e-5, atol=1e-5)


def test_the_papers_size_equals_diffusers() -> None:
    """The 35.7M network itself, in float32, and parameter by parameter (nothing of theirs is left over)."""
    ours = from_config("ddpm_cifar10", in_channels=3, resolution=32, learned_variance=False).eval()
    theirs = awake(diffusers_unet(32, [128, 256, 256, 256], [False, True, False, False], groups=32)).eval()
    assert parameters(ours) == parameters(theirs) == 35_746_307
    copied(ours, theirs, levels=4)
    x, label = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, label, Cond()), theirs(x, label).sample, rtol=1e-5, atol=1e-5)


# --- what must hold for any weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["ddpm", "adm"])
@pytest.mark.parametrize("updown", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_starts_as_zero_and_every_parameter_learns(variant: str, updown: bool, scale_shift: bool) -> None:
    network = tiny(variant=variant, resblock_updown=updown, scale_shift_norm=scale_shift, cond_dim=6)
    x, label, cond = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0]), Cond(vector=torch.randn(2, 6))
    out = network(x, label, cond)
    assert out.shape == x.shape
    assert not out.any()
    awake(network)(x, label, cond).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_samples_do_not_see_each_other() -> None:
    network = awake(tiny()).double().eval()
    x, label = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([1.0, 50.0, 999.0], dtype=torch.float64)
    with torch.no_grad():
        alone = torch.cat([network(x[i : i + 1], label[i : i + 1], Cond()) for i in range(3)])
        torch.testing.assert_close(network(x, label, Cond()), alone, rtol=1e-9, atol=1e-9)


def test_neighbouring_indices_differ_under_bf16() -> None:
    network = tiny().eval()
    label = torch.arange(990.0, 1000.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = network.embedding(label)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding, network.embedding(label))
    sinusoids = network.embedding.sinusoids(label)
    torch.testing.assert_close(sinusoids[:, 0], torch.sin(label))  # the fastest frequency is 1
    torch.testing.assert_close(sinusoids[:, 7], torch.sin(label / 10_000))  # and DDPM's slowest 1 / 10000


def small_dit(**settings: object) -> DiT:
    return DiT(1, 8, width=32, depth=3, heads=2, **settings)


@pytest.mark.parametrize("build", [tiny, small_dit])
def test_checkpointing_changes_memory_only(build: Callable[..., Network]) -> None:
    """The same gradients, dropout included, from at most half of what is kept for the backward pass."""
    plain, saving = awake(build(dropout=0.3)), build(dropout=0.3, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x, label, kept = torch.randn(8, 1, 8, 8), 100 * torch.arange(8.0), []
    for network in (plain, saving):
        weights, found = {p.data_ptr() for p in network.parameters()}, {}

        def pack(tensor, weights=weights, found=found):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(x, label, Cond()).square().sum()
        kept.append(sum(found.values()))
        loss.backward()
    assert kept[1] < 0.5 * kept[0]
    for (name, a), b in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert torch.equal(b[1].grad, a.grad), name


def test_bf16_stays_close() -> None:
    network = awake(tiny(channels=32)).eval()
    x, label = torch.randn(4, 1, 8, 8), torch.rand(4) * 1000
    with torch.no_grad():
        exact = network(x, label, Cond())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x, label, Cond()).float()
    assert (rounded - exact).norm() < 0.02 * exact.norm()  # bf16 has 8 bits: 0.4% an operation


def test_a_image_and_a_vector_condition_matter() -> None:
    network = awake(tiny(cond_dim=6, image_channels=2)).eval()
    x, label, vector, image = torch.randn(2, 1, 8, 8), torch.ones(2), torch.randn(2, 6), torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        base = network(x, label, Cond(vector=vector, image=image))
        assert not torch.allclose(base, network(x, label, Cond(vector=vector + 1, image=image)))
        assert not torch.allclose(base, network(x, label, Cond(vector=vector, image=image + 1)))
        assert not torch.allclose(base, network(x, label + 500, Cond(vector=vector, image=image)))


def test_learned_variance_doubles_the_channels() -> None:
    x = torch.randn(1, 1, 8, 8)
    assert tiny(learned_variance=True)(x, torch.ones(1), Cond()).shape == (1, 2, 8, 8)
    assert tiny(learned_variance=True, out_channels=3)(x, torch.ones(1), Cond()).shape == (1, 6, 8, 8)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"resolution": 28, "channel_mult": [1, 2, 2, 2], "attention": []}, "28 cannot be; give channel_mult 1 to 3"),
        ({"resolution": 7, "attention": []}, "give channel_mult 1 to 1 entries"),
        ({"channel_mult": [], "attention": []}, "0 levels"),
        ({"attention": [16]}, r"resolutions \[16\], and the levels of this U-Net are \[8, 4\]"),
        ({"heads": 3}, "32 channels cannot be split into 3 heads"),
        ({"head_channels": 24}, "heads of 24 channels"),
        ({"memory_format": "fast"}, "one of auto, contiguous, channels_last"),
        ({"variant": "edm"}, "one of ddpm, adm"),
        ({"channels": 15}, "even and at least 4"),
    ],
)
def test_refuses_what_it_cannot_build(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny(**settings)


@pytest.mark.parametrize(
    ("shape", "cond", "sentence"),
    [
        ((2, 3, 8, 8), Cond(), "takes 1 channels"),
        ((2, 1, 9, 9), Cond(), "no multiple"),
        ((2, 1, 8, 8), Cond(vector=torch.zeros(2, 5)), "cond_dim must equal conditioner.dim"),
        ((2, 1, 8, 8), Cond(image=torch.zeros(2, 1, 8, 8)), "image_channels"),
    ],
)
def test_refuses_what_it_was_not_built_for(shape: tuple[int, ...], cond: Cond, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny()(torch.zeros(shape), torch.zeros(2), cond)


@pytest.mark.parametrize("size", [(5, 3), (13, 9)])  # at most AT_ONCE pixels, and more
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_upsampling_is_repetition_and_convolution(memory_format: torch.memory_format, size: tuple[int, int]) -> None:
    layer = Upsample(6).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = nn.functional.conv2d(repeated, layer.conv.weight, layer.conv.bias, padding=1)
    out = layer(x, None)
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=memory_format)
    weights = torch.randn_like(expected)
    inputs = (x, layer.conv.weight, layer.conv.bias)
    for a, b in zip(
        torch.autograd.grad((out * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("keys", "width"), [(16, 64), (300, 64)])
def test_half_precision_attention_is_the_fused_one(keys: int, width: int) -> None:
    q, k, v = torch.randn(3, 2, 2, keys, width, generator=torch.Generator().manual_seed(0))
    exact = nn.functional.scaled_dot_product_attention(q, k, v)
    half = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() < 0.01 * exact.norm()
