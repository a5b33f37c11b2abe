"""What holds on every host of every scenario. A scenario's own tests are the test_*.py beside its molecule.yml."""


def test_no_unit_has_failed(host):
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""
