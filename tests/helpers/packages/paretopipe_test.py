"""The package that a host imports for operators of its name, see ``tests/helpers/synthetic.py``."""

from tests.helpers import synthetic

__all__ = ["synthetic"]
