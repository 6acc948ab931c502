"""HEALTHCHECK of the image: status 0 if the service in this container answers that it is ready.

It knows nothing but the standard library, because it runs every few seconds.
"""

import http.client
import os
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["PERCEPT_PORT"]), timeout=2)
connection.request("GET", "/health/ready")
sys.exit(connection.getresponse().status != 200)
