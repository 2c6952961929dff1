"""The hub: with a network, without one, and where names have no answer."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest

from diffusion import hub
from diffusion.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_host_that_listens_answers_and_one_that_does_not_does_not(listening, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert hub.answers(f"http://127.0.0.1:{listening}")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert not hub.answers(f"http://127.0.0.1:{port}")
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{listening}")
    assert hub.answers("https://nowhere.invalid")


def test_names_without_an_answer_are_not_waited_for(monkeypatch):
    def resolve(*_, **__):
        time.sleep(2 * hub.PATIENCE)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    start = time.monotonic()
    assert not hub.answers("https://nowhere.invalid")
    assert time.monotonic() - start < hub.PATIENCE + 0.5


@pytest.mark.parametrize("online", [True, False])
def test_without_a_network_the_cache_is_asked(online, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(hub, "answers", lambda _: online)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **o: asked.update(o) or str(tmp_path))
    assert hub.snapshot("owner/name", ["*.json"]) == tmp_path
    assert asked["local_files_only"] is not online


def test_what_is_not_given_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda _: False)
    with pytest.raises(ConfigError, match=r"did not give it \(LocalEntryNotFoundError\); download https://hugging"):
        hub.found("owner/no-such-name")
    with pytest.raises(ConfigError, match="revision=main is of a name of the hub"):
        hub.found(str(tmp_path), "main")
    with pytest.raises(ConfigError, match=r"revision=main is of a name of the hub, and http.*an address; leave it out"):
        hub.found("https://nowhere.invalid/weights.pt", "main")


def test_the_sentence_does_not_wait_for_torch():
    code = "import sys, diffusion.hub as hub\ntry: hub.found('owner/no-such-name')\nexcept Exception: pass\n"
    done = subprocess.run([sys.executable, "-c", f"{code}assert 'torch' not in sys.modules"], cwd=ROOT, check=False)
    assert done.returncode == 0
