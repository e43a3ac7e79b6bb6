"""TabularHandler: rows of numbers to predictions, row by row."""

from __future__ import annotations

from array import array as machine_array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handlers.expected import converted
from handlers.labels import read_labels
from handlers.module import ModuleHandler, Rows
from handlers.options import dtype as dtype_of
from handlers.options import one_of, overridable
from handlers.rows import Row, is_header, read_rows
from serving import BadRequest, Request, Response, codecs


class TabularHandler(ModuleHandler):
    """A handler of rows in CSV, JSON, JSON Lines or npy, each a list in the order of ``columns`` or an object by name.

    The module maps [rows, columns] to [rows, outputs]. A regression answers with as many rows of numbers, a
    classification with ``{"label", "score"}`` a row, or ``label,score`` in CSV. A flat list or one object is one row,
    and its answer one row.
    """

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        file: str | None = None,
        allow_pickle: bool = False,
        columns: Sequence[str] | int | None = None,
        task: str = "regression",
        outputs: str = "logits",
        dtype: str = "float32",
        missing: float | None = None,
        header: str = "auto",
        labels: str | None = None,
    ) -> None:
        """Load the model. ``columns`` are names or their number; without them only the module checks rows.

        ``missing`` replaces empty fields, which are refused without it. ``header`` says whether the first row of a CSV
        names columns: ``auto`` takes it for a header if it has the names of ``columns``, and refuses it if it has no
        number and other names. ``outputs`` of a classification are ``logits`` or ``probabilities``. Raises ModelError.
        """
        super().load(model_dir, device, file, allow_pickle)
        self.columns = [] if columns is None or isinstance(columns, int) else list(columns)
        self.width = columns if isinstance(columns, int) else len(self.columns) or None
        self.is_classifier = one_of("task", task, "regression", "classification") == "classification"
        self.is_logits = one_of("outputs", outputs, "logits", "probabilities") == "logits"
        self.dtype = dtype_of(dtype, "float32", "float64", "int64")
        self.missing = missing
        self.header = one_of("header", header, "auto", "present", "absent")
        self.labels = read_labels(model_dir, labels)

    def decode(self, request: Request) -> Rows:
        rows, single = read_rows(request, self.columns, self.header)
        if not len(rows):
            raise BadRequest("the body has no rows")
        return Rows((self.fit(self.to_tensor(rows)), single))

    def has_header(self, fields: list[str]) -> bool:
        return self.header == "present" or (self.header == "auto" and is_header(fields, self.columns))

    def to_tensor(self, rows: Sequence[Row]) -> Tensor:
        """Return [rows, columns] of ``dtype``. Raises BadRequest with the row, counted from 1, and the column."""
        numbers = machine_array("d")
        widths = set()
        for number, row in enumerate(rows, 1):
            one = self.to_numbers(row, number)
            numbers.extend(one)
            widths.add(len(one))
        if len(widths) > 1:
            raise BadRequest("the rows differ in length")
        array = np.asarray(numbers).reshape(len(rows), *widths)
        # Beyond 2^53 a double skips integers.
        if self.dtype == torch.int64 and not ((np.abs(array) < 2**53) & (np.floor(array) == array)).all():
            raise BadRequest("the model takes integers only")
        return converted(torch.from_numpy(array), self.dtype)

    def to_numbers(self, row: Row, number: int) -> list[float]:
        if isinstance(row, dict):
            row = self.by_name(row, number)
        if not isinstance(row, list):
            raise BadRequest(f"row {number} is neither a list nor an object")
        if self.width is not None and len(row) != self.width:
            raise BadRequest(f"row {number} has {len(row)} columns; the model takes {self.width}")
        return [self.to_number(value, i, number) for i, value in enumerate(row)]

    def by_name(self, row: dict[str, Any], number: int) -> list[Any]:
        if not self.columns:
            raise BadRequest("this model's columns have no names: send lists")
        unknown = sorted(row.keys() - set(self.columns))
        if unknown:
            raise BadRequest(f"row {number} has unknown columns: {', '.join(unknown)[:200]}")
        return [row.get(name) for name in self.columns]

    def to_number(self, value: Any, column: int, number: int) -> float:
        """Convert one field; override it for columns with other values than numbers."""
        where = f"row {number}, column {self.columns[column] if self.columns else column + 1}"
        if value is None or (isinstance(value, str) and not value.strip()):
            if self.missing is None:
                raise BadRequest(f"{where} is empty")
            return self.missing
        try:
            return codecs.to_float(value) if isinstance(value, str) else float(value)
        except (ValueError, TypeError, OverflowError) as exc:
            raise BadRequest(f"{where} is no number: {str(value)[:40]!r}") from exc

    def predict(self, batch: Tensor) -> Any:
        """Return [rows, outputs]; for a classification the best classes' scores and indices, [rows] each."""
        outputs = self.module(batch).float().reshape(len(batch), -1)
        return tuple(self.probabilities(outputs).max(-1)) if self.is_classifier else outputs

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return [rows, classes] with sums of 1; a single output is the probability of the second of two classes."""
        if outputs.shape[1] == 1:
            second = outputs.sigmoid() if self.is_logits else outputs
            return torch.cat([1 - second, second], 1)
        return outputs.softmax(-1) if self.is_logits else outputs

    def encode(self, output: Any, request: Request) -> Any:
        if not self.is_classifier:
            return output
        found = self.labels.scored(*(one.reshape(-1) for one in output))
        offered = (codecs.JSON, codecs.CSV, codecs.JSON_LINES[0])
        if codecs.negotiate(request.accept, offered, codecs.JSON) == codecs.CSV:
            return Response(codecs.to_csv([list(one.values()) for one in found]), codecs.CSV)
        return found if output[0].ndim else found[0]
