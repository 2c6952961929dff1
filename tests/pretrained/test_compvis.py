"""Latent diffusion's checkpoints with other first stages and conditions than Stable Diffusion 1; what is refused."""

import pytest
import torch
import torch.nn.functional as F
import yaml
from compvis_names import first_stage_name
from published import FIXTURES, Expected, model, unpacked
from scripts_in_process import run_script

from diffusion.errors import ConfigError
from diffusion.pretrained import formats, tensor_files
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.latent.condition import condition
from diffusion.pretrained.latent.first_stage import autoencoder_part
from diffusion.text_encoder.clip import CLIPTextEncoder

NAME = "compvis_sd_v1"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The fixture's tensors, and its config."""
    folder = unpacked(NAME, tmp_path_factory.mktemp("original"))
    state = tensor_files.load(folder / "model.ckpt")["state_dict"]
    return dict(state), yaml.safe_load((folder / "config.yaml").read_text())


@torch.no_grad()
def test_a_class_conditional_model_in_latents_of_a_codebook(original, tmp_path):
    from diffusers import VQModel

    torch.manual_seed(0)
    coder = VQModel(block_out_channels=(32, 64), layers_per_block=1, latent_channels=4, num_vq_embeddings=16,
                    vq_embed_dim=4, down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
                    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D")).eval()  # fmt: skip
    state, config = original
    kept = {k: v for k, v in state.items() if k.startswith("model.")}
    first = {f"first_stage_model.{first_stage_name(k, 2)}": v for k, v in coder.state_dict().items()}
    first = {k: v[..., None, None] if ".attn" in k and v.ndim == 2 else v for k, v in first.items()}
    rows = torch.randn(1001, 24)
    torch.save({"state_dict": {**kept, **first, "cond_stage_model.embedding.weight": rows}}, tmp_path / "model.ckpt")
    config = yaml.safe_load(yaml.safe_dump(config))
    params = config["model"]["params"]
    params["scale_factor"] = 0.5
    params["cond_stage_config"] = {
        "target": "ldm.modules.encoders.modules.ClassEmbedder",
        "params": {"n_classes": 1001, "embed_dim": 24, "key": "class_label"},
    }
    stage = params["first_stage_config"]
    stage["target"] = "ldm.models.autoencoder.VQModelInterface"
    stage["params"] |= {"n_embed": 16}
    stage["params"]["ddconfig"] |= {"double_z": False, "ch_mult": [1, 2], "attn_resolutions": [8]}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    place = f"paths.outputs={tmp_path} name=ldm"
    run_script(f"scripts/import.py format=compvis path={tmp_path / 'model.ckpt'} {place}")
    loaded, expected = model(tmp_path / "imported" / "ldm"), Expected(NAME)
    cond = loaded.condition({"label": torch.tensor([3, 7])})
    assert torch.equal(cond.tokens, rows[[3, 7]][:, None])
    assert torch.equal(cond.drop().tokens[0], rows[1000:])
    assert loaded.guidance.keys() == {"classifier_free"}
    latent = loaded.encode(expected["image"])
    torch.testing.assert_close(latent, 0.5 * coder.encode(expected["image"]).latents)
    torch.testing.assert_close(loaded.decode(latent), coder.decode(latent / 0.5).sample)


def reference(tensors, ids, layers, heads):
    """OpenCLIP's text tower up to a layer, then its last norm, by torch's own attention."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    x = tensors["token_embedding.weight"][ids] + tensors["positional_embedding"]
    later = torch.full((len(ids[0]), len(ids[0])), -torch.inf).triu(1)
    for n in range(layers):
        block = f"transformer.resblocks.{n}"
        own = {name: tensors[f"{block}.{name}"] for name in ("attn.in_proj_weight", "attn.in_proj_bias")}
        out = [tensors[f"{block}.attn.out_proj.{kind}"] for kind in ("weight", "bias")]
        h = norm(x, f"{block}.ln_1").transpose(0, 1)
        attended, _ = F.multi_head_attention_forward(
            h, h, h, x.shape[-1], heads, *own.values(), None, None, False, 0.0, *out, attn_mask=later
        )
        x = x + attended.transpose(0, 1)
        h = F.linear(norm(x, f"{block}.ln_2"), *(tensors[f"{block}.mlp.c_fc.{k}"] for k in ("weight", "bias")))
        x = x + F.linear(F.gelu(h), *(tensors[f"{block}.mlp.c_proj.{k}"] for k in ("weight", "bias")))
    return norm(x, "ln_final")


@torch.no_grad()
def test_the_text_encoder_of_stable_diffusion_2(tmp_path):
    width, layers = 128, 3
    shapes = {"token_embedding.weight": (528, width), "positional_embedding": (77, width), "logit_scale": (),
              "ln_final.weight": (width,), "ln_final.bias": (width,), "text_projection": (width, 40)}  # fmt: skip
    for n in range(layers):
        own = {"ln_1": (width,), "ln_2": (width,), "attn.out_proj": (width, width), "mlp.c_fc": (4 * width, width),
               "mlp.c_proj": (width, 4 * width), "attn.in_proj": (3 * width, width)}  # fmt: skip
        for name, shape in own.items():
            joint = "_" if "in_proj" in name else "."
            shapes |= {f"transformer.resblocks.{n}.{name}{joint}weight": shape}
            shapes |= {f"transformer.resblocks.{n}.{name}{joint}bias": shape[:1]}
    random = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=random) * 0.1 for name, shape in shapes.items()}
    tokenizer = FIXTURES / NAME / "clip"
    (tmp_path / "tokenizer").symlink_to(tokenizer)
    target = "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder"
    stage = {"target": target, "params": {"freeze": True, "layer": "penultimate"}}
    flags = Flags({"cond_stage_config": stage, "conditioning_key": "crossattn"}, "the config")
    parts = {}
    found = condition(flags, {f"model.{k}": v for k, v in tensors.items()}, tmp_path, parts)
    (tmp_path / "part").mkdir()
    parts["text_encoder"].write(tmp_path / "part")
    assert (found.token_dim, found.overrides["text_encoder.layer"]) == (width, -2)
    encoder = CLIPTextEncoder(str(tmp_path / "part"), width, layer=-2, mask=False)
    texts = ["a photo of a red cat", "dog"]
    ids = encoder._held[0].tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    torch.testing.assert_close(encoder(texts).tokens, reference(tensors, ids, layers - 1, width // 64))


def test_a_model_without_a_condition_has_no_tokens(original, tmp_path):
    parts = {}
    found = condition(Flags({"cond_stage_config": "__is_unconditional__"}, "the config"), {}, tmp_path, parts)
    assert (found.token_dim, found.overrides["conditioner"], parts) == (0, "none", {})


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("conditioning_key", "hybrid", "conditioning_key=hybrid is not supported"),
        ("cond_stage_config.target", "ldm.modules.encoders.modules.BERTEmbedder", "BERTEmbedder is not supported"),
        ("unet_config.params.num_classes", 1000, "num_classes=1000, and only None"),
        ("unet_config.params.in_channels", 9, "only 9 is supported"),
        ("unet_config.params.context_dim", 25, "tokens of another width than its condition's 24"),
        ("unet_config.target", "sgm.modules.Other", "only UNetModel is supported"),
        ("first_stage_config.params.embed_dim", 3, "only equal ones are supported"),
        ("first_stage_config.target", "ldm.models.autoencoder.Other", "the first stage ldm.models.autoencoder.Other"),
        ("beta_schedule", "sqrt", "beta_schedule='sqrt'"),
        ("new_setting", 1, "not supported here: new_setting"),
    ],
)
def test_what_is_not_supported_is_refused(original, tmp_path, keys, value, message):
    state, config = original
    config = yaml.safe_load(yaml.safe_dump(config))
    node = config["model"]["params"]
    *way, last = keys.split(".")
    for key in way:
        node = node[key]
    node[last] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "clip").symlink_to(FIXTURES / NAME / "clip")
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    with pytest.raises(ConfigError, match=message):
        formats.read("compvis", tmp_path / "model.ckpt", None)


def test_a_first_stage_that_lacks_a_tensor_is_refused(original, tmp_path):
    state, config = original
    own = {k.partition(".")[2]: v for k, v in state.items() if k.startswith("first_stage_model.")}
    del own["decoder.norm_out.bias"]
    stage = config["model"]["params"]["first_stage_config"]
    part, _ = autoencoder_part(stage["target"], stage["params"], own, 1.0)
    with pytest.raises(ConfigError, match=r"is missing: decoder\.conv_norm_out\.bias"):
        part.write(tmp_path)
