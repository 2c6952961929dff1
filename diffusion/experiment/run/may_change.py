"""Which settings a resumed run may change, in one place; docs/resume.md shows the table."""

from __future__ import annotations

from collections.abc import Mapping

from diffusion.experiment.config.config_hash import below

MAY_CHANGE: Mapping[str, str] = {
    "optimizer": "its numbers hold from the step that the run resumes at; its class stays",
    "lr_scheduler": "the learning rate is that of the new schedule from that step on",
    "trainer": "`max_steps` not below that step; `limit_train_batches` and `overfit_batches` order the data and stay",
    "callbacks": "what is saved, drawn and shown on the way",
    "logger": "where numbers go",
    "evaluation": "what is scored at the end",
    "sampler": "what samples are drawn with",
    "spacing": "what samples are drawn with",
    "guidance": "what samples are drawn with",
    "tags": "W&B tags",
    "code": "whether finished needs of other code count",
    "compile": "how steps are computed",
    "micro_batch": "how steps are computed",
    "matmul_precision": "how steps are computed",
    "keep_freed_memory": "how memory is kept",
    "paths": "where things lie",
    "data.root": "where the same data lie",
    "data.cache": "where things lie",
    "data.download": "whether data may be fetched",
    "data.num_workers": "how batches are prepared",
    "data.pin_memory": "how batches are prepared",
    "autoencoder.pretrained": "where the same weights lie",
    "autoencoder.run": "where the same weights lie",
    "text_encoder.run": "where the same weights lie",
    "conditioner.run": "where the same weights lie",
    "conditioner.parts.image.run": "where the same weights lie",
    "objective.teacher.run": "where the same weights lie",
    "autoencoder.sha256": "which file is expected; the checkpoint knows whose latents it is of",
    "autoencoder.max_batch": "how latents are computed",
    "module.loss.perceptual.weights": "where the same weights lie",
    "objective.metric.network.weights": "where the same weights lie",
}
"""Settings that a resumed run may change, with what a change does."""
STAY = ("optimizer._target_", "trainer.limit_train_batches", "trainer.overfit_batches", "trainer._target_")
"""Of those, what must stay as it was."""


def may_change(key: str) -> bool:
    """May a resumed run have another value of this setting?"""
    return below(key, MAY_CHANGE) and not below(key, STAY)
