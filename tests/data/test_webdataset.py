"""Tar shards: the same samples for any ranks, exact resuming, and what an index tells before training."""

from __future__ import annotations

import functools
import http.server
import json
import tarfile
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from image_tables import noise_samples, pixels, png, write_shard

from diffusion.data.loader import StatefulLoader
from diffusion.data.shards import index
from diffusion.data.shards.names import expanded
from diffusion.data.webdataset import WebDataset
from diffusion.errors import DataError


def shards(folder: Path, counts: tuple[int, ...] = (7, 9, 8)) -> list[dict[str, bytes]]:
    """Shards of samples, numbered on from one to the next; all of the samples."""
    samples: list[dict[str, bytes]] = []
    for number, count in enumerate(counts):
        more = noise_samples(count, len(samples), height=8, width=8)
        write_shard(folder / f"{number:02d}.tar", more, len(samples))
        samples += more
    return samples


def build(folder: Path, **settings: object) -> WebDataset:
    fixed = {"resolution": 8, "test_fraction": 0.2, "batch_size": 6, "num_workers": 0, "cache": str(folder / "cache")}
    return WebDataset(**{"shards": str(folder), **fixed, **settings})


def refused(folder: Path, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        build(folder, **settings).setup()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def loader(data: WebDataset, rank: int = 0, ranks: int = 1, **settings: object) -> StatefulLoader:
    return StatefulLoader(data.split("train"), 6, seed=3, rank=rank, world_size=ranks, flip=True, **settings)


def test_every_sample_has_its_own_picture_words_and_class(tmp_path: Path) -> None:
    samples = shards(tmp_path)
    data = build(tmp_path, num_classes=3)
    seen = {}
    for name in ("train", "test"):
        split = data.split(name)
        for row, text in enumerate(split.texts):
            seen[text] = (split.images[row].permute(1, 2, 0).numpy(), int(split.labels[row]))
    assert len(seen) == len(samples)
    for number, sample in enumerate(samples):
        image, label = seen[f"text {number}"]
        assert (image == pixels(sample["png"])).all()
        assert label == number % 3


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_each_batch_without_overlap_or_loss(ranks: int, tmp_path: Path) -> None:
    shards(tmp_path, (20, 11))
    data = build(tmp_path)
    alone, together = iter(loader(data)), [iter(loader(data, rank, ranks)) for rank in range(ranks)]
    counted: Counter[int] = Counter()
    for batch in alone:
        parts = [next(one) for one in together]
        assert torch.equal(torch.cat([part["image"] for part in parts]), batch["image"])
        assert [text for part in parts for text in part["text"]] == batch["text"]
        counted.update(batch["index"].tolist())
    assert set(counted.values()) == {1}
    assert len(counted) == len(data.split("train")) // 6 * 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_where_it_was_interrupted(workers: int, tmp_path: Path) -> None:
    shards(tmp_path, (20, 13))
    whole = loader(build(tmp_path), num_workers=workers)
    assert len(whole) > 2
    undisturbed = [batch for _ in range(3) for batch in whole]
    first = loader(build(tmp_path), num_workers=workers)
    batches = iter(first)
    before = [next(batches) for _ in range(2)]
    then = loader(build(tmp_path), num_workers=workers)
    then.load_state_dict(first.state_dict())
    resumed = before + [batch for _ in range(3) for batch in then]
    for one, other in zip(undisturbed, resumed, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert one["text"] == other["text"]


def test_streamed_mapped_and_in_memory_are_the_same(tmp_path: Path) -> None:
    shards(tmp_path)
    batches = [
        list(StatefulLoader(build(tmp_path, memory=kind).split("train"), 6, seed=1, flip=True))
        for kind in ("stream", "mmap", "ram")
    ]
    for one, *others in zip(*batches, strict=True):
        assert all(torch.equal(one["image"], other["image"]) for other in others)


def test_an_index_is_made_once_and_again_for_another_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path)
    first = build(tmp_path).split("train").sha256
    with monkeypatch.context() as patch:
        patch.setattr(index, "_scan", lambda shard: pytest.fail("read again"))
        assert build(tmp_path).split("train").sha256 == first
    write_shard(tmp_path / "01.tar", noise_samples(9, 100, height=8, width=8), 7)
    assert build(tmp_path).split("train").sha256 != first


def test_the_hash_of_streamed_images_is_that_of_the_shards_content(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        shards(tmp_path / place)
    assert build(tmp_path / "a").split("train").sha256 == build(tmp_path / "b").split("train").sha256


def test_fields_of_json_are_captions_labels_and_columns(tmp_path: Path) -> None:
    samples = [
        {
            "png": png(i),
            "json": json.dumps({"caption": [f"a {i}", f"b {i}"], "kind": "xy"[i % 2], "score": i / 2}).encode(),
        }
        for i in range(20)
    ]
    write_shard(tmp_path / "0.tar", samples)
    data = build(tmp_path, text="caption", label="kind", num_classes=2, columns=["score"])
    split = data.split("train")
    assert data.classes == ("x", "y")
    for row, text in enumerate(split.texts):
        number = int(text.split()[1])
        assert text == f"a {number}"
        assert int(split.labels[row]) == number % 2
        assert float(split.more["score"][row]) == number / 2
    batches = loader(data)
    assert {text.split()[0] for _ in range(4) for batch in batches for text in batch["text"]} == {"a", "b"}


def test_held_out_shards_and_patterns(tmp_path: Path) -> None:
    shards(tmp_path)
    assert expanded("{a,b}-{08..10}.tar") == [f"{x}-{n}.tar" for x in "ab" for n in ("08", "09", "10")]
    data = build(tmp_path, shards=str(tmp_path / "{00..01}.tar"), held_out=str(tmp_path / "02.*"))
    assert (len(data.split("train")), len(data.split("test"))) == (16, 8)
    assert "names" in refused(tmp_path, shards=[str(tmp_path), str(tmp_path / "00.tar")])
    assert "there is no shard" in refused(tmp_path, shards=str(tmp_path / "{00..07}.tar"))
    assert "pipe:cat x" in refused(tmp_path, shards="pipe:cat x")


@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_a_shard_that_is_cut_short_is_named_with_the_member(kept: float, tmp_path: Path) -> None:
    shards(tmp_path)
    path = tmp_path / "01.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        end = members[-1].offset_data + members[-1].size
    cut = int(end * kept)
    path.write_bytes(path.read_bytes()[:cut])
    cut_at = [member.name for member in members if member.offset <= cut][-1]
    before = [member.name for member in members if member.offset + 512 <= cut][-1]
    sentence = refused(tmp_path)
    assert str(path) in sentence
    assert "cut short" in sentence
    assert cut_at in sentence or before in sentence


def test_a_shard_without_its_end_or_with_damage_is_refused(tmp_path: Path) -> None:
    shards(tmp_path)
    path = tmp_path / "01.tar"
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    end = members[-1].offset_data + -(-members[-1].size // 512) * 512
    path.write_bytes(content[:end])  # cut between two members, as a whole tar file but for its end
    assert f"cut short after {members[-1].name}" in refused(tmp_path)
    broken = bytearray(content)
    broken[members[5].offset + 150] ^= 0xFF  # in the checksum of a header
    path.write_bytes(bytes(broken))
    assert f"damaged after {members[4].name}" in refused(tmp_path)
    path.write_bytes(b"no tar at all" * 100)
    assert f"{path} is no tar file" in refused(tmp_path)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"png": png(0)}, ["have no text", "09.tar: 000077.png", "data.missing_text=empty"]),
        ({"png": png(0), "txt": b"x", "npy": b"x"}, ["09.tar: 000077.npy", "unknown suffix npy", "data.ignore"]),
        ({"txt": b"x"}, ["09.tar: 000077.txt has no image"]),
        ({"png": b"no picture", "txt": b"x"}, ["09.tar: 000077.png cannot be read as an image"]),
        ({"png": png(0), "jpg": png(0), "txt": b"x"}, ["09.tar: 000077.png and 000077.jpg", "data.image"]),
        ({"png": png(0), "txt": b"\xff"}, ["09.tar: 000077.txt is not UTF-8"]),
        ({"png": png(0), "json": b"{", "txt": b"x"}, ["09.tar: 000077.json is not JSON"]),
    ],
)
def test_a_member_that_does_not_fit_is_named(sample: dict[str, bytes], words: list[str], tmp_path: Path) -> None:
    shards(tmp_path)
    write_shard(tmp_path / "09.tar", [sample], 77)
    sentence = refused(tmp_path)
    assert all(word in sentence for word in words), sentence


def test_missing_captions_may_be_empty_or_left_out(tmp_path: Path) -> None:
    samples = shards(tmp_path)
    write_shard(tmp_path / "09.tar", [{"png": png(500)}], 77)
    for missing, more in (("empty", 1), ("skip", 0)):
        data = build(tmp_path, missing_text=missing)
        texts = [text for name in ("train", "test") for text in data.split(name).texts]
        assert len(texts) == len(samples) + more
        assert texts.count("") == more


def test_suffixes_can_be_ignored_and_images_chosen(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [{"a.png": png(i), "b.png": png(50 + i), "npy": b"x"} for i in range(20)])
    data = build(tmp_path, image="b.png", ignore=["npy"])
    kept = {split.images[i].permute(1, 2, 0).numpy().tobytes() for split in [data.split("train")] for i in range(5)}
    assert len(kept) == 5


def test_remote_shards_are_fetched_once(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    shards(tmp_path / "there")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *parts: object) -> None:
            asked.append(self.path)

        def end_headers(self) -> None:
            if self.path == "/short.tar":
                self.send_header("Content-Length", "999999")
            super().end_headers()

        def do_GET(self) -> None:
            if self.path == "/short.tar":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"x" * 1000)
            else:
                super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "there"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        remote = build(tmp_path, shards=address + "/{00..02}.tar")
        local = build(tmp_path, shards=str(tmp_path / "there"))
        texts = [{*data.split("train").texts, *data.split("test").texts} for data in (remote, local)]
        assert texts[0] == texts[1]
        build(tmp_path, shards=address + "/{00..02}.tar").setup()
        assert len(asked) == 3
        assert "ended after 1000 of 999999 bytes" in refused(tmp_path, shards=address + "/short.tar")
        assert "cannot be fetched" in refused(tmp_path, shards=address + "/absent.tar")
        assert not list((tmp_path / "cache").rglob("*.part"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
