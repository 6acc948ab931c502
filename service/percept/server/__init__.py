"""The ASGI application, its middleware and gauges, the uvicorn server, and the command `percept`.

May import every other package of `percept`.
"""
