"""Starts the page's server: on this machine alone, or behind a token."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusion.errors import ConfigError
from diffusion.experiment.studio.card import read
from diffusion.experiment.studio.desk import Desk
from diffusion.experiment.studio.history import History
from diffusion.files import check_writable

LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(cfg: DictConfig) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        ConfigError: no folder of runs, a pipeline that cannot draw, a port that is in use, or no gradio.
    """
    with tempfile.TemporaryDirectory(prefix="studio-") as uploads:
        opened, address = start(cfg, uploads)
        print(f"studio: {address}", flush=True)
        opened.block_thread()


def start(cfg: DictConfig, uploads: str) -> tuple[Any, str]:
    """Starts the page in threads of this process -> gradio's app, and the address with how to log in.

    uploads: a folder for what pages send and get.

    Raises:
        ConfigError: see :func:`serve`.
    """
    output = Path(cfg.output) if cfg.output else Path(cfg.paths.outputs) / "studio"
    check_writable(output)
    desk = Desk(Path(cfg.runs), History(output), list(cfg.pipelines))
    desk.runs()
    for pipeline in desk.pipelines:
        read(pipeline)
    _check_free(cfg.host, cfg.port)
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads, "HF_HUB_OFFLINE": "1"}
    try:
        from diffusion.experiment.studio import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ConfigError("the studio needs gradio, which is not installed; pip install 'alphabar[studio]'") from None
    token = cfg.token or (None if cfg.host in LOCAL else secrets.token_urlsafe(12))
    opened = page.build(desk, cfg.batch_size).queue(default_concurrency_limit=8)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    opened.launch(
        server_name=cfg.host,
        server_port=cfg.port,
        auth=None if token is None else lambda name, password: hmac.compare_digest(password.encode(), token.encode()),
        auth_message="Any name, and the token of this studio as the password.",
        allowed_paths=[str(output.resolve())],
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        _frontend=False,  # a page that a busy machine answers late is no error
        footer_links=[],
        **page.LOOK,
    )
    desk.warm()
    login = f"; log in with any name and the token {token} as the password" if token else ""
    return opened, f"http://{socket.gethostname() if cfg.host == '0.0.0.0' else cfg.host}:{cfg.port}{login}"


def _check_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise ConfigError(
            f"the page cannot be opened at {host}:{port} ({error.strerror or error}); set port or host to another"
        ) from None
