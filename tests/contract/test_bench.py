"""bench: the script that the collection is compared with, which no scenario runs, keeps up with what it shares."""

from __future__ import annotations

import json
import re

import yaml

from tests.contract.collection import CHECKOUT


def test_the_script_gives_the_canary_what_it_reads() -> None:
    told = re.search(r"echo '(\{.*\})' > \S+/canary\.json", (CHECKOUT / "bench/floor.sh").read_text())
    assert told, "floor.sh writes no canary.json"
    read = yaml.safe_load((CHECKOUT / "roles/airflow/vars/main.yml").read_text())["__airflow_canary_settings"]
    assert json.loads(told[1]).keys() == read.keys()
