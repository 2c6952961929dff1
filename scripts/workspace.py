"""The command ``alphabar workspace``: see ``--help``."""

from diffusion.experiment.cli.workspace import main

if __name__ == "__main__":
    main()
