"""Pseudo labels: which unlabelled images the students see, and how often (paper section 2, "Other Techniques")."""
