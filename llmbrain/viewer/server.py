"""The web server of the viewer: routes from addresses to the explorer, behind the guard. Needs the extra ``view``."""

import asyncio
import json
import logging
import socket
from concurrent.futures import Future
from importlib import resources

from ..exceptions import LLMBrainError, ParameterError
from .security import LOOPBACK, Guard, new_token
from .work import Replaced

TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8", ".svg": "image/svg+xml",
}  # fmt: skip
INSTALL = "The viewer needs starlette and uvicorn: pip install 'llmbrain[view]'"
MOST_AT_ONCE = 64  # connections


def make_app(explorer, token, hosts=LOOPBACK):
    """Make the ASGI application of a page, with the token and the hosts of :class:`~llmbrain.viewer.security.Guard`."""
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError:
        raise ParameterError(INSTALL) from None

    static, volume = _static(static_files()), _volume(explorer)
    routes = [Route("/", static), Route("/static/{name}", static), Route("/volumes/{key}/{name}", volume)]
    routes += [Route(path, _endpoint(answer), methods=[method]) for method, path, answer in _answers(explorer)]
    return Guard(Starlette(routes=routes), token, hosts)


def _respond(result, status=200):
    from starlette.responses import JSONResponse, Response

    if isinstance(result, bytes):
        return Response(result, status, media_type="application/octet-stream")
    return JSONResponse(result, status)


def _endpoint(answer):
    """Make an endpoint of a function that takes the parts of the path, and the JSON object of a POST as ``given``."""

    async def handle(request):
        try:
            given = {"given": _object(await request.body())} if request.method == "POST" else {}
            result = await asyncio.to_thread(answer, **request.path_params, **given)
            return _respond(await asyncio.wrap_future(result) if isinstance(result, Future) else result)
        except Replaced as error:
            return _respond({"error": str(error), "replaced": True}, 409)
        except LLMBrainError as error:
            return _respond({"error": str(error)}, 422)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            return _respond({"error": f"{where}{error.strerror or error}. Nothing was saved."}, 500)
        except Exception as error:
            logging.getLogger("llmbrain.viewer").exception("The viewer could not answer %s", request.url.path)
            return _respond({"error": f"Unexpected {type(error).__name__}: {error}"}, 500)

    return handle


def _static(files):
    """Make the endpoint of the page's own files."""
    from starlette.responses import Response

    async def handle(request):
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return _respond({"error": "There is no such file."}, 404)
        return Response(files[name], media_type=TYPES["." + name.rpartition(".")[2]])

    return handle


def _volume(explorer):
    """Make the endpoint of the study's NIfTI files: looked up by id, and only with the right name."""
    from starlette.responses import FileResponse

    async def handle(request):
        found = await asyncio.to_thread(explorer.contents.volumes)
        path, _ = found.get(request.path_params["key"], (None, None))
        if path is None or path.name != request.path_params["name"]:
            return _respond({"error": "The study has no such volume."}, 404)
        return FileResponse(path, media_type="application/octet-stream")

    return handle


def _answers(explorer):
    """Method, path and function of everything that the page asks."""
    contents = explorer.contents
    return [
        ("GET", "/api/study", explorer.describe),
        ("GET", "/api/state", explorer.status),
        ("GET", "/api/order", contents.order_arrays),
        ("GET", "/api/networks/{network:int}/map", contents.map_of),
        ("GET", "/api/networks/{network:int}", contents.details),
        ("GET", "/api/neurons/{index:int}", contents.neuron),
        ("GET", "/api/runs/{number:int}", contents.run_view),
        ("GET", "/api/runs/{number:int}/moments/{token:int}", contents.run_moment),
        ("GET", "/api/readings/{number:int}/moments/{token:int}", explorer.moment),
        ("GET", "/api/volumes", contents.volume_rows),
        ("POST", "/api/read", lambda given: explorer.read(given.get("text"))),
        ("POST", "/api/lesion", lambda given: explorer.lesion(given)),
        ("POST", "/api/write", lambda given: explorer.write_on(given)),
        ("POST", "/api/labels/{network:int}", lambda network, given: contents.label(
            network, given.get("decision"), given.get("name"))),
    ]  # fmt: skip


def _object(body):
    try:
        given = json.loads(body)
    except ValueError:
        raise ParameterError("The request is not JSON.") from None
    if not isinstance(given, dict):
        raise ParameterError("The request must be a JSON object.")
    return given


def static_files():
    """Files of the page by name. Requests are looked up here, so none can reach another file."""
    folders = [
        resources.files(__package__) / "static",
        resources.files(__package__) / "static" / "vendor",
        resources.files("llmbrain.plotting") / "static",
    ]
    return {
        file.name: file.read_bytes()
        for folder in folders
        for file in folder.iterdir()
        if file.is_file() and "." + file.name.rpartition(".")[2] in TYPES
    }


def make_server(explorer, *, host="127.0.0.1", port=0):
    """Make a server that listens already, on a free port if ``port`` is 0.

    Another ``host`` than the loopback address lets other machines reach the study. Returns the uvicorn.Server, a socket
    (``server.run(sockets=[listening])`` serves until it is interrupted), and the address of the page, with its secret.
    A missing extra ``view`` or an address that cannot be used raises :class:`ParameterError`.
    """
    try:
        import uvicorn
    except ImportError:
        raise ParameterError(INSTALL) from None
    token = new_token()
    hosts = LOOPBACK if host in LOOPBACK else (*LOOPBACK, host, socket.gethostname())
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        why = error.strerror or error
        raise ParameterError(f"Cannot listen on {host}, port {port}: {why}. Use another --host or --port.") from None
    config = uvicorn.Config(
        make_app(explorer, token, hosts), log_level="warning", access_log=False, server_header=False, ws="none",
        limit_concurrency=MOST_AT_ONCE, timeout_graceful_shutdown=1,
    )  # fmt: skip
    name = f"[{host}]" if ":" in host else host
    return uvicorn.Server(config), listening, f"http://{name}:{listening.getsockname()[1]}/{token}/"


def serve(explorer, *, host="127.0.0.1", port=0, announce=print):
    """Serve the page until it is interrupted; ``announce`` is called with its address once the server listens."""
    server, listening, address = make_server(explorer, host=host, port=port)
    with listening:
        listening.listen()
        announce(address)
        explorer.start()
        try:
            server.run(sockets=[listening])
        finally:
            explorer.close()
