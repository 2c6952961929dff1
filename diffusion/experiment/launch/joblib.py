"""Jobs of a sweep side by side on this machine, each in a joblib (loky) process that no other job depends on.

Hydra's plugin puts all jobs into one pool, which ends every process of it when one of them is killed, as the kernel
does where memory runs out. Here each of ``n_jobs`` lanes has a process of its own and goes on with a new one. The
plugin's settings other than ``n_jobs`` are of that pool and mean nothing here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor, cpu_count

from diffusion.experiment.launch.hydra_job import launched, prepare

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def launch(
    context: Any, config: Any, task: Any, job_overrides: Sequence[Sequence[str]], stop: threading.Event
) -> list[JobReturn]:
    """Runs every list of overrides as a job, ``hydra.launcher.n_jobs`` at a time, and waits for all of them.

    stop: once it is set, no other job begins.
    """
    prepare(config)
    wanted = int(config.hydra.launcher.n_jobs)
    lanes = min(wanted if wanted > 0 else cpu_count(), len(job_overrides))
    share = str(max(1, cpu_count() // max(1, lanes)))
    environment = {name: os.environ.get(name, share) for name in _THREADS}
    state = Singleton.get_state()
    returns = [JobReturn(overrides=list(overrides)) for overrides in job_overrides]
    waiting = list(range(len(returns)))[::-1]
    pools: dict[int, ProcessPoolExecutor] = {}

    def lane(number: int) -> None:
        while not stop.is_set():
            try:
                i = waiting.pop()
            except IndexError:
                return
            if number not in pools:
                pools[number] = ProcessPoolExecutor(1, env=environment)
            job = (context, config, task, state, list(job_overrides[i]), i)
            try:
                returns[i] = pools[number].submit(launched, *job).result()
            except Exception as error:
                returns[i].status = JobStatus.FAILED
                returns[i].return_value = error
                if isinstance(error, BrokenProcessPool):
                    pools.pop(number).shutdown(wait=False)

    threads = [threading.Thread(target=lane, args=(number,), daemon=True) for number in range(lanes)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        waiting.clear()
        for pool in list(pools.values()):
            pool.shutdown(kill_workers=any(thread.is_alive() for thread in threads))  # after a signal
    return returns
