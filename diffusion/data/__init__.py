"""Data: images as uint8 or float tensors, and the batches that training and evaluation draw from them.

A batch is {"image": float32 (B, C, H, W) in [-1, 1], "label": int64 (B,), "index": int64 (B,), the sample's index in
its split, "text": list[str] where there is text, and further columns by name, tensors (B, ...) or lists of B texts}. A
stored 8-bit value v becomes x = v / 127.5 - 1; floats are stored in [-1, 1].

The order of epoch e, whether sample i is mirrored in it, which of its captions it has and where it is cut are functions
of (seed, e, i) alone: they depend neither on the number of ranks and threads nor on where a run was interrupted.
"""

__all__ = [
    "arrays",
    "augmented",
    "base",
    "bucket",
    "captions",
    "celeba",
    "cifar10",
    "classes",
    "collection",
    "decoded",
    "digits",
    "emoji",
    "fetch",
    "huggingface",
    "image",
    "image_folder",
    "listing",
    "loader",
    "metadata",
    "mnist",
    "ordered",
    "shards",
    "split",
    "synthetic",
    "walk",
    "webdataset",
]
