"""A wheel holds the configs as ``diffusion/conf``, so that every command works without a checkout."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("conf", Path(self.build_lib) / "diffusion" / "conf", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
