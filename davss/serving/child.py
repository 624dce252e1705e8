"""`python -m davss.serving.child MODULE ARGUMENTS`: a module that ends with the server.

Its standard input is a pipe that the server holds open: when that ends, whatever has ended the
server, so do the module and all that it has started, which are a group of processes of their own.
"""

import os
import runpy
import signal
import sys
import threading


def _end_with_server() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_server, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
