"""An index of Python's standard library, made by pgqueue: one task a file, two worker processes.

`bin/demo` runs it. Read tasks.py for the handlers, run.py for what submits and waits; the rest is
measuring (analysis.py), starting and stopping (stage.py), and showing (display.py, summary.py, page.py).
"""
