"""Tensors of an imported model stay in the file that they were published in, of which the run folder keeps its own."""

import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scripts_in_process import run_script
from test_imported_run import save_pipeline

import diffusion
from diffusion.describe import tensors_sha256
from diffusion.errors import ConfigError
from diffusion.experiment.build.load import read_checkpoint
from diffusion.experiment.run.saved_config import checkpoint_path
from diffusion.files import CHUNK, hashing, sha256_of
from diffusion.pretrained.tensor_files import load
from diffusion.training.kept import Mapped, places

FILE = "diffusion_pytorch_model.safetensors"


def import_from(source, outputs, name="k"):
    run_script(f"scripts/import.py format=diffusers path={source} name={name} paths.outputs={outputs}")
    return outputs / "imported" / name


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    source = save_pipeline(folder / "published")
    theirs = load_file(source / "unet" / FILE)
    run = import_from(source, folder)
    inode = (source / "unet" / FILE).stat().st_ino
    shutil.rmtree(source)
    return run, theirs, inode


def test_a_run_outlives_the_files_that_it_was_made_of(run):
    folder, theirs, inode = run
    kept = folder / "checkpoints" / "last" / f"0-{FILE}"
    assert kept.stat().st_ino == inode  # on one disk it takes no room
    assert (folder / "checkpoints" / "last.ckpt").stat().st_size < kept.stat().st_size
    mine = diffusion.load(folder).state_dict()
    assert torch.equal(mine["denoiser.network.stem.weight"], theirs["conv_in.weight"])
    names = [f"down_blocks.1.attentions.0.to_{x}.weight" for x in "qkv"]
    joined = torch.cat([theirs[name] for name in names])
    assert any(x.shape == joined.shape and torch.equal(x, joined) for x in mine.values())


def test_the_checkpoint_names_the_bytes_that_it_is_made_of(run):
    folder, _, _ = run
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    for name, about in saved["files"].items():
        assert about["sha256"] == sha256_of(folder / "checkpoints" / "last" / name)
    origin = json.loads((folder / "origin.json").read_text())
    assert {about["sha256"] for about in saved["files"].values()} == set(origin["files"].values())


def test_its_identity_is_that_of_the_tensors(run):
    folder, _, _ = run
    model = diffusion.load(folder)
    state = read_checkpoint(checkpoint_path(folder, "last"))["state_dict"]
    own = {k.removeprefix("average."): v for k, v in state.items() if k.startswith("average.")}
    assert model.identity.sha256 == tensors_sha256({k: model.state_dict()[k] for k in own})


def test_on_another_disk_it_is_a_copy(tmp_path, monkeypatch, run):
    def refused(*_, **__):
        raise OSError(18, "another disk")

    source = save_pipeline(tmp_path / "published")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refused)
        folder = import_from(source, tmp_path)
    (source / "unet" / FILE).write_bytes(b"")
    assert diffusion.load(folder).identity.sha256 == diffusion.load(run[0]).identity.sha256


def test_a_file_that_was_lost_or_cut_is_one_sentence(tmp_path, run):
    moved = tmp_path / "moved"
    shutil.copytree(run[0], moved)
    kept = moved / "checkpoints" / "last" / f"0-{FILE}"
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"missing or has not its \d+ bytes"):
        diffusion.load(moved)
    kept.unlink()
    with pytest.raises(ConfigError, match="import the model again"):
        diffusion.load(moved)


def test_mapped_tensors_are_found_in_their_file(tmp_path):
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7), "c": torch.randn(4).half()}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pt")
    for path in (tmp_path / "x.safetensors", tmp_path / "x.pt"):
        found = load(path)
        if not Mapped().regions:
            pytest.skip("this system has no list of what is mapped")
        for name, tensor in found.items():
            file, first = Mapped().place(tensor)
            assert file.samefile(path)
            assert path.read_bytes()[first : first + tensor.nbytes] == tensors[name].numpy().tobytes()
    assert Mapped().place(torch.randn(3)) is None
    assert Mapped().place(load(tmp_path / "x.pt")["a"].T) is None


@pytest.mark.parametrize("spaces", [0, 3], ids=["aligned", "odd header"])
def test_tensors_of_every_type_are_those_of_the_library(tmp_path, spaces):
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64)  # fmt: skip
    tensors = {f"z{i}": (torch.randn(2, 3) * 9).to(dtype) for i, dtype in enumerate(reversed(types))}
    tensors |= {"none": torch.zeros(0, 3), "number": torch.tensor(3.0), "odd": torch.tensor([1, 2, 3]).byte()}
    file = tmp_path / "x.safetensors"
    save_file(tensors, file)
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    file.write_bytes((end - 8 + spaces).to_bytes(8, "little") + whole[8:end] + b" " * spaces + whole[end:])
    ours, theirs = load(file), load_file(file)
    assert ours.keys() == theirs.keys() == tensors.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(ours[name].to(torch.complex128), tensor.to(torch.complex128))


def test_a_file_that_is_mostly_something_else_is_not_kept(tmp_path):
    save_file({"mine": torch.randn(10), "optimizer": torch.randn(100)}, tmp_path / "x.safetensors")
    found = load(tmp_path / "x.safetensors")
    file = tmp_path.resolve() / "x.safetensors"
    assert places({"mine": [found["mine"]]}, {file}) == {}
    assert list(places({"mine": [found["mine"]], "rest": [found["optimizer"]]}, {file})) == ["mine", "rest"]
    with safe_open(file, "pt"):  # mapped twice
        assert places({"mine": [found["mine"], found["optimizer"]]}, set()) == {}


def test_hashes_are_those_of_the_whole_files(tmp_path):
    paths = [tmp_path / "empty", tmp_path / "large"]
    for path, size in zip(paths, (0, 2 * CHUNK + 1), strict=True):
        path.write_bytes(os.urandom(size))
    with hashing(paths) as hashes:
        assert hashes() == [sha256_of(path) for path in paths]
