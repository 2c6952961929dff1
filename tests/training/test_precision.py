"""bf16 autocast trains like float32: the loss curves on real digits differ by less than two float32 runs do.

And who chooses it: a rule of the machine, recorded in the run folder and kept on resumption.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import config
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build_trainer
from diffusion.experiment.config import resolvers
from diffusion.experiment.config.validate import check
from diffusion.experiment.run import resume
from diffusion.network.unet import UNet
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond, expand

STEPS, BATCH = 60, 12


def curve(seed: int, bf16: bool) -> torch.Tensor:
    """Loss of each of STEPS steps; the initial weights are the same in all runs, the draws depend on ``seed``."""
    torch.manual_seed(0)
    network = UNet(1, 8, channels=16, channel_mult=[1, 2], num_res_blocks=1, attention=[4])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    images = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    schedule, draws, losses = CosineSchedule(), torch.Generator().manual_seed(seed), []
    for _ in range(STEPS):
        x0 = images[torch.randint(len(images), (BATCH,), generator=draws)]
        t = torch.rand(BATCH, generator=draws, dtype=torch.float64)
        eps = torch.randn(x0.shape, generator=draws)
        x = expand(schedule.alpha(t), x0).float() * x0 + expand(schedule.sigma(t), x0).float() * eps
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = network(x, schedule.c_noise(t).float(), Cond())
        loss = (out.float() - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.slow
def test_bf16_follows_float32() -> None:
    exact, rounded, other = curve(0, False), curve(0, True), curve(1, False)
    assert exact[-20:].mean() < 0.5 * exact[:5].mean()  # it learns, so that there is something to follow
    assert (rounded - exact).abs().mean() < 0.1 * (other - exact).abs().mean()
    assert abs(rounded[-40:].mean() - exact[-40:].mean()) < 0.02 * exact[-40:].mean()


def machine(monkeypatch: pytest.MonkeyPatch, folder: Path, flags: str, gpu: bool = False) -> None:
    (folder / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\nbugs\t\t: none\n")
    (folder / "driver").write_text("NVRM version") if gpu else None
    monkeypatch.setattr(resolvers, "PROCESSOR", folder / "cpuinfo")
    monkeypatch.setattr(resolvers, "DRIVER", folder / "driver")


@pytest.mark.parametrize(
    ("flags", "gpu", "expected"),
    [("avx512f avx512_bf16", False, "bf16-mixed"), ("amx_bf16", False, "bf16-mixed"), ("avx2", False, "32-true"),
     ("avx512f", False, "32-true"), ("avx2", True, "bf16-mixed")],
)  # fmt: skip
def test_the_default_precision_is_the_machines(monkeypatch, tmp_path: Path, flags: str, gpu: bool, expected: str):
    machine(monkeypatch, tmp_path, flags, gpu)
    assert config(tmp_path, "experiment=cifar10_ddpm").trainer.precision == expected
    assert config(tmp_path).trainer.precision == "32-true"  # the digits' figures are float32's on every machine
    assert config(tmp_path, "trainer=auto").trainer.precision == expected
    monkeypatch.setattr(resolvers, "PROCESSOR", tmp_path / "there is none")
    assert resolvers.precision() == ("bf16-mixed" if gpu else "32-true")


def test_a_run_resumed_on_another_machine_keeps_its_precision(monkeypatch, tmp_path: Path):
    machine(monkeypatch, tmp_path, "avx512_bf16")
    cfg, run = config(tmp_path, "trainer=auto"), tmp_path / "run"
    for name in (".hydra", "checkpoints"):
        (run / name).mkdir(parents=True)
    OmegaConf.save(["trainer=auto"], run / ".hydra" / "overrides.yaml")
    OmegaConf.save(cfg, run / "config.yaml", resolve=True)
    OmegaConf.save(cfg, run / ".hydra" / "config.yaml")
    torch.save({"global_step": 5}, run / "checkpoints" / "last.ckpt")
    machine(monkeypatch, tmp_path, "avx2")
    for new, precision in ([], "bf16-mixed"), (["trainer.precision=32-true"], "32-true"), (["trainer=cpu"], "32-true"):
        lines = [f"resume={run}", *new]
        monkeypatch.setattr(resume, "task_overrides", lambda lines=lines: lines)
        words = [line for line in resume.resume_overrides(lines) if not line.startswith("hydra.")]
        found = resume.continued(config(tmp_path, *words))
        assert found is not None
        assert found.cfg.trainer.precision == precision


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_fp16_on_a_processor_is_refused_in_one_sentence(tmp_path: Path, precision: str):
    cfg = config(tmp_path, "logger=csv", f"trainer.precision={precision}")
    with pytest.raises(ConfigError, match=r"is for GPUs.*bf16-mixed or 32-true"):
        check(cfg)
    if not torch.cuda.is_available():  # nor where the accelerator turns out to be one
        with pytest.raises(ConfigError, match="is for GPUs"):
            build_trainer(config(tmp_path, "logger=csv", "trainer=auto", f"trainer.precision={precision}"))
