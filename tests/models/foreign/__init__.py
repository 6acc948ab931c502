"""Tests of the offline house."""
