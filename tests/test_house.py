"""The package stays small and plain: those measures of the house whose bar is reached."""

import pytest

from kit.house import Measure, measures

REACHED = ("files directly in aipo/",)


@pytest.mark.parametrize("measure", [m for m in measures() if m.name in REACHED], ids=lambda m: m.name)
def test_the_house_is_in_order(measure: Measure) -> None:
    assert measure.number <= measure.most, f"{measure.name}: {measure.culprits}"
