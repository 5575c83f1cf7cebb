"""`python -m sonolora` is the command `sonolora`."""

from sonolora.cli.main import main

main()
