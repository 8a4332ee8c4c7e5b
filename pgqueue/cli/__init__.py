"""The command line: argument parsing and output, nothing else.

A command's module imports only click at its top and what it needs when it runs, so that help and shell
completion stay quick. Data goes to stdout, everything said to people goes to stderr.
"""

from pgqueue.cli.root import main

__all__ = ["main"]
