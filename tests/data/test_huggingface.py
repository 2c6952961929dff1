"""Data sets of the hub's format: Parquet and Arrow written by pyarrow and by the package itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from image_tables import noise_samples, pixels, png, write_parquet

from diffusion.data.huggingface import HuggingFace
from diffusion.errors import DataError

datasets = pytest.importorskip("datasets")
SAMPLES = noise_samples(30, height=8, width=8)


def build(path: Path, cache: Path, **settings: object) -> HuggingFace:
    fixed = {"resolution": 8, "test_fraction": 0.3, "batch_size": 4, "cache": str(cache)}
    return HuggingFace(str(path), **{**fixed, **settings})


def table(**columns: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"image": [{"bytes": s["png"], "path": None} for s in SAMPLES], **columns})


def refused(path: Path, cache: Path, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        build(path, cache, **settings).setup()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["file", "folder", "arrow", "saved"])
def test_files_and_folders_need_no_network(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    write_parquet(path, SAMPLES)
    if kind == "folder":
        path = path.parent
    if kind in ("arrow", "saved"):
        loaded = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "c"))["train"]
        loaded.save_to_disk(str(tmp_path / "saved"))
        path = tmp_path / "saved" if kind == "saved" else next((tmp_path / "saved").glob("*.arrow"))
    data = build(path, tmp_path / "cache", num_classes=3)
    splits = [data.split("train"), data.split("test")]
    assert len(splits[0]) + len(splits[1]) == 30
    assert data.classes == ("ant", "bee", "cow")
    for split in splits:
        for row, text in enumerate(split.texts):
            number = int(text.split()[1])
            assert (split.images[row].permute(1, 2, 0).numpy() == pixels(SAMPLES[number]["png"])).all()
            assert int(split.labels[row]) == number % 3


def test_columns_by_other_names_and_of_several_kinds(tmp_path: Path) -> None:
    table(
        words=[[f"a {i}", f"b {i}"] for i in range(30)],
        kind=["xyz"[i % 3] for i in range(30)],
        score=[i / 2 for i in range(30)],
        place=[[i, 2 * i] for i in range(30)],
    ).rename_column("image", "picture").save_to_disk(str(tmp_path / "d"))
    settings = {"image": "picture", "text": "words", "label": "kind", "num_classes": 3, "columns": ["score", "place"]}
    data = build(tmp_path / "d", tmp_path, **settings, memory="stream")
    data.setup()
    assert data.classes == ("x", "y", "z")
    drawn = set()
    loader = data.train_dataloader()
    for batch in [batch for _ in range(3) for batch in loader]:
        numbers = torch.tensor([int(text.split()[1]) for text in batch["text"]])
        drawn |= {text.split()[0] for text in batch["text"]}
        assert torch.equal(batch["score"], numbers / 2)
        assert torch.equal(batch["place"], torch.stack((numbers, 2 * numbers), dim=1))
        assert torch.equal(batch["label"], numbers % 3)
    assert drawn == {"a", "b"}
    assert {text.split()[0] for batch in data.val_dataloader() for text in batch["text"]} == {"a"}


def test_splits_by_name_and_paths_of_files(tmp_path: Path) -> None:
    paths = []
    for i in range(6):
        paths.append(str(tmp_path / f"{i}.png"))
        Path(paths[-1]).write_bytes(png(i))
    one = datasets.Dataset.from_dict({"image": paths, "text": list("abcdef")})
    two = datasets.DatasetDict({"train": one, "validation": one.select([5, 4])})
    two.save_to_disk(str(tmp_path / "d"))
    data = build(tmp_path / "d", tmp_path)
    assert (data.split("train").texts, data.split("test").texts) == (tuple("abcdef"), ("f", "e"))
    assert "has no split test, it has train, validation" in refused(tmp_path / "d", tmp_path, held_out="test")
    assert "set data.split" in refused(tmp_path / "d", tmp_path, split="training")


def test_a_name_without_a_network_is_refused_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    def unreachable(self: object, *args: object, **kwargs: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    begun = time.perf_counter()
    sentence = refused(Path("owner/name"), tmp_path)
    assert time.perf_counter() - begun < 3
    assert "owner/name is no path here, and the Hugging Face hub did not give it (ConnectionError)" in sentence
    assert "there is no file or folder" in refused(tmp_path / "absent", tmp_path)


def test_what_does_not_fit_is_said_before_training(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(30)]
    table(text=texts, odd=[None, *texts[1:]], n=[1.5] * 30).save_to_disk(str(tmp_path / "d"))
    path, cache = tmp_path / "d", tmp_path / "c"
    assert "has no column picture, it has image, text" in refused(path, cache, image="picture")
    assert "has no column caption" in refused(path, cache, text="caption")
    assert "has no column label" in refused(path, cache, num_classes=3)
    assert "data.columns names odd" in refused(path, cache, columns=["odd"])
    assert "1 of 30 images have no text, the first is row 0 of train" in refused(path, cache, text="odd")
    assert '"n" is a whole number or a word' in refused(path, cache, label="n", num_classes=2)
    assert "holds no image but float" in refused(path, cache, image="n")
    assert len(build(path, cache, text=None).split("train").columns) == 1
    with pytest.raises(DataError, match="which a batch holds already"):
        build(path, cache, columns=["label"])
    (tmp_path / "x.parquet").write_bytes(b"no table")
    assert "cannot be read as a data set" in refused(tmp_path / "x.parquet", cache)
