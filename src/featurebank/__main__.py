"""The command line: ``featurebank`` and ``python -m featurebank``."""

import sys


def main() -> None:
    """Runs the command line, or says which extra it needs."""
    try:
        from featurebank.pipelines.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"error: the command line needs {error.name!r}; install it with: pip install 'featurebank[all]'")
    run()


if __name__ == "__main__":
    main()
