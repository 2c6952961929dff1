"""Latents of a VQ autoencoder, held to diffusers and to a published folder's outputs."""

import pytest
import torch
from published import Expected, unpacked
from tiny_kl import save_tiny_vq

from diffusion.autoencoder.vq import VQAutoencoder


@torch.no_grad()
def test_a_published_folder_gives_what_it_gave(tmp_path):
    expected = Expected("diffusers_ldm_uncond")
    folder = unpacked("diffusers_ldm_uncond", tmp_path) / "vqvae"
    coder = VQAutoencoder(str(folder), factor=2, scale=1.0)
    expected.check("encoded", coder.encode(expected["image"]))
    expected.check("decoded", coder.decode(expected["x"]))
    own = VQAutoencoder(str(folder), factor=2, scale=None)
    assert own.scale == 0.18215
    expected.check("decoded", own.decode(own.scale * expected["x"]), least=1e-4)


@torch.no_grad()
def test_what_is_decoded_is_quantised(tmp_path):
    coder = VQAutoencoder(str(save_tiny_vq(tmp_path)), max_batch=1)
    book = coder.model.quantize.embedding.weight
    entries = book[torch.tensor([[1, 5], [0, 1]])].permute(2, 0, 1)[None]
    least = torch.cdist(book, book).fill_diagonal_(torch.inf).min()
    near = entries + 0.1 * least * torch.ones_like(entries) / 3**0.5
    assert torch.equal(coder.decode(torch.cat((near, entries)))[0], coder.decode(entries)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"channels": 4}, "that of the model is 3"), ({"factor": 8}, "that of the model is 4"), ({"scale": 0}, "above 0")],
)
def test_other_sizes_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        VQAutoencoder(str(save_tiny_vq(tmp_path)), **settings)
