"""Entry point of the `moonshine-tune` command and of `python -m moonshine_tune`."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        # Ctrl-C while the program loads is no error either.
        from moonshine_tune.cli.app import run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
