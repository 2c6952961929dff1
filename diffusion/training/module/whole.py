"""The training of a model that is no denoiser: on one device each, and where its loss needs it on whole batches."""

from __future__ import annotations

from typing import ClassVar

from diffusion.errors import ConfigError
from diffusion.training.module.base import TrainingModule
from diffusion.training.sharded import Sharded


class WholeModule(TrainingModule):
    """Refuses shares of the weights, and batches in parts where :attr:`whole_batch` says why."""

    noun: ClassVar[str]
    """What is trained, in words."""

    @property
    def whole_batch(self) -> str | None:
        """The sentence for a batch in parts, ``None`` where the loss can bear them."""
        return None

    def configure_model(self) -> None:
        """Raises:
        ConfigError: shares of the weights.
        """
        if isinstance(self.trainer.strategy, Sharded):
            raise ConfigError(f"trainer=fsdp shards the network of a denoiser; train {self.noun} with trainer=ddp")

    def on_train_start(self) -> None:
        """Raises:
        ConfigError: a batch in parts that the loss cannot bear.
        """
        super().on_train_start()
        if (sentence := self.whole_batch) is not None and self.trainer.accumulate_grad_batches > 1:
            raise ConfigError(sentence)
