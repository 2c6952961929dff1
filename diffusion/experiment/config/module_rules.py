"""Rules of what a module trains: its evaluation, and the training of a CLIP (:mod:`rules`)."""

from __future__ import annotations

from diffusion.experiment.config.plain import Plain, class_name, in_parts, section
from diffusion.experiment.config.rooms import KINDS, kind

CLASSIFICATION = "classification"
"""The objective of a classifier, and its evaluation."""
SCORERS = {
    "ClassificationEvaluator": CLASSIFICATION,
    "ReconstructionEvaluator": "reconstruction",
    "RetrievalEvaluator": "retrieval",
}
"""Evaluations of models that draw no images, and their options."""
RESTORES = "RestorationEvaluator"
"""The evaluation of what a model makes of measurements."""


def scored_as_trained(cfg: Plain) -> str | None:
    """Samples are scored of what draws some, and everything else has an evaluation of its own."""
    evaluation, trained = class_name(section(cfg, "evaluation")), kind(cfg)
    scorer = SCORERS.get(evaluation)
    classifies = class_name(section(cfg, "objective")) == "ClassificationObjective"
    if classifies and evaluation and scorer != CLASSIFICATION:
        return "a classifier draws no samples to score; use evaluation=classification, or evaluation=none"
    if scorer == CLASSIFICATION:
        return None if classifies else "evaluation=classification scores objective=classification; choose another"
    if trained.score is None:
        module = next((own.option for own in KINDS.values() if own.score == scorer), "")
        return (
            f"evaluation={scorer} scores module={module}; choose an evaluation that scores samples"
            if scorer and "network" in cfg
            else None
        )
    if not evaluation or scorer == trained.score:
        return None
    return (
        f"this evaluation scores other models than {trained.noun}, which draws no samples; use "
        f"evaluation={trained.score}, or evaluation=none"
    )


def contrastive(cfg: Plain) -> str | None:
    """A CLIP learns from pairs beside each other."""
    if kind(cfg).option != "contrastive":
        return None
    size = section(cfg, "data").get("batch_size")
    if isinstance(size, int) and size < 2:
        return (
            f"a CLIP tells the pairs of a batch apart, and data.batch_size is {size}; set data.batch_size to at least "
            "2, better some hundreds"
        )
    if in_parts(cfg):
        return (
            "a CLIP compares each image with all texts of a batch, which a part of it does not hold; set "
            "micro_batch=null and trainer.accumulate_grad_batches=1"
        )
    return None
