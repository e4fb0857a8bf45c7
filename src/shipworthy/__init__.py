"""Shipworthy takes a machine-learning model from a notebook to a production system."""

__version__ = "0.1.0"
