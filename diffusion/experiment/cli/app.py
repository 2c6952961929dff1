"""The frame of every script: compose the config, refuse mistakes in one sentence, then hand over to Hydra.

    @app("train")
    def main(cfg: DictConfig) -> object:
        from diffusion.experiment.task.train import train
        return train(cfg)

Imports stay inside ``main``, so that ``--help``, ``--cfg job`` and every mistake are answered without torch.
"""

from __future__ import annotations

import functools
import gc
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.errors import ConfigError
from diffusion.experiment.config import errors, resolvers, validate
from diffusion.experiment.config.errors import as_mistake
from diffusion.experiment.run import needs
from diffusion.experiment.run.saved_config import resume_overrides
from diffusion.experiment.sweep import run as sweep

Main = Callable[[DictConfig], Any]
Rewrite = Callable[[list[str]], list[str]]
Finish = Callable[[DictConfig], DictConfig]
CONF = Path(__file__).resolve().parents[3] / "conf"


def app(
    config_name: str,
    *,
    conf: Path = CONF,
    rewrite: Rewrite | None = None,
    finish: Finish | None = None,
) -> Callable[[Main], Callable[[], None]]:
    """Makes a script's ``main(cfg)`` its command line: exit code 2 and one sentence for a mistake.

    Args:
        config_name: the entry point in ``conf``, without ``.yaml``.
        conf: the folder of configs; the repository's own, or ``./conf`` where the package was installed elsewhere.
        rewrite: changes the command line's overrides before anything is composed.
        finish: the config that the script will work with (a run's own, merged), for the checks.
    """

    def decorate(main: Main) -> Callable[[], None]:
        @functools.wraps(main)
        def task(cfg: DictConfig) -> Any:
            resolvers.register()
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                return sweep.job(main, cfg)
            with _said_in_one_sentence():
                return main(cfg)

        task.finish = finish  # type: ignore[attr-defined]

        @functools.wraps(main)
        def command() -> None:
            resolvers.register()
            folder = conf if conf.is_dir() else Path.cwd() / "conf"
            parser = get_args_parser()
            with _said_in_one_sentence(), _uncollected():
                args = parser.parse_args()
                if sum(map(bool, (args.run, args.multirun, args.cfg, args.info, args.shell_completion))) > 1:
                    raise ConfigError("--multirun, --run, --cfg, --info and --shell-completion exclude each other")
                overrides = resume_overrides(list(args.overrides))
                overrides = rewrite(overrides) if rewrite else overrides
                sys.argv[1:] = [word for word in sys.argv[1:] if word not in args.overrides] + overrides
                args.overrides = overrides
                if not (args.hydra_help or args.shell_completion or args.info is not None):
                    composer = Composer(folder, args.config_name or config_name, args, finish)
                    if args.help:
                        print(composer.help(main.__globals__.get("__doc__") or main.__doc__ or ""))
                        return
                    cfg = composer.check()
                    if cfg.get("plan") and "needs" in cfg and not args.multirun and args.cfg is None:
                        needs.show([cfg])
                        return
                    if args.cfg == "job" and args.package is None:  # composed once already
                        print(OmegaConf.to_yaml(cfg, resolve=bool(args.resolve)), end="")
                        return
            hydra.main(version_base="1.3", config_path=str(folder), config_name=config_name)(task)()

        return command

    return decorate


@contextmanager
def _said_in_one_sentence() -> Iterator[None]:
    """A mistake becomes one sentence and exit code 2; what a run's record has told already is not told again."""
    try:
        yield
    except Exception as error:
        mistake = as_mistake(error)
        if mistake is not None:
            print(f"error: {mistake}", file=sys.stderr)
            sys.exit(2)
        if getattr(error, "recorded", False):
            sys.exit(1)
        raise


@contextmanager
def _uncollected() -> Iterator[None]:
    """Composing makes much and drops little: looking for cycles takes a seventh of an answer's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Composer:
    """Composes an entry point's config without running anything, and says what is wrong with it."""

    def __init__(self, folder: Path, config_name: str, args: Namespace, finish: Finish | None = None) -> None:
        if args.config_path:
            folder = Path(args.config_path).resolve()
        if not (folder / f"{config_name.removesuffix('.yaml')}.yaml").is_file():
            raise ConfigError(
                f"expected a config '{config_name}.yaml' in {folder}, found none; check --config-name/-path"
            )
        self.folder, self.config_name, self.sweep = folder, config_name, bool(args.multirun)
        self.finish = finish or (lambda cfg: cfg)
        self.search = [f"hydra.searchpath=[file://{Path(args.config_dir).resolve()}]"] if args.config_dir else []
        try:
            self.overrides: list[Override] = OverridesParser.create().parse_overrides(list(args.overrides))
        except (OverrideParseException, HydraException) as error:
            raise ConfigError(f"expected overrides as key=value, {_one_line(error)}") from None

    def check(self) -> DictConfig:
        """Every mistake that can be found without loading torch; the config without Hydra's own node.

        Raises:
            ConfigError: the first one found.
        """
        with self._session():
            groups = self._groups()
            errors.check_groups(self.overrides, groups, sweep=self.sweep)
            fixed = self._first()
            cfg = self._compose(fixed, groups)
            added = [o for o in fixed if (o.is_add() or o.is_force_add()) and o.key_or_group not in groups]
            self._check_top(cfg)
            base = self._compose([o for o in fixed if o not in added], groups) if added else None
            validate.check(self._whole(cfg), added, None if base is None else self._whole(base))
            return _own(cfg)

    def _first(self) -> list[Override]:
        """The overrides of a sweep's first job: the other values are checked when the sweep is laid out."""
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return [
            parser.parse_override(f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}")
            if o.is_discrete_sweep()
            else o
            for o in parser.parse_overrides([o.input_line or "" for o in self.overrides])
            if o.is_discrete_sweep() or not o.is_sweep_override()
        ]

    def _check_top(self, cfg: DictConfig) -> None:
        """A file merged at the top (an experiment) may set keys, and not make new ones."""
        primary = OmegaConf.load(self.folder / f"{self.config_name.removesuffix('.yaml')}.yaml")
        assert isinstance(primary, DictConfig)  # a script's config is a mapping
        known = {str(key) for key in primary if key != "defaults"} | {"hydra"}
        known |= {str(group).split("/")[0] for group in cfg.hydra.runtime.choices}
        known |= {str(group) for line in primary.defaults if OmegaConf.is_dict(line) for group in line}  # also lists
        added = {o.key_or_group.split(".")[0] for o in self.overrides}
        for key in map(str, cfg):
            if key not in known | added:
                meant = errors.nearest(key, known)
                hint = f"did you mean '{meant}'?" if meant else f"its keys are {', '.join(sorted(known))}"
                raise ConfigError(f"a config file sets '{key}', which {self.config_name} does not have; {hint}")

    def help(self, doc: str) -> str:
        """The text of ``--help``: what the script does, its examples, the groups with their options, the keys."""
        with self._session():
            groups = self._groups()
            cfg = self._compose(self._first(), groups)
        chosen = cfg.hydra.runtime.choices
        used = {group: names for group, names in groups.items() if group in chosen and not group.startswith("hydra")}
        width = max(map(len, used), default=0)
        lines = [doc.strip(), "", "Groups (group=option, the one in use marked *; several with -m: group=a,b)"]
        for group, names in sorted(used.items()):
            mine = [chosen[group]] if isinstance(chosen[group], str) else list(chosen[group] or [])
            lines.append(f"  {group:<{width}}  {' '.join('*' * (name in mine) + name for name in names)}")
        plain = OmegaConf.to_container(cfg, resolve=False)
        keys = {k: v for k, v in plain.items() if k != "hydra" and k not in used and not isinstance(v, dict)}  # type: ignore[union-attr]
        lines += ["", "Keys (key=value)", *(f"  {key!s}={value}" for key, value in keys.items())]
        lines += [
            "",
            "Any key below a part can be set too (sampler.steps=20); --cfg job prints all of them.",
            "-m runs one job for each combination; --hydra-help lists Hydra's own flags.",
        ]
        return "\n".join(lines)

    def _whole(self, cfg: DictConfig) -> DictConfig:
        """What the job will get. The run folder is not made yet; ``${hydra:...}`` needs a config to speak of."""
        if OmegaConf.is_missing(cfg.hydra.runtime, "output_dir"):
            cfg.hydra.runtime.output_dir = "."
        HydraConfig.instance().set_config(cfg)
        try:
            return self.finish(_own(cfg))
        except OmegaConfBaseException as error:
            raise errors.unresolved(error) from None

    def _session(self) -> Any:
        GlobalHydra.instance().clear()
        return hydra.initialize_config_dir(str(self.folder), version_base="1.3", job_name=Path(sys.argv[0]).stem)

    def _groups(self) -> dict[str, list[str]]:
        files: Any = GlobalHydra.instance().config_loader()
        files = files.repository  # the loader's own methods copy it at every call
        found: dict[str, list[str]] = {}
        pending = list(files.get_group_options("", ObjectType.GROUP))
        while pending:
            group = pending.pop()
            pending += [f"{group}/{child}" for child in files.get_group_options(group, ObjectType.GROUP)]
            options = [o for o in files.get_group_options(group, ObjectType.CONFIG) if not o.startswith("_")]  # bases
            if options:
                found[group] = sorted(options)
        return found

    def _compose(self, overrides: list[Override], groups: dict[str, list[str]]) -> DictConfig:
        try:
            lines = self.search + [o.input_line for o in overrides if o.input_line is not None]
            return hydra.compose(self.config_name, lines, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise errors.explain(error, overrides, self._base(overrides, groups), sorted(groups)) from None

    def _base(self, overrides: list[Override], groups: dict[str, list[str]]) -> DictConfig | None:
        """The config with the groups that were chosen and none of the values."""
        chosen = [o.input_line for o in overrides if o.key_or_group in groups and o.input_line is not None]
        for lines in (chosen, []):
            try:
                return hydra.compose(self.config_name, self.search + lines, return_hydra_config=True)
            except (HydraException, OmegaConfBaseException, ValueError):
                continue
        return None


def _own(cfg: DictConfig) -> DictConfig:
    """What the job gets: all but Hydra's node."""
    return OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
