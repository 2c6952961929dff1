"""The frame of every script: compose the config, check it, then hand over to Hydra.

    @app("train")
    def main(cfg: DictConfig) -> object:
        from diffusion.experiment.task.train import train
        return train(cfg)

Imports stay inside ``main``, so that ``--help``, ``--cfg job`` and errors of names are answered without torch.
"""

from __future__ import annotations

import functools
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError, RankFailedError, UserError
from diffusion.experiment.config import resolvers, validate
from diffusion.experiment.config.compose import Composer, Finish
from diffusion.experiment.config.folder import CONF, use_folders
from diffusion.experiment.config.overrides import quote_paths, take_folders, text_of
from diffusion.experiment.process.allocator import set_allocator
from diffusion.experiment.process.ranks import forget_ranks
from diffusion.experiment.run import needs
from diffusion.experiment.run.resume import resume_overrides
from diffusion.experiment.sweep import run as sweep
from diffusion.files import check_writable

Main = Callable[[DictConfig], Any]
Rewrite = Callable[[list[str]], list[str]]


def app(
    config_name: str,
    *,
    conf: Path = CONF,
    rewrite: Rewrite | None = None,
    finish: Finish | None = None,
) -> Callable[[Main], Callable[[], None]]:
    """Makes a script's ``main(cfg)`` its command line: exit code 2 and one sentence for an error of the user's.

    Args:
        config_name: the entry point in ``conf``, without ``.yaml``.
        conf: the folder of configs.
        rewrite: changes the command line's overrides before anything is composed.
        finish: the config that the script will work with (a run's own, merged), for the checks.
    """

    def decorate(main: Main) -> Callable[[], None]:
        @functools.wraps(main)
        def task(cfg: DictConfig) -> Any:
            resolvers.register()
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                return sweep.job(main, cfg)
            with _exit_codes():
                set_allocator(cfg)
                return main(cfg)

        task.finish = finish  # type: ignore[attr-defined]

        @functools.wraps(main)
        def command() -> None:
            resolvers.register()
            forget_ranks()
            logging.raiseExceptions = False  # a log on a full disk: the run's own sentence says so
            parser = get_args_parser()
            sys.argv = ["plan=true" if word == "--plan" else word for word in sys.argv]
            with _exit_codes(), _without_gc():
                args = parser.parse_intermixed_args()  # -m may stand between two overrides
                if sum(map(bool, (args.run, args.multirun, args.cfg, args.info, args.shell_completion))) > 1:
                    raise ConfigError("--multirun, --run, --cfg, --info and --shell-completion exclude each other")
                overrides, folders = take_folders(quote_paths(args.overrides))
                overrides = resume_overrides(overrides, sweep=bool(args.multirun))
                overrides = rewrite(overrides) if rewrite else overrides
                use_folders(
                    [*folders, *([args.config_dir] if args.config_dir else [])],
                    run=text_of(overrides, "resume") or text_of(overrides, "run"),
                )
                sys.argv[1:] = [word for word in sys.argv[1:] if word not in args.overrides] + overrides
                args.overrides = overrides
                if not (args.hydra_help or args.shell_completion or args.info is not None):
                    composer = Composer(conf, args.config_name or config_name, args, finish)
                    if args.help:
                        print(composer.help(main.__globals__.get("__doc__") or main.__doc__ or ""))
                        return
                    cfg, whole = composer.compose()
                    if args.cfg == "job" and args.package is None:  # composed once already
                        print(OmegaConf.to_yaml(cfg, resolve=bool(args.resolve)), end="")
                        return
                    if not args.cfg:
                        if not composer.searches:
                            validate.check(whole)
                        for place in _places(whole):
                            check_writable(place)
                        if cfg.get("plan") and "needs" in cfg and not args.multirun:
                            needs.show([whole])
                            return
            hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(task)()

        return command

    return decorate


def _places(cfg: DictConfig) -> list[Path]:
    """Where the script will write: Hydra makes the folder and a log in it before anything of ours is called."""
    keys = ("run", "output") if "run" in cfg else ("resume",)
    places = [Path(str(cfg[key])) for key in keys if cfg.get(key) is not None]
    return places or [Path(str(OmegaConf.select(cfg, "paths.outputs") or ".")) / str(cfg.get("name", ""))]


@contextmanager
def _exit_codes() -> Iterator[None]:
    """An error of the user's becomes one sentence and exit code 2, Ctrl-C one and 130; what a run has recorded is not
    printed again."""
    try:
        yield
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, RankFailedError) and not getattr(error, "recorded", False):
            print(f"error: {error}", file=sys.stderr)  # with the rank's own traceback
        if isinstance(error, RankFailedError) or getattr(error, "recorded", False):
            sys.exit(1)
        raise


@contextmanager
def _without_gc() -> Iterator[None]:
    """Composing makes many objects and drops few: looking for cycles among them takes a seventh of an answer's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
