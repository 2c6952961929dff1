"""The command ``alphabar train``: see ``--help``."""

from diffusion.experiment.cli.train import main

if __name__ == "__main__":
    main()
