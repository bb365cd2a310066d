"""``python -m elastictool``: the same program as the console script."""

from elastictool.cli.app import main

if __name__ == "__main__":
    main()
