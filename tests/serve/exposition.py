"""Reading `/metrics` in tests."""

from collections.abc import Mapping
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server) -> Series:
    """Every series of a server: (name, labels) to value."""
    with urlopen(f"{server.http}/metrics", timeout=10) as response:
        text = response.read().decode()
    return series_of(text)


def series_of(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    """The sum of the series of that name that carry these labels; they must exist."""
    found = [number for (one, its), number in series.items() if one == name and labels.items() <= dict(its).items()]
    assert found, f"no series {name} {labels}"
    return sum(found)
