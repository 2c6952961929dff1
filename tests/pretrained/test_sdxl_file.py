"""SDXL's base and refiner from one file of the original code, whose names diffusers' own converter reads as well."""

import shutil

import pytest
import torch
import yaml
from compvis_names import first_stage, open_clip
from random_pipelines import refiner, sdxl
from safetensors.torch import load_file, save_file
from scripts_in_process import run_script

import diffusion
from diffusion.errors import ConfigError
from diffusion.pretrained import formats
from diffusion.pretrained.diffusers_folder import named
from diffusion.pretrained.openai_unet import unet_links
from diffusion.pretrained.transforms import CONVOLVED, MATRIX

converters = pytest.importorskip("diffusers.loaders.single_file_utils")
UNET, STAGE = "model.diffusion_model.", "first_stage_model."
SIZES = {"size": "original_size_as_tuple", "crop": "crop_coords_top_left", "target_size": "target_size_as_tuple",
         "score": "aesthetic_score"}  # fmt: skip


def settings(numbers, tokens, vector, base):
    """The YAML of the original, at miniature size."""
    where = "sgm.modules.encoders.modules."
    size = {"target": f"{where}ConcatTimestepEmbedderND", "params": {"outdim": 8}}
    clip = {"target": f"{where}FrozenCLIPEmbedder", "input_key": "txt", "is_trainable": False,
            "params": {"layer": "hidden", "layer_idx": 2, "version": "words"}}  # fmt: skip
    big = {"target": f"{where}FrozenOpenCLIPEmbedder2", "input_key": "txt", "is_trainable": False,
           "params": {"arch": "ViT-bigG-14", "version": "laion2b_s39b_b160k", "freeze": True, "legacy": False,
                      "layer": "penultimate", "always_return_pooled": True}}  # fmt: skip
    components = sum(1 if name == "score" else 2 for name in numbers)
    network = {
        "adm_in_channels": vector + 8 * components, "num_classes": "sequential", "use_checkpoint": True,
        "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2], "num_res_blocks": 1,
        "channel_mult": [1, 2], "num_head_channels": 16, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": True, "transformer_depth": [1, 2], "context_dim": tokens if base else [tokens] * 2,
        "spatial_transformer_attn_type": "softmax-xformers",
    }  # fmt: skip
    stage = {
        "embed_dim": 4, "monitor": "val/rec_loss", "lossconfig": {"target": "torch.nn.Identity"},
        "ddconfig": {"attn_type": "vanilla-xformers", "double_z": True, "z_channels": 4, "resolution": 16,
                     "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1,
                     "attn_resolutions": [], "dropout": 0.0},
    }  # fmt: skip
    modules = "sgm.modules.diffusionmodules."
    return {"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": {
        "scale_factor": 0.13, "disable_first_stage_autocast": True,
        "denoiser_config": {"target": f"{modules}denoiser.DiscreteDenoiser", "params": {
            "num_idx": 1000, "scaling_config": {"target": f"{modules}denoiser_scaling.EpsScaling"},
            "discretization_config": {"target": f"{modules}discretizer.LegacyDDPMDiscretization"}}},
        "network_config": {"target": f"{modules}openaimodel.UNetModel", "params": network},
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {
            "emb_models": [*([clip] if base else []), big, *({**size, "input_key": SIZES[name]} for name in numbers)]}},
        "first_stage_config": {"target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper", "params": stage},
    }}}  # fmt: skip


@pytest.fixture(scope="module", params=["base", pytest.param("refiner", marks=pytest.mark.slow)])
def case(request, tmp_path_factory):
    """A pipeline, the model of its folder, and a file of the original's layout with its config."""
    folder, base = tmp_path_factory.mktemp(request.param), request.param == "base"
    blocks = {"block_out_channels": (32, 64), "norm_num_groups": 32}
    unet = {**blocks, "layers_per_block": 1, "sample_size": 128}
    wide = {"unet": unet, "vae": blocks, "clip": {"num_attention_heads": 1}}
    pipe = (sdxl if base else refiner)(folder / "words", **wide)
    pipe.save_pretrained(folder / "there")
    run_script(f"scripts/import.py format=diffusers path={folder / 'there'} name=folder paths.outputs={folder}")
    model = diffusion.load(folder / "imported" / "folder")
    links = [link._replace(how=MATRIX) if link.how is CONVOLVED else link
             for link in unet_links(model.denoiser.network, "legacy", UNET)]  # fmt: skip
    state = named(links, model.state_dict())
    state |= {STAGE + name: value for name, value in first_stage(pipe.vae.state_dict(), 2).items()}
    big = open_clip(pipe.text_encoder_2.state_dict())
    state |= {f"conditioner.embedders.{int(base)}.model.{name}": value for name, value in big.items()}
    if base:
        own = pipe.text_encoder.state_dict()
        own = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in own.items()}
        state |= {f"conditioner.embedders.0.transformer.{name}": value for name, value in own.items()}
    state["denoiser.sigmas"] = torch.linspace(0, 14, 1000)
    numbers = ("size", "crop", "target_size") if base else ("size", "crop", "score")
    place = folder / "original"
    place.mkdir()
    save_file({name: value.contiguous().clone() for name, value in state.items()}, place / "sd_xl.safetensors")
    (place / "sd_xl.yaml").write_text(yaml.safe_dump(settings(numbers, 36 if base else 20, 10, base)))
    for name in ("tokenizer", "tokenizer_2") if base else ("tokenizer_2",):
        shutil.copytree(folder / "there" / name, place / name)
    return pipe, model, place, folder


def test_diffusers_reads_the_same_names(case):
    pipe, _, place, _ = case
    state = load_file(place / "sd_xl.safetensors")
    for found, module in (
        (converters.convert_ldm_unet_checkpoint(dict(state), pipe.unet.config), pipe.unet),
        (converters.convert_ldm_vae_checkpoint(dict(state), pipe.vae.config), pipe.vae),
    ):
        due = module.state_dict()
        assert found.keys() == due.keys()
        assert all(torch.equal(found[name].reshape(due[name].shape), due[name]) for name in due)
    prefix = f"conditioner.embedders.{int(pipe.text_encoder is not None)}.model."
    found = converters.convert_open_clip_checkpoint(pipe.text_encoder_2, dict(state), prefix=prefix)
    due = pipe.text_encoder_2.state_dict()
    assert all(torch.equal(found[name], due[name]) for name in due)


@torch.no_grad()
def test_a_file_gives_what_the_folder_gives(case):
    _, model, place, folder = case
    run_script(f"scripts/import.py format=compvis path={place / 'sd_xl.safetensors'} name=file paths.outputs={folder}")
    again = diffusion.load(folder / "imported" / "file")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    texts = {"text": ["a red heart", "two stars"]}
    ours, theirs = again.condition(texts), model.condition(texts)
    for cond, due in ((ours, theirs), (ours.null, theirs.null)):
        torch.testing.assert_close(cond.tokens, due.tokens)
        torch.testing.assert_close(cond.vector, due.vector)
        assert {k: v.tolist() for k, v in cond.numbers.items()} == {k: v.tolist() for k, v in due.numbers.items()}
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.decode(z), model.decode(z))
    levels = again.sampler.with_steps(5).levels(again.schedule)
    assert [round(level.t * 1000) - 1 for level in levels[:-1]] == [999, 799, 599, 399, 199]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("network_config.params.num_classes", 1000, "num_classes=1000, and only sequential"),
        ("network_config.params.context_dim", [20, 24], "only one width for all levels"),
        ("network_config.params.adm_in_channels", 40, "a vector of"),
        ("denoiser_config.params.scaling_config.target", "sgm.EDMScaling", "the scaling EDMScaling is not supported"),
        ("denoiser_config.target", "sgm.Denoiser", "only DiscreteDenoiser is supported"),
        ("conditioner_config.params.emb_models.0.target", "sgm.Other", "the embedder Other of txt is not supported"),
        ("first_stage_config.target", "sgm.Other", "the first stage sgm.Other is not supported"),
        ("new_setting", 1, "not supported here: new_setting"),
    ],
)
def test_what_is_not_supported_is_refused(case, tmp_path, keys, value, message):
    place = case[2]
    config = yaml.safe_load((place / "sd_xl.yaml").read_text())
    node = config["model"]["params"]
    *way, last = keys.split(".")
    for key in way:
        node = node[int(key) if key.isdigit() else key]
    node[last] = value
    for name in ("tokenizer", "tokenizer_2"):
        (tmp_path / name).symlink_to(place / name)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=message):
        formats.read("compvis", place / "sd_xl.safetensors", tmp_path / "other.yaml")


def test_a_missing_tokenizer_and_tensors_without_a_place_are_refused(case, tmp_path):
    place = case[2]
    shutil.copy(place / "sd_xl.yaml", tmp_path / "sd_xl.yaml")
    with pytest.raises(ConfigError, match="tokenizers are not in the file; put tokenizer"):
        formats.read("compvis", place / "sd_xl.safetensors", tmp_path / "sd_xl.yaml")
    state = load_file(place / "sd_xl.safetensors")
    save_file({**state, "conditioner.embedders.9.weight": torch.zeros(1)}, tmp_path / "sd_xl.safetensors")
    with pytest.raises(ConfigError, match=r"has no place among its embedders: conditioner\.embedders\.9\.weight"):
        formats.read("compvis", tmp_path / "sd_xl.safetensors", place / "sd_xl.yaml")
