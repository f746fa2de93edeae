"""timm architectures, made to the paper's settings, and their checkpoints."""
