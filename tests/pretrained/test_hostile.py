"""Files that are damaged, of another kind, or made to do harm: one sentence each, nothing run, no memory, no folder."""

import collections
import io
import json
import os
import pickle
import re
import resource
import runpy
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from published import FIXTURES
from scripts_in_process import ROOT

from diffusion.errors import ConfigError
from diffusion.pretrained.tensor_files import load

RAN = "ran.txt"
HUGE = 1 << 40


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def touch(folder):
    """The command that would leave a trace."""
    return Call(os.system, f"touch {folder / RAN}")


def archive(content, entries=(), compression=zipfile.ZIP_STORED):
    """torch's own file of this content, further entries beside it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer, "a", compression) as file:
        for name, data in entries:
            file.writestr(name, data)
    return buffer.getvalue()


def typed(size, stride):
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.ones(4).untyped_storage(), dtype=torch.float32, _internal=True
    )
    return {"w": Call(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, collections.OrderedDict())}


def old_format(content, numel=4):
    """torch's format before archives, with storages of so many numbers that are not there."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, it):
            return ("storage", torch.FloatStorage, "0", "cpu", numel, None) if it is STORAGE else None

    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, buffer, protocol=2)
    Pickler(buffer, protocol=2).dump(content)
    pickle.dump(["0"], buffer, protocol=2)
    return buffer.getvalue()


STORAGE = object()


def of_storage(size=(4,)):
    return {"w": Call(torch._utils._rebuild_tensor_v2, STORAGE, 0, size, (1,), False, collections.OrderedDict())}


def safetensors(header, length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * 16


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("weights"), io.BytesIO())
    return buffer.getvalue()


def span(end):
    return {"w": {"dtype": "F32", "shape": [end // 4], "data_offsets": [0, end]}}


CASES = {  # name of the file, its bytes (given a folder), words of the sentence
    "os.system": ("it.pth", lambda d: archive(touch(d)), "system"),
    "os.system, old format": ("it.pth", lambda d: old_format(touch(d)), "system"),
    "os.system, plain pickle": ("it.pkl", lambda d: pickle.dumps({"ema": touch(d)}), "system"),
    "eval": ("it.pth", lambda d: archive(Call(eval, f"open({str(d / RAN)!r}, 'w')")), r"builtins\.eval"),
    "getattr": ("it.pth", lambda d: archive(Call(getattr, "a", "upper")), r"builtins\.getattr"),
    "unknown": ("it.pth", lambda d: archive(collections.Counter()), r"collections\.Counter"),
    "dotted": ("it.pkl", lambda d: b"\x80\x04\x8c\x08builtins\x8c\x0ddict.fromkeys\x93.", r"dict\.fromkeys"),
    "path": ("it.pth", lambda d: archive({}, [("../../ran.txt", "x")]), "points out of the archive"),
    "bomb": ("it.pth", lambda d: archive({}, [("archive/zeros", bytes(1 << 26))], zipfile.ZIP_DEFLATED), "compressed"),
    "TorchScript": ("it.pth", lambda d: archive({}, [("archive/constants.pkl", b"")]), "TorchScript"),
    "size": ("it.pth", lambda d: archive(typed((HUGE,), (1,))), "claims"),
    "stride": ("it.pth", lambda d: archive(typed((4,), (HUGE,))), "claims"),
    "repeated": ("it.pth", lambda d: archive(typed((HUGE,), (0,))), "claims"),
    "negative": ("it.pth", lambda d: archive(typed((-4,), (1,))), "claims"),
    "storage": ("it.pth", lambda d: old_format(of_storage(), HUGE), "claim"),
    "storage in a pickle": (
        "it.pkl",
        lambda d: pickle.dumps({"ema": Call(torch.storage._load_from_bytes, old_format(of_storage(), HUGE))}),
        "claim",
    ),
    "archive in a pickle": (
        "it.pkl",
        lambda d: pickle.dumps(Call(torch.storage._load_from_bytes, archive(touch(d)))),
        "archive within",
    ),
    "bytes": ("it.pkl", lambda d: b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"x.", "damaged|memory"),
    "memo": ("it.pkl", lambda d: b"\x80\x04Nr" + struct.pack("<I", 0xFFFFFFFF) + b".", "no 'ema'"),
    "truncated": ("it.pth", lambda d: archive({"w": torch.ones(999)})[:2000], "damaged"),
    "truncated, old format": ("it.pth", lambda d: old_format(of_storage()), "damaged"),
    "truncated, safetensors": ("it.safetensors", lambda d: safetensors(span(16))[:-8], "damaged"),
    "empty": ("it.pth", lambda d: b"", "damaged"),
    "tar": ("it.pth", lambda d: tar(), "tar archive"),
    "page": ("it.pth", lambda d: b"<!DOCTYPE html><html><body>Not Found</body></html>", "damaged"),
    "page, safetensors": ("it.safetensors", lambda d: b"<!DOCTYPE html><html></html>", "damaged"),
    "long header": ("it.safetensors", lambda d: safetensors({}, HUGE), "damaged"),
    "long tensor": ("it.safetensors", lambda d: safetensors(span(HUGE)), "damaged"),
    "other shape": ("it.safetensors", lambda d: safetensors({"w": span(16)["w"] | {"shape": [HUGE]}}), "damaged"),
}


def ended(line, capsys):
    """The exit code of a script and its last words."""
    argv, sys.argv = sys.argv, [str(ROOT / "scripts/import.py"), *line]
    try:
        with pytest.raises(SystemExit) as raised:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = argv
    return raised.value.code, capsys.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_one_sentence(case, tmp_path, capsys, monkeypatch):
    name, content, words = CASES[case]
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    file.write_bytes(content(tmp_path))
    config = FIXTURES / "ddim_ckpt_list" / "config.yml"
    kind = ["format=edm"] if name.endswith(".pkl") else ["format=ddim", f"config={config}"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, said = ended([*kind, f"path={file}", "name=it", f"paths.outputs={tmp_path / 'outputs'}"], capsys)
    assert code == 2, said
    assert re.search(words, said), said
    assert len(said.strip().splitlines()) == 1, said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes; torch itself comes first
    assert not (tmp_path / RAN).exists()
    assert not (tmp_path.parent / RAN).exists()
    assert not list((tmp_path / "outputs").rglob("*"))


def test_what_a_pickle_refers_to_is_data(tmp_path):
    """Bytes of storages, numpy's numbers and mappings of other codes are read; a number of Python objects is not."""
    (tmp_path / "it.pkl").write_bytes(pickle.dumps({"w": torch.arange(4.0), "n": np.float32(0.5)}))
    found = load(tmp_path / "it.pkl")
    assert found["n"] == 0.5
    assert torch.equal(found["w"], torch.arange(4.0))
    (tmp_path / "it.pkl").write_bytes(pickle.dumps(np.array([object], dtype=object)[:1]))
    with pytest.raises(ConfigError, match=r"builtins\.object"):
        load(tmp_path / "it.pkl")
