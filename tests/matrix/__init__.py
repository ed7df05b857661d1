"""Ordinary libraries in ordinary handlers, beside their real servers: ``bin/test matrix``."""
