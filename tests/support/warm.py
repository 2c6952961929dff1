"""``Popen`` without the seconds that importing torch takes: a process that has imported what scripts import, and has
computed nothing, since autograd does not survive a fork, forks an interpreter for each call."""

from __future__ import annotations

import ctypes
import gc
import importlib
import inspect
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMPORTED = ("pytorch_lightning", "torch._dynamo", "torch.distributed.launcher.api", "sklearn.datasets", "joblib",
            "matplotlib.pyplot", "diffusion.experiment.task.train", "diffusion.experiment.task.evaluate",
            "diffusion.experiment.cli.train")  # fmt: skip
SLOW_TO_START = ["-m", "submitit.local._local"]
"""Its starter makes the folder that it logs to afterwards, while Python starts."""
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
_cold = subprocess.Popen
_server: socket.socket | None = None


class Popen(_cold):  # type: ignore[type-arg]
    """``subprocess.Popen``: of ``[sys.executable, script | -c code | -m module, ...]`` it makes a child with a pid,
    signals, an exit code and an environment of its own, whose own children of that kind are as warm."""

    def _execute_child(self, *given: Any) -> None:
        asked = inspect.signature(_cold._execute_child).bind(self, *given).arguments
        words = [os.fsdecode(word) for word in asked["args"]] if isinstance(asked["args"], list) else [""]
        flag = words[1] if len(words) > 1 else "-"
        odd = asked["preexec_fn"] or asked["pass_fds"] or asked["shell"] or sys.platform != "linux"
        odd = odd or words[1:3] == SLOW_TO_START
        if odd or words[0] != sys.executable or (flag.startswith("-") and flag not in ("-c", "-m")):
            super()._execute_child(*given)
            return
        pipes = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        call = words, asked["cwd"] or os.getcwd(), dict(asked["env"] or os.environ), asked["start_new_session"]
        server, prctl = _started(), ctypes.CDLL(None).prctl
        prctl(SUBREAPER, 1)  # the orphan that is asked for becomes a child of this process
        try:
            fds = [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)]
            socket.send_fds(server, [pickle.dumps(call)], fds)
            self.pid = int(server.recv(20))
            server.recv(1)
        finally:
            prctl(SUBREAPER, 0)
        self._child_created = True
        self._close_pipe_fds(*(asked[n] for n in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")))


def run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` with ``capture_output`` and ``text``, warm."""
    timeout, check = options.pop("timeout", None), options.pop("check", False)
    with Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as child:
        try:
            out, err = child.communicate(timeout=timeout)
        except BaseException:
            child.kill()
            raise
    done = subprocess.CompletedProcess(child.args, child.returncode, out, err)
    if check:
        done.check_returncode()
    return done


@contextmanager
def children() -> Iterator[None]:
    """Whatever starts a Python meanwhile, as a launcher of ranks does, starts a warm one."""
    subprocess.Popen = Popen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = _cold  # type: ignore[misc]


def _started() -> socket.socket:
    global _server
    if _server is None:
        _server, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import warm; warm.main({theirs.fileno()})"
        environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        _cold([sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment, **quiet)
        theirs.close()
    return _server


def main(fileno: int) -> None:
    """The warm process; each interpreter that it forks leaves here with the exit code of what it was asked to run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    del sys.path[:2]  # this folder, and that of the code
    base, sys.path[:] = list(sys.path), [str(HERE.parents[1]), *sys.path]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    words, environment = _serve(socket.socket(fileno=fileno))
    subprocess.Popen = Popen  # type: ignore[misc]
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    importlib.invalidate_caches()
    sys.path[:] = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *base]
    space = vars(sys.modules.setdefault("__main__", types.ModuleType("__main__")))
    space.clear()
    space.update(__name__="__main__", __builtins__=__builtins__, __spec__=None, __doc__=None)
    if words[1] == "-m":
        sys.argv, sys.orig_argv = words[2:], words
        sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(words[2])  # type: ignore[attr-defined]
    elif words[1] == "-c":
        sys.argv, sys.orig_argv = ["-c", *words[3:]], words
        sys.path.insert(0, "")
        exec(compile(words[2], "<string>", "exec"), space)
    else:
        sys.argv, sys.orig_argv = words[1:], words
        space["__file__"] = os.path.abspath(words[1])
        sys.path.insert(0, os.path.dirname(os.path.realpath(words[1])))
        exec(compile(Path(words[1]).read_bytes(), space["__file__"], "exec"), space)


def _serve(asked: socket.socket) -> tuple[list[str], dict[str, str]]:
    """Forks for whoever asks, until it is gone; returns in what it forked, with the words and the environment."""
    global _server
    while True:
        told, fds, *_ = socket.recv_fds(asked, 1 << 18, 3)
        if not told:
            os._exit(0)
        if between := os.fork():  # ends at once, so that the interpreter is an orphan, which the asker adopts
            os.waitpid(between, 0)
            asked.send(b".")
            for fd in fds:
                os.close(fd)
            continue
        between = os.getpid()
        if pid := os.fork():
            asked.send(str(pid).encode())
            os._exit(0)
        while os.getppid() == between:  # else a PR_SET_PDEATHSIG set early would be for that one's end
            time.sleep(0.001)
        asked.close()
        words, folder, environment, session = pickle.loads(told)
        if session:
            os.setsid()
        os.chdir(folder)
        _server, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        if os.fork():  # what its own children are forked from, before anything has happened in it
            theirs.close()
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            return words, environment
        _server.close()
        for fd in fds:
            os.close(fd)
        asked = theirs
