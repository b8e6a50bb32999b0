"""``python -m tollgate`` is the command line ``tollgate``."""

from tollgate.cli import main

main()
