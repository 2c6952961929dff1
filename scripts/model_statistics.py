"""The command ``alphabar model_statistics``: see ``--help``."""

from diffusion.experiment.cli.model_statistics import main

if __name__ == "__main__":
    main()
