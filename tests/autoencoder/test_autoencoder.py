"""Latents, held to diffusers' own arithmetic on a tiny autoencoder."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from tiny_kl import save_tiny

from diffusion.autoencoder import weights
from diffusion.autoencoder.identity import IdentityAutoencoder
from diffusion.autoencoder.kl import KLAutoencoder
from diffusion.describe import describe
from diffusion.randomness import TRAINING, KeyedRandomness


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("kl"))


@pytest.fixture(scope="module")
def theirs(folder):
    return AutoencoderKL.from_pretrained(folder).requires_grad_(False).eval()  # another kernel where a gradient is due


@pytest.fixture
def image():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def drawn(index):
    return KeyedRandomness(index, seed=0, stream=TRAINING).randn_like


@torch.no_grad()
def test_encoding_is_diffusers_own(folder, theirs, image):
    posterior = theirs.encode(image).latent_dist
    scale = theirs.config.scaling_factor
    assert torch.equal(KLAutoencoder(str(folder), posterior="mode").encode(image), posterior.mode() * scale)
    ours = KLAutoencoder(str(folder)).encode(
        image, lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    )
    assert ours.shape == (5, 4, 4, 4)
    assert torch.equal(ours, posterior.sample(torch.Generator().manual_seed(7)) * scale)


@torch.no_grad()
def test_decoding_is_diffusers_own(folder, theirs):
    latent = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    wanted = theirs.decode(latent / theirs.config.scaling_factor).sample
    assert wanted.shape == (3, 3, 32, 32)
    assert torch.equal(KLAutoencoder(str(folder)).decode(latent), wanted)


@torch.no_grad()
def test_scale_and_shift_are_the_models_own_unless_given(tmp_path, image):
    folder = save_tiny(tmp_path, scaling_factor=0.5, shift_factor=0.25)
    own, given = KLAutoencoder(str(folder)), KLAutoencoder(str(folder), scale=2.0, shift=-1.0)
    assert (own.scale, own.shift) == (0.5, 0.25)
    z = own.model.encode(image).latent_dist.mode()
    torch.testing.assert_close(own.encode(image), (z - 0.25) * 0.5)
    torch.testing.assert_close(given.encode(image), (z + 1) * 2)
    for coder in (own, given):
        torch.testing.assert_close(coder.decode(coder.encode(image)), own.model.decode(z).sample)


@torch.no_grad()
def test_each_channel_may_have_its_scale_and_shift(folder, theirs, image):
    """As EDM2's latents have; one number for all of them is the same for each."""
    scale, shift = [0.1, 0.2, 0.3, 0.4], [1.0, -2.0, 0.0, 0.5]
    coder = KLAutoencoder(str(folder), posterior="mode", scale=scale, shift=shift)
    z = theirs.encode(image).latent_dist.mode()
    due = torch.stack([(z[:, i] - shift[i]) * scale[i] for i in range(4)], 1)
    torch.testing.assert_close(coder.encode(image), due)
    torch.testing.assert_close(coder.decode(due), theirs.decode(z).sample, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="one for each of 4 channels, got 2"):
        KLAutoencoder(str(folder), scale=[1.0, 2.0])


def close(a, b):
    """Equal up to the rounding of another order of summation, in float32."""
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_latent_does_not_depend_on_the_batch_it_stands_in(folder, image):
    coder, one_by_one, index = KLAutoencoder(str(folder)), KLAutoencoder(str(folder), max_batch=1), [3, 1, 4, 15, 9]
    for parts in ([2, 3], [1, 1, 3]):
        pairs = list(zip(image.split(parts), torch.tensor(index).split(parts), strict=True))
        for model, same in ((one_by_one, torch.equal), (coder, close)):  # a kernel may depend on the batch
            assert same(torch.cat([model.encode(x, drawn(i)) for x, i in pairs]), model.encode(image, drawn(index)))
    other = coder.encode(image, drawn(range(10, 15)))
    assert (other - coder.encode(image, drawn(index))).abs().min() > 0


@torch.no_grad()
def test_in_slices_is_as_in_one_piece(folder, image):
    whole, sliced = KLAutoencoder(str(folder), max_batch=16), KLAutoencoder(str(folder), max_batch=2)
    latent = whole.encode(image, drawn(range(5)))
    torch.testing.assert_close(sliced.encode(image, drawn(range(5))), latent, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sliced.decode(latent), whole.decode(latent), rtol=1e-5, atol=1e-5)
    parts = [whole.decode(part) for part in latent.split(2)]
    assert torch.equal(sliced.decode(latent), torch.cat(parts))


def test_latents_are_float32_under_autocast(folder, image):
    coder = KLAutoencoder(str(folder))
    plain = coder.encode(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(coder.encode(image), plain)


def test_the_model_is_frozen_and_no_part_of_the_module(folder):
    state = torch.get_rng_state()
    coder = KLAutoencoder(str(folder))
    assert torch.equal(torch.get_rng_state(), state), "loading weights drew from the generator of initial weights"
    assert not list(coder.parameters())
    assert not coder.state_dict()
    assert not any(p.requires_grad for p in coder.model.parameters())
    coder.train()
    assert not coder.model.training
    coder.double()
    assert coder.model.dtype == torch.float64, "it follows its owner"


def test_its_record_names_the_weights_by_digest_and_no_place(folder):
    said = describe(KLAutoencoder(str(folder)))
    assert said["sha256"] == weights.sha256_of(folder)
    assert str(folder) not in json.dumps(said)
    assert IdentityAutoencoder().sha256 is None


def test_weights_of_another_digest_are_refused(folder):
    digest = weights.sha256_of(folder)
    KLAutoencoder(str(folder), sha256=digest[:12])
    with pytest.raises(ValueError, match="is not the expected file"):
        KLAutoencoder(str(folder), sha256="0" * 64)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"channels": 16}, r"autoencoder.channels is 16, and that of the model is 4; set autoencoder.channels=4"),
        ({"factor": 4}, r"autoencoder.factor is 4, and that of the model is 8; set autoencoder.factor=8"),
        ({"image_channels": 1}, r"that of the model is 3; set data.channels=3"),
        ({"posterior": "mean"}, "sample or mode"),
        ({"max_batch": 0}, "at least 1"),
        ({"scale": 0.0}, "above 0"),
    ],
)
def test_what_is_not_the_models_is_refused(folder, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        KLAutoencoder(str(folder), **given)


def test_weights_that_are_not_there_are_named(folder, tmp_path, monkeypatch):
    import huggingface_hub

    with pytest.raises(ValueError, match="is no folder, nor a name of the Hugging Face hub"):
        KLAutoencoder(str(tmp_path / "nowhere"))
    shutil.copy(folder / weights.CONFIG, tmp_path)
    with pytest.raises(ValueError, match=f"has no {weights.WEIGHTS}"):
        KLAutoencoder(str(tmp_path))

    def unreachable(name, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match=r"ConnectionError\); download config.json and diffusion_pytorch_model"):
        KLAutoencoder("owner/name")


def test_a_folder_inside_a_repository_of_the_hub(folder, tmp_path, monkeypatch):
    import huggingface_hub

    shutil.copytree(folder, tmp_path / "vae")
    asked = {}

    def download(name, **options):
        asked.update(name=name, **options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert KLAutoencoder("owner/name/vae").sha256 == weights.sha256_of(folder)
    assert asked["name"] == "owner/name"
    assert asked["allow_patterns"] == [f"vae/{weights.CONFIG}", f"vae/{weights.WEIGHTS}"]


def test_a_spread_for_each_channel_is_refused(tmp_path):
    folder = save_tiny(tmp_path, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    with pytest.raises(ValueError, match="which are not applied here"):
        KLAutoencoder(str(folder))
