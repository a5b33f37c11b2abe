"""Users of an OpenID Connect provider, here Keycloak: an example for `airflow_webserver_config`.

It needs the package authlib: `airflow_requirements: [authlib]`, then playbooks/lock.yml. At the provider, the
client's redirect address is `URL/auth/oauth-authorized/keycloak`, with the URL of the web UI that verify.yml prints,
and its tokens tell the user's groups. The web UI then has to be reached with TLS. Scripts log in with users of
Airflow's own database, such as the administrator of the inventory.
"""

from flask_appbuilder.const import AUTH_OAUTH

REALM = "https://id.example.org/realms/example"

AUTH_TYPE = AUTH_OAUTH

OAUTH_PROVIDERS = [
    {
        # Airflow knows how to ask providers of some names who a user is: keycloak, azure, okta, auth0, authentik.
        "name": "keycloak",
        "icon": "fa-key",
        "token_key": "access_token",
        "remote_app": {
            "client_id": "airflow",
            # Encrypt this file with ansible-vault: the playbooks decrypt it.
            "client_secret": "the secret of that client",
            "server_metadata_url": f"{REALM}/.well-known/openid-configuration",
            "api_base_url": f"{REALM}/protocol/",
            "client_kwargs": {"scope": "openid email profile"},
        },
    }
]

# Groups of the provider, and the roles of Airflow that their members have: looked at with each login.
AUTH_ROLES_MAPPING = {
    "airflow-admins": ["Admin"],
    "airflow-operators": ["Op"],
    "airflow-users": ["User"],
    "airflow-viewers": ["Viewer"],
}
AUTH_ROLES_SYNC_AT_LOGIN = True

# Whoever the provider lets in gets a user of Airflow; without one of the groups, one that sees nothing.
AUTH_USER_REGISTRATION = True
AUTH_USER_REGISTRATION_ROLE = "Public"
