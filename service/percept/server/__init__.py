"""The ASGI application, its middleware and gauges, the uvicorn server, and the commands `percept` and `percept serve`.

May import every other package of `percept`.
"""
