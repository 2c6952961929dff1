"""Where published files lie: here, on the Hugging Face hub, at an address, or under the name of a card
(``pretrained/cards.yaml``). The one place that downloads; no torch in this file."""

from __future__ import annotations

import difflib
import hashlib
import http.client
import os
import queue
import re
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass, urlopen

import yaml

from diffusion.errors import ConfigError
from diffusion.files import replacing, sha256_of

PATIENCE = 1.5
"""Seconds in which a network answers; without one, names alone may take their resolver longer than anyone waits."""
UNREAD = ["*.msgpack", "*.h5", "*.onnx", "*.onnx_data", "*.png", "*.jpg", "*.gif", "*.mp4", "*.fp16.*", "*.non_ema.*"]
"""Weights of other libraries and images."""
CARDS = Path(__file__).parent / "pretrained" / "cards.yaml"
WEIGHTS = (".pt", ".pth", ".pkl", ".ckpt", ".safetensors")
"""How the address of a file ends; any other is that of a page."""
_IN_FOLDERS = (*WEIGHTS, ".bin")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class NotFetchedError(Exception):
    """What the hub did not give, in one word."""


def snapshot(
    name: str, allow: list[str] | None = None, ignore: list[str] | None = None, revision: str | None = None
) -> Path:
    """The folder of a repository's files, of the cache where they are in it or there is no network.

    name: owner/name. allow, ignore: patterns of what is fetched.

    Raises:
        NotFetchedError: no network, no such repository, no permission.
    """
    try:
        from huggingface_hub import constants, snapshot_download

        here = not (constants.HF_HUB_OFFLINE or answers(constants.ENDPOINT))
        folder = snapshot_download(
            name, revision=revision, allow_patterns=allow, ignore_patterns=ignore, local_files_only=here
        )
        return Path(folder)
    except Exception as error:  # a dozen kinds
        raise NotFetchedError(type(error).__name__) from None


def answers(address: str) -> bool:
    """Can a connection to the host of this address, or to the proxy for it, be had within ``PATIENCE``?"""
    url = urlsplit(address)
    proxy = None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)
    if proxy is not None:
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port, outcome = url.port or {"http": 80}.get(url.scheme, 443), queue.SimpleQueue[bool]()

    def connect() -> None:
        try:
            socket.create_connection((url.hostname, port), PATIENCE).close()
        except OSError:
            outcome.put(False)
        else:
            outcome.put(True)

    threading.Thread(target=connect, daemon=True).start()
    try:
        return outcome.get(timeout=PATIENCE)
    except queue.Empty:
        return False


def cards() -> dict[str, dict[str, Any]]:
    """The published checkpoints that are known by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(CARDS.read_text(encoding="utf-8"))
    return found


def card(name: str) -> dict[str, Any]:
    """Raises:
    ConfigError: there is no such card.
    """
    known = cards()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"the cards are {', '.join(known)}"
        raise ConfigError(f"there is no card '{name}'; {hint}")
    return known[name]


def wanted(name: str | None, path: str | None, revision: str | None) -> tuple[dict[str, Any], str | None, str | None]:
    """A card, empty where none is named; and the source and the revision: those of the card where none is given.

    Raises:
        ConfigError: there is no such card.
    """
    known = {} if name is None else card(name)
    if path is not None:  # files that lie elsewhere have no revision of the card's
        return known, path, revision
    return known, known.get("source"), revision or known.get("revision")


def listed() -> str:
    """The cards, a line each."""
    return "".join(f"  {name:30} {about['what']}\n" for name, about in cards().items())


def downloaded(address: str) -> Path:
    """The file at an address, in the cache of the user, where it stays.

    Raises:
        NotFetchedError: no network, or the address gives none.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alphabar"
    file = cache / hashlib.sha256(address.encode()).hexdigest()[:12] / address.rpartition("/")[2]
    if file.is_file():
        return file
    if not address.endswith(WEIGHTS) or not answers(address):
        raise NotFetchedError("no network" if address.endswith(WEIGHTS) else "a page")
    try:
        with urlopen(address, timeout=60) as source:  # noqa: SIM117 - the file is begun when there is an answer
            with replacing(file) as beside, beside.open("wb") as target:
                while chunk := _read(source):
                    target.write(chunk)
                if source.headers["Content-Length"] not in (None, str(target.tell())):
                    raise http.client.IncompleteRead(b"")
    except (OSError, http.client.HTTPException) as error:
        raise NotFetchedError(type(error).__name__) from None
    return file


def _read(source: http.client.HTTPResponse) -> bytes:
    try:
        return source.read(1 << 20)
    except OSError as error:  # of the network, not of the disk
        raise http.client.HTTPException(str(error)) from None


def found(path: str, revision: str | None = None) -> tuple[Path, dict[str, Any]]:
    """A path, or what was downloaded of the hub's ``owner/name`` or of an address -> where it is, and the facts for
    the record.

    Raises:
        ConfigError: neither a path nor what a network gives; what to download.
    """
    here, address = Path(path), path.startswith(("http://", "https://"))
    if revision is not None and (here.exists() or address):
        what = "an address" if address else "a path here"
        raise ConfigError(f"revision={revision} is of a name of the hub, and {path} is {what}; leave it out")
    if here.exists():
        return here, {}
    if address:
        try:
            return downloaded(path), {"url": path}
        except NotFetchedError as why:
            raise ConfigError(
                f"{path} did not give a file ({why}); download it on a machine with a network, and set path to where "
                "it lies then"
            ) from None
    if not _NAME.fullmatch(path):
        raise ConfigError(f"path={path} is neither a file, a folder, nor a name of the Hugging Face hub (owner/name)")
    try:
        folder = snapshot(path, ignore=UNREAD, revision=revision)
    except NotFetchedError as why:
        raise ConfigError(
            f"path={path} is no path here, and the Hugging Face hub did not give it ({why}); download "
            f"https://huggingface.co/{path} on a machine with a network, and set path to that folder"
        ) from None
    return folder, {"revision": folder.name, "url": f"https://huggingface.co/{path}/tree/{folder.name}"}


def verified(path: Path, sha256: str) -> dict[Path, str]:
    """The SHA-256 of the file, or of the files of weights in a folder up to the first that is meant.

    sha256: what it begins with, in hexadecimal.

    Raises:
        ConfigError: no file has it.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _IN_FOLDERS)
    hashes: dict[Path, str] = {}
    for file in files:
        hashes[file] = sha256_of(file)
        if hashes[file].startswith(sha256.lower()):
            return hashes
    raise ConfigError(not_meant(path, sha256, {str(file): own for file, own in hashes.items()}))


def not_meant(path: Path, sha256: str, hashes: Mapping[str, str]) -> str:
    """The sentence on files of other hashes than the one that is meant."""
    return (
        f"no file of {path} has a sha256 that begins with {sha256}, they are {dict(hashes)}; remove it and fetch it "
        "again, or set sha256 to that of the version that is meant"
    )
