"""Readers of every kind of source; each gives the images of one file in order, as they are stored."""
