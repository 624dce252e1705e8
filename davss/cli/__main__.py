"""`python -m davss.cli`."""

from davss.cli import main

main()
