"""A start without what nobody asked for: Lightning imports torchmetrics, which imports every metric there is.

Metrics of texts bring transformers with them, those of sounds scipy.signal: two of the seven seconds in which a job
starts. Of all this Lightning and this project use three classes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType

NAME = "torchmetrics"
LIGHT = {"Metric": "metric", "MetricCollection": "collections"}
"""What Lightning takes from the package itself, and where it is defined."""


class Deferred(ModuleType):
    """The package with its version and its logger; the rest of its ``__init__`` runs when something else is asked of
    it."""

    rest: CodeType

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if name in LIGHT:
            import_module(f"{NAME}.utilities")  # first, as the package itself does: it is a circle
            return getattr(import_module(f"{NAME}.{LIGHT[name]}"), name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        exec(vars(self).pop("rest"), vars(self))
        return getattr(self, name)


class DeferMetrics(MetaPathFinder, Loader):
    """Finds the package once, and loads it without its metrics where it begins as it did when this was written:
    constants, then ``from torchmetrics import functional``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != NAME:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(NAME)
        if spec is None or spec.origin is None:
            return spec
        lines = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
        own = (i for i, line in enumerate(lines) if isinstance(line, ast.ImportFrom) and line.module == NAME)
        if (metrics := next(own, None)) is not None:
            constants = [line for line in lines[:metrics] if not isinstance(line, ast.If)]  # these mend other packages
            rest = [line for line in lines if line not in constants]
            self.now, self.later = (compile(ast.Module(part, []), spec.origin, "exec") for part in (constants, rest))
            spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(self.now, vars(module))
        vars(module)["rest"] = self.later
        module.__class__ = Deferred
