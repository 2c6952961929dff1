"""A run's record: what became of it, whatever became of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusion.errors import ConfigError, Preempted
from diffusion.experiment.run.record import Record
from diffusion.experiment.run.status import FILE, read_status, write_status


def recorded(folder: Path, body: str) -> subprocess.Popen[bytes]:
    """Another process that runs ``body`` inside a record."""
    code = "import os, signal, time\nfrom pathlib import Path\nfrom diffusion.experiment.run.record import Record\n"
    code += f"with Record(Path({str(folder)!r})):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def wait_for(condition, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_finished_run(tmp_path: Path):
    cfg = OmegaConf.create({"seed": 3, "twice": "${seed}", "nested": {"a": [1, 2]}})
    with Record(tmp_path / "run", cfg, ["seed=3"]):
        assert read_status(tmp_path / "run")["status"] == "running"
    status = read_status(tmp_path / "run")
    assert status["status"] == "finished"
    assert status["overrides"] == ["seed=3"]
    assert status["segments"] == 1
    assert OmegaConf.load(tmp_path / "run" / "config.yaml") == {"seed": 3, "twice": 3, "nested": {"a": [1, 2]}}
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["hydra-core"].startswith("1.3")
    assert environment["python"] == sys.version.split()[0]
    assert os.uname().nodename not in (tmp_path / "run" / "environment.json").read_text()


def test_the_commit_is_gits_own(tmp_path: Path):
    here = Path(__file__).parent
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip("no git here")
    with Record(tmp_path):
        pass
    assert json.loads((tmp_path / "environment.json").read_text())["git"]["commit"] == asked.stdout.strip()


def test_a_failed_run_keeps_reason_and_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with pytest.raises(ZeroDivisionError), Record(tmp_path):
        _ = 1 / 0
    status = read_status(tmp_path)
    assert status["status"] == "failed"
    assert status["reason"] == "ZeroDivisionError: division by zero"
    assert "_ = 1 / 0" in (tmp_path / status["traceback"]).read_text()
    assert "_ = 1 / 0" in caplog.text


def test_ctrl_c_is_no_failure(tmp_path: Path):
    with pytest.raises(Preempted) as caught, Record(tmp_path):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert read_status(tmp_path)["status"] == "preempted"


def test_an_exit_code_is_a_failure_and_exit_0_is_none(tmp_path: Path):
    with pytest.raises(SystemExit), Record(tmp_path / "a"):
        sys.exit(3)
    with pytest.raises(SystemExit), Record(tmp_path / "b"):
        sys.exit(0)
    assert read_status(tmp_path / "a")["status"] == "failed"
    assert read_status(tmp_path / "b")["status"] == "finished"


def test_sigterm_is_preemption_with_code_143(tmp_path: Path):
    child = recorded(tmp_path, "time.sleep(60)")
    wait_for(lambda: (tmp_path / "environment.json").exists())
    time.sleep(0.2)
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 143
    assert read_status(tmp_path)["status"] == "preempted"


def test_lightnings_sigterm_counts_as_preemption(tmp_path: Path):
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    with pytest.raises(Preempted) as caught, Record(tmp_path):
        raise SIGTERMException
    assert caught.value.code == 143
    assert read_status(tmp_path)["status"] == "preempted"


def test_a_killed_run_is_seen_to_be_dead(tmp_path: Path):
    child = recorded(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert child.wait(20) == -signal.SIGKILL
    assert json.loads((tmp_path / FILE).read_text())["status"] == "running"
    status = read_status(tmp_path)
    assert status["status"] == "failed"
    assert status["killed"]
    assert str(child.pid) in status["reason"]


def test_a_pid_that_came_again_is_not_the_run(tmp_path: Path):
    with Record(tmp_path):
        status = read_status(tmp_path)
        write_status(tmp_path, status | {"born": status["born"] - 100})
        assert read_status(tmp_path)["killed"]


def test_another_machines_run_is_not_called_dead(tmp_path: Path):
    write_status(tmp_path, {"status": "running", "pid": 2**22 + 1, "host": "elsewhere"})
    assert read_status(tmp_path)["status"] == "running"


def test_a_folder_in_use_is_refused(tmp_path: Path):
    child = recorded(tmp_path, "time.sleep(60)")
    wait_for(lambda: (tmp_path / FILE).exists())
    with pytest.raises(ConfigError, match=str(child.pid)), Record(tmp_path):
        pass
    child.kill()
    child.wait()
    with Record(tmp_path):
        pass
    assert read_status(tmp_path) | {"segments": 2, "status": "finished"} == read_status(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"status": "run', "[1]", "{}", "null"])
def test_half_written_files_are_no_status(tmp_path: Path, text: str):
    (tmp_path / FILE).write_text(text)
    assert read_status(tmp_path) is None


def test_no_folder_is_no_status(tmp_path: Path):
    assert read_status(tmp_path / "nothing") is None


def test_reading_costs_no_torch():
    code = "import sys; from diffusion.experiment.run import record, status; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_thousand_statuses_read_in_a_second(tmp_path: Path):
    for i in range(1000):
        (tmp_path / str(i)).mkdir()
        write_status(tmp_path / str(i), {"status": "running", "pid": os.getpid(), "host": "elsewhere"})
    start = time.process_time()
    assert all(read_status(folder) for folder in tmp_path.iterdir())
    assert time.process_time() - start < 1.0
