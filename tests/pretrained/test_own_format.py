"""The page's own format, followed to the letter."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from diffusion.errors import ConfigError
from diffusion.network.mlp import MLP
from diffusion.pretrained.base import converted

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_part.md").read_text()


@pytest.fixture
def lab(tmp_path):
    (code,) = re.findall(r"```python\n# diffusion/pretrained/formats/lab\.py\n(.*?)```", PAGE, re.S)
    (tmp_path / "lab.py").write_text(code)
    spec = importlib.util.spec_from_file_location("lab", tmp_path / "lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved(path, network, **more):
    torch.save({f"net.{name}": value for name, value in network.state_dict().items()} | more, path)
    return path


def test_its_tensors_are_those_of_the_file(lab, tmp_path):
    network = MLP(1, 8, width=16, depth=3)
    published = lab.read(saved(tmp_path / "w.pt", network, **{"optimizer.step": torch.tensor(3)}), None)
    assert published.overrides["network.depth"] == 3
    state, dropped = converted(published, MLP(1, 8, width=16, depth=3))
    assert dropped == {"optimizer.step": "of training"}
    assert all(torch.equal(state["ema"][f"denoiser.network.{k}"], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("other", "more", "message"),
    [
        (MLP(1, 8, width=24, depth=3), {}, "has another shape than its config says: net.embedding"),
        (MLP(1, 8, width=16, depth=4), {}, "is missing: net.stack.3"),
        (MLP(1, 8, width=16, depth=2), {}, "has no place in the network: net.stack.2"),
        (MLP(1, 8, width=16, depth=3), {"net.more": torch.zeros(1)}, "has no place in the network: net.more"),
    ],
)
def test_what_does_not_fit_is_named(lab, tmp_path, other, more, message):
    path = saved(tmp_path / "w.pt", MLP(1, 8, width=16, depth=3), **more)
    with pytest.raises(ConfigError, match=re.escape(message).replace("\\ ", " ")):
        converted(lab.read(path, None), other)
