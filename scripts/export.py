"""The command ``alphabar export``: see ``--help``."""

from diffusion.experiment.cli.export import main

if __name__ == "__main__":
    main()
