"""Cards: published checkpoints by name, for an import and for the cells of tables."""

import csv
import http.server
import json
import re
import threading
from functools import partial

import pytest
import torch
import yaml
from conftest import config
from published import unpacked
from scripts_in_process import run_script
from test_imported_run import save_pipeline

from diffusion import hub
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.task.import_config import lines
from diffusion.files import sha256_of
from diffusion.pretrained import formats
from diffusion.pretrained.flags import read_flags

RELEASED = {"adm_imagenet256", "ddim_celeba64", "ddim_cifar10", "ddpm_table1", "dpm_solver_v3_cifar10",
            "dpm_solver_v3_edm", "edm_configs_cifar10", "edm_sampler_vp", "iddpm_table2",
            *(f"dps_{data}_{task}" for data in ("ffhq", "imagenet256")
              for task in ("inpainting_box", "inpainting_random", "super_resolution", "deblurring"))}  # fmt: skip
"""Tables whose authors, or those of the sampler's network, gave weights away."""


@pytest.mark.parametrize("name", hub.cards())
def test_a_card_says_what_is_needed(name, tmp_path):
    card = hub.card(name)
    assert card.keys() <= {"format", "source", "what", "flags", "revision", "sha256", "licence", "published"}
    assert card["format"] in formats.NAMES
    assert card["what"]
    assert re.fullmatch("[0-9a-f]{64}", card.get("sha256", "0" * 64))
    assert re.fullmatch("[0-9a-f]{40}", card.get("revision", "0" * 40))
    assert "revision" not in card or re.fullmatch(r"[\w-]+/[\w-]+", card["source"])  # a name of the hub
    if card["format"] in ("guided_diffusion", "improved_diffusion"):
        (tmp_path / "flags.txt").write_text(card["flags"])
        flags = read_flags(tmp_path, tmp_path / "flags.txt", ())
        assert flags.get("learn_sigma") is True or "classifier_width" in flags
        assert f"{flags['image_size']}" in card["source"] + name or "cifar10" in name


def test_every_table_with_released_weights_names_a_card():
    named = {}
    for file in CONF.glob("ablation/*.yaml"):
        table = yaml.safe_load(file.read_text())
        cells = [table, *(cell or {} for cell in table["cells"].values())]
        named[file.stem] = [cell["weights"]["card"] for cell in cells if "weights" in cell]
    assert {name for name, cards in named.items() if cards} == RELEASED
    assert {card for cards in named.values() for card in cards} <= set(hub.cards())


@pytest.mark.parametrize(("table", "cells"), [
    ("iddpm_table2", {"4K_cosine_hybrid": "iddpm_cifar10", "4K_cosine_vlb": "iddpm_cifar10_vlb"}),
    ("adm_imagenet256", {"cond": "adm_imagenet256", "uncond": "adm_imagenet256_uncond"}),
    ("edm_configs_cifar10", {f"F_{x}": f"edm_cifar10_{y}" for x, y in
                             {"cond": "cond_vp", "uncond": "uncond_vp", "cond_ve": "cond_ve"}.items()}),
])  # fmt: skip
def test_a_cells_score_is_its_cards(table, cells):
    found = yaml.safe_load((CONF / "ablation" / f"{table}.yaml").read_text())["cells"]
    for cell, card in cells.items():
        assert found[cell]["weights"] == {"card": card}
        assert found[cell]["published"] == hub.card(card)["published"]


@pytest.mark.parametrize(("name", "tensors", "millions"), [
    ("ddim_celeba64", {"conv_in.weight": torch.zeros(1)}, 78.7),  # Song et al. 2021 (DDIM), appendix D.1
    ("score_sde_cifar10_ddpmpp_deep", {"model": {"x": torch.zeros(1)}, "ema": {"shadow_params": [torch.zeros(1)]}},
     106.6),  # Song et al. 2021, appendix H
])  # fmt: skip
def test_a_cards_own_config_builds_the_network_of_its_paper(name, tensors, millions, tmp_path):
    (tmp_path / "flags.yaml").write_text(yaml.safe_dump(hub.card(name)["flags"]))
    torch.save(tensors, tmp_path / "file.pth")
    published = formats.read(hub.card(name)["format"], tmp_path / "file.pth", tmp_path / "flags.yaml")
    cfg = config(tmp_path, "experiment=none", *lines(published.overrides, tmp_path, "none", []))
    with torch.device("meta"):
        network = build(cfg.network)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A card of a small model, whose file a server on this machine gives."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = unpacked("improved_cosine_learnsigma", tmp_path)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = (folder / "arguments.json").read_text()
        source = f"http://127.0.0.1:{server.server_port}/ema_0.9999_000500.pt"
        about = {"format": "improved_diffusion", "source": source, "what": "small", "flags": flags, "licence": "MIT"}
        (tmp_path / "cards.yaml").write_text(yaml.safe_dump({"small": about}))
        monkeypatch.setattr(hub, "CARDS", tmp_path / "cards.yaml")
        yield folder
        server.shutdown()


def test_a_card_is_imported_by_its_name(served, tmp_path):
    run_script(f"scripts/import.py card=small paths.outputs={tmp_path}")
    origin = json.loads((tmp_path / "imported" / "small" / "origin.json").read_text())
    due = json.loads((served / "fixture.json").read_text())["files"]["ema_0.9999_000500.pt"]["unpacked_sha256"]
    assert origin["files"] == {"ema_0.9999_000500.pt": due}
    assert origin["licence"] == "MIT"
    assert origin["url"] == hub.card("small")["source"]
    (served / "ema_0.9999_000500.pt").unlink()  # it is in the cache
    run_script(f"scripts/import.py card=small name=again paths.outputs={tmp_path}")
    here = unpacked("improved_cosine_learnsigma", tmp_path / "here") / "ema_0.9999_000500.pt"
    run_script(f"scripts/import.py card=small path={here} name=mine paths.outputs={tmp_path}")
    assert len(list(tmp_path.glob("imported/*/config.yaml"))) == 3


def changed(**facts):
    """The card with these in it."""
    hub.CARDS.write_text(yaml.safe_dump({"small": {**hub.card("small"), **facts}}))


def test_another_file_than_a_cards_is_refused_before_it_is_read(served, tmp_path, capsys):
    file = served / "ema_0.9999_000500.pt"
    due = sha256_of(file)
    changed(sha256=due, flags=yaml.safe_load(hub.card("small")["flags"]))
    run_script(f"scripts/import.py card=small paths.outputs={tmp_path}")
    origin = json.loads((tmp_path / "imported" / "small" / "origin.json").read_text())
    assert origin["files"] == {file.name: due}
    other = tmp_path / "other.pt"
    other.write_text("no weights at all")
    for words in (f"card=small path={other}", f"card=small sha256={'f' * 8}"):
        with pytest.raises(pytest.fail.Exception):
            run_script(f"scripts/import.py {words} name=other paths.outputs={tmp_path}")
        said = capsys.readouterr().err
        assert re.search(r"has a sha256 that begins with \w+, they are .*; remove it and fetch it again, or set", said)
    assert [folder.name for folder in (tmp_path / "imported").iterdir()] == ["small"]
    run_script(f"scripts/import.py card=small sha256={due[:12].upper()} name=again paths.outputs={tmp_path}")


def test_a_cards_revision_is_what_the_hub_is_asked_for(served, tmp_path, monkeypatch, capsys):
    commit, asked = "0123456789" * 4, []
    folder = save_pipeline(tmp_path / commit)

    def snapshot(name, allow=None, ignore=None, revision=None):
        asked.append((name, revision))
        return folder

    monkeypatch.setattr(hub, "snapshot", snapshot)
    (weights,) = folder.rglob("*.safetensors")
    changed(flags=None, format="diffusers", source="owner/small", revision=commit, sha256=sha256_of(weights))
    run_script(f"scripts/import.py card=small paths.outputs={tmp_path / 'out'}")
    origin = json.loads((tmp_path / "out" / "imported" / "small" / "origin.json").read_text())
    assert set(asked) == {("owner/small", commit)}
    assert origin["revision"] == folder.name == commit
    assert list(origin["files"].values()) == [sha256_of(weights)]
    run_script(f"scripts/import.py card=small path={folder} name=here paths.outputs={tmp_path / 'out'}")
    (folder / "unread.bin").write_text("of another library")
    with pytest.raises(pytest.fail.Exception):  # that file is there, and not what is read
        run_script(
            f"scripts/import.py card=small path={folder} sha256={sha256_of(folder / 'unread.bin')} name=no "
            f"paths.outputs={tmp_path / 'out'}"
        )
    assert re.search(rf"they are .*{sha256_of(weights)}", capsys.readouterr().err)


@pytest.mark.slow
def test_a_table_samples_the_card_of_its_cell(tmp_path, monkeypatch):
    about = {"format": "diffusers", "source": str(save_pipeline(tmp_path / "published")), "what": "small"}
    (tmp_path / "cards.yaml").write_text(yaml.safe_dump({"small": about}))
    monkeypatch.setattr(hub, "CARDS", tmp_path / "cards.yaml")
    table = yaml.safe_load((CONF / "ablation" / "digits_sampler_steps.yaml").read_text())
    table["cells"] = {"five": {**table["cells"]["ddim_eta0_S5"], "weights": {"card": "small"}}}
    (tmp_path / "conf" / "ablation").mkdir(parents=True)
    (tmp_path / "conf" / "ablation" / "small.yaml").write_text(yaml.safe_dump(table))
    run_script(
        f"scripts/reproduce.py --config-dir={tmp_path / 'conf'} ablation=small weights=published seeds=[0] "
        f"paths.outputs={tmp_path / 'out'}"
    )
    rows = list(csv.DictReader((tmp_path / "out/reproduce/tables/small.csv").open()))
    assert {row["cell"] for row in rows} == {"five"}
    assert not list((tmp_path / "out").glob("reproduce/*/checkpoints"))


def test_what_cannot_be_downloaded_is_one_sentence(served, tmp_path):
    source = hub.card("small")["source"]
    with pytest.raises(ConfigError, match=r"did not give a file \(HTTPError\); download it"):
        hub.found(source.replace("ema", "emma"))
    with pytest.raises(ConfigError, match=r"did not give a file \(a page\)"):
        hub.found("https://drive.google.com/drive/folders/x")
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        hub.card("smal")
    assert not list((tmp_path / "cache").rglob("*.p*t"))
