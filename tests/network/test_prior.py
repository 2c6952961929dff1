"""The prior: diffusers' implementation with its weights, published sizes, causality, padding, vectors in samplers."""

from __future__ import annotations

import pytest
import torch
from network_files import settings_of
from torch import nn

from diffusion.autoencoder.embedding import EmbeddingAutoencoder
from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.network.prior import PriorTransformer
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.pretrained.base import NETWORK, Published, converted
from diffusion.pretrained.unclip_prior import prior, prior_links
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import DPMSolverPP2MSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.types import Cond

TINY = {"in_channels": 6, "width": 16, "depth": 2, "heads": 2, "length": 5, "cond_dim": 6, "token_dim": 6}


def awake(network: nn.Module) -> nn.Module:
    """Every weight random, so that everything counts in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3 + ("norm" in name and p.ndim == 1))
    return network


def inputs() -> tuple[torch.Tensor, torch.Tensor, Cond]:
    random = torch.Generator().manual_seed(1)
    x, vector, tokens = (torch.randn(s, generator=random, dtype=torch.float64) for s in ((2, 6), (2, 6), (2, 5, 6)))
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    return x, torch.tensor([3.0, 870.0], dtype=torch.float64), Cond(vector=vector, tokens=tokens, mask=mask)


def test_published_size() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = PriorTransformer(768, cond_dim=768, token_dim=768, **settings_of("prior_karlo"))
        theirs = diffusers.PriorTransformer()  # Karlo's
    found = sum(p.numel() for p in network.parameters())
    assert found + 2 * 768 == sum(p.numel() for p in theirs.parameters()), "all but the statistics of embeddings"
    assert round(found / 1e6) == 1022


@torch.no_grad()
def test_equals_diffusers_with_its_weights() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = awake(
        diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=6, num_embeddings=5
        )
    ).double()
    overrides = prior(theirs.config)
    keys = {key.partition(".")[2]: value for key, value in overrides.items() if "." in key}
    network = PriorTransformer(cond_dim=6, token_dim=6, **keys).double()
    dropped = {"clip_*": "of the scale"}
    state, left = converted(Published(overrides, {"raw": theirs.state_dict()}, prior_links, dropped), network)
    assert left.keys() == {"clip_mean", "clip_std"}
    network.load_state_dict({k.removeprefix(NETWORK): v for k, v in state["raw"].items()})
    theirs.time_proj.forward = network.sinusoids  # float32 always there
    x, time, cond = inputs()
    due = theirs(x, time, cond.vector, cond.tokens, cond.mask).predicted_image_embedding
    found = network(x, time, cond)
    assert float((found - due).abs().max()) < 1e-10 * max(1.0, float(due.abs().max()))


@torch.no_grad()
def test_padding_does_not_count_and_order_does() -> None:
    network = awake(PriorTransformer(**TINY)).double().eval()
    x, time, cond = inputs()
    out = network(x, time, cond)
    other = cond.tokens.clone()
    other[1, 2:] = 7.0
    assert torch.equal(network(x, time, Cond(vector=cond.vector, tokens=other, mask=cond.mask)), out)
    turned = cond.tokens.flip(1)
    assert not torch.allclose(network(x, time, Cond(vector=cond.vector, tokens=turned, mask=cond.mask))[0], out[0])
    nothing = Cond(vector=cond.vector, tokens=cond.tokens, mask=torch.zeros_like(cond.mask))
    assert torch.isfinite(network(x, time, nothing)).all()


def test_attention_looks_back_only() -> None:
    """What a token becomes does not depend on those after it: seen at the block, whose other tokens change."""
    network = awake(PriorTransformer(**TINY)).double().eval()
    seen: list[torch.Tensor] = []
    network.stack[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    x, time, cond = inputs()
    full = Cond(vector=cond.vector, tokens=cond.tokens)
    with torch.no_grad():
        network(x, time, full)
        network(x + 1, time, full)
    assert torch.equal(seen[0][:, :7], seen[1][:, :7]), "text, its embedding and the noise level come before x"
    assert not torch.allclose(seen[0][:, 7:], seen[1][:, 7:])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"resolution": 8}, "takes vectors, and the data are 8 x 8"),
        ({"width": 5}, "network.width is even"),
        ({"heads": 3}, "network.heads"),
        ({"depth": 0}, "network.depth is at least 1"),
        ({"length": 0}, "network.length is at least 1"),
    ],
)
def test_wrong_sizes_are_refused(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PriorTransformer(**TINY | settings)


def test_wrong_inputs_are_refused() -> None:
    network = PriorTransformer(**TINY)
    level = torch.zeros(2)
    vector, tokens = torch.zeros(2, 6), torch.zeros(2, 5, 6)
    for x, cond, sentence in (
        (torch.zeros(2, 1, 8, 8), Cond(vector=vector, tokens=tokens), "takes vectors"),
        (torch.zeros(2, 6), Cond(vector=torch.zeros(2, 4), tokens=tokens), "conditioner.dim"),
        (torch.zeros(2, 6), Cond(vector=vector, tokens=torch.zeros(2, 4, 6)), "network.length=4"),
        (torch.zeros(2, 6), Cond(vector=vector, tokens=tokens, numbers={"size": level}), r"network.numbers=\[size\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            network(x, level, cond)


@pytest.mark.parametrize(
    "sampler", [AncestralSampler(200, LinspaceSpacing()), DPMSolverPP2MSampler(30)], ids=lambda s: type(s).__name__
)
def test_samplers_draw_vectors(sampler: object) -> None:
    """Of a Gaussian, whose mean and spread are known."""
    mean, std = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.1, 0.5, 1.0])
    noise = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random = torch.Generator().manual_seed(1)
    drawn = sampler(
        GaussianDenoiser(CosineSchedule(), mean, std),
        noise,
        randn_like=lambda x: torch.randn(x.shape, generator=random, dtype=x.dtype),
    )
    assert float((drawn.mean(0) - mean).abs().max()) < 0.05
    assert float((drawn.std(0) - std).abs().max()) < 0.05


def test_statistics_and_scale(tmp_path) -> None:
    from safetensors.torch import save_file

    mean, std = torch.randn(5), torch.rand(5) + 0.5
    save_file({"mean": mean, "std": std}, tmp_path / "s.safetensors")
    coder = EmbeddingAutoencoder(5, scale=1.0, statistics=str(tmp_path / "s.safetensors"))
    embedding = torch.randn(3, 5) * std + mean
    torch.testing.assert_close(coder.encode(embedding), (embedding - mean) / std)
    torch.testing.assert_close(coder.decode(coder.encode(embedding)), embedding)
    assert coder.sha256
    unit = torch.nn.functional.normalize(torch.randn(4000, 1024), dim=1)
    scaled = EmbeddingAutoencoder(1024).encode(unit)
    assert abs(float(scaled.var()) - 17.2**2 / 1024) < 0.01
    with pytest.raises(ValueError, match="no safetensors file with mean and std"):
        EmbeddingAutoencoder(5, statistics=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"where \(4,\) is due"):
        EmbeddingAutoencoder(4, statistics=str(tmp_path / "s.safetensors"))
    with pytest.raises(ValueError, match=r"image_embedding is \(B, 5\)"):
        coder.encode(torch.zeros(2, 3, 8, 8))


def test_x0_of_a_vector() -> None:
    network = awake(PriorTransformer(4, width=8, depth=1, heads=1)).eval()
    denoiser = NetworkDenoiser(network, CosineSchedule(), X0Parameterization())
    x = torch.randn(2, 4)
    with torch.no_grad():
        prediction = denoiser(x, torch.tensor([0.3, 0.9], dtype=torch.float64))
        level = denoiser.c_noise(torch.tensor([0.3, 0.9], dtype=torch.float64)).float()
        torch.testing.assert_close(prediction.x0, network(x, level))
