"""The command ``alphabar evaluate``: see ``--help``."""

from diffusion.experiment.cli.evaluate import main

if __name__ == "__main__":
    main()
