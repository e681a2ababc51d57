"""Entries of training configurations that have other names today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from openmm_scoremd.models.families import RENAMED as OF_NETWORKS
from openmm_scoremd.models.families import renamed_entries

#: Former and present names, as dotted names of the top level.
RENAMED: Final = {
    "data.held_back_fraction": "data.held_out_fraction",
    **{f"network.{old}": f"network.{new}" for old, new in OF_NETWORKS.items()},
}


def renamed_record(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a configuration with present names.

    Parameters
    ----------
    record : mapping
        A configuration, or parts of one, as YAML and JSON have it; what is not as it should be is
        left as it is.

    Returns
    -------
    record : dict
        The same under present names. Of networks, entries of other families are left out where the
        record is so old that every network had them.
    found : list of str
        Former names that were in it, dotted, without repetition.
    """
    current, found = dict(record), []
    data = record.get("data")
    if isinstance(data, Mapping) and "held_back_fraction" in data:
        found.append("data.held_back_fraction")
        current["data"] = {
            "held_out_fraction" if name == "held_back_fraction" else name: value
            for name, value in data.items()
        }
    network = record.get("network")
    if isinstance(network, Mapping):
        found += [f"network.{name}" for name in network if name in OF_NETWORKS]
        current["network"] = renamed_entries(network)
    experts = record.get("experts")
    if isinstance(experts, (list, tuple)):
        current["experts"] = []
        for expert in experts:
            is_mapping = isinstance(expert, Mapping)
            entries, of_expert = renamed_record(expert) if is_mapping else (expert, [])
            current["experts"].append(entries)
            found += of_expert
    return current, list(dict.fromkeys(found))
