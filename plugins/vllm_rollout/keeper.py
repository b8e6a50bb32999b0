"""Take every server of full weights one step further: ``python -m vllm_rollout.keeper``.

A process of its own, started where there is something to do (``tollgate.workflow.servers``): only plugins know the
runtimes that run jobs. It prints what it did, a line each.
"""

from __future__ import annotations

import sys

from tollgate.errors import TollgateError
from tollgate.serving.server_keeper import keep
from vllm_rollout.server_host import JobServerHost


def main() -> int:
    """Keep once; the exit status is 3 where a service did not answer."""
    try:
        for line in keep(JobServerHost()):
            sys.stdout.write(line + "\n")
    except TollgateError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
