"""``ray start`` for several nodes on this machine that listen on 127.0.0.1 only.

Ray replaces 127.0.0.1 by the machine's own address, and a node with any other address than 127.0.0.1 listens on all
of the machine's addresses. RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, as on Windows and macOS, keeps 127.0.0.1, but refuses
a second node.
"""

from __future__ import annotations

from ray._private import ray_constants, services
from ray.scripts.scripts import main

ray_constants.ENABLE_RAY_CLUSTER = True  # permit further nodes
services.resolve_ip_for_localhost = lambda host: host  # keep 127.0.0.1

main()
