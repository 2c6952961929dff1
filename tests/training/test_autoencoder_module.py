"""module=autoencoder: its losses against independent references, and trainings of a few steps."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import config
from rank_jobs import Ranked, on_ranks
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from diffusion.autoencoder.trainable import Reconstruction
from diffusion.autoencoder.trainable_kl import TrainableKL
from diffusion.autoencoder.trainable_vq import TrainableVQ
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build_data, build_module
from diffusion.experiment.config.validate import check
from diffusion.objective.base import Step
from diffusion.training.module.autoencoder import AutoencoderModule, psnr
from diffusion.training.module.autoencoder_loss import AutoencoderLoss, adaptive_weight
from diffusion.training.module.discriminator import BatchNorm, PatchDiscriminator

KL = {"image_channels": 1, "channels": 2, "widths": (8, 16), "blocks": 1, "groups": 4, "attention": False}
STEP = Step(number=5, total=None, average=None, replay=lambda: None)
SMALL = (
    "module=autoencoder", "autoencoder=trainable_kl", "autoencoder.widths=[8,16]", "autoencoder.blocks=1",
    "autoencoder.groups=4", "autoencoder.channels=2", "autoencoder.attention=false", "data.batch_size=12",
    "module.loss.adversarial_start=1", "module.loss.discriminator.width=4", "module.loss.discriminator.layers=1",
    "module.loss.perceptual.extractor=digits-cnn-v1", "optimizer.lr=2e-3", "logger=csv", "evaluation=none",
)  # fmt: skip


def images(n: int = 4, channels: int = 1, side: int = 8) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_penalty_of_a_posterior_is_the_divergence_of_torchs_distributions() -> None:
    model, x = TrainableKL(**KL, kl_weight=0.5), images()
    posterior = model.network.encode(x).latent_dist
    one, other = (torch.distributions.Normal(m, s) for m, s in ((posterior.mean, posterior.std), (0.0, 1.0)))
    expected = torch.distributions.kl_divergence(one, other).sum((1, 2, 3))
    torch.testing.assert_close(model(x).logs["kl"], expected)
    torch.testing.assert_close(model(x).penalty, expected / 2)


def test_the_penalty_of_a_codebook_is_that_of_diffusers_in_its_form_without_the_swapped_factor() -> None:
    from diffusers.models.autoencoders.vae import VectorQuantizer

    torch.manual_seed(0)
    model, z = TrainableVQ(**KL | {"channels": 3}, codes=7, beta=0.3), torch.randn(2, 3, 4, 4, requires_grad=True)
    theirs = VectorQuantizer(7, 3, beta=0.3, legacy=False)
    theirs.embedding.weight.data.normal_()
    model.network.quantize.load_state_dict(theirs.state_dict())
    entry, expected, _ = theirs(z)
    found, penalty = model.quantise(z)
    torch.testing.assert_close(found, entry)
    torch.testing.assert_close(penalty.mean(), expected)
    table = model.network.quantize.embedding.weight
    for ours, own in zip(
        torch.autograd.grad(penalty.mean(), (z, table)),
        torch.autograd.grad(expected, (z, theirs.embedding.weight)),
        strict=True,
    ):
        torch.testing.assert_close(ours, own)


def test_gradients_pass_a_codebook_as_if_nothing_had_moved() -> None:
    """The gradient by the encoder's output is the decoder's by its input."""
    torch.manual_seed(0)
    model = TrainableVQ(**KL, codes=5, codebook_weight=0.0)
    x, kept = images(), {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            output.retain_grad()
            kept[name] = output

        return hook

    model.network.quant_conv.register_forward_hook(keep("z"))
    handle = model.network.post_quant_conv.register_forward_pre_hook(
        lambda m, a: a[0].retain_grad() or kept.update(e=a[0])
    )
    model(x).image.square().sum().backward()
    handle.remove()
    assert not torch.equal(kept["z"], kept["e"])
    torch.testing.assert_close(kept["z"].grad, kept["e"].grad)


@pytest.mark.parametrize("kind", [TrainableKL, TrainableVQ])
@pytest.mark.parametrize("pixel", ["l1", "l2"])
def test_errors_are_summed_for_kl_and_averaged_for_vq_and_a_distance_counts_each_value(kind: Any, pixel: str) -> None:
    class Distance(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.arange(1.0, 1 + len(x))

    model, x = kind(**KL), images()
    made = Reconstruction(x + 0.5, torch.full((4,), 0.25), {})
    loss = AutoencoderLoss(pixel, Distance(), perceptual_weight=2.0)(x, made, model)
    each = torch.full_like(x, 0.5 if pixel == "l1" else 0.25) + 2 * torch.arange(1.0, 5.0)[:, None, None, None]
    whole = each.sum((1, 2, 3)) if kind is TrainableKL else each.mean((1, 2, 3))
    torch.testing.assert_close(loss.total, whole + 0.25)


def test_the_adaptive_weight_is_a_ratio_of_gradients_and_clamped() -> None:
    last = nn.Parameter(torch.tensor([1.0, 2.0]))
    one, other = (3 * last).sum(), (last * torch.tensor([0.0, 4.0])).sum()
    torch.testing.assert_close(adaptive_weight(one, other, last), torch.tensor(18.0).sqrt() / (4 + 1e-4))
    assert adaptive_weight(1e6 * one, 0 * other, last) == 1e4


def test_an_adversary_weighs_as_much_as_the_rest_on_the_last_layer() -> None:
    """The gradient of its weighted part there is ``adversarial_weight`` times that of the errors, and it counts from
    its start on only."""
    torch.manual_seed(0)
    model, x = TrainableKL(**KL, kl_weight=0.0), images()
    loss = AutoencoderLoss(discriminator=PatchDiscriminator(1, 4, 1), adversarial_start=5, adversarial_weight=0.7)
    made = model(x)
    early = loss(x, made, model, Step(4, None, None, lambda: None))
    late = loss(x, made, model, STEP)
    assert early.logs["adversarial_weight"].eq(0).all()
    rest, whole = (torch.autograd.grad(one.total.mean(), model.last, retain_graph=True)[0] for one in (early, late))
    torch.testing.assert_close((whole - rest).norm() / rest.norm(), torch.tensor(0.7), rtol=2e-3, atol=0)
    assert not loss.rival_plays(Step(4, None, None, lambda: None))
    with torch.no_grad():
        torch.testing.assert_close(loss(x, made, model, STEP).total, early.total)


def test_the_discriminator_is_the_published_one() -> None:
    """2.769M parameters on pairs of images, as pix2pix prints it, a 30 x 30 map of 256 x 256 images (Isola et al.
    2017), and a hinge at 1."""
    network = PatchDiscriminator()
    pairs = sum(p.numel() for p in PatchDiscriminator(6).parameters())
    assert round(pairs / 1e6, 3) == 2.769
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    values = torch.cat([p.flatten() for n, p in network.named_parameters() if p.ndim == 4])
    torch.testing.assert_close(values.std(), torch.tensor(0.02), rtol=1e-2, atol=0)
    loss = AutoencoderLoss(discriminator=network, adversarial_start=0)
    loss.rival = lambda x: x  # type: ignore[assignment]
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 1.0]])
    assert loss.rival_loss(real, fake).total.item() == (0.25 + 1.0) / 2


def test_batch_norm_is_torchs_in_training() -> None:
    ours, theirs, x = BatchNorm(3), nn.BatchNorm2d(3), images(5, 3)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    torch.testing.assert_close(ours(x), theirs(x))


def test_psnr_is_that_of_torchmetrics_of_each_image() -> None:
    one, other = (torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8) for _ in range(2))
    expected = [
        peak_signal_noise_ratio(a.double(), b.double(), data_range=255.0) for a, b in zip(one, other, strict=True)
    ]
    torch.testing.assert_close(psnr(one, other), torch.stack(expected))
    assert psnr(one, one).eq(100).all()


def test_latent_statistics_are_those_of_many_draws() -> None:
    model, x = TrainableKL(**KL).double(), images(40, side=16).double()
    with torch.no_grad():
        posterior = model.network.encode(x).latent_dist
        torch.manual_seed(0)
        z = torch.cat([posterior.mean + posterior.std * torch.randn_like(posterior.mean) for _ in range(200)])
    found = model.statistics(x.split(7))
    torch.testing.assert_close(1 / z.std(), torch.tensor(found.scale).double(), rtol=5e-3, atol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.tensor(found.std).double(), rtol=5e-3, atol=0)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.tensor(found.mean).double(), rtol=0, atol=1e-2)
    assert found.images == 40


def test_the_size_of_stable_diffusions_autoencoder() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in TrainableKL().parameters()) == 83_653_863


WRONG = [
    ("module.loss.adversarial_start=5000", "is not before the end of the training"),
    ("module.loss.perceptual.extractor=vgg", r"no perceptual distance 'vgg'"),
    ("module.loss.perceptual.extractor=fashion-cnn-v1", "takes images of 1 channel and 28x28"),
    ("module.loss.perceptual.extractor=lpips module.loss.perceptual.weights=nowhere.pth", "no weights file at nowhere"),
    ("autoencoder.widths=[8,8,8,8,8]", "multiple of 16"),
    ("autoencoder.groups=3", r"autoencoder\.groups=3"),
    ("autoencoder.kl_weight=-1", "kl_weight"),
    ("autoencoder=trainable_vq autoencoder.codes=0 ~autoencoder.kl_weight", r"autoencoder\.codes"),
    ("module.loss.pixel=huber", r"module\.loss\.pixel"),
    ("micro_batch=4", "a whole batch"),
    ("autoencoder=identity", "trains autoencoder=trainable_kl"),
    ("evaluation=digits", "evaluation=reconstruction"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[words for words, _ in WRONG])
def test_wrong_settings_are_refused_in_one_sentence_before_training(words: str, sentence: str, tmp_path: Path) -> None:
    keys = [word for word in SMALL if not (word.startswith("autoencoder") and "autoencoder=" in words)]
    with pytest.raises(ConfigError, match=sentence) as caught:
        check(config(tmp_path, *keys, *(word for word in words.split() if not word.startswith("~"))))
    assert "\n" not in str(caught.value)


def test_a_small_image_is_refused_by_the_discriminator(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="24 pixels or more a side, and these have 8"):
        build_module(config(tmp_path, *SMALL, "module.loss.discriminator.layers=3"))


def ranks_job(rank: int, size: int, folder: str, store: str, conn: Any) -> None:
    """Three adversarial steps by hand of one rank, on its share of the batches."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(0, 60))
    cfg = config(Path(folder), *SMALL)
    module = build_module(cfg)
    assert isinstance(module, AutoencoderModule)
    module.trainer = Ranked(size, rank)
    optimizer = module.configure_optimizers()["optimizer"]
    split, losses = build_data(cfg).split("train"), []
    for step in range(3):
        module.trainer.global_step = step
        rows = torch.arange(12 * step, 12 * step + 12)[12 * rank // size : 12 * (rank + 1) // size]
        optimizer.zero_grad()
        found = module.training_step(split.batch(rows), 0)
        found["loss"].backward()
        means = torch.stack([found["loss"].detach(), found["logs"]["rival"].mean()])
        for tensor in (means, *(p.grad for p in module.model.parameters())):
            dist.all_reduce(tensor)
            tensor /= size
        losses.append(means.tolist())
        optimizer.step()
    if rank == 0:
        conn.send((losses, {name: value.numpy() for name, value in module.state_dict().items()}))
    dist.destroy_process_group()


@pytest.mark.slow
def test_losses_and_weights_are_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    """The discriminator's norms and the adversary's weight included."""
    (losses, weights), *others = on_ranks(ranks_job, tmp_path)
    assert losses[0][1] == 0
    assert losses[1][1] > 0.1, "the discriminator plays from the second batch on"
    for other_losses, other_weights in others:
        torch.testing.assert_close(torch.tensor(other_losses), torch.tensor(losses), rtol=1e-4, atol=1e-4)
        for name, value in weights.items():
            torch.testing.assert_close(
                torch.from_numpy(other_weights[name]), torch.from_numpy(value), rtol=1e-3, atol=2e-4
            )
