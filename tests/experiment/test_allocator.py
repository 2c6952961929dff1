"""Freed memory is kept: the kernel is not asked for the same pages again, and what is computed stays the same."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from diffusion.experiment.process.allocator import allocator, keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.manual_seed(0)
x = torch.ones(1 << 24)  # above the size that glibc ever keeps by itself
for _ in range(3):
    y = x * 2 + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    y = x * 2 + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, float(y.sum()), allocator())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of other systems has no such setting")
def test_the_kernel_is_not_asked_again() -> None:
    said = [
        subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout.split(
            " ", 2
        )
        for how in ("keep", "give back")
    ]
    (kept, total, names), (given, other, plain) = said
    assert int(given) > 1000
    assert int(kept) < 0.1 * int(given)
    assert total == other
    assert (names.strip(), plain.strip()) == ("keeps freed memory", "system")
