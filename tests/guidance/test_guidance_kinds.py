"""Every further kind of guidance: closed forms on Gaussians, diffusers' functions, limits, what is refused."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from exact import CONF
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from test_guidance import MODES, ZERO_SNR, Conditional, close, condition, state
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.guidance.apg import APGGuidance
from diffusion.guidance.auto import AutoGuidance
from diffusion.guidance.base import guide, to_other
from diffusion.guidance.cfg_plus_plus import CFGPlusPlusGuidance
from diffusion.guidance.classifier import ClassifierGuidance
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.guidance.clip import ClipGuidance
from diffusion.guidance.dynamic_threshold import DynamicThresholdGuidance
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.euler import EulerSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.types import Cond, Prediction


def at_noise(noise: float) -> float:
    return CosineSchedule().time(noise)


# Scales over noise ---------------------------------------------------------------------------------------------------


def test_a_curve_runs_linearly_in_log_noise() -> None:
    curve = [[0.1, 1.0], [1.0, 3.0], [10.0, 2.0]]
    strength = ClassifierFreeGuidance(Conditional(CosineSchedule()), curve).strengths[None]
    x, _ = state()
    for noise, scale in ((0.01, 1.0), (0.1, 1.0), (math.sqrt(0.1), 2.0), (1.0, 3.0), (math.sqrt(10), 2.5), (99.0, 2.0)):
        t = at_noise(noise)
        assert strength.at(CosineSchedule(), x, t) == pytest.approx(scale, abs=1e-6)
        assert float(strength.at(CosineSchedule(), x, torch.tensor(t, dtype=torch.float64))) == pytest.approx(
            scale, abs=1e-6
        )


def test_a_curve_guides_as_its_number_at_each_level() -> None:
    x, cond = state()
    curve = ClassifierFreeGuidance(Conditional(CosineSchedule()), [[0.1, 1.0], [10.0, 5.0]], interval=[0.05, 20.0])
    t = torch.tensor([0.01, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    together = curve(x, t, cond)
    for i in range(5):
        one = slice(i, i + 1)
        scale = curve.strengths[None].at(CosineSchedule(), x, float(t[i]))
        alone = ClassifierFreeGuidance(Conditional(CosineSchedule()), scale)(
            x[one], float(t[i]), cond.map(lambda v, one=one: v[one])
        )
        close(alone, Prediction(together.x0[one], together.eps[one]))


@pytest.mark.parametrize("scale", [[], [[1.0]], [[0.0, 1.0]], [[2.0, 1.0], [1.0, 1.0]], [[1.0, math.nan]]])
def test_bad_curves_name_their_key(scale: list) -> None:
    with pytest.raises(ValueError, match=r"guidance\.classifier_free\.scale"):
        ClassifierFreeGuidance(Conditional(CosineSchedule()), scale)


# Rescale, APG, CFG++ -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("schedule", [CosineSchedule(), ZERO_SNR])
def test_rescale_is_that_of_diffusers_on_x0(share: float, schedule) -> None:
    x, cond = state()
    guided = ClassifierFreeGuidance(Conditional(schedule), 5.0)(x, 1.0, cond)
    said = ClassifierFreeGuidance(Conditional(schedule), 5.0, rescale=share)(x, 1.0, cond)
    wanted = rescale_noise_cfg(guided.x0, Conditional(schedule)(x, 1.0, cond).x0, share)
    torch.testing.assert_close(said.x0, wanted)
    level = schedule.level(1.0)
    torch.testing.assert_close(level.alpha * said.x0 + level.sigma * said.eps, x)


@pytest.mark.parametrize("mode", MODES)
def test_apg_without_its_parts_is_classifier_free(mode: str) -> None:
    x, cond = state()
    for t in (0.1, 0.5, 1.0, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])):
        plain = APGGuidance(Conditional(CosineSchedule()), 3.0, mode=mode, parallel=1.0, momentum=0.0)(x, t, cond)
        close(plain, ClassifierFreeGuidance(Conditional(CosineSchedule()), 3.0)(x, t, cond))


@pytest.mark.parametrize(("parallel", "norm", "momentum"), [(0.0, None, 0.0), (0.3, 0.5, 0.0), (0.0, 1.0, -0.5)])
def test_apg_is_that_of_diffusers(parallel: float, norm: float | None, momentum: float) -> None:
    """Over three levels of one sampling, and over again: momentum starts anew. Their scale is ours less 1."""
    x, cond = state()
    x = x.unsqueeze(-1)
    cond = cond.map(lambda v: v.unsqueeze(-1) if v.is_floating_point() else v)
    guided, inner = (
        APGGuidance(Conditional(CosineSchedule()), 4.0, parallel=parallel, norm=norm, momentum=momentum),
        Conditional(CosineSchedule()),
    )
    for _ in range(2):
        buffer = MomentumBuffer(momentum)
        for t in (0.9, 0.6, 0.3):
            with_cond, without = inner(x, t, cond).x0, inner(x, t, cond.drop()).x0
            wanted = normalized_guidance(with_cond, without, 3.0, buffer, parallel, norm or 0.0, True)
            torch.testing.assert_close(guided(x, t, cond).x0, wanted)
            torch.testing.assert_close(guided(x, t, cond).x0, wanted)  # a second call at a level counts once


def test_apg_at_scale_1_is_off_and_pays_nothing() -> None:
    x, cond = state()
    denoiser = Conditional(CosineSchedule())
    close(APGGuidance(denoiser, 1.0)(x, 0.5, cond), Conditional(CosineSchedule())(x, 0.5, cond))
    APGGuidance(denoiser, 3.0, interval=[5.0, 9.0])(x, 0.5, cond)
    assert denoiser.seen == [5, 5]


@pytest.mark.parametrize("sampler", [DDIMSampler, EulerSampler])
@pytest.mark.parametrize("scale", [0.0, 0.4, 1.0])
def test_cfg_plus_plus_is_classifier_free_guidance_with_a_scale_for_each_step(sampler: type, scale: float) -> None:
    """x_0 at scale s and eps at 0 (Chung et al. 2024, alg. 2) is both at s n / (n - m), from n to m of sigma/alpha."""
    x, cond = state()
    denoiser, steps = Conditional(CosineSchedule(T=20)), sampler(steps=20)
    noises = [level.noise for level in steps.levels(denoiser.schedule)]
    curve = [[noise, scale * noise / (noise - after)] for noise, after in pairwise(noises)]
    wanted = steps(ClassifierFreeGuidance(denoiser, curve[::-1]), x, cond)
    torch.testing.assert_close(steps(CFGPlusPlusGuidance(denoiser, scale), x, cond), wanted, rtol=1e-6, atol=1e-6)


def test_cfg_plus_plus_at_0_is_unconditional_and_outside_conditional() -> None:
    x, cond = state()
    denoiser = Conditional(CosineSchedule())
    unconditional = DDIMSampler(20)(denoiser, x, cond.drop())
    torch.testing.assert_close(DDIMSampler(20)(CFGPlusPlusGuidance(denoiser, 0.0), x, cond), unconditional)
    torch.testing.assert_close(
        DDIMSampler(20)(CFGPlusPlusGuidance(denoiser, 0.7, interval=[2e8, 3e8]), x, cond),
        DDIMSampler(20)(denoiser, x, cond),
    )


def test_what_acts_after_a_step_nests() -> None:
    """CFG++ inside and around other guidance: the hook is reached through the wrappers."""
    x, cond = state()
    denoiser = Conditional(CosineSchedule())
    bare = DDIMSampler(10)(CFGPlusPlusGuidance(denoiser, 0.5), x, cond)
    wide = DDIMSampler(10)(
        ClipGuidance(CFGPlusPlusGuidance(ClipGuidance(denoiser, -1e6, 1e6), 0.5), -1e6, 1e6), x, cond
    )
    torch.testing.assert_close(bare, wide, rtol=1e-6, atol=1e-6)


# Thresholds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [0.5, 0.995])
def test_dynamic_thresholding_is_that_of_diffusers(percentile: float) -> None:
    theirs = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=3.0)
    x = 4 * torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    denoiser = GaussianDenoiser(CosineSchedule(), 0.5, 2.0)
    said = DynamicThresholdGuidance(denoiser, percentile, highest=3.0)(x, 0.3)
    torch.testing.assert_close(said.x0, theirs._threshold_sample(denoiser(x, 0.3).x0))
    assert said.x0.abs().max() <= 1
    level = CosineSchedule().level(0.3)
    torch.testing.assert_close(level.alpha * said.x0 + level.sigma * said.eps, x)


def test_dynamic_thresholding_leaves_data_in_range_alone() -> None:
    x, _ = state()
    denoiser = GaussianDenoiser(CosineSchedule(), 0.0, 0.05)
    close(DynamicThresholdGuidance(denoiser)(x, 0.5), denoiser(x, 0.5))


# A second model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [LinearSchedule(), EDMSchedule(), FlowSchedule(), CosineSchedule()])
@settings(max_examples=20, deadline=None)
@given(noise=st.floats(0.02, 60.0))
def test_another_schedule_sees_the_same_data(other, noise: float) -> None:
    """The exact denoiser on another schedule gives the same x_0, for a float and for tensors."""
    x, _ = state()
    t = at_noise(noise)
    here = GaussianDenoiser(CosineSchedule(), 0.4, 0.7)(x, t)
    for time in (t, torch.full((5,), t, dtype=torch.float64)):
        there = GaussianDenoiser(other, 0.4, 0.7)(*to_other(CosineSchedule(), other, x, time))
        torch.testing.assert_close(there.x0, here.x0, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(there.eps, here.eps, rtol=1e-6, atol=1e-6)


def test_pure_noise_is_pure_noise_on_another_schedule() -> None:
    x, _ = state()
    there, t = to_other(ZERO_SNR, EDMSchedule(), x, 1.0)
    assert t == 1.0
    torch.testing.assert_close(there, 80.0 * x)


@pytest.mark.parametrize("schedule", [CosineSchedule(), FlowSchedule()])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_autoguidance_of_equal_gaussians_is_the_gaussian_further_out(schedule, scale: float) -> None:
    x, _ = state()
    main, weak = GaussianDenoiser(CosineSchedule(), 1.0, 0.6), GaussianDenoiser(schedule, 0.4, 0.6)
    for t in (0.1, 0.6):
        wanted = GaussianDenoiser(CosineSchedule(), 0.4 + scale * 0.6, 0.6)(x, t)
        said = AutoGuidance(main, weak, scale)(x, t)
        torch.testing.assert_close(said.x0, wanted.x0, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(said.eps, wanted.eps, rtol=1e-6, atol=1e-6)


def test_autoguidance_asks_the_weak_model_only_where_it_acts() -> None:
    x, cond = state()
    weak = Conditional(CosineSchedule())
    AutoGuidance(Conditional(CosineSchedule()), weak, 1.0)(x, 0.5, cond)
    AutoGuidance(Conditional(CosineSchedule()), weak, 3.0, interval=[5.0, 9.0])(x, 0.5, cond)
    assert weak.seen == []
    with pytest.raises(ValueError, match=r"guidance\.auto\.weak"):
        AutoGuidance(Conditional(CosineSchedule()), GaussianDenoiser(CosineSchedule(), torch.zeros(2, 1, 1, 3)), 2.0)(
            x, 0.5, cond
        )


class ExactClassifier:
    """log p_t(x | c) of Gaussians at ``means`` (K, D): the noisy classifier of their even mixture, without error."""

    def __init__(self, schedule, means: Tensor, std: float) -> None:
        self.schedule, self.means, self.std = schedule, means, std

    def output(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Tensor:  # noqa: B008
        level = self.schedule.level(float(t))
        spread = math.sqrt(level.alpha**2 * self.std**2 + level.sigma**2)
        return torch.distributions.Normal(level.alpha * self.means, spread).log_prob(x[:, None]).sum(-1)


class ExactMixture:
    """The denoiser of that mixture, by autograd through its density."""

    def __init__(self, schedule, means: Tensor, std: float) -> None:
        self.schedule, self.classifier = schedule, ExactClassifier(schedule, means, std)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        level = self.schedule.level(float(t))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (score,) = torch.autograd.grad(self.classifier.output(leaf, t).logsumexp(1).sum(), leaf)
        return Prediction((x + level.sigma**2 * score) / level.alpha, -level.sigma * score)


MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.5]], dtype=torch.float64)


def labelled() -> tuple[Tensor, Cond]:
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x, Cond(class_label=torch.tensor([0, 1, 2, 0, 1, 2]))


@pytest.mark.parametrize("other", [CosineSchedule(), EDMSchedule()])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_an_exact_classifier_makes_the_mixture_conditional(other, t: float) -> None:
    """score of p(x) + grad log p(c | x) is the score of p(x | c), which is a Gaussian's."""
    x, cond = labelled()
    guided = ClassifierGuidance(ExactMixture(CosineSchedule(), MEANS, 0.4), ExactClassifier(other, MEANS, 0.4))(
        x, t, cond
    )
    wanted = GaussianDenoiser(CosineSchedule(), MEANS[cond.class_label], 0.4)(x, t)
    torch.testing.assert_close(guided.eps, wanted.eps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(guided.x0, wanted.x0, rtol=1e-6, atol=1e-6)


def test_a_classifier_works_under_samplings_no_grad_and_leads_to_its_class() -> None:
    x, cond = labelled()
    guided = ClassifierGuidance(
        ExactMixture(CosineSchedule(), MEANS, 0.1), ExactClassifier(CosineSchedule(), MEANS, 0.1)
    )
    out = DDIMSampler(100)(guided, x, cond)
    assert guided.needs_grad
    assert not out.requires_grad
    assert torch.cdist(out, MEANS).argmin(1).tolist() == cond.class_label.tolist()


@pytest.mark.parametrize("count", [10, 5])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_mean_form_of_an_exact_classifier_samples_its_class(variance: str, count: int) -> None:
    """The mean of p(x_s | x_t, c) is that of p(x_s | x_t) plus large alpha_s / alpha_t grad log p(c | x_t). With the
    scale that makes the variance this factor, Dhariwal & Nichol 2021, algorithm 1, walks through the states of the
    class's own Gaussian in the same noise; the last step, whose small variance is 0, is no step of it."""
    x, cond = labelled()
    schedule, sampler = CosineSchedule(T=10), AncestralSampler(count, variance=variance)
    mixture, classifier = ExactMixture(schedule, MEANS, 0.4), ExactClassifier(schedule, MEANS, 0.4)
    curve = [
        [cur.noise, nxt.alpha / cur.alpha * (1 if variance == "large" or nxt.t == 0 else (cur.sigma / nxt.sigma) ** 2)]
        for cur, nxt in pairwise(sampler.levels(schedule))
    ]
    guided = ClassifierGuidance(mixture, classifier, curve[::-1], form="mean", variance=variance)
    close(guided(x, 0.5, cond), mixture(x, 0.5))
    exact = GaussianDenoiser(schedule, MEANS[cond.class_label], 0.4)
    states: list[list[Tensor]] = []
    for denoiser in (guided, exact):
        random = torch.Generator().manual_seed(1)
        states.append([])
        sampler(
            denoiser,
            x,
            cond,
            randn_like=lambda x, random=random: torch.randn(x.shape, dtype=x.dtype, generator=random),
            on_step=lambda i, level, x, x0, seen=states[-1]: seen.append(x.clone()),
        )
    last = count if variance == "large" else count - 1
    for mine, wanted in zip(states[0][:last], states[1][:last], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-6)


def test_classifiers_refuse_what_they_cannot_guide() -> None:
    x, cond = labelled()
    mixture, exact = ExactMixture(CosineSchedule(), MEANS, 0.4), ExactClassifier(CosineSchedule(), MEANS, 0.4)
    with pytest.raises(ValueError, match="needs class labels"):
        ClassifierGuidance(mixture, exact)(x, 0.5, condition(torch.zeros(6, 2)).drop())
    with pytest.raises(ValueError, match="predicts none"):
        AncestralSampler(5)(ClassifierGuidance(mixture, exact, form="mean"), x, cond)
    with pytest.raises(ValueError, match=r"guidance\.classifier\.form"):
        ClassifierGuidance(mixture, exact, form="gradient")

    class Network:
        in_channels, resolution, num_classes = 2, 2, 2

    exact.network = Network()
    with pytest.raises(ValueError, match="another data set"):
        ClassifierGuidance(mixture, exact)(x, 0.5, cond)


def test_a_classifier_inside_classifier_free_needs_two_passes_with_labels() -> None:
    x, cond = state()
    classifier = ExactClassifier(CosineSchedule(), torch.zeros(2, 3, dtype=torch.float64), 0.4)
    inner = ClassifierGuidance(Conditional(CosineSchedule()), classifier)
    with pytest.raises(ValueError, match="list classifier"):
        ClassifierFreeGuidance(inner, 2.0)(x, 0.5, cond)
    assert ClassifierFreeGuidance(inner, 2.0).needs_grad
    outer = ClassifierGuidance(ClassifierFreeGuidance(Conditional(CosineSchedule()), 2.0), classifier)
    close(
        outer(x, 0.5, cond), ClassifierFreeGuidance(Conditional(CosineSchedule()), 2.0)(x, 0.5, cond)
    )  # equal classes: no gradient


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda d: CFGPlusPlusGuidance(d, 7.5), r"guidance\.cfg_plus_plus\.scale"),
        (lambda d: CFGPlusPlusGuidance(d, interval=[2.0, 1.0]), r"guidance\.cfg_plus_plus\.interval"),
        (lambda d: APGGuidance(d, norm=0.0), r"guidance\.apg\.norm"),
        (lambda d: APGGuidance(d, momentum=-1.0), r"guidance\.apg\.momentum"),
        (lambda d: ClassifierFreeGuidance(d, rescale=2.0), r"guidance\.classifier_free\.rescale"),
        (lambda d: AutoGuidance(d, d, interval=[3.0, 1.0]), r"guidance\.auto\.interval"),
        (lambda d: DynamicThresholdGuidance(d, percentile=0.0), r"guidance\.dynamic_threshold"),
    ],
)
def test_bad_numbers_name_their_key(make, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make(Conditional(CosineSchedule()))


@pytest.mark.parametrize("kind", [CFGPlusPlusGuidance, APGGuidance])
def test_an_unconditional_model_is_refused(kind: type) -> None:
    x, _ = state()
    with pytest.raises(ValueError, match="needs a condition"):
        kind(GaussianDenoiser(CosineSchedule()))(x, 1.0)


@pytest.mark.parametrize("path", sorted((CONF / "guidance").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_builds_and_answers(path, tmp_path) -> None:
    torch.save(torch.zeros(1, 8, 8), tmp_path / "y.pt")
    second = {"_target_": "test_guidance_kinds.stand_in"}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(overrides=[f"+guidance={path.stem}"]).get("guidance", OmegaConf.create({}))
    for node in cfg.values():
        if OmegaConf.is_missing(node, "measurement"):
            node.measurement = str(tmp_path / "y.pt")
        if "trained" in node:
            node.trained = [1.0, 4.0]
        for name in {"weak", "classifier", "model"} & set(node):
            node[name] = OmegaConf.create(second)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = Cond(
        vector=torch.ones(2, 1, 8, 8), class_label=torch.tensor([0, 1]), null=Cond(vector=torch.zeros(2, 1, 8, 8))
    )
    guided = guide(Conditional(CosineSchedule()), instantiate(cfg, _convert_="all"))
    said, level = guided(x, 0.5, cond), CosineSchedule().level(0.5)
    torch.testing.assert_close(level.alpha * said.x0 + level.sigma * said.eps, x)


def stand_in():
    """For another run's model in a config."""

    class Both(GaussianDenoiser):
        def output(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Tensor:  # noqa: B008
            return torch.stack((x.flatten(1).sum(1), -x.flatten(1).sum(1)), 1)

    return Both(CosineSchedule(), 0.1, 0.7)
