"""The command ``alphabar studio``: see ``--help``."""

from diffusion.experiment.cli.studio import main

if __name__ == "__main__":
    main()
