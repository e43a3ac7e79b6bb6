"""ModelConfig, which ``auto_complete_config`` fills, and what is asked of a configuration."""

from __future__ import annotations

import json
from typing import Any

Properties = dict[str, Any]


class ModelConfig:
    """A configuration under way. What it says already is only to be agreed with: else a method raises ValueError."""

    def __init__(self, model_config: str) -> None:
        self._model_config: Properties = json.loads(model_config)

    def as_dict(self) -> Properties:
        """To be read, not to be changed."""
        return self._model_config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        there = self._model_config["max_batch_size"]
        if there > max_batch_size:
            raise ValueError(f"{self._where()}: max_batch_size is {there} already and cannot become {max_batch_size}")
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._model_config:
                raise ValueError(f"{self._where()}: it has {other}, so it cannot have dynamic_batching")
        self._model_config.setdefault("dynamic_batching", {})

    def add_input(self, input: Properties) -> None:
        """``name``, ``data_type`` and ``dims``, and ``optional`` if need be."""
        self._add("input", input, ("name", "data_type", "dims", "optional"))

    def add_output(self, output: Properties) -> None:
        self._add("output", output, ("name", "data_type", "dims"))

    def set_model_transaction_policy(self, transaction_policy_dict: Properties) -> None:
        """``{"decoupled": True}``."""
        extra = sorted(transaction_policy_dict.keys() - {"decoupled"})
        if extra:
            raise ValueError(f"{self._where()}: the model transaction policy has {extra[0]!r}; allowed: 'decoupled'")
        policy = self._model_config.setdefault("model_transaction_policy", {})
        wanted = transaction_policy_dict.get("decoupled", policy.get("decoupled"))
        if policy.get("decoupled", wanted) != wanted:
            raise ValueError(f"{self._where()}: decoupled is {policy['decoupled']} already")
        policy.update(transaction_policy_dict)

    def _where(self) -> str:
        return f"auto_complete_config of model {self._model_config['name']!r}"

    def _add(self, kind: str, new: Properties, allowed: tuple[str, ...]) -> None:
        where = f"{self._where()}: {kind} {new.get('name', '')!r}"
        extra = sorted(new.keys() - set(allowed))
        if extra:
            raise ValueError(f"{where} has {extra[0]!r}; allowed: {', '.join(allowed)}")
        missing = [name for name in ("name", "data_type", "dims") if name not in new]
        if missing:
            raise ValueError(f"{where} has no {missing[0]!r}")
        there = next((one for one in self._model_config[kind] if one["name"] == new["name"]), None)
        if there is None:
            self._model_config[kind].append(new)
            return
        self._agree(where, there, new)
        there.update(new)

    def _agree(self, where: str, there: Properties, new: Properties) -> None:
        unset: dict[str, Any] = {"data_type": "TYPE_INVALID", "dims": []}
        for key, value in new.items():
            if key in there and there[key] != value and there[key] != unset.get(key, value):
                raise ValueError(f"{where} has {key} {there[key]} in the configuration, and the model says {value}")


def get_input_config_by_name(model_config: Properties, name: str) -> Properties | None:
    """The properties of an input of a configuration, None where there is no such."""
    return next((one for one in model_config.get("input", ()) if one["name"] == name), None)


def get_output_config_by_name(model_config: Properties, name: str) -> Properties | None:
    return next((one for one in model_config.get("output", ()) if one["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Properties) -> bool:
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))
