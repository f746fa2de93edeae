"""Noisy Student Training (Xie et al., CVPR 2020): the method, without an orchestrator or a tracker."""

__version__ = "0.1.0"
