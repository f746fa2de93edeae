"""One file per number that the README or a note claims."""
