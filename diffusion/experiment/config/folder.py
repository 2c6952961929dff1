"""Where the project's own configs are."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""``conf/`` of the checkout; inside the package where it was installed from a wheel."""
