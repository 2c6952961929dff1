"""The config of a command line, composed inside a process that goes on."""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusion.experiment.config import resolvers, validate
from diffusion.experiment.config.compose import Composer
from diffusion.experiment.config.folder import CONF, use_folders
from diffusion.experiment.config.overrides import text_of
from diffusion.experiment.run.saved_config import overridable_overrides
from diffusion.experiment.run.stages import pipeline_overrides
from diffusion.experiment.task import edit_config, sample_config

SCRIPTS = {"sample": (pipeline_overrides, sample_config.whole), "edit": (overridable_overrides, edit_config.whole)}
"""How each script reads its words, and what it makes of its config."""
_lock = threading.Lock()
"""Hydra is one for a process."""


def composed(script: str, words: Sequence[str]) -> DictConfig:
    """What ``scripts/<script>.py`` works with when it is given these words.

    Raises:
        ConfigError: what the script would refuse, in its own sentence.
    """
    rewrite, whole = SCRIPTS[script]
    with _lock:
        resolvers.register()
        before, outer = HydraConfig.instance().cfg, GlobalHydra.instance().hydra
        try:
            use_folders([], run=text_of(words, "run"))
            args = Namespace(overrides=rewrite(list(words)), config_path=None, multirun=False)
            _, cfg = Composer(CONF, script, args, whole).compose()
            validate.check(cfg)
            return cfg
        finally:
            GlobalHydra.instance().clear()
            if outer is not None:
                GlobalHydra.instance().initialize(outer)
            HydraConfig.instance().cfg = before
