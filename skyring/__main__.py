"""``python -m skyring`` is the command ``skyring``."""

from skyring.cli import main

if __name__ == "__main__":
    main()
