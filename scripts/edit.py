"""The command ``alphabar edit``: see ``--help``."""

from diffusion.experiment.cli.edit import main

if __name__ == "__main__":
    main()
