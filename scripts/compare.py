"""The command ``alphabar compare``: see ``--help``."""

from diffusion.experiment.cli.compare import main

if __name__ == "__main__":
    main()
