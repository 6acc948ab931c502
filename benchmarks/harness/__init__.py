"""What the benchmarks share: a workspace, running servers, load generators, bare sessions to compare with, reports."""
