"""Entry point of the `moonshine-tune` command and of `python -m moonshine_tune`."""

import sys

from moonshine_tune.cli.app import run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
