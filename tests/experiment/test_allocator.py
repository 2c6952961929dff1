"""Freed memory is kept: its pages are not faulted in again, and the numbers that are computed stay the same."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

FAULTS = """
import resource, sys, torch
from diffusion.experiment.process.allocator import allocator, set_allocator
set_allocator({"keep_freed_memory": sys.argv[1] == "True"})
torch.manual_seed(0)
x = torch.ones(1 << 24)  # above the size that glibc ever keeps by itself
for _ in range(3):
    y = x * 2 + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    y = x * 2 + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, float(y.sum()), allocator())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    lines = [
        subprocess.run([sys.executable, "-c", FAULTS, str(keep)], capture_output=True, text=True, check=True).stdout
        for keep in (True, False)
    ]
    (kept, total, setting), (returned, same_total, default) = (line.strip().split(" ", 2) for line in lines)
    assert int(returned) > 1000
    assert int(kept) < 0.1 * int(returned)
    assert total == same_total
    assert (setting, default) == ("keeps freed memory", "system")


def test_the_scripts_that_compute_have_the_setting() -> None:
    """compare and workspace read files; reproduce runs the others, each with its own."""
    conf = Path(__file__).parents[2] / "conf"
    having = {path.stem for path in conf.glob("*.yaml") if OmegaConf.load(path).get("keep_freed_memory") is True}
    assert {path.stem for path in conf.glob("*.yaml")} - having == {"compare", "reproduce", "workspace"}
