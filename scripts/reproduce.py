"""The command ``alphabar reproduce``: see ``--help``."""

from diffusion.experiment.cli.reproduce import main

if __name__ == "__main__":
    main()
