"""DiT and SiT of random weights in the layout of their files, against the paper's equations written out."""

import argparse
import math

import pytest
import torch
import torch.nn.functional as F
from published import model
from scripts_in_process import run_script
from tiny_kl import save_tiny

from diffusion.errors import ConfigError
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.pretrained.formats import sit

WIDTH, DEPTH, HEADS, SIDE, CLASSES = 24, 2, 3, 4, 5


def layout(groups: int = 2) -> dict[str, torch.Tensor]:
    """The tensors of a transformer on 4 x 8 x 8 latents in patches of 2 x 2."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"x_embedder.proj.weight": (WIDTH, 4, 2, 2), "x_embedder.proj.bias": (WIDTH,),
              "t_embedder.mlp.0": (WIDTH, 256), "t_embedder.mlp.2": (WIDTH, WIDTH),
              "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
              "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
              "final_layer.linear": (4 * 4 * groups, WIDTH)}  # fmt: skip
    for i in range(DEPTH):
        shapes |= {f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH), f"blocks.{i}.attn.proj": (WIDTH, WIDTH),
                   f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH), f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH),
                   f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH)}  # fmt: skip
    tensors = {"pos_embed": positions()}
    for name, shape in shapes.items():
        if name.endswith((".weight", ".bias")):
            tensors[name] = torch.randn(shape, generator=generator) / 4
        else:
            tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
            tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator) / 4
    return tensors


def positions() -> torch.Tensor:
    frequency = torch.tensor([10000 ** (-i / (WIDTH // 4)) for i in range(WIDTH // 4)], dtype=torch.float64)
    angles = [(x * frequency, y * frequency) for y in range(SIDE) for x in range(SIDE)]
    return torch.stack([torch.cat([f(a) for a in at for f in (torch.sin, torch.cos)]) for at in angles]).float()[None]


def forward(w, x, t, y):
    """The network of the paper (section 3, figure 3)."""

    def linear(name, h):
        return F.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(h, shift, scale):
        return F.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    angle = t[:, None].double() * torch.tensor([10000 ** (-i / 128) for i in range(128)], dtype=torch.float64)
    features = torch.cat([angle.cos(), angle.sin()], 1).float()
    c = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", features)))
    c = F.silu(c + w["y_embedder.embedding_table.weight"][y])
    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=2).flatten(2).mT + w["pos_embed"]
    for i in range(DEPTH):
        s1, k1, g1, s2, k2, g2 = linear(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, 1)
        qkv = linear(f"blocks.{i}.attn.qkv", norm(h, s1, k1)).chunk(3, 2)
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in qkv)
        a = ((q @ k.mT) / math.sqrt(WIDTH // HEADS)).softmax(-1) @ v
        h = h + g1[:, None] * linear(f"blocks.{i}.attn.proj", a.transpose(1, 2).flatten(2))
        m = F.gelu(linear(f"blocks.{i}.mlp.fc1", norm(h, s2, k2)), approximate="tanh")
        h = h + g2[:, None] * linear(f"blocks.{i}.mlp.fc2", m)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, 1)
    out = linear("final_layer.linear", norm(h, shift, scale))
    return torch.einsum("nhwpqc->nchpwq", out.reshape(len(x), SIDE, SIDE, 2, 2, -1)).reshape(len(x), -1, 8, 8)


def published(folder, format):
    """A checkpoint of a training beside its autoencoder, as a run."""
    here = folder / "files"
    here.mkdir()
    raw, ema = layout(), {name: value + (name != "pos_embed") / 64 for name, value in layout().items()}
    torch.save({"model": raw, "ema": ema, "opt": {}, "args": argparse.Namespace(vae="ema")}, here / "0050000.pt")
    (here / "arguments.json").write_text(f'{{"num_heads": {HEADS}, "hidden_size": {WIDTH}, "class_dropout_prob": 0.1}}')
    save_tiny(here / "vae")
    run_script(f"scripts/import.py format={format} path={here} name=it paths.outputs={folder}")
    return folder / "imported" / "it", raw, ema


@torch.no_grad()
def test_dit(tmp_path):
    run, raw, ema = published(tmp_path, "dit")
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 777.0]), torch.tensor([1, 4])
    for weights, tensors in (("raw", raw), ("ema", ema)):
        loaded = model(run, weights)
        out = loaded.denoiser.network(x, t, loaded.condition({"label": y}))
        torch.testing.assert_close(out, forward(tensors, x, t, y), rtol=1e-4, atol=1e-4)
    guided = ClassifierFreeGuidance(loaded.denoiser, scale=4.0, channels=3)
    eps = guided(x, 0.5, loaded.condition({"label": y})).eps
    t = torch.full((2,), 499.0)
    cond, null = forward(ema, x, t, y)[:, :4], forward(ema, x, t, torch.full_like(y, CLASSES))[:, :4]
    due = torch.cat([null[:, :3] + 4 * (cond - null)[:, :3], cond[:, 3:]], 1)
    torch.testing.assert_close(eps, due, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sit(tmp_path):
    run, _, ema = published(tmp_path, "sit")
    loaded = model(run, "ema")
    x, y = torch.randn(2, 4, 8, 8), torch.tensor([0, 3])
    velocity = forward(ema, x, torch.full((2,), 0.75), y)[:, :4]  # data - noise at x = 0.75 data + 0.25 noise
    prediction = loaded.denoiser(x, 0.25, loaded.condition({"label": y}))
    torch.testing.assert_close(prediction.x0, x + 0.25 * velocity, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prediction.eps, x - 0.75 * velocity, rtol=1e-5, atol=1e-5)


def test_other_transformers_are_refused(tmp_path):
    torch.save(layout(), tmp_path / "it.pt")
    flags = tmp_path / "flags.yaml"
    flags.write_text(f"num_heads: {HEADS}\npath_type: GVP\n")
    with pytest.raises(ConfigError, match="path_type='GVP', and only Linear"):
        sit.read(tmp_path / "it.pt", flags)
    with pytest.raises(ConfigError, match="do not tell their heads"):
        sit.read(tmp_path / "it.pt", None)
    torch.save(layout() | {"pos_embed": torch.zeros(1, 16, WIDTH)}, tmp_path / "it.pt")
    with pytest.raises(ConfigError, match="not the sines and cosines"):
        sit.read(tmp_path / "it.pt", flags)
