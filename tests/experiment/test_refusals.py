"""What a constructor refuses is said without importing it, in its own words, and nothing else is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class

from diffusion.experiment.config.refusals import refusal

UNET: dict[str, Any] = {"in_channels": 1, "resolution": 8, "attention": [4], "channel_mult": [1, 2]}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("diffusion.sampler.ddim.DDIMSampler", {"eta": 1.5}),
    ("diffusion.sampler.ddim.DDIMSampler", {"steps": 0}),  # its base's own
    ("diffusion.sampler.heun.HeunSampler", {"churn": -1.0}),
    ("diffusion.network.unet.UNet", {**UNET, "variant": "vgg"}),  # through a function that only checks
    ("diffusion.network.unet.UNet", {**UNET, "channels": 0}),
    ("diffusion.data.digits.Digits", {"batch_size": 0}),  # in a loop, an error of the project's own
    ("diffusion.training.checkpoint.Checkpoint", {"every_n_train_steps": 0}),
    ("diffusion.schedule.linear.LinearSchedule", {"T": 0}),
    ("torch.optim.adamw.AdamW", {"lr": -1.0, "params": [0]}),
]


@pytest.mark.parametrize(("target", "values"), REFUSED, ids=lambda value: str(value)[-40:])
def test_the_sentence_is_the_constructors_own(target: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        get_class(target)(**values)
    assert refusal(target, values) == str(caught.value)


def test_a_part_of_a_guided_model_is_held_to_its_words_too() -> None:
    said = refusal("diffusion.guidance.classifier_free.ClassifierFreeGuidance", {"interval": [5, 1]})
    assert said is not None
    assert "guidance.classifier_free.interval" in said


@pytest.mark.parametrize(
    ("target", "values"),
    [
        ("diffusion.sampler.ddim.DDIMSampler", {"eta": 1.0, "steps": 3}),
        ("diffusion.sampler.ddim.DDIMSampler", {"eta": {"_target_": "somebody.Elses"}}),  # not known yet
        ("diffusion.network.unet.UNet", UNET),
        ("diffusion.data.digits.Digits", {}),
        ("builtins.dict", {"a": 1}),
        ("nobody.Knows", {}),
    ],
)
def test_what_may_be_right_is_not_refused(target: str, values: dict[str, Any]) -> None:
    assert refusal(target, values) is None


SOURCE = """
from elsewhere import unknown, check_all
LEAST = 3

class Base:
    kind = "plain"

    def __init__(self, width):
        if width > 100:
            raise ValueError(f"{self.kind} {width}")

class Part(Base):
    kind = "part"

    def __init__(self, size: int, width: int = 1, other=None):
        {line}
        if size < LEAST:
            raise ValueError(f"at least {{LEAST}}, got {{size}}")
        super().__init__(2 * width)
"""


@pytest.mark.parametrize(
    ("line", "values", "said"),
    [
        ("pass", {"size": 2}, "at least 3, got 2"),
        ("size = size + 5", {"size": 2}, None),
        ("size = unknown(size)", {"size": 2}, None),  # no longer known
        ("if unknown: size = 9", {"size": 2}, None),
        ("print(size)", {"size": 2}, "at least 3, got 2"),  # and nothing printed
        ("check_all(size)", {"size": 5}, None),
        ("pass", {"size": 5, "width": 80}, "plain 160"),
        ("width = other.width", {"size": 5, "width": 80}, None),
        ("open('/nonexistent')", {"size": 5}, None),
    ],
)
def test_only_what_is_known_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, values: dict[str, Any], said: str | None
) -> None:
    name = f"a_part_{abs(hash((line, said)))}"
    (tmp_path / f"{name}.py").write_text(SOURCE.replace("{line}", line).replace("{{", "{").replace("}}", "}"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert refusal(f"{name}.Part", values) == said


def test_nothing_is_imported() -> None:
    code = (
        "import sys; from diffusion.experiment.config.refusals import refusal\n"
        "assert refusal('diffusion.sampler.ddim.DDIMSampler', {'eta': 2.0}); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
