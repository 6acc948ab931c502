"""The JSON responses of the endpoints, as pydantic models.

May import `percept.pipeline` and everything below it.
"""
