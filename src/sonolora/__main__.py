"""`python -m sonolora` is the command `sonolora`."""

from sonolora.cli import main

main()
