"""The captions of COCO (Chen et al. 2015): ``captions_val2014.json`` and files like it, several captions an image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.errors import DataError
from diffusion.image_file import shown


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """The captions of each image by its ``file_name``, in the order of the annotations' ``id``.

    Raises:
        DataError: no such file, not of this kind, or an annotation of an image that it does not name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read: {error.strerror}; set data.captions to a file there is"
        ) from None
    except ValueError as error:
        raise DataError(f"{shown(path)} is not JSON ({error})") from None
    images, annotations = (content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(
            f'{shown(path)} does not hold the lists "images" and "annotations" of COCO\'s captions; set data.captions '
            "to captions_train2014.json or a file like it"
        )
    names: dict[Any, str] = {}
    for place, image in enumerate(images):
        if not isinstance(image, Mapping) or not isinstance(image.get("file_name"), str) or "id" not in image:
            raise DataError(f'image {place} of {shown(path)} has no "id" or "file_name": {json.dumps(image)[:80]}')
        names[image["id"]] = image["file_name"]
    captions: dict[str, list[tuple[int, str]]] = {name: [] for name in names.values()}
    for place, one in enumerate(annotations):
        if not isinstance(one, Mapping) or not isinstance(one.get("caption"), str):
            raise DataError(
                f'annotation {place} of {shown(path)} has no "caption": {json.dumps(one)[:80]}; the files of instances '
                "and keypoints hold none"
            )
        if one.get("image_id") not in names:
            raise DataError(f"annotation {place} of {shown(path)} is of an image {one.get('image_id')} that it lacks")
        captions[names[one["image_id"]]].append((one.get("id", place), " ".join(one["caption"].split())))
    return {name: tuple(text for _, text in sorted(several)) for name, several in captions.items()}
