"""The plugins of the package, one a module."""
