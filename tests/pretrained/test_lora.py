"""LoRA files merged at import: the model is that with a second branch beside each layer, as LoRA is defined."""

import json

import pytest
import torch
from lora_files import applied, branches, kohya, peft
from random_pipelines import sd3, sdxl
from safetensors.torch import save_file
from scripts_in_process import run_script

import diffusion
from diffusion.errors import ConfigError
from diffusion.files import sha256_of
from diffusion.pipeline.base import Request
from diffusion.pretrained import lora
from diffusion.pretrained.base import NETWORK

pytest.importorskip("diffusers")
PROMPTS = ["a red heart", "two stars"]
BLOCK = "down_blocks.1.attentions.0.transformer_blocks.1"
UNET = [f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn1.to_v", f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn2.to_out.0",
        f"{BLOCK}.ff.net.0.proj", f"{BLOCK}.ff.net.2", "up_blocks.0.attentions.2.proj_in", "mid_block.resnets.1.conv2",
        "down_blocks.0.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv", "down_blocks.1.resnets.0.conv_shortcut",
        "conv_in", "time_embedding.linear_1", "add_embedding.linear_2",
        "mid_block.resnets.0.time_emb_proj"]  # fmt: skip
TOWER = ["layers.0.self_attn.q_proj", "layers.1.self_attn.out_proj", "layers.1.mlp.fc1"]
ORIGINAL = {
    "down_blocks.1.attentions.0": "input_blocks.4.1",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "conv_in": "input_blocks.0.0",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
    "add_embedding.linear_2": "label_emb.0.2",
    "up_blocks.0.attentions.2": "output_blocks.2.1",
    "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    "time_embedding.linear_1": "time_embed.0",
    "mid_block.resnets.0.time_emb_proj": "middle_block.0.emb_layers.1",
}
"""Names of two residual blocks a level in the original code, which those of SDXL's LoRA files are."""


def tower_layers(model):
    """The layers' names in this model, which transformers has changed, and in files of kohya's code."""
    prefix = "text_model.encoder." if hasattr(model, "text_model") else "encoder."
    return [prefix + name for name in TOWER]


def original(name):
    place = next(place for place in ORIGINAL if name.startswith(place))
    return ORIGINAL[place] + name.removeprefix(place)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    pipe = sdxl(folder / "words")
    pipe.save_pretrained(folder / "there")
    run_script(f"scripts/import.py format=diffusers path={folder / 'there'} name=plain paths.outputs={folder}")
    return pipe, folder / "there", diffusion.load(folder / "imported" / "plain")


def imported(base, folder, *files):
    adapters = ",".join(f"{{path:{path},scale:{scale}}}" for path, scale in files)
    place = f"path={base[1]} name=merged paths.outputs={folder}"
    run_script(f"scripts/import.py format=diffusers {place} 'lora=[{adapters}]'")
    run = folder / "imported" / "merged"
    return diffusion.load(run), json.loads((run / "origin.json").read_text())


@torch.no_grad()
def outputs(pipe):
    """Of the U-Net and of both text encoders."""
    tokens, _, vector, _ = pipe.encode_prompt(PROMPTS)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 2)
    added = {"text_embeds": vector, "time_ids": ids}
    return tokens, vector, pipe.unet(x, 500, encoder_hidden_states=tokens, added_cond_kwargs=added).sample


@torch.no_grad()
def check(model, due):
    cond = model.pipeline().cond(torch.arange(2), 0, Request.of(2, text=PROMPTS))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = cond.tokens, cond.vector, model.denoiser.network(x, torch.full((2,), 500.0), cond)
    for ours, theirs in zip(found, due, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5 * max(1.0, float(theirs.abs().max()))


def test_files_of_two_kinds_with_two_scales(base, tmp_path):
    pipe, words = base[0], [base[0].text_encoder, base[0].text_encoder_2]
    own = [branches(pipe.unet, UNET, 0), *(branches(tower, tower_layers(tower), i) for i, tower in enumerate(words))]
    save_file(
        {**peft(own[0], "unet"), **peft(own[1], "text_encoder"), **peft(own[2], "text_encoder_2")},
        tmp_path / "peft.safetensors",
    )
    files = {"unet": branches(pipe.unet, UNET, 3, alpha=1.5)}
    files |= {f"te{i + 1}": branches(tower, tower_layers(tower), 4 + i, alpha=2.0) for i, tower in enumerate(words)}
    first = {original(name): branch for name, branch in files["unet"].items()}
    named = {
        key: {f"text_model.{name.removeprefix('text_model.')}": branch for name, branch in files[key].items()}
        for key in ("te1", "te2")
    }
    save_file(
        {**kohya(first, "lora_unet"), **kohya(named["te1"], "lora_te1"), **kohya(named["te2"], "lora_te2")},
        tmp_path / "kohya.safetensors",
    )
    plain = outputs(pipe)
    with (
        applied(pipe.unet, own[0], 0.8), applied(words[0], own[1], 0.8), applied(words[1], own[2], 0.8),
        applied(pipe.unet, files["unet"], -0.5), applied(words[0], files["te1"], -0.5),
        applied(words[1], files["te2"], -0.5),
    ):  # fmt: skip
        due = outputs(pipe)
    assert all(float((a - b).abs().max()) > 0.01 for a, b in zip(plain, due, strict=True))
    names = [(tmp_path / f"{name}.safetensors", scale) for name, scale in (("peft", 0.8), ("kohya", -0.5))]
    model, origin = imported(base, tmp_path, *names)
    check(model, due)
    kept = [{"path": str(path), "file": path.name, "sha256": sha256_of(path), "scale": s} for path, s in names]
    assert origin["lora"] == kept


def named_otherwise(own):
    """Names of diffusers' earlier versions."""
    found = {}
    for name, (down, up, _) in own.items():
        head, _, last = name.rpartition(".")
        processed = last in ("to_q", "to_k", "to_v", "0")
        last = "to_out" if last == "0" else last
        head = head.removesuffix(".to_out") + ".processor" if processed else head
        ends = ("_lora.down", "_lora.up") if processed else (".lora.down", ".lora.up")
        found |= {f"unet.{head}.{last}{end}.weight": factor for end, factor in zip(ends, (down, up), strict=True)}
    return found


def test_names_of_earlier_versions_and_pefts_settings(base, tmp_path):
    pipe, _, model = base
    own, more = branches(pipe.unet, UNET[:6], 7), branches(pipe.unet, UNET[1:4], 8)
    save_file(named_otherwise(own), tmp_path / "old.safetensors")
    settings = {"unet.lora_alpha": 6, "unet.r": 3, "unet.alpha_pattern": {"attn2.to_k": 2}}
    save_file(peft(more, "unet"), tmp_path / "new.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    also = {name: branch._replace(alpha=2.0 if "to_k" in name else 6.0) for name, branch in more.items()}
    with applied(pipe.unet, own, 1.0), applied(pipe.unet, also, 1.0):
        due = outputs(pipe)
    twin = model.twin()
    adapters = lora.read([{"path": str(tmp_path / name)} for name in ("old.safetensors", "new.safetensors")])
    network = twin.denoiser.network
    state = {f"{NETWORK}{name}": value for name, value in network.state_dict().items()}
    state = state | lora.merged(adapters, network, state)
    network.load_state_dict({name.removeprefix(NETWORK): value for name, value in state.items()})
    check(twin, due)


@pytest.mark.slow
def test_a_transformer_of_stable_diffusion_3(tmp_path):
    pipe = sd3(tmp_path / "words")
    pipe.save_pretrained(tmp_path / "there")
    names = ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_v_proj", "proj_out", "context_embedder",
             "transformer_blocks.1.norm1_context.linear", "transformer_blocks.0.attn2.to_k",
             "pos_embed.proj"]  # fmt: skip
    own = branches(pipe.transformer, names, 0)
    save_file(peft(own, "transformer"), tmp_path / "style.safetensors")
    model, _ = imported((pipe, tmp_path / "there"), tmp_path, (tmp_path / "style.safetensors", 0.7))
    cond = model.condition({"text": PROMPTS})
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), 500.0)
    with torch.no_grad(), applied(pipe.transformer, own, 0.7):
        due = pipe.transformer(x, cond.tokens, cond.vector, t).sample
        found = model.denoiser.network(x, t, cond)
    assert float((found - due).abs().max()) < 1e-5 * max(1.0, float(due.abs().max()))


def test_diffusers_merges_the_same(base, tmp_path):
    pytest.importorskip("peft")
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(base[1])
    own = branches(pipe.unet, UNET, 9, alpha=1.5, vary=False)  # of several, diffusers forgets those of attention
    words = branches(pipe.text_encoder, tower_layers(pipe.text_encoder), 2, alpha=2.0, vary=False)
    named = {f"text_model.{name.removeprefix('text_model.')}": branch for name, branch in words.items()}
    first = {original(name): branch for name, branch in own.items()}
    save_file({**kohya(first, "lora_unet"), **kohya(named, "lora_te1")}, tmp_path / "style.safetensors")
    model, _ = imported(base, tmp_path, (tmp_path / "style.safetensors", 0.6))
    pipe.load_lora_weights(tmp_path / "style.safetensors")
    pipe.fuse_lora(lora_scale=0.6)
    check(model, outputs(pipe))


FACTORS = {"lora_A.weight": torch.zeros(2, 16), "lora_B.weight": torch.zeros(16, 2)}


def merge(file, base):
    adapters, network = lora.read([{"path": str(file)}]), base[2].denoiser.network
    lora.merge_encoders(adapters, base[1])
    lora.merged(adapters, network, {f"{NETWORK}{k}": v for k, v in network.state_dict().items()})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.conv_in.hada_w1_a": torch.zeros(1)}, "no factors of LoRA .*: unet.conv_in.hada_w1_a"),
        ({"unet.time_embedding.linear_1.lora_A.weight": torch.zeros(2, 16)}, "without one of two factors"),
        ({f"unet.nothing.{k}": v for k, v in FACTORS.items()}, "that this network does not have: nothing"),
        ({f"text_encoder_3.x.{k}": v for k, v in FACTORS.items()}, "has layers of text_encoder_3, and this model has"),
        ({f"text_encoder.x.{k}": v for k, v in FACTORS.items()}, "that the text encoder does not have: x"),
        (
            {f"unet.time_embedding.linear_1.{k}": v for k, v in FACTORS.items()},
            r"makes \(16, 16\), and .* is \(64, 16\)",
        ),
        (
            {
                "unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3),
                "unet.conv_in.lora_B.weight": torch.zeros(16, 3, 1, 1),
            },
            "factors of ranks 2 and 3 for conv_in",
        ),
    ],
    ids=range(7),
)
def test_other_files_are_refused(base, tmp_path, tensors, message):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=message):
        merge(tmp_path / "x.safetensors", base)


def test_dora_is_refused_and_so_is_a_network_of_another_kind(tmp_path):
    own = {f"unet.x.{name}": value for name, value in FACTORS.items()}
    save_file(own, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})})
    with pytest.raises(ConfigError, match="has use_dora=True for network, which is not supported"):
        lora.read([{"path": str(tmp_path / "x.safetensors")}])
    save_file(own, tmp_path / "y.safetensors")
    with pytest.raises(ConfigError, match="not into Linear"):
        lora.merged(lora.read([{"path": str(tmp_path / "y.safetensors")}]), torch.nn.Linear(1, 1), {})
