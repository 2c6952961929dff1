"""The command ``alphabar sample``: see ``--help``."""

from diffusion.experiment.cli.sample import main

if __name__ == "__main__":
    main()
