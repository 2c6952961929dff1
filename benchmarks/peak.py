"""The most that this machine's float32 units do: fused multiply-adds on registers, with nothing to fetch."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

CHAINS = 12
SOURCE = f"""
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
int width(void) {{ return LANES; }}
float chains(long n, float b, float c) {{
    lanes a[{CHAINS}], total = {{0}};
    for (int k = 0; k < {CHAINS}; k++) a[k] = total + (float)k;
    for (long i = 0; i < n; i++)
        for (int k = 0; k < {CHAINS}; k++) a[k] = a[k] * b + c;
    for (int k = 0; k < {CHAINS}; k++) total += a[k];
    float sum = 0;
    for (int k = 0; k < LANES; k++) sum += total[k];
    return sum;
}}
"""
LENGTH = 10_000_000


def peak(threads: int) -> tuple[Callable[[], object], float, str]:
    """Something to time that keeps ``threads`` cores at their float32 peak, its FLOPs, and its name.

    Needs a C compiler and knows x86's vectors; elsewhere it is a 3x3 convolution of 256 channels, the fastest thing
    that torch was found to do, at 93 to 104% of the peak.
    """
    library = _compiled()
    if library is None:
        return (*_convolution(), "convolution probe")
    run = library.chains
    run.argtypes, run.restype = (ctypes.c_long, ctypes.c_float, ctypes.c_float), ctypes.c_float
    pool = ThreadPoolExecutor(threads)  # a foreign function runs without Python's lock

    def both() -> object:
        return list(pool.map(lambda _: run(LENGTH, 0.999, 0.5), range(threads)))

    return both, 2.0 * threads * LENGTH * CHAINS * library.width(), "FMA peak"


def _compiled() -> ctypes.CDLL | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "chains.c", Path(folder) / "chains.so"
        source.write_text(SOURCE)
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-funroll-loops", "-shared", "-fPIC"]
        made = subprocess.run([compiler, *flags, str(source), "-o", str(target)], check=False, capture_output=True)
        return ctypes.CDLL(str(target)) if made.returncode == 0 else None


def _convolution() -> tuple[Callable[[], object], float]:
    conv = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(32, 256, 16, 16).to(memory_format=torch.channels_last)

    def probe() -> None:
        with torch.inference_mode():
            conv(x)

    return probe, 2.0 * 32 * 256 * 256 * 9 * 16 * 16
