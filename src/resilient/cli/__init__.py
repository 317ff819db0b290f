"""The command `resilient`: run a registry, look into one, be in one, see what is wrong."""

from resilient.cli.command_line import main

__all__ = ["main"]
