"""The command ``alphabar reference``: see ``--help``."""

from diffusion.experiment.cli.reference import main

if __name__ == "__main__":
    main()
