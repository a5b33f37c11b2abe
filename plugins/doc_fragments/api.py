# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""What every module that logs in to Airflow's API is told."""

from __future__ import annotations


class ModuleDocFragment:
    """Options that `LOGIN_OPTIONS` of the module utility `airflow_api` has as arguments."""

    DOCUMENTATION = r"""
options:
  url:
    description: URL of the API server.
    type: str
    required: true
  ca_path:
    description: PEM file with the authorities that C(https) is verified with. Empty for those that the host trusts.
    type: path
    default: ""
  username:
    description: Name to log in with.
    type: str
    required: true
  password:
    description: Password to log in with.
    type: str
    required: true
"""
