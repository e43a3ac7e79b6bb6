"""Who is told to come again, and when: whoever may be served then, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from serving import errors
from serving.errors import CodedError, ServingError, Unavailable
from serving.frontend.api.models import refusal
from serving.frontend.error_responses import Failure
from tests.contracts.build import office, run, settle


def classes(kind: type[ServingError]) -> list[type[ServingError]]:
    return [kind, *(one for sub in kind.__subclasses__() for one in classes(sub))]


ALL = [one for one in classes(ServingError) if one is not CodedError and one.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", ALL)
def test_all_errors_that_pass_have_the_header_and_no_others(kind: type[ServingError]) -> None:
    error = kind("because")
    expected = issubclass(kind, Unavailable) and kind is not errors.ModelBroken
    assert (b"retry-after" in dict(Failure.of(error).headers)) is expected
    assert ("retry-after" in refusal(Failure.of(error), "id", error).headers) is expected
    again = CodedError(error.status, error.code, error.message, getattr(error, "retry_after", 1))
    same = Failure.of(error)._replace(allow="")  # only paths of this process have it
    assert Failure.of(again) == same, "so it is behind a border between processes"


def test_nobody_is_told_to_come_again_for_a_model_that_is_not_tried_again() -> None:
    async def work() -> None:
        async with office() as one:
            one.house.place(failed="failed to start 5 times in a row")
            task = asyncio.ensure_future(one.invocations.invoke(one.request()))
            await settle()
            error = task.exception()
            assert isinstance(error, ServingError)
            assert (error.status, error.code, Failure.of(error).headers) == (503, "model_failed", [])

    run(work())
