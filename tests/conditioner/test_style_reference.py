"""The style of a reference image as a condition: several, their weight, the null, and how it is requested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from scripts_in_process import run_script, script
from torch import Tensor, nn

import diffusion
from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.style_reference import StyleEncoder, StyleReferenceConditioner
from diffusion.model import DiffusionModel
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond, Prediction, combine

COUNT = 3


def images(*lead: int, side: int = 8) -> Tensor:
    return torch.rand(*(lead or (COUNT,)), 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def style(**settings: object) -> StyleReferenceConditioner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = StyleReferenceConditioner(**{"widths": (4, 6), "embedding_dim": 5, "dim": 7, "token_dim": 9} | settings)
        nn.init.normal_(made.null_embedding)
    return made.eval()


@torch.no_grad()
def test_the_encoder_takes_means_and_deviations_of_channels() -> None:
    """Of channels that are constant over all places the deviation is 0; a map that is mirrored has the same moments."""
    encoder = StyleEncoder(3, [4], 2)
    (convolution,) = encoder.convolutions
    x = images()
    h = nn.functional.silu(convolution(x)).flatten(2).double()
    moments = torch.cat([h.mean(2), (((h - h.mean(2, keepdim=True)) ** 2).mean(2) + 1e-6).sqrt()], 1)
    due = moments @ encoder.linear.weight.double().T + encoder.linear.bias.double()
    torch.testing.assert_close(encoder(x).double(), due, rtol=1e-5, atol=1e-5)
    assert encoder(torch.zeros(1, 3, 1, 1)).isfinite().all()


@torch.no_grad()
def test_several_are_averaged_and_a_weight_goes_from_nothing_to_more() -> None:
    conditioner, several = style(), images(COUNT, 4)
    whole = conditioner({"reference": several})
    each = [conditioner({"reference": several[:, r]}) for r in range(4)]
    for slot in ("vector", "tokens"):
        mean = sum(getattr(one, slot) for one in each) / 4
        torch.testing.assert_close(getattr(whole, slot), mean, msg="linear maps of a mean are the mean of linear maps")
    weights = torch.tensor([0.0, 1.0, 1.5])
    weighed = conditioner({"reference": several, "style_weight": weights})
    assert weighed.null is not None
    assert torch.equal(weighed.vector[0], weighed.null.vector[0])
    assert torch.equal(weighed.tokens[0], weighed.null.tokens[0])
    due = whole.null.tokens + weights[:, None, None] * (whole.tokens - whole.null.tokens)
    torch.testing.assert_close(weighed.tokens, due)
    levels = torch.randint(0, 256, (COUNT, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(
        conditioner({"reference": levels}).vector, conditioner({"reference": levels / 127.5 - 1}).vector
    )


@torch.no_grad()
def test_it_is_dropped_and_removed_apart_from_other_parts() -> None:
    parts = {"label": LabelConditioner(5, dim=7, drop=0.2), "style": style(token_dim=0)}
    joined = JoinedConditioner(parts, dim=7)
    batch = {"label": torch.arange(COUNT), "reference": images()}
    cond = joined(batch)
    torch.testing.assert_close(
        cond.without("style").vector, parts["label"](batch).vector + parts["style"].empty(COUNT).vector
    )
    assert torch.equal(joined.unrequested({"index": range(COUNT)})["style_weight"], torch.zeros(COUNT))
    nothing = joined(joined.unrequested({"index": range(COUNT), "label": batch["label"]}))
    assert torch.equal(nothing.vector, cond.without("style").vector), "no reference is the null of the style"


class Styled(nn.Module):
    """x_0 is the mean of the condition's vector in every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = CosineSchedule()

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond) -> Prediction:
        assert cond.vector is not None
        x0 = cond.vector.mean(1)[:, None, None, None].clamp(-1, 1).expand_as(x)
        level = self.schedule.level(t)
        return Prediction(x0, combine(1 / level.sigma, x, -level.alpha / level.sigma, x0))


def model() -> DiffusionModel:
    return DiffusionModel(Styled(), style(token_dim=0), sampler=DDIMSampler(2), shape=(3, 8, 8)).eval()


@torch.no_grad()
def test_a_model_is_sampled_with_references_and_weights() -> None:
    drawn, several = model(), images(4)
    plain = drawn.sample(3, style_reference=several)
    conditioner = drawn.conditioner
    due = conditioner({"reference": several[None]}).vector.mean()
    assert (plain.float() - (127.5 * due + 127.5)).abs().max() < 1.01
    assert torch.equal(plain, drawn.sample(3, style_reference=several, style_weight=1.0))
    nothing = drawn.sample(3)
    assert torch.equal(nothing, drawn.sample(3, style_reference=several, style_weight=0.0))
    assert not torch.equal(nothing, plain)
    mixed = drawn.sample(3, style_reference=several, style_weight=[0.0, 1.0, 0.0])
    assert torch.equal(mixed, torch.stack([nothing[0], plain[1], nothing[2]]))
    assert torch.equal(drawn.sample(2, style_reference=several[0]), drawn.sample(2, style_reference=several[:1]))
    for given, sentence in (
        ({"style_reference": images(17)}, "1 to 16 style references, got 17"),
        ({"style_reference": images(1, side=8)[:, :1]}, "1 channels, and conditioner.channels is 3"),
        ({"style_weight": 0.5}, "there is none; give style_reference"),
        ({"stylize": 0.5, "style_reference": several}, "has no part that reads one"),
    ):
        with pytest.raises(ValueError, match=sentence):
            drawn.sample(1, **given)
    other = DiffusionModel(Styled(), LabelConditioner(2, dim=7), sampler=DDIMSampler(2), shape=(3, 8, 8)).eval()
    with pytest.raises(ValueError, match="style_reference is requested, and this model reads label"):
        other.sample(1, style_reference=several)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"drop": 0.0}, "set it above 0"),
        ({"widths": ()}, "conditioner.widths is a list of channels"),
        ({"dim": 0, "token_dim": 0}, "nothing of a style is read"),
        ({"tokens": 0}, "conditioner.tokens is at least 1"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        style(**settings)
    with pytest.raises(ValueError, match="the column has list"):
        style()({"reference": ["a"]})


@pytest.mark.slow
def test_a_run_is_trained_resumed_and_drawn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    need = (
        "[experiment=emoji_autoencoder,trainer.max_steps=1,data.batch_size=4,autoencoder.widths=[8,8,8],"
        "evaluation=none,logger=csv]"
    )
    small = (
        f"scripts/train.py experiment=emoji_style logger=csv needs.autoencoder={need} network.channels=8 "
        "evaluation=none conditioner.parts.style.widths=[8,8] "
        "text_encoder.dim=8 text_encoder.pooled_dim=8 text_encoder.depth=1 data.batch_size=4 lr_scheduler=constant "
        "data.styles=[twemoji,noto] sampler.steps=2 callbacks.samples.num_samples=16"
    )
    run_script(f"{small} hydra.run.dir=whole trainer.max_steps=4")
    run_script(f"{small} hydra.run.dir=stopped trainer.max_steps=2")
    run_script("scripts/train.py resume=stopped trainer.max_steps=4")
    one, other = (
        torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "stopped")
    )
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert any("members.style.encoder" in name for name in one)

    for number in range(17):
        Image.new("RGB", (40 + number, 30), (9 * number, 255, 0)).save(f"{number}.png")
    cats = "scripts/sample.py run=whole text='a cat' num_samples=2"
    run_script(f"{cats} style_reference=[0.png,16.png] style_weight=1.5 output=drawn")
    facts = json.loads((tmp_path / "drawn" / "settings.json").read_text())
    assert facts["style_weight"] == 1.5
    assert len(facts["style_reference"]) == 64
    run_script(f"{cats} output=plain")
    run_script(f"{cats} style_reference=0.png style_weight=0 output=none")
    run_script(f"{cats} style_reference=0.png stylize=2 output=own")  # the run's own scale
    run_script(f"{cats} style_reference=0.png stylize=3 chaos=0.5 output=stylized")
    facts = json.loads((tmp_path / "stylized" / "settings.json").read_text())
    assert (facts["stylize"], facts["chaos"]) == (3, 0.5)
    run_script(f"{cats} style_reference=0.png output=one")
    own, one, stylized = (Path(name, "000001.png").read_bytes() for name in ("own", "one", "stylized"))
    assert own == one != stylized
    plain, none, drawn = (Path(name, "000001.png").read_bytes() for name in ("plain", "none", "drawn"))
    assert plain == none != drawn
    loaded = diffusion.load("whole")
    squares = torch.stack(
        [torch.tensor([9 * n, 255, 0], dtype=torch.uint8)[:, None, None].expand(3, 32, 32) for n in (0, 16)]
    )
    same = loaded.sample(2, text="a cat", style_reference=squares, style_weight=1.5)
    with Image.open("drawn/000001.png") as image:
        assert torch.equal(same[1].permute(1, 2, 0).reshape(-1), torch.tensor(list(image.tobytes()), dtype=torch.uint8))
    Path("no.png").write_text("no image")
    many = ",".join(f"{n}.png" for n in range(17))
    for words, sentence in (
        (f"style_reference=[{many}]", "at most 16 images"),
        ("style_reference=nothing.png", "is no file"),
        ("style_reference=no.png", "cannot be read as an image"),
        ("style_weight=2", "there is none; give style_reference"),
        ("stylize=2", "there is none; give style_reference"),
        ("style_reference=0.png stylize=2 guidance=none", "is drawn without it; add guidance=classifier_free"),
        ("image_size=[32,30]", "multiples of 8 for this run"),
    ):
        capsys.readouterr()
        assert script(["sample", "run=whole", *words.split()], monkeypatch) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert sentence in error
    run_script("scripts/sample.py run=whole num_samples=2 output=held_out")
    run_script(f"{cats} tile=true image_size=[32,48] output=wide")
    with Image.open("wide/000001.png") as image:
        assert image.size == (48, 32)
    edits = "scripts/edit.py run=whole image=plain/000000.png text='a cat'"
    for name, words in (
        ("edited", "edit=restyle edit.strength=1"),
        ("styled", "edit=restyle edit.strength=1 style_reference=[0.png,16.png] style_weight=9"),
        ("more", "edit=restyle edit.strength=1 style_reference=[0.png,16.png] style_weight=9 stylize=9"),
        ("none", "edit=restyle edit.strength=1 style_reference=0.png style_weight=0"),
        ("other", "edit=invert edit.source='a dog' style_reference=0.png style_weight=9"),
    ):
        run_script(f"{edits} {words} output=edits/{name}")
    edited = {path.name: (path / "000000.png").read_bytes() for path in Path("edits").iterdir()}
    assert edited["edited"] == edited["none"]
    assert len({*edited.values()}) == 4
    facts = json.loads((tmp_path / "edits" / "more" / "settings.json").read_text())
    assert (facts["style_weight"], facts["stylize"], len(facts["style_reference"])) == (9, 9, 64)
    for words, sentence in (
        ("style_reference=nothing.png", "is no file"),
        ("stylize=2", "there is none; give style_reference"),
    ):
        capsys.readouterr()
        assert script(["edit", "run=whole", "image=plain/000000.png", *words.split()], monkeypatch) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert sentence in error
