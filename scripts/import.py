"""The command ``alphabar import``: see ``--help``."""

from diffusion.experiment.cli.import_ import main

if __name__ == "__main__":
    main()
