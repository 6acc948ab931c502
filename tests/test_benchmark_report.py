"""The reports of the benchmarks: parsing of load results, ratios within a round, and the Markdown table."""

import pytest

from benchmarks.harness.report import (
    ClosedLoopResult,
    Sample,
    comparison_table,
    parse_load,
    percentile,
    ratios,
)

WRK = """Running 2s test @ http://127.0.0.1:8000/predict
  1 threads and 8 connections
  Latency Distribution
     50%   36.00ms
Requests/sec:    200.00
{"answers": 400, "refused": 4, "lost": 0, "seconds": 2.000000, "p50_ms": 36.0000, "p99_ms": 75.5000}
"""


def sample(server: str, clients: int, turn: int, rate: float, network: str = "small") -> Sample:
    return Sample(network, server, clients, turn, rate, p50_ms=2, p99_ms=9, cpu_ms=5, memory_mb=100, ready_s=1.25)


def test_wrk_output_is_parsed() -> None:
    assert parse_load(WRK) == ClosedLoopResult(400, 4, 0, 2.0, 36.0, 75.5)


def test_refused_requests_do_not_count_as_throughput() -> None:
    assert parse_load(WRK).rate == 198


def test_load_generator_failure_includes_its_output() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        parse_load("unable to connect to 127.0.0.1:9")


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1, 100), (0, 1)])
def test_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), share) == expected


def test_ratio_to_the_limit_uses_the_same_round() -> None:
    samples = [sample("limit", 0, 0, 100), sample("A", 8, 0, 80), sample("limit", 0, 1, 50), sample("A", 8, 1, 45)]
    assert ratios(samples, [s for s in samples if s.server == "A"], "limit") == [0.8, 0.9]


def test_ratio_to_a_server_uses_the_same_load() -> None:
    samples = [sample("A", 1, 0, 10), sample("A", 8, 0, 40), sample("B", 8, 0, 60)]
    assert ratios(samples, samples[2:], "A") == [1.5]


def test_ratio_without_a_baseline_is_left_out() -> None:
    assert ratios([sample("B", 8, 0, 60)], [sample("B", 8, 0, 60)], "A") == []


def test_table_has_medians_and_ranges() -> None:
    samples = [s for k, rate in enumerate((40, 50, 90)) for s in (sample("limit", 0, k, 100), sample("A", 8, k, rate))]
    head, rule, first, second = comparison_table(samples, {"A": "limit", "limit": "limit"}).splitlines()
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|")
    assert first.startswith("| small | limit |  | 100.0 | 1.00 (1.00 to 1.00) | limit |")
    assert second == "| small | A | 8 | 50.0 | 0.50 (0.40 to 0.90) | limit | 2.0 | 9.0 | 5.0 | 100 | 1.2 |"


def test_table_is_sorted_by_network_and_load() -> None:
    keys = [("small", 1), ("small", 8), ("large", 1), ("large", 8)]
    samples = [sample("A", clients, 0, 1, network) for network, clients in (keys[1], keys[0], keys[3], keys[2])]
    rows = [line.split(" | ") for line in comparison_table(samples, {}).splitlines()[2:]]
    assert [(row[0].strip("| "), int(row[2])) for row in rows] == keys
