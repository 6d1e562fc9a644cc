"""``python -m mbrl_wrappers.zoo``, and the console script ``mbrl-zoo``."""

import sys


def main() -> int:
    """Run the command, or say how to install what it needs."""
    try:
        from mbrl_wrappers.zoo.cli.main import main as command
    except ModuleNotFoundError as error:
        print(f"mbrl-zoo needs {error.name}: pip install 'mbrl-wrappers[zoo]'", file=sys.stderr)
        return 1
    return command()


if __name__ == "__main__":
    sys.exit(main())
