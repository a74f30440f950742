# SPDX-License-Identifier: MIT
"""Django as it comes, one process of a web application: requests go through its WSGI handler, which
opens and closes database connections as CONN_MAX_AGE says and wraps views as ATOMIC_REQUESTS says.

The environment has the habits: DJANGO_CONN_MAX_AGE (seconds, or `none`), DJANGO_ATOMIC, and
DJANGO_CURSORS=off for DISABLE_SERVER_SIDE_CURSORS.
"""

import os

import django
from django.conf import settings
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.http import HttpResponse
from riding import Rider, ride

AGE = os.environ.get("DJANGO_CONN_MAX_AGE", "0")


def configure(where):
    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="none", USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        LOGGING_CONFIG=None, DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": where["database"],
            "USER": where["user"], "HOST": where["host"], "PORT": where["port"],
            "TIME_ZONE": "Asia/Tokyo",  # Django says so to each session it begins
            "CONN_MAX_AGE": None if AGE == "none" else int(AGE),
            "ATOMIC_REQUESTS": os.environ.get("DJANGO_ATOMIC") == "on",
            "DISABLE_SERVER_SIDE_CURSORS": os.environ.get("DJANGO_CURSORS") == "off"}})
    django.setup()


class Application(Rider):
    def __init__(self, *where):
        super().__init__(*where)
        configure(self.where)
        global model
        model = type("Note", (models.Model,), {
            "__module__": "notes", "n": models.IntegerField(), "note": models.TextField(null=True),
            "Meta": type("Meta", (), {"app_label": "notes", "db_table": self.table,
                                      "managed": False})})
        from django.core.handlers.wsgi import WSGIHandler
        self.handler = WSGIHandler()

    def answer(self, line):
        """One request, as a WSGI server gives it; closing the response is its end."""
        import io
        said = []
        response = self.handler({
            "REQUEST_METHOD": "GET", "PATH_INFO": "/" + "/".join(line.split()), "QUERY_STRING": "",
            "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(), "wsgi.url_scheme": "http",
        }, lambda status, _: said.append(status.split()[0]))
        body = b"".join(response).decode()
        response.close()
        return body if said == ["200"] else " ".join(said)

    def close(self):
        connection.close()


# ---- views

def ping(_request):
    return model.objects.raw("select 1 as id")[0].id


def add(_request, n):
    """Two rows, and one that a savepoint takes back."""
    model.objects.create(n=n)
    try:
        with transaction.atomic():
            model.objects.create(n=n)
            raise IntegrityError
    except IntegrityError:
        pass
    model.objects.bulk_create([model(n=n)])
    return model.objects.filter(n=n).count()


def fail(_request, n):
    """With ATOMIC_REQUESTS the row goes with the request."""
    model.objects.create(n=n)
    raise ValueError


def count(_request, n):
    return model.objects.filter(n=n).count()


def error(_request, n):
    """An error of the database inside a transaction."""
    codes = []
    try:
        with transaction.atomic():
            model.objects.create(n=n)
            for sql in ("select 1/0", "select 1"):
                try:
                    connection.cursor().execute(sql)
                except DatabaseError as e:
                    codes.append(getattr(e.__cause__, "pgcode", None)
                                 or getattr(e.__cause__, "sqlstate", None))
            transaction.set_rollback(True)
    except DatabaseError:
        codes.append("raised")
    return " ".join([*codes, str(count(None, n))])


def iterate(_request, n):
    """iterator(): a cursor on the server; outside a transaction Django declares it WITH HOLD."""
    model.objects.bulk_create([model(n=n) for _ in range(300)])
    return sum(1 for _ in model.objects.filter(n=n).iterator(chunk_size=50))


def iterate_inside(request, n):
    with transaction.atomic():
        return iterate(request, n)


def locked(_request, n):
    with transaction.atomic():
        model.objects.create(n=n)
        return len(model.objects.select_for_update().filter(n=n))


def zone(_request):
    with connection.cursor() as cursor:
        cursor.execute("show timezone")
        return cursor.fetchone()[0]


def page(view):
    def shown(request, **args):
        return HttpResponse(str(view(request, **args)))
    return shown


def urls():
    from django.urls import path
    with_number = [add, fail, count, error, iterate, iterate_inside, locked]
    return ([path(view.__name__, page(view)) for view in (ping, zone)]
            + [path(f"{view.__name__}/<int:n>", page(view)) for view in with_number])


urlpatterns = urls()

if __name__ == "__main__":
    ride(Application)
