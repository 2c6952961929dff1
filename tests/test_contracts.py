"""Every file in conf/ is found here by itself, composed, checked, built and put to work."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONF, config
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from image_tables import noise_samples, write_parquet, write_shard
from mnist_files import write_mnist
from model_folders import run_folder
from omegaconf import OmegaConf
from PIL import Image
from tiny_kl import save_tiny, save_tiny_convolutional, save_tiny_vq

from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.text import TextConditioner
from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.evaluation import naming
from diffusion.evaluation.likelihood import LikelihoodEvaluator
from diffusion.experiment.build.build import build, build_trainer
from diffusion.experiment.config.options import composed
from diffusion.experiment.config.rooms import draws
from diffusion.experiment.config.validate import check
from diffusion.experiment.reproduce.cells import Settings, configs
from diffusion.experiment.run.stages import with_stages
from diffusion.experiment.task.cost import cost
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.model import DiffusionModel
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.randomness import SAMPLING, KeyedRandomness
from diffusion.reporting.ablation import Ablation
from diffusion.schedule.cosine import CosineSchedule
from diffusion.testing import check_option, check_training, options
from diffusion.testing.network import TinyNetwork
from diffusion.testing.option import CHECKS, ENTRIES, chosen_with
from diffusion.text_encoder.words import WordsTextEncoder
from diffusion.types import Cond

OPTIONS = [Path(group) / name for group, name in options(CONF)]
SMALL = ["evaluation=none", "logger=csv"]
JUMPS = ["network=mlp", "network.numbers=[to]", "schedule=flow", "parameterization=flow"]
CIRCLE = ["network=mlp", "schedule=trig", "parameterization=edm"]
STUDENT = ["network=mlp", "objective.teacher.run=another"]
CLASSIFIER = ["objective=classification", "network=classifier_digits", "conditioner=label"]
LATENT = [f"experiment/imagenet256_{name}" for name in ("dit", "min_snr", "shortcut", "mean_flow")]
LATENT += ["experiment/imagenet512_sizes"]
PERCEPTUAL = [f"experiment/{name}" for name in ("cifar10_cd", "cifar10_ct", "imagenet64_cd", "imagenet64_ct")]
LPIPS = ["objective.metric.network.extractor=digits-cnn-v1", "objective.metric.resolution=null"]
"""Its own weights are not here."""
MATCHING = ("distribution_matching", "score_identity")
MEASURED = [path.stem for path in (CONF / "guidance").glob("*.yaml") if "measurement: ???" in path.read_text()]
UNREAD = ("data/cifar10", "data/celeba", "data/none")


def settings(option: Path, tmp_path: Path) -> list[str]:
    """What an option needs beside its own name: mandatory keys, or parts that it is made for."""
    group, name = str(option.parent), option.name
    folder = ["data=image_folder", f"data.root={tmp_path}"]
    if group == "network":
        small = {"mlp": 1, "unet_tiny": 8, "edm2_tiny": 8, "classifier_digits": 8}
        size = next((s for s in (512, 256, 128, 64) if str(s) in name), small.get(name, 32))
        classes = ["network.num_classes=10"] if name.startswith("classifier") else []
        return [f"data.resolution={size}", *classes]
    if group == "data":
        return ["network=unet_small"] if str(option) in UNREAD else small_data(name, tmp_path)
    if str(option) == "schedule/table":
        np.save(tmp_path / "betas.npy", np.linspace(1e-4, 0.02, 200))
    judged = ("emoji", "emoji_pairs", *(f"metric/{name}" for name in ("clip_score", "concept", "r_precision", "style")))
    if str(option.parent).startswith("evaluation") and str(option).removeprefix("evaluation/") in judged:
        classifier = ["evaluation.metric.style.run=another"] if name in ("emoji_pairs", "style") else []
        return [f"evaluation.clip.pretrained={tmp_path}", *classifier]  # which are not loaded
    if group == "text_encoder":
        return ["conditioner=text", *(["text_encoder.run=nothing"] if name == "run" else [])]
    return {
        "augmentation/geometric": [
            "network=ddpmpp_cifar10",
            "network.channels=8",
            "network.channel_mult=[1,2]",
            "network.attention=[4]",
        ],
        "conditioner/class_sizes": ["network=ldm_tiny", "network.numbers=[size]"],
        "conditioner/sdxl": ["network.numbers=[size,crop,target_size]"],
        "conditioner/sizes": ["network.numbers=[size,crop,target_size]", "guidance=none"],
        "evaluation/classification": CLASSIFIER,
        "evaluation/fashion_mnist": ["data=fashion_mnist", "network=unet_small"],
        "objective/classification": CLASSIFIER,
        "objective/hybrid": ["parameterization.learned_variance=true"],
        "objective/metric/lpips": LPIPS,
        "objective/matching": ["objective.teacher.run=another"],
        "objective/consistency_distillation": ["objective.teacher.run=another"],
        **{f"objective/solve/{solve}": ["objective.teacher.run=another"] for solve in ("ddim", "euler", "heun")},
        "objective/guidance_distillation": [
            "objective.teacher.run=another",
            "conditioner=label",
            "network.numbers=[guidance]",
        ],
        "objective/progressive": ["objective.teacher.run=another"],
        "objective/continuous_consistency": CIRCLE,
        "objective/continuous_distillation": [*CIRCLE, "objective.teacher.run=another"],
        "objective/reflow": [*STUDENT, "objective.steps=3"],
        **{f"objective/{name}": [*STUDENT, "objective.regression=1"] for name in MATCHING},
        "objective/mean_flow": JUMPS,
        "objective/shortcut": JUMPS,
        "objective/vlb": ["parameterization.learned_variance=true"],
        "guidance/distilled": ["guidance.distilled.trained=[1,5]"],
        "guidance/auto": ["guidance.auto.weak.run=another"],
        "guidance/expert": ["guidance.expert.model.run=another"],
        "guidance/classifier": ["guidance.classifier.classifier.run=another"],
        **{f"guidance/{measured}": [f"guidance.{measured}.measurement={tmp_path / 'y.npy'}"] for measured in MEASURED},
        "autoencoder/run": [*folder, "data.resolution=64", "guidance=none", f"autoencoder.run={tmp_path / 'run'}"],
        "autoencoder/vq": [*folder, "data.resolution=32", "guidance=none", f"autoencoder.pretrained={tmp_path / 'vq'}"],
        "autoencoder/tiny": [
            *folder,
            "data.resolution=64",
            "guidance=none",
            f"autoencoder.pretrained={tmp_path / 'tiny'}",
        ],
        "autoencoder/embedding": ["network=prior_tiny", "guidance=none"],
        "autoencoder/kl": [*folder, "data.resolution=64", "guidance=none", f"autoencoder.pretrained={tmp_path / 'kl'}"],
        "autoencoder/trainable_kl": trainable("kl"),
        "autoencoder/trainable_vq": trainable("vq"),
        "evaluation/reconstruction": trainable("kl"),
        "evaluation/retrieval": ["module=contrastive", "data=emoji"],
        "module/autoencoder": trainable("vq"),
        "module/contrastive": ["data=emoji"],
        "edit/outpaint": ["edit.pixels=2"],
        "edit/restore": [f"edit.posterior.pigdm.measurement={tmp_path / 'y.npy'}"],
        **{
            f"experiment/{name}": ["module.loss.perceptual.extractor=null"]  # lpips, whose weights are not here
            for name in ("ldm_kl_f4", "ldm_kl_f8", "ldm_vq_f4", "ldm_vq_f8")
        },
        "experiment/imagenet256_adm": ["data.resolution=64"],
        "experiment/unclip_upsampler_256": ["data.resolution=64"],
        "experiment/unclip_upsampler_1024": ["data.resolution=128"],
        **{option: [f"autoencoder.pretrained={tmp_path / 'kl'}"] for option in LATENT},
        **{option: ["objective.metric.network.extractor=efficientnet-lite0"] for option in PERCEPTUAL},
        **{
            f"experiment/{name}": ["objective.regression=1", "objective.steps=2"]
            for name in ("cifar10_sid", "imagenet64_sid", "digits_sid", "digits_dmd2")
        },
        "experiment/imagenet64_dmd2": ["objective.features=conv", "objective.regression=1", "objective.steps=2"],
        "sampler/dpm_solver_v3": ["sampler.statistics=data_prediction"],
        "sampler/rk45": ["sampler.rtol=1e-9", "sampler.atol=1e-9"],
        "schedule/table": [f"schedule.path={tmp_path / 'betas.npy'}"],
        "spacing/indices": ["spacing.indices=[900,100,10,0]", "sampler.steps=4"],
        "spacing/sections": ["sampler.steps=250"],
    }.get(str(option), [])


def trainable(kind: str) -> list[str]:
    """An autoencoder of the digits, small."""
    sizes = ["autoencoder.widths=[4,8]", "autoencoder.groups=2", "autoencoder.blocks=1"]
    return ["module=autoencoder", f"autoencoder=trainable_{kind}", *sizes]


def small_data(name: str, tmp_path: Path) -> list[str]:
    """A few images in each data set's own format; those of CIFAR-10 and CelebA are stubs in tests/data."""
    if name in ("mnist", "fashion_mnist"):
        write_mnist(tmp_path, "MNIST" if name == "mnist" else "FashionMNIST")
    if name == "image_folder":
        for i in range(40):
            noise = np.random.default_rng(i).integers(0, 255, (12, 9, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / f"{i}.png")
    if name == "arrays":
        for i in range(40):
            np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).uniform(0, 9, (8, 8)))
        return [f"data.root={tmp_path}", "data.range=[0,9]", "data.batch_size=4", "data.resolution=8"]
    if name == "webdataset":
        write_shard(tmp_path / "0.tar", noise_samples(40))
        return [f"data.shards={tmp_path}", "data.batch_size=4", "data.resolution=8", f"data.cache={tmp_path / 'cache'}"]
    if name == "huggingface":
        write_parquet(tmp_path / "train.parquet", noise_samples(40))
        file = [f"data.path={tmp_path / 'train.parquet'}", f"data.cache={tmp_path / 'cache'}"]
        return [*file, "data.batch_size=4", "data.resolution=8"]
    size = ["data.resolution=8"] if name == "image_folder" else []
    return [] if name in ("augmented", "digits", "emoji") else [f"data.root={tmp_path}", "data.batch_size=4", *size]


def compose(option: Path, tmp_path: Path):
    group, name = str(option.parent), option.name
    if group == "pipeline":
        return config(tmp_path, f"pipeline={name}", name="sample")
    entry = "sample" if str(option) == "hydra/sample" else "train"
    if str(option) in ("autoencoder/kl", *LATENT):
        save_tiny(tmp_path / "kl")
    if str(option) == "autoencoder/tiny":
        save_tiny_convolutional(tmp_path / "tiny")
    if str(option) == "autoencoder/vq":
        save_tiny_vq(tmp_path / "vq")
    if str(option) == "autoencoder/run":
        save_tiny(tmp_path / "kl")
        run_folder(tmp_path, "run", "autoencoder=kl", *settings(Path("autoencoder/kl"), tmp_path))
    chosen = [f"{group}={name}", *(SMALL if group.split("/")[0] not in ("evaluation", "logger") else [])]
    if entry == "sample":
        chosen = [f"run={tmp_path}"]
    if group in CHECKS and str(option) not in UNREAD:
        words = [f"paths.run={tmp_path}", *chosen_with(group, name, tmp_path), *settings(option, tmp_path)]
        return composed(ENTRIES.get(group, entry), CONF, [], words)
    if group == "network/outputs":
        return config(tmp_path, *SMALL, "parameterization=combined", name=entry)
    if group == "ablation":
        return config(tmp_path, f"ablation={name}", name="reproduce")
    return config(tmp_path, *chosen, *settings(option, tmp_path), name=entry)


WHOLE = {"ablation", "experiment"}
"""Groups whose files are several models or large ones."""
BY_TIME = [pytest.param(o, marks=pytest.mark.slow) if str(o.parent) in WHOLE else o for o in OPTIONS]


@pytest.mark.parametrize("option", BY_TIME, ids=str)
def test_every_file_composes_builds_and_works(option, tmp_path, monkeypatch):
    group = str(option.parent)
    if group in CHECKS and str(option) not in UNREAD:
        second = Second if group == "guidance" else teacher
        monkeypatch.setattr("diffusion.experiment.build.load.load", lambda run, checkpoint, weights, **_: second())
        check_option(group, option.name, [CONF], tmp_path, settings(option, tmp_path))
        return
    cfg = compose(option, tmp_path)
    if group == "experiment":
        loaded = lambda *_, kinds=(), **__: needed(cfg, kinds, tmp_path)  # noqa: E731
        monkeypatch.setattr("diffusion.experiment.build.load.load", loaded)
    exercise = EXERCISES.get(group)
    assert exercise is not None, f"say in EXERCISES how a file of conf/{option.parent} is put to work"
    if not str(option).startswith(("hydra", "pipeline")):
        check(cfg)
    exercise(cfg, tmp_path, option.name)
    assert (CONF / option.with_suffix(".yaml")).read_text().startswith("# "), "a config begins by saying what it is"


def network(cfg, tmp_path, name):
    CHECKS["network"](cfg, name)


def pipeline(cfg, tmp_path, name):
    """Drawn with in tests/experiment/test_pipeline.py; here, a stage without a run is named."""
    assert cfg.pipeline.kind == name
    OmegaConf.set_struct(cfg, False)
    cfg.choices = dict.fromkeys(("sampler", "spacing", "guidance", "evaluation"))
    with pytest.raises(ConfigError, match=r"has no run; set pipeline\.|give run=<run folder>"):
        with_stages(cfg)


def text_encoder(cfg, tmp_path, name):
    """Pretrained ones are held to transformers in tests/text_encoder; here, their keys are arguments."""
    if name in ("sd3", "sdxl"):
        with pytest.raises(InstantiationException, match=r"text_encoder\.pretrained"):
            instantiate(cfg.text_encoder, clip_l={"pretrained": str(tmp_path / "nothing")})
    elif name == "run":  # held to its CLIP in tests/contrastive
        with pytest.raises(ConfigError, match="nothing is not a run folder"):
            build(cfg.text_encoder)
    elif "pretrained" not in cfg.text_encoder:
        check_training(cfg)
    else:
        with pytest.raises(InstantiationException, match=r"text_encoder\.pretrained"):
            instantiate(cfg.text_encoder, pretrained=str(tmp_path / "nothing"))


def autoencoder(cfg, tmp_path, name):
    if name.startswith("trainable"):
        check_training(cfg)
        return
    built = instantiate(cfg.autoencoder)
    if name == "embedding":
        embedding = torch.randn(2, 768)
        torch.testing.assert_close(built.decode(built.encode(embedding)), embedding)
        assert built.latent_shape((1, 8, 8)) == (768,)
        return
    image = torch.rand(2, cfg.data.channels, cfg.data.resolution, cfg.data.resolution) * 2 - 1
    latent = built.encode(image)
    assert latent.shape == (2, cfg.autoencoder.channels, cfg.autoencoder.resolution, cfg.autoencoder.resolution)
    assert built.decode(latent).shape == image.shape


def teacher(channels=1, schedule=None, conditioner=None):
    denoiser = NetworkDenoiser(TinyNetwork(channels), schedule or CosineSchedule(), VelocityParameterization())
    return DiffusionModel(denoiser, conditioner or LabelConditioner(10, 4), shape=(channels, 8, 8))


class Second(GaussianDenoiser):
    """For another run's model: weak, or a classifier."""

    def __init__(self):
        super().__init__(CosineSchedule(), 0.1, 0.7)

    def output(self, x, t):
        total = x.flatten(1).sum(1)
        return torch.stack((total, -total), 1)


def data(cfg, tmp_path, name):
    built = instantiate(cfg.data, _convert_="all")
    assert (built.channels, built.resolution) == (cfg.data.channels, cfg.data.resolution)


def evaluation(cfg, tmp_path, name):
    if cfg.evaluation:
        built = instantiate(cfg.evaluation, _convert_="all")
        if name in ("classification", "reconstruction", "retrieval"):
            assert (built.num_samples, built.batch_size) == (None, cfg.evaluation.batch_size)
            return
        if name == "restoration":
            assert (built.num_samples, built.batch_size) == (cfg.evaluation.num_samples, cfg.evaluation.batch_size)
            assert isinstance(
                built.edit.wrapper(GaussianDenoiser(CosineSchedule(20), 0.0, 0.3), measurement=torch.zeros(1, 4, 4)),
                MeasurementGuidance,
            )
            return
        assert (built.batch_size, built.labels) == (cfg.evaluation.get("batch_size", 128), "balanced")
        assert isinstance(built, LikelihoodEvaluator) or built.num_samples == cfg.evaluation.num_samples


def likelihood(cfg, tmp_path, name):
    """Two images of the digits under a Gaussian: some bits, and fewer than noise that is nothing like them needs."""
    measure = instantiate(cfg.evaluation, _convert_="all").likelihood
    shape = (2, 1, 8, 8)
    bits = [
        measure.bits(
            GaussianDenoiser(CosineSchedule(20), mean, 0.3),
            torch.zeros(shape),
            Cond(),
            KeyedRandomness([0, 1], seed=0, stream=SAMPLING),
        )
        for mean in (0.0, 2.0)
    ]
    assert (bits[0] > 0).all()
    assert (bits[0] + 1 < bits[1]).all()


def metric(cfg, tmp_path, name):
    """What its YAML file builds is what ``evaluation.metrics=[<name>]`` builds, unless it is one with a run of its own,
    and it says which way is better."""
    built = instantiate(cfg.evaluation, _convert_="all")
    if name == "style":
        assert built.metrics[name].direction(name) == naming.better(name)
        return
    cfg.evaluation.metric, cfg.evaluation.metrics = {}, [name]
    by_name = instantiate(cfg.evaluation, _convert_="all").metrics[name]
    assert built.metrics[name].describe() == by_name.describe()
    undirected = ("nearest_ratio", "diversity", "diversity_per_caption")
    for output in naming.OUTPUTS[name]:
        assert by_name.direction(output) == naming.better(output)
        assert (by_name.direction(output) is None) == (output.endswith("_std") or output in undirected)


def trained(cfg, tmp_path, name):
    check_training(cfg)


def ema(cfg, tmp_path, name):
    rule = instantiate(cfg.ema)
    assert 0 <= rule.beta(1) <= rule.beta(1000) < 1


def callbacks(cfg, tmp_path, name):
    build_trainer(cfg)


def trainer(cfg, tmp_path, name):
    cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.num_nodes = "cpu", 1, 1
    assert build_trainer(cfg).max_steps == cfg.trainer.max_steps


def paths(cfg, tmp_path, name):
    assert cfg.paths.run == str(tmp_path)


def hydra(cfg, tmp_path, name):
    pass


def debug(cfg, tmp_path, name):
    from diffusion.experiment.task.train import run

    cfg.network.channels, cfg.sampler.steps, cfg.trainer.max_steps = 8, 2, 3
    if name == "profile":
        cfg.callbacks.profile.merge_with({"steps": 1, "warmup": 0, "traced": 1})
    cfg.callbacks.samples.num_samples = 1
    run(cfg)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def experiment(cfg, tmp_path, name):
    """One training step on two images of noise, of a smaller network where it is large: real sizes are on the meta
    device, as networks."""
    if "network" not in cfg:
        if "autoencoder" in cfg and max(cfg.autoencoder.widths) > 128:
            cfg.autoencoder.widths = [16] * len(cfg.autoencoder.widths)
            cfg.autoencoder.groups = 4
        check_training(cfg, images=2)
        return
    for room, node in stand_ins(cfg).items():
        cfg[room] = node
    if cfg.network.get("channels", 0) > 64:
        cfg.network.channels = 32
        cfg.network.num_res_blocks = 1
        if "head_channels" in cfg.network:
            cfg.network.head_channels = 32
    if cfg.network.get("depth", 0) > 2:
        cfg.network.depth = 2
    if (cfg.get("text_encoder") or {}).get("depth", 0) > 2:
        cfg.text_encoder.depth = 1
    check_training(cfg, images=2)


def needed(cfg, kinds, tmp_path):
    """For a run that is trained first: a teacher, or the CLIP of the emoji with its initial weights."""
    if kinds != ("contrastive",):
        words = TextConditioner(WordsTextEncoder(dim=4, pooled_dim=4, depth=1, heads=1, vocabulary=16), dim=4)
        reads_text = "encoder" in cfg.conditioner
        return teacher(cfg.network.in_channels, instantiate(cfg.schedule), words if reads_text else None)
    clip = build(config(tmp_path, "experiment=emoji_clip").module.model)
    clip.sha256 = "0" * 64
    return clip.requires_grad_(False).eval()


def stand_ins(cfg):
    """For text encoders that are not here and autoencoders that are trained first: words, and latents as images, of the
    same widths."""
    found = {}
    if "pretrained" in str(cfg.get("text_encoder")):
        sizes = {key: cfg.text_encoder[key] for key in ("dim", "pooled_dim")}
        target = "diffusion.text_encoder.words.WordsTextEncoder"
        found["text_encoder"] = {"_target_": target, **sizes, "depth": 1, "heads": 1, "vocabulary": 16}
    if {"autoencoder", "clip"} <= {*(cfg.needs or {})}:  # a CLIP reads the images themselves
        sizes = {key: cfg.autoencoder[key] for key in ("channels", "resolution", "factor")}
        found["autoencoder"] = {"_target_": "pooled_latents.PooledAutoencoder", **sizes}
    elif "pretrained" in str(cfg.get("text_encoder")) or "autoencoder" in (cfg.needs or {}):
        side = min(cfg.autoencoder.resolution, 16)
        sizes = {"channels": cfg.autoencoder.channels, "resolution": side}
        cfg.data.merge_with(sizes)
        found["autoencoder"] = {"_target_": "diffusion.autoencoder.identity.IdentityAutoencoder", **sizes}
    return found


def ablation(cfg, tmp_path, name):
    """Every setting that a table makes appears in a cell that composes, fits together and can be built."""
    table = Ablation.read(name, OmegaConf.to_container(cfg.ablation, resolve=True))
    assert all(cell.tolerance > 0 for cell in table.cells if cell.published), "a published number has a tolerance"
    seen, chosen = set(), []
    for cell in table.cells:
        kinds = {re.sub(r"=[\d.]+$", "", line) for line in (*cell.train, *cell.evaluate)}
        if not kinds <= seen:
            chosen.append(cell)
            seen |= kinds
    for _, cell_cfg, _ in configs(chosen, Settings(seeds=[0], outputs=str(tmp_path))):
        assert cost(cell_cfg).train > 0
        if draws(cell_cfg):
            instantiate(cell_cfg.sampler, _convert_="all")
            assert cell_cfg.evaluation.num_samples is None or cell_cfg.evaluation.num_samples > 0


EXERCISES = {
    name: value
    for name, value in globals().items()
    if callable(value) and getattr(value, "__module__", "") == __name__ and not name.startswith(("test_", "_"))
}
EXERCISES |= {
    "module": trained,
    "network/outputs": network,
    "evaluation/likelihood": likelihood,
    "evaluation/metric": metric,
    "lr_scheduler": trained,
    "logger": callbacks,
    "hydra/launcher": hydra,
    "hydra/sweeper": hydra,
}
