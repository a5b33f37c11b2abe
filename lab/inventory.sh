#!/usr/bin/env bash
# Give a lab its own copy of an example inventory, where its secrets and a user's edits can stay. A copy that is there is kept.
# usage: lab/inventory.sh LAB   (a lab named like an example gets that one, any other the cluster, with the hosts of its
#                               scenario's files/hosts.yml where there is one)
set -euo pipefail
cd "$(dirname "$0")/.."
example=inventories/$1
[[ -d $example ]] || example=inventories/cluster
copy=.lab/$1/inventory
if ! [[ -e $copy ]]; then
  install -d -m 0700 ".lab/$1"
  rm -rf "$copy.part"
  cp -r "$example" "$copy.part"
  rm -f "$copy.part/group_vars/all/vault.yml"
  hosts=molecule/$1/files/hosts.yml
  if [[ -e $hosts ]]; then
    cp "$hosts" "$copy.part/hosts.yml"
  fi
  mv "$copy.part" "$copy"
fi
