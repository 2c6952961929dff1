"""DDPM++ and NCSN++: published sizes, filters in closed form, blocks against diffusers', invariances, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from network_files import settings_of
from test_network import awake, parameters
from torch import nn

from diffusion.network.blocks import Context, ResBlock
from diffusion.network.fir import Fir
from diffusion.network.song_blocks import ResidualInput, SongAttentionBlock, SongEmbedding, SongResBlock
from diffusion.network.song_unet import SongUNet
from diffusion.types import Cond

TAPS = [1, 3, 3, 1]
NCSNPP = {"taps": TAPS, "fourier_scale": 16.0, "residual_input": True}
SKIPS = {"taps": TAPS, "fourier_scale": 16.0, "input_skip": True, "output_skip": True, "unit_input": True}
KINDS = pytest.mark.parametrize("kind", [{}, NCSNPP, SKIPS], ids=["ddpmpp", "ncsnpp", "skips"])


def tiny(**settings: object) -> SongUNet:
    keys = {"in_channels": 1, "resolution": 8, "channels": 16, "channel_mult": [1, 2], "num_res_blocks": 2}
    return SongUNet(**keys | {"attention": [4], "dropout": 0.0} | settings)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SIZES = [  # file, resolution, levels, augmented, parameters / 10^6 as published
    ("ddpmpp_cifar10", 32, [2, 2, 2], True, 56),  # Karras et al. 2022, appendix F: VP, VE, and the 64 x 64 sets
    ("ncsnpp_cifar10", 32, [2, 2, 2], True, 56),
    ("ddpmpp_cifar10", 64, [1, 2, 2, 2], True, 62),
    ("ddpmpp_cifar10", 32, [1, 2, 2, 2], False, 62),  # Song et al. 2021, as later papers quote its networks
    ("ncsnpp_cifar10", 32, [1, 2, 2, 2], False, 63),
    ("ddpmpp_cifar10_deep", 32, [1, 2, 2, 2], False, 107),
    ("ncsnpp_cifar10_deep", 32, [1, 2, 2, 2], False, 108),
]


@pytest.mark.parametrize(("name", "resolution", "levels", "augmented", "millions"), SIZES)
def test_published_number_of_parameters(
    name: str, resolution: int, levels: list[int], augmented: bool, millions: int
) -> None:
    keys = settings_of(name) | {"channel_mult": levels}
    with torch.device("meta"):
        network = SongUNet(3, resolution, augment_dim=9 if augmented else 0, **keys)
    assert round(parameters(network) / 1e6) == millions


# --- the filter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [TAPS, [1, 1], [1, 2, 5, 5, 2, 1]])
def test_a_filter_keeps_constants_and_straight_lines(taps: list[int]) -> None:
    """Away from the edges: a pixel of the double size stands a quarter of a pixel beside that which it came from."""
    fir, n = Fir(taps).double(), torch.arange(32, dtype=torch.float64)
    inside = slice(6, -6)
    ones = torch.ones(1, 2, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(fir.up(ones)[..., inside, inside], torch.ones(1, 2, 52, 52, dtype=torch.float64))
    torch.testing.assert_close(fir.down(ones)[..., 3:-3, 3:-3], torch.ones(1, 2, 10, 10, dtype=torch.float64))
    line = n.expand(1, 1, 32, 32)
    torch.testing.assert_close(fir.down(line)[0, 0, 8, 3:-3], 2 * n[3:13] + 0.5)
    if taps != [1, 1]:
        up = fir.up(line)[0, 0, 30]
        torch.testing.assert_close(up[inside][::2] + up[inside][1::2], (2 * n)[3:-3])
    torch.testing.assert_close(fir.down(fir.up(line))[0, 0, 16, inside], n[inside])


def test_binomial_taps_have_the_response_of_a_cosine_cubed() -> None:
    """[1, 3, 3, 1] / 8 is ([1, 1] / 2) three times over: |H| = cos^3(omega / 2), and a checkerboard goes to 0."""
    n, fir = torch.arange(64, dtype=torch.float64), Fir(TAPS).double()
    for omega in (0.1, 0.5, 1.3, math.pi):
        halved = fir.down(torch.cos(omega * n).expand(1, 1, 64, 64))[0, 0, 16, 2:-2]
        expected = math.cos(omega / 2) ** 3 * torch.cos(omega * (2 * n[2:30] + 0.5))
        torch.testing.assert_close(halved, expected)


def test_two_taps_are_means_and_repetition() -> None:
    fir, x = Fir([1, 1]).double(), noise(2, 3, 6, 8)
    torch.testing.assert_close(fir.down(x), nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(fir.up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_the_filter_equals_diffusers() -> None:
    down = pytest.importorskip("diffusers.models.downsampling")
    up = pytest.importorskip("diffusers.models.upsampling")
    fir, x = Fir(TAPS), noise(2, 3, 6, 8).float()
    torch.testing.assert_close(fir.down(x), down.downsample_2d(x, TAPS))
    torch.testing.assert_close(fir.up(x), up.upsample_2d(x, TAPS))


def test_the_residual_input_equals_diffusers() -> None:
    down = pytest.importorskip("diffusers.models.downsampling")
    ours, theirs = ResidualInput(3, 5, TAPS), down.FirDownsample2D(3, 5, use_conv=True, fir_kernel=tuple(TAPS))
    ours.conv.load_state_dict(theirs.Conv2d_0.state_dict())
    x, h = noise(2, 3, 8, 8).float(), noise(2, 5, 4, 4, seed=1).float()
    torch.testing.assert_close(ours(x, h)[1], (theirs(x) + h) / math.sqrt(2))


@pytest.mark.parametrize("taps", [[1, 3, 1], [], [1, -1]])
def test_refuses_filters_that_stand_on_pixels(taps: list[int]) -> None:
    with pytest.raises(ValueError, match="even number of taps whose sum is not 0"):
        Fir(taps)


# --- the blocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("c_in", "c_out", "resample"), [(16, 16, None), (16, 32, None), (16, 16, "down"), (16, 16, "up")]
)
def test_a_block_equals_diffusers(c_in: int, c_out: int, resample: str | None) -> None:
    resnet = pytest.importorskip("diffusers.models.resnet")
    theirs = resnet.ResnetBlock2D(
        in_channels=c_in, out_channels=c_out, temb_channels=8, groups=c_in // 4, groups_out=c_out // 4, eps=1e-6,
        output_scale_factor=math.sqrt(2), kernel="fir", up=resample == "up", down=resample == "down",
        use_in_shortcut=c_in != c_out or resample is not None,
    )  # fmt: skip
    ours = SongResBlock(c_in, c_out, 8, taps=TAPS, resample=resample)
    names = {"emb": "time_emb_proj", "skip": "conv_shortcut"}
    state = theirs.state_dict()
    ours.load_state_dict(
        {
            f"{own}.{kind}": state.pop(f"{names.get(own, own)}.{kind}")
            for own, kind in (k.split(".") for k in ours.state_dict())
        }
    )
    assert not state
    x, emb = noise(2, c_in, 8, 8).float(), noise(2, 8, seed=1).float()
    torch.testing.assert_close(ours(x, Context(nn.functional.silu(emb))), theirs(x, emb), rtol=1e-4, atol=1e-5)


def test_attention_equals_diffusers() -> None:
    attention = pytest.importorskip("diffusers.models.attention_processor")
    theirs = attention.Attention(
        16, heads=1, dim_head=16, rescale_output_factor=math.sqrt(2), eps=1e-6, norm_num_groups=4,
        residual_connection=True, bias=True, upcast_softmax=True, _from_deprecated_attn_block=True,
    )  # fmt: skip
    ours, state = SongAttentionBlock(16), theirs.state_dict()
    ours.norm.load_state_dict({kind: state[f"group_norm.{kind}"] for kind in ("weight", "bias")})
    ours.attention.out.load_state_dict({kind: state[f"to_out.0.{kind}"] for kind in ("weight", "bias")})
    ours.attention.qkv.load_state_dict(
        {kind: torch.cat([state[f"to_{name}.{kind}"] for name in "qkv"]) for kind in ("weight", "bias")}
    )
    x = noise(2, 16, 4, 4).float()
    torch.testing.assert_close(ours(x, Context(torch.zeros(2, 8))), theirs(x), rtol=1e-4, atol=1e-5)


def test_rescaled_sums_keep_the_variance() -> None:
    """Thirty blocks whose branches have variance 1: it stays 1 but for their correlations; plain sums reach 31."""
    x, context = noise(4, 16, 16, 16).float(), Context(torch.zeros(4, 8))
    with torch.no_grad():
        for seed in range(30):
            torch.manual_seed(seed)
            block, plain = SongResBlock(16, 16, 8), ResBlock(16, 16, 8)
            plain.load_state_dict(block.state_dict())
            branch = plain(x, context) - x
            block.conv2.weight /= branch.std()
            block.conv2.bias.copy_((block.conv2.bias - branch.mean()) / branch.std())
            x = block(x, context)
    assert float(x.var()) == pytest.approx(1, abs=0.5)


def test_fourier_features_have_the_gaussian_kernel() -> None:
    """The mean product of two labels' features is the characteristic function of their frequencies, a Gaussian
    (Rahimi & Recht 2007)."""
    torch.manual_seed(0)
    embedding = SongEmbedding(20_000, 4, fourier_scale=0.7)
    gap = torch.tensor([0.0, 0.1, 0.25, 0.5])
    features = embedding.features(0.3 + gap)
    kernel = features @ features[0] / 20_000
    torch.testing.assert_close(kernel, torch.exp(-2 * (math.pi * 0.7 * gap) ** 2), rtol=0, atol=0.02)
    assert "spectrum" in embedding.state_dict(), "what was drawn belongs to the checkpoint"


# --- what must hold for any weights -----------------------------------------------------------------------------------


@KINDS
def test_starts_as_zero_and_every_parameter_learns(kind: dict[str, object]) -> None:
    network = tiny(**kind, cond_dim=6, augment_dim=9)
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.2])
    cond = Cond(vector=torch.randn(2, 6), augment_labels=torch.randn(2, 9))
    out = network(x, label, cond)
    assert out.shape == x.shape
    assert not out.any()
    awake(network)(x, label, cond).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@KINDS
def test_samples_do_not_see_each_other(kind: dict[str, object]) -> None:
    network = awake(tiny(**kind)).double().eval()
    x, label = noise(3, 1, 8, 8), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        alone = torch.cat([network(x[i : i + 1], label[i : i + 1], Cond()) for i in range(3)])
        torch.testing.assert_close(network(x, label, Cond()), alone, rtol=1e-9, atol=1e-9)


@KINDS
def test_nothing_told_is_zeros_told(kind: dict[str, object]) -> None:
    """What sampling leaves out means "not augmented"; every other number counts."""
    network = awake(tiny(**kind, augment_dim=9)).eval()
    x, label = torch.randn(9, 1, 8, 8), torch.linspace(-1, 1, 9)
    with torch.no_grad():
        plain = network(x, label, Cond())
        torch.testing.assert_close(network(x, label, Cond(augment_labels=torch.zeros(9, 9))), plain)
        augmented = network(x, label, Cond(augment_labels=torch.eye(9)))
    assert ((augmented - plain).abs().amax((1, 2, 3)) > 1e-4).all()


@KINDS
@pytest.mark.parametrize("settings", [{"checkpointing": True}, {"memory_format": "channels_last"}])
def test_how_it_is_computed_changes_nothing(kind: dict[str, object], settings: dict[str, object]) -> None:
    plain, other = awake(tiny(**kind)).double(), tiny(**kind, **settings).double()
    other.load_state_dict(plain.state_dict())
    x, label = noise(2, 1, 8, 8), torch.tensor([0.3, -0.4], dtype=torch.float64)
    for network in (plain, other):
        network(x, label, Cond()).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_attention_stands_where_the_paper_counts_it() -> None:
    """Four blocks in the encoder and two in the decoder, its middle included (Karras et al. 2022, table 7)."""
    with torch.device("meta"):
        network = SongUNet(3, 32, channel_mult=[2, 2, 2])

    def count(part: nn.Module) -> int:
        return sum(isinstance(module, SongAttentionBlock) for module in part.modules())

    assert (count(network.down), count(network.middle) + count(network.up)) == (4, 2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"residual_input": True}, "network.residual_input filters images; set network.taps"),
        ({"output_skip": True}, "network.output_skip filters images; set network.taps"),
        ({"taps": TAPS, "residual_input": True, "input_skip": True}, "residual_input or network.input_skip, not both"),
        ({"attention_groups": 3}, "cannot be divided into 3 groups; set .* attention_groups"),
        ({"attention": [16]}, r"resolutions \[16\]"),
        ({"channels": 15}, "even and at least 4"),
        ({"memory_format": "fast"}, "one of auto, contiguous, channels_last"),
        ({"channel_mult": [1, 1, 1, 1, 1]}, "8 cannot be"),
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
        ((2, 1, 8, 8), Cond(tokens=torch.zeros(2, 1, 5)), "token_dim"),
    ],
)
def test_refuses_what_it_was_not_built_for(shape: tuple[int, ...], cond: Cond, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny()(torch.zeros(shape), torch.zeros(2), cond)
