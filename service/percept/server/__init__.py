"""The ASGI application, its middleware and metric collectors, the uvicorn server, and the command `percept`.

May import every other package of `percept`.
"""
