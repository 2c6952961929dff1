"""The command ``alphabar augment``: see ``--help``."""

from diffusion.experiment.cli.augment import main

if __name__ == "__main__":
    main()
