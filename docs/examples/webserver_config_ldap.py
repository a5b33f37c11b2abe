"""Users of an LDAP directory: an example for `airflow_webserver_config`.

It needs the package python-ldap: `airflow_requirements: [python-ldap]` and, as it has no wheel,
`airflow_build_packages: [python-ldap]`, then playbooks/lock.yml. The administrator of the inventory goes on logging
in: users that the directory does not know are looked for in Airflow's own database.
"""

from flask_appbuilder.const import AUTH_LDAP

AUTH_TYPE = AUTH_LDAP

AUTH_LDAP_SERVER = "ldaps://ldap.example.org"
AUTH_LDAP_TLS_DEMAND = True
AUTH_LDAP_TLS_CACERTFILE = "/etc/ssl/certs/ca-certificates.crt"

# Finds users and their groups. Encrypt this file with ansible-vault: the playbooks decrypt it.
AUTH_LDAP_BIND_USER = "cn=airflow,ou=services,dc=example,dc=org"
AUTH_LDAP_BIND_PASSWORD = "the password of that entry"  # noqa: S105
AUTH_LDAP_SEARCH = "ou=people,dc=example,dc=org"
AUTH_LDAP_UID_FIELD = "uid"
AUTH_LDAP_GROUP_FIELD = "memberOf"

# Groups of the directory, and the roles of Airflow that their members have: looked at with each login.
AUTH_ROLES_MAPPING = {
    "cn=airflow-admins,ou=groups,dc=example,dc=org": ["Admin"],
    "cn=airflow-operators,ou=groups,dc=example,dc=org": ["Op"],
    "cn=airflow-users,ou=groups,dc=example,dc=org": ["User"],
    "cn=airflow-viewers,ou=groups,dc=example,dc=org": ["Viewer"],
}
AUTH_ROLES_SYNC_AT_LOGIN = True

# Whoever is in the directory gets a user of Airflow; without one of the groups, one that sees nothing.
AUTH_USER_REGISTRATION = True
AUTH_USER_REGISTRATION_ROLE = "Public"
