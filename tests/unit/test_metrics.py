"""What handlers say of themselves in ``GET /metrics``."""

from __future__ import annotations

from serving.frontend.api.metrics import merged

ONE = '# HELP a A\n# TYPE a counter\na{replica="1"} 1\n# HELP b B\n# TYPE b gauge\nb{replica="1"} 2\n'
TWO = '# HELP a A\n# TYPE a counter\na{replica="2"} 3\n'


def test_the_series_of_one_name_are_together_under_one_head() -> None:
    assert merged([ONE, TWO]).splitlines() == [
        "# HELP a A",
        "# TYPE a counter",
        'a{replica="1"} 1',
        'a{replica="2"} 3',
        "# HELP b B",
        "# TYPE b gauge",
        'b{replica="1"} 2',
    ]
    assert merged([]) == ""
