"""The program of one of several processes: `processes` starts it with ``python -m``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from _thread import interrupt_main

from qa_fast.data.errors import parts_of

from .predict import predict
from .processes import Failure, Job, Progress, to_line
from .stopping import signal_of


def main() -> None:
    """Do the job in the first line of standard input, and say on standard output how it goes."""
    # What is printed by others must not be taken for a message.
    channel, sys.stdout = sys.stdout, sys.stderr

    def tell(message: Progress | Failure) -> None:
        print(to_line(message), file=channel, flush=True)

    def watch() -> None:
        sys.stdin.read()
        interrupt_main(signal.SIGHUP)

    signal.signal(signal.SIGHUP, signal.default_int_handler)
    job = Job.of(sys.stdin.readline())
    threading.Thread(target=watch, daemon=True).start()
    try:
        predict(
            **job.arguments,
            device=job.device,
            num_shards=job.num_shards,
            shard_index=job.shard_index,
            progress=lambda rows: tell(Progress(rows)),
        )
    except (ValueError, OSError, ImportError) as error:
        tell(Failure(parts_of(error)))
        os._exit(1)
    except KeyboardInterrupt as stopped:
        os._exit(128 + signal_of(stopped))
    sys.stdout.flush()
    os._exit(0)  # not interrupted any more by the end of standard input


if __name__ == "__main__":
    main()
