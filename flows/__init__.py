"""The story: which stage follows which. No torch, no paths, no engines."""
