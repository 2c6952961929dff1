"""What a disk refuses is one sentence with the path; nothing half written stays, what was there stays whole."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data.decoded import decode_all
from diffusion.data.image import Decoder
from diffusion.errors import DiskError
from diffusion.experiment.run.status import read_status, write_status
from diffusion.files import allocate, check_writable, replacing, write_atomic

PACKAGE = Path(__file__).parents[1] / "diffusion"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


LARGE = torch.rand(100_000)
WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(LARGE.numpy().tobytes()),
    "torch": lambda path: torch.save(LARGE, path),
    "numpy": lambda path: LARGE.numpy().tofile(path),
    "npz": lambda path: np.savez(path.open("wb"), LARGE.numpy()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_whoever_writes(name: str, disk: Path) -> None:
    path = disk / "folder" / "file"
    write_atomic(path, "before")
    said = rf"{path} cannot be written: No space left on device; make room"
    with pytest.raises(DiskError, match=said), replacing(path) as beside:
        WRITERS[name](beside)
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == ["file"]


def test_a_full_disk_of_decoded_images(disk: Path, tmp_path: Path) -> None:
    """A mapped file without room would end the process with a signal."""
    files = [tmp_path / f"{i}.png" for i in range(40)]
    for path in files:
        Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(DiskError, match="No space left on device; make room"):
        decode_all(files, Decoder(channels=3, resolution=64), memory="mmap", cache=disk)
    assert os.listdir(disk) == []


def test_a_status_is_written_on_a_disk_without_a_free_byte(disk: Path) -> None:
    write_status(disk, {"status": "running", "overrides": ["a=1"]})
    with pytest.raises(OSError, match="No space"):
        (disk / "rest").write_bytes(bytes(1 << 20))
    with pytest.raises(DiskError):
        write_atomic(disk / "other", "text")
    write_status(disk, {"status": "failed", "reason": "No space left"})
    assert read_status(disk) == {"status": "failed", "reason": "No space left"}


def test_room_for_a_mapped_file_is_asked_for_at_once(disk: Path) -> None:
    (disk / "mapped").write_bytes(b"")
    allocate(disk / "mapped", 1 << 16)
    assert (disk / "mapped").stat().st_size == 1 << 16
    with pytest.raises(DiskError, match="No space left"):
        allocate(disk / "mapped", 1 << 20)


def test_a_disk_that_is_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for write in (lambda: write_atomic(disk / "a" / "b", ""), lambda: check_writable(disk / "a" / "b")):
        with pytest.raises(DiskError, match=rf"{disk}/a/b cannot be written: Read-only file system; give a folder"):
            write()


def test_a_name_that_is_too_long_and_a_file_in_a_folders_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, reason in ((tmp_path / ("x" * 300), "File name too long"), (tmp_path / "file" / "x", "Not a directory")):
        for write in (lambda place=place: write_atomic(place, ""), lambda place=place: check_writable(place)):
            with pytest.raises(DiskError, match=f"{reason}; give"):
                write()
    write_atomic(tmp_path / ("x" * 255), "the longest that there is")
    assert sorted(len(name) for name in os.listdir(tmp_path)) == [4, 255]


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    said, path = "No such file or directory; a disk or folder is gone", gone / "checkpoints" / "last.ckpt"
    with pytest.raises(DiskError, match=said), replacing(path, inside=gone):
        pass
    assert not gone.exists()


def test_a_check_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "c")
    assert not list(tmp_path.iterdir())


ELSEWHERE = {
    "data/decoded.py": "a mapped file of its own",
    "training/latent_cache/encoding.py": "a mapped file that several ranks fill",
    "training/loggers/csv.py": "appends, and rewrites through files.py",
    "training/loggers/wandb.py": "a link that several ranks make",
    "experiment/task/sample_output.py": "a folder that is moved to its place whole",
    "training/checkpoint.py": "the file that files.py gives",
    "experiment/sweep/search.py": "cuts the journal of Optuna",
    "experiment/task/needs.py": "a lock",
    "experiment/run/status.py": "in place on a full disk",
    "experiment/task/sample.py": "a folder of samples",
    "experiment/task/restore.py": "the folder of edited images that edit.py fills",
    "files.py": "itself",
    "testing/option.py": "a measurement in a test's folder",
}
PLACES = ("replacing(", "replaced_folder(")
WRITING = {"write_text", "write_bytes", "savez", "savez_compressed", "save_file"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_written_through_one_place(path: Path) -> None:
    """Every call that writes lies in a block of ``replacing`` or ``replaced_folder``, or its file says why not."""
    if str(path.relative_to(PACKAGE)) in ELSEWHERE:
        return
    tree = ast.parse(path.read_text())
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any(one in ast.unparse(item) for item in node.items for one in PLACES)
    ]
    inside = {call for block in blocks for call in ast.walk(block)}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or call in inside or not isinstance(call.func, ast.Attribute):
            continue
        name = call.func.attr
        opened = name == "open" and any(
            isinstance(a, ast.Constant) and set("wax+") & set(str(a.value)) for a in call.args
        )
        torchs = ast.unparse(call.func) in ("torch.save", "np.save", "plt.savefig")
        writes = name in WRITING or opened or torchs
        assert not writes, f"line {call.lineno}: {ast.unparse(call)[:80]}"
