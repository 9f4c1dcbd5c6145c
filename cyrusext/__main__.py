"""``python -m cyrusext``: the same as the command ``cyrusext``."""

from cyrusext.cli import main

if __name__ == "__main__":
    main()
