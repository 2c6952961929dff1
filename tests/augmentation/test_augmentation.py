"""EDM's augmentation: each transformation against an independent one, the law of what is drawn, and no leaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from diffusion.augmentation.base import Augmentation
from diffusion.augmentation.geometric import GeometricAugmentation
from diffusion.augmentation.warp import SYM6, warp
from diffusion.conditioner.label import LabelConditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.base import Network
from diffusion.network.song_unet import SongUNet
from diffusion.objective.regression import RegressionObjective
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.objective.weighting.constant import ConstantWeighting
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.training.ema import ConstantEMA
from diffusion.training.module.diffusion import DiffusionModule

X_FLIP, Y_FLIP, SIZE, ANGLE, AXIS, RATIO, RIGHT, DOWN = range(8)


def keyed(index: object, step: int = 0) -> KeyedRandomness:
    return KeyedRandomness(list(index), seed=0, stream=TRAINING, step=step)  # type: ignore[call-overload]


def smooth(count: int = 1, side: int = 32) -> torch.Tensor:
    """(count, 2, side, side): a few slow cosines, whose mirror images go on smoothly beyond the edges."""
    rng, n = np.random.default_rng(0), np.arange(side)
    waves = [np.cos(math.pi * k * n / (side - 1)) for k in range(4)]
    weights = rng.standard_normal((count, 2, 4, 4))
    return torch.from_numpy(np.einsum("bcij,ih,jw->bchw", weights, waves, waves))


def done(**parameters: float) -> torch.Tensor:
    row = torch.zeros(1, 8, dtype=torch.float64)
    for name, value in parameters.items():
        row[0, globals()[name]] = value
    return row


def move(parameters: np.ndarray, z: np.ndarray, width: int) -> np.ndarray:
    """Where points z = x + iy from the centre come to lie, in complex numbers, as the paper's table has it."""
    _, _, size, angle, axis, ratio, right, down = parameters
    z = z * 2 ** (0.2 * size) * np.exp(-1j * angle)
    along = z * np.exp(-1j * axis)
    stretch = 2 ** (0.2 * ratio)
    return np.exp(1j * axis) * (along.real * stretch + 1j * along.imag / stretch) + (right + 1j * down) * width / 8


def moved(single: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """image (H, W) so transformed by scipy, by splines of degree 5 with the same mirrors."""
    origin, right, down = move(parameters, np.array([0, 1, 1j]), single.shape[1])
    linear = np.array([[(right - origin).real, (down - origin).real], [(right - origin).imag, (down - origin).imag]])
    back = np.linalg.inv(linear)[::-1, ::-1]  # scipy counts rows first
    middle = (np.array(single.shape) - 1) / 2
    offset = middle - back @ (middle + np.array([origin.imag, origin.real]))
    return ndimage.affine_transform(single, back, offset, order=5, mode="mirror")


# --- what is done to an image ----------------------------------------------------------------------------------------


def test_nothing_is_done_where_nothing_is_asked() -> None:
    image = torch.randn(16, 3, 8, 8)
    out, told = GeometricAugmentation(p=0.0, x_flip=0.0)(image, keyed(range(16)))
    assert torch.equal(out, image)
    assert told.shape == (16, 9)
    assert not told.any()


def test_flips_are_exact() -> None:
    image = torch.randn(1, 3, 7, 10)
    assert torch.equal(GeometricAugmentation().apply(image, done(X_FLIP=1)), image.flip(3))
    assert torch.equal(GeometricAugmentation().apply(image, done(Y_FLIP=1)), image.flip(2))
    assert torch.equal(GeometricAugmentation().apply(image, done(X_FLIP=1, Y_FLIP=1)), image.flip(2, 3))


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-5, 4), (40, 0)])
def test_a_shift_by_whole_pixels_is_exact(x: int, y: int) -> None:
    """On noise, with mirrors at the edges as numpy pads them, several times over if need be."""
    image, pad = torch.randn(1, 2, 16, 16, dtype=torch.float64), 48
    out = GeometricAugmentation().apply(image, done(RIGHT=x / 2, DOWN=y / 2))  # an eighth of 16 pixels is 2
    padded = np.pad(image.numpy(), [(0, 0), (0, 0), (pad, pad), (pad, pad)], mode="reflect")
    expected = padded[:, :, pad - y : pad - y + 16, pad - x : pad - x + 16]
    torch.testing.assert_close(out, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns(quarters: int) -> None:
    image = smooth()
    out = GeometricAugmentation().apply(image, done(ANGLE=quarters * math.pi / 2))
    torch.testing.assert_close(out, torch.rot90(image, quarters, (2, 3)), rtol=0, atol=0.01 * float(image.std()))


@pytest.mark.parametrize(
    "only", [(SIZE,), (ANGLE,), (AXIS, RATIO), (RIGHT, DOWN), (SIZE, ANGLE, AXIS, RATIO, RIGHT, DOWN)]
)
def test_equals_scipys_affine_transform(only: tuple[int, ...]) -> None:
    images, count = smooth(8), 8
    parameters = GeometricAugmentation(p=1.0).draw(count, keyed(range(count)))
    parameters = torch.where(torch.isin(torch.arange(8), torch.tensor(only)), parameters, 0.0)
    out = GeometricAugmentation().apply(images, parameters)
    for single, result, row in zip(images.numpy(), out.numpy(), parameters.numpy(), strict=True):
        for channel in range(2):
            expected = moved(single[channel], row)
            assert np.abs(result[channel] - expected).max() < 0.03 * single[channel].std()


def test_a_straight_line_is_carried_over_exactly() -> None:
    """Inside, where no mirror is seen: a linear image under a linear map is known everywhere."""
    n = torch.arange(64, dtype=torch.float64) - 31.5
    single = (0.3 * n[None, :] - 0.7 * n[:, None])[None, None]
    matrix = torch.tensor([[[0.9, 0.3, 1.3], [-0.4, 1.1, -0.7]]], dtype=torch.float64)
    out = warp(single, matrix)[0, 0]
    points = torch.stack((n.expand(64, 64), n[:, None].expand(64, 64)), -1)
    source = (points - matrix[0, :, 2]) @ torch.linalg.inv(matrix[0, :, :2]).T
    expected = 0.3 * source[..., 0] - 0.7 * source[..., 1]
    inside = slice(18, 46)
    torch.testing.assert_close(out[inside, inside], expected[inside, inside], rtol=0, atol=1e-6)


def test_what_is_too_fine_for_a_smaller_image_goes() -> None:
    """Half the size: a checkerboard becomes grey, where reading every second pixel would have kept it."""
    n = torch.arange(64, dtype=torch.float64)
    board = torch.cos(math.pi * 0.9 * n)[None, None, None, :].expand(1, 1, 64, 64)
    half = torch.tensor([[[0.5, 0, 0], [0, 0.5, 0]]], dtype=torch.float64)
    assert float(warp(board, half)[0, 0, 20:44, 20:44].std()) < 0.1 * float(board.std())


def test_the_filter_is_the_symlet_of_six_moments() -> None:
    """Made anew as Daubechies makes it (1992, chapters 6 and 8): of the eight filters of twelve taps that are
    orthonormal to their shifts and have six vanishing moments, one for each choice of roots, that of the straightest
    phase."""
    y = np.roots([math.comb(5 + k, k) for k in reversed(range(6))])  # of the polynomial in y = (2 - z - 1/z) / 4
    inside = [min(np.roots([1, 4 * root - 2, 1]), key=abs) for root in y]
    real, pairs = [z for z in inside if abs(z.imag) < 1e-9], [z for z in inside if z.imag > 1e-9]
    filters = []
    for choice in range(2 ** (len(real) + len(pairs))):
        chosen = [z if choice >> i & 1 else 1 / z for i, z in enumerate(real + pairs)]
        roots = [-1.0] * 6 + chosen + [z.conjugate() for z in chosen[len(real) :]]
        h = np.poly(roots).real
        filters.append(h * math.sqrt(2) / h.sum())
    omega = np.linspace(-math.pi, math.pi, 401)[1:-1]

    def bent(h: np.ndarray) -> float:
        response = np.exp(-1j * np.outer(omega, np.arange(12))) @ h
        phase, weight = np.unwrap(np.angle(response)), np.abs(response)
        return float(np.polyfit(omega, phase, 1, full=True, w=weight)[1][0])

    straightest = min(filters, key=bent)
    assert min(np.abs(np.array(SYM6) - h).max() for h in (straightest, straightest[::-1])) < 1e-9


# --- what is drawn, and what is told ----------------------------------------------------------------------------------


def test_the_law_of_the_parameters() -> None:
    count, p = 40_000, 0.12
    a = GeometricAugmentation(p=p).draw(count, keyed(range(count))).numpy()
    spread = 4 * math.sqrt(0.25 / count)
    assert a[:, X_FLIP].mean() == pytest.approx(0.5, abs=spread)  # always tossed for
    assert a[:, Y_FLIP].mean() == pytest.approx(p / 2, abs=spread)
    for columns, law in (
        ([SIZE], stats.norm().cdf), ([ANGLE], stats.uniform(-math.pi, 2 * math.pi).cdf),
        ([AXIS], stats.uniform(-math.pi, 2 * math.pi).cdf), ([RATIO], stats.norm().cdf),
        ([RIGHT], stats.norm().cdf), ([DOWN], stats.norm().cdf),
    ):  # fmt: skip
        column = a[:, columns[0]]
        assert (column != 0).mean() == pytest.approx(p, abs=spread)
        assert stats.kstest(column[column != 0], law).pvalue > 1e-3
    assert ((a[:, AXIS] != 0) == (a[:, RATIO] != 0)).all()
    assert ((a[:, RIGHT] != 0) == (a[:, DOWN] != 0)).all()
    told = np.corrcoef((a[:, [Y_FLIP, SIZE, ANGLE, RATIO, RIGHT]] != 0).T)
    assert np.abs(told - np.eye(5)).max() < 0.03, "each by itself"


def test_labels_say_what_was_done() -> None:
    """The image made again from the label alone. Of the anisotropy the paper tells all but a sign: wider along an
    axis, or narrower along its opposite."""
    image = smooth(64)
    out, told = GeometricAugmentation(p=0.5)(image, keyed(range(64)))
    for single, result, label in zip(image.numpy(), out.numpy(), told.numpy(), strict=True):
        x, y, size, cos, sin, ratio_x, ratio_y, right, down = label
        single = single[:, :, ::-1] if x else single
        single = single[:, ::-1] if y else single
        ratio, axis = math.hypot(ratio_x, ratio_y), math.atan2(ratio_y, ratio_x)
        angle = math.atan2(sin, cos + 1)
        ways = [np.array([0, 0, size, angle, axis, sign * ratio, right, down]) for sign in (1, -1)]
        errors = [np.abs(result[0] - moved(single[0], way)).max() for way in ways]
        assert min(errors) < 0.03 * single[0].std()


def test_a_sample_depends_on_nothing_beside_it() -> None:
    augmentation, image = GeometricAugmentation(p=0.7), torch.randn(6, 3, 16, 16)
    whole, told = augmentation(image, keyed(range(6)))
    for i in range(6):
        alone, label = augmentation(image[i : i + 1], keyed([i]))
        assert torch.equal(label[0], told[i])
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=2e-5)  # float32, on grids of other sizes
    again, later = augmentation(image, keyed(range(6)))[1], augmentation(image, keyed(range(6), step=1))[1]
    assert torch.equal(told, again)
    assert not torch.equal(told, later)


def test_mixed_precision_leaves_images_alone() -> None:
    image = torch.randn(6, 3, 16, 16)
    exact, _ = GeometricAugmentation(p=0.7)(image, keyed(range(6)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, told = GeometricAugmentation(p=0.7)(image, keyed(range(6)))
    assert mixed.dtype == told.dtype == torch.float32
    assert torch.equal(mixed, exact)


@pytest.mark.parametrize("settings", [{"p": 1.5}, {"x_flip": -0.1}, {"scale": -1.0}, {"dim": 8}])
def test_refuses_what_it_cannot_do(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"augmentation"):
        GeometricAugmentation(**settings)  # type: ignore[arg-type]


# --- in training, and nowhere else ------------------------------------------------------------------------------------


class Recorder(Network):
    """Remembers what it was told of augmentations."""

    augment_dim = 9

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.heard: list[torch.Tensor | None] = []

    def forward(self, x, label, cond):
        self.heard.append(cond.augment_labels)
        return self.weight * x


def module(network: Network, augmentation: object, **parts: object) -> DiffusionModule:
    denoiser = NetworkDenoiser(network, CosineSchedule(50), VelocityParameterization())
    return DiffusionModule(
        model=DiffusionModel(denoiser, LabelConditioner(10, dim=4, drop=0.5), sampler=DDIMSampler(3), shape=(1, 8, 8)),
        objective=RegressionObjective(ConstantWeighting(), UniformTimeDistribution()),
        ema=ConstantEMA(0.9), optimizer=torch.optim.SGD, augmentation=augmentation, **parts,
    )  # fmt: skip


def batch(count: int = 5) -> dict[str, torch.Tensor]:
    index = torch.arange(count)
    return {"image": torch.rand(count, 1, 8, 8) * 2 - 1, "label": index % 10, "index": index}


def test_training_is_told_and_sampling_is_not() -> None:
    network = Recorder()
    model, data = module(network, GeometricAugmentation(p=1.0)), batch()
    model.loss(data, keyed(range(5)))
    assert network.heard[0] is not None
    assert network.heard[0].shape == (5, 9)
    assert network.heard[0].any()
    averaged = model.average.denoiser.network
    model.loss(data, keyed(range(5)), ema=True)
    cond = model.average.conditioner(data)
    model.model.sampler(model.average.guided(), torch.randn(5, 1, 8, 8), cond)
    assert len(averaged.heard) == 4
    assert all(told is None for told in averaged.heard)


def test_validation_sees_the_images_as_they_are() -> None:
    """The average's loss is that of the same model without augmentation, draw for draw."""
    data = batch()
    torch.manual_seed(0)
    with_it = module(Recorder(), GeometricAugmentation(p=1.0))
    network = Recorder()
    network.augment_dim = 0
    torch.manual_seed(0)
    without = module(network, {})
    a, b = (m.loss(data, keyed(range(5)), ema=True).total for m in (with_it, without))
    assert torch.equal(a, b)
    assert without.augmentation is None


@pytest.mark.slow
def test_a_network_learns_the_data_and_not_its_augmentations() -> None:
    """Images brighter above, turned upside down half of the time: told so, the network's mean is the data's."""

    class UpsideDown(Augmentation):
        dim = 1

        def __call__(self, image, randomness):
            told = (randomness.rand() < 0.5).to(image)[:, None]
            return torch.where(told[:, :, None, None] > 0, image.flip(2), image), told

    torch.manual_seed(0)
    network = SongUNet(1, 8, channels=8, channel_mult=[1], num_res_blocks=1, attention=[], dropout=0.0, augment_dim=1)
    denoiser = NetworkDenoiser(network, CosineSchedule(50), VelocityParameterization())
    model = DiffusionModule(
        model=DiffusionModel(denoiser, sampler=DDIMSampler(3), shape=(1, 8, 8)),
        objective=RegressionObjective(ConstantWeighting(), UniformTimeDistribution()),
        ema=ConstantEMA(0.9), optimizer=torch.optim.Adam, augmentation=UpsideDown(),
    )  # fmt: skip
    single = torch.linspace(1, -1, 8)[:, None].expand(1, 1, 8, 8)
    index = torch.arange(16)
    data = {"image": single.repeat(16, 1, 1, 1), "label": index, "index": index}
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(150):
        optimizer.zero_grad()
        model.loss(data, keyed(range(16), step)).total.mean().backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        blind = model.model.denoiser(torch.randn(32, 1, 8, 8), 0.98).x0.mean(0, keepdim=True)
    up, down = ((blind - target).square().mean() for target in (single, single.flip(2)))
    assert float(up) < 0.1 * float(down)


def _none():
    from diffusion.conditioner.none import NoConditioner

    return NoConditioner()


@pytest.mark.parametrize(("told", "augmentation"), [(0, GeometricAugmentation()), (9, None)])
def test_a_network_that_is_not_told_is_refused(told: int, augmentation: GeometricAugmentation | None) -> None:
    network = Recorder()
    network.augment_dim = told
    with pytest.raises(ValueError, match="would learn to draw augmented images"):
        module(network, augmentation)


def test_one_size_after_another_is_one_size() -> None:
    """Warps compose: twice a third of an octave is two thirds, up to what two readings blur."""
    image = smooth()
    once, max_batch = (GeometricAugmentation(scale=1.0).apply(image, done(SIZE=size)) for size in (1 / 3, 2 / 3))
    twice = GeometricAugmentation(scale=1.0).apply(once, done(SIZE=1 / 3))
    assert float((twice - max_batch)[..., 8:24, 8:24].abs().max()) < 0.03 * float(image.std())
