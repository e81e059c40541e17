"""Ends with 0 if the agent of this container answers /healthz, or the path in the argument, with 200, else with 1.

For HEALTHCHECK and probes: a slim image has no curl, and the page wants the token of $STREAMER_TOKEN.
"""

import os
import sys
import urllib.request

URL = f"http://127.0.0.1:8080{sys.argv[1] if len(sys.argv) > 1 else '/healthz'}"
TIMEOUT_S = 4

request = urllib.request.Request(URL, headers={"Authorization": f"Bearer {os.environ.get('STREAMER_TOKEN', '')}"})
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S).close()
except OSError as error:
    sys.exit(f"{URL}: {error}")
