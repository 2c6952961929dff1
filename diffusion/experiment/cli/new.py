"""Makes a project of one's own: parts, configs, tests and CI, in a folder of any place.

alphabar new rings
alphabar new ~/research/my_samplers
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from diffusion import __version__
from diffusion.errors import ConfigError, UserError
from diffusion.experiment.config.folder import PACKAGE
from diffusion.files import write_atomic

TEMPLATE = PACKAGE / "project"
NAMES = {"gitignore.txt": ".gitignore", "github": ".github"}
"""Files that would be read as the template's own."""


def main() -> None:
    """``alphabar new <folder>``; exit code 2 and one sentence where that is not possible."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(str(__doc__).strip())
        return
    try:
        if len(words) > 1 or "=" in words[0] or words[0].startswith("-"):
            raise ConfigError(f"one folder is expected, got {' '.join(words)}; alphabar new <folder>")
        new(Path(words[0]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def new(folder: Path) -> None:
    """Writes a project whose tests pass; its package has the folder's name.

    Raises:
        ConfigError: the folder is not empty, or its name cannot be a package's.
        DiskError: it cannot be written.
    """
    folder = folder.expanduser().resolve()
    package = re.sub(r"\W+", "_", folder.name, flags=re.ASCII).lower()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and not empty; name a new folder")
    if not package.isidentifier() or package in ("conf", "tests") or find_spec(package) is not None:
        raise ConfigError(
            f"the package would be called '{package}', which is no name that Python can import or is taken by an "
            "installed package; name the folder otherwise"
        )
    for file in sorted(path for path in TEMPLATE.rglob("*") if path.is_file()):
        parts = [NAMES.get(part, part).replace("PACKAGE", package) for part in file.relative_to(TEMPLATE).parts]
        text = file.read_text(encoding="utf-8").replace("PACKAGE", package).replace("VERSION", __version__)
        write_atomic(folder.joinpath(*parts).with_name(parts[-1].removesuffix(".txt")), text)
    print(f"{folder}: package {package}, conf/, tests/; see README.md there")
