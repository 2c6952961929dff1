"""The command ``alphabar train_extractor``: see ``--help``."""

from diffusion.experiment.cli.train_extractor import main

if __name__ == "__main__":
    main()
