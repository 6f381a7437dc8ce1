"""What a module that hangs waits for."""

import threading

OPEN = threading.Event()
