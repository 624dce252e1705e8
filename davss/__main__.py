"""`python -m davss`, the same as the command `davss`."""

from davss.cli import main

main()
