"""The command ``alphabar new``: see ``--help``."""

from diffusion.experiment.cli.new import main

if __name__ == "__main__":
    main()
