"""``python -m edgellama`` is the same as the ``edgellama`` command."""

from edgellama.cli import main

if __name__ == "__main__":
    main()
