"""The command ``alphabar ema``: see ``--help``."""

from diffusion.experiment.cli.ema import main

if __name__ == "__main__":
    main()
