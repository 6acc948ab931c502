"""Percept's own REST API: parameters, request bodies, content negotiation, responses, problem details and routes.

May import `percept.pipeline` and everything below it.
"""
