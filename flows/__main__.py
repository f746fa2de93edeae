"""`python -m flows` is the `noisy-student` command."""

from flows.cli import main

main()
