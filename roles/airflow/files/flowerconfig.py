"""Flower's settings: who may look.

Flower itself leaves /metrics, which names workers and tasks, and /healthcheck to everybody. Here they ask for the
login, as every page does, but for a health check that comes from this host.
"""

from functools import wraps
from os import environ

from flower.views import monitor
from tornado.web import authenticated

# A list: the options of Airflow and of Flower take a comma for the end of a login, and a dollar for a variable.
basic_auth = [environ["AIRFLOW_FLOWER_LOGIN"]]


def _is_local(request):
    """Whether both ends of the connection have the same address, and no proxy speaks for another host."""
    socket = request.connection.stream.socket
    return socket.getpeername()[0] == socket.getsockname()[0] and "X-Forwarded-For" not in request.headers


def _unless_local(method):
    guarded = authenticated(method)

    @wraps(method)
    def get(self):
        return method(self) if _is_local(self.request) else guarded(self)

    return get


monitor.Metrics.get = authenticated(monitor.Metrics.get)
monitor.Healthcheck.get = _unless_local(monitor.Healthcheck.get)
