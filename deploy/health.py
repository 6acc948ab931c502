"""HEALTHCHECK of the image: exits with 0 if the service in this container is ready.

It imports the standard library only, because it runs every few seconds.
"""

import http.client
import os
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["PERCEPT_PORT"]), timeout=2)
connection.request("GET", "/health/ready")
sys.exit(connection.getresponse().status != 200)
