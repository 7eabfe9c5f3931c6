"""``python -m edgellama`` runs the same command as ``edgellama``.

What the command does is left to ``edgellama.cli``.
"""

from edgellama.cli import main

if __name__ == "__main__":
    main()
