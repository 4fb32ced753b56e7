"""The guard and the routes: nothing without the secret, from another page, of another host, or outside the study."""

import gzip
import json

import numpy as np
import pytest
from recorded import HERON
from tiny import tiny_model, tiny_tokenizer

from llmbrain.dataset import Study
from llmbrain.networks import NetworkSet
from llmbrain.networks.labels import HandLabels
from llmbrain.viewer.explorer import Explorer
from llmbrain.viewer.security import MOST_BYTES, new_token
from llmbrain.viewer.server import make_app

testclient = pytest.importorskip("starlette.testclient", reason="starlette is not installed (pip install starlette)")
HOST = "http://127.0.0.1:8123"
TOKEN = "secret-0123456789"


@pytest.fixture(scope="module")
def explorer(made, tiny):
    found = Explorer(made[0], load=lambda: tiny).start()
    found.thread.submit("wait", lambda job: None).result(60)
    yield found
    found.close()


@pytest.fixture(scope="module")
def client(explorer):
    return testclient.TestClient(make_app(explorer, TOKEN), base_url=HOST)


def get(client, path, **headers):
    return client.get(f"/{TOKEN}{path}", headers=headers)


def post(client, path, content, **headers):
    headers = {"origin": HOST, "content-type": "application/json", **headers}
    body = content if isinstance(content, (bytes, str)) else json.dumps(content)
    return client.post(f"/{TOKEN}{path}", content=body, headers={k: v for k, v in headers.items() if v is not None})


# -- the guard --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path", ["/", "/api/study", f"/{TOKEN[:-1]}x/", f"/{TOKEN}x/api/study", f"/{TOKEN}", "/wrong/static/app.js", "//"]
)
def test_without_the_secret_there_is_nothing(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert "SmolLM" not in answer.text and "networks" not in answer.text


def test_secrets_differ_and_are_long():
    made = {new_token() for _ in range(50)}
    assert len(made) == 50 and min(map(len, made)) >= 32


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8123", "", "192.168.0.4", "[::1", "a@127.0.0.1x"]
)
def test_another_host_is_refused(client, host):
    answer = get(client, "/api/study", host=host)
    assert answer.status_code == 403 and "host" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:1", "[::1]:80"])
def test_a_tunnel_may_change_the_port(client, host):
    assert get(client, "/api/state", host=host).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8123", "http://127.0.0.1:9", "http://localhost:8123"]
)
def test_another_origin_is_refused(client, origin):
    assert post(client, "/api/read", {"text": HERON}, origin=origin).status_code == 403
    assert get(client, "/api/study", origin=origin).status_code == 403


def test_a_post_needs_an_origin_and_a_get_from_another_site_is_refused(client):
    assert post(client, "/api/read", {"text": HERON}, origin=None).status_code == 403
    assert get(client, "/static/app.js", **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert get(client, "/static/app.js", **{"sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_only_json_is_taken(client, kind):
    assert post(client, "/api/read", {"text": HERON}, **{"content-type": kind}).status_code == 415


def test_large_requests_are_refused_with_and_without_a_length(client):
    assert post(client, "/api/read", {"text": "a" * MOST_BYTES}).status_code == 413
    pieces = (b"a" * 65536 for _ in range(20))
    headers = {"origin": HOST, "content-type": "application/json"}
    assert client.post(f"/{TOKEN}/api/read", content=pieces, headers=headers).status_code == 413
    assert get(client, "/" + "a" * 600).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(client, method):
    assert client.request(method, f"/{TOKEN}/api/study", headers={"origin": HOST}).status_code == 405


@pytest.mark.parametrize("path", ["/", "/api/study", "/static/app.js", "/nothing", "/../secret"])
def test_every_answer_has_the_strict_headers(client, path):
    headers = get(client, path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy and "http:" not in policy and "*" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin" and headers["cache-control"] == "no-store"


PATHS = [
    "../../setup.cfg",
    "..%2f..%2fsetup.cfg",
    "%2e%2e/%2e%2e/setup.cfg",
    "..\\..\\setup.cfg",
    "/etc/passwd",
    "vendor%2fviewer.css",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", ["/static/", "/volumes/", "/volumes/0123456789ab/", "/api/runs/", "/"])
def test_no_path_leads_out_of_the_page(client, where, path):
    answer = get(client, where + path)
    assert answer.status_code == 404 and "metadata" not in answer.text and "root:" not in answer.text


def test_the_page_loads_nothing_from_elsewhere(client):
    import re

    page = get(client, "/").text
    assert re.findall(r"""(?:src|href)=["']([^"'#]+)""", page)
    assert all(not link.startswith(("http", "//")) for link in re.findall(r"""(?:src|href)=["']([^"']+)""", page))
    assert "<script>" not in page and "onclick" not in page and "style=" not in page
    for name in re.findall(r"static/([\w.-]+)", page):
        assert get(client, f"/static/{name}").status_code == 200, name


# -- the routes -------------------------------------------------------------------------------------------------------
def test_the_study_is_described(client, made):
    found = get(client, "/api/study").json()
    assert [row["network"] for row in found["networks"]] == [0, 1, 2]
    assert found["runs"] == [{"run": 1, "n_tokens": found["runs"][0]["n_tokens"]}] and found["messages"] == []
    assert found["state"]["state"] == "ready" and {"zero", "mean"} <= {kind["name"] for kind in found["kinds"]}


def test_maps_and_moments_are_z_scores(client, made):
    networks = NetworkSet.load(made[0])
    z = np.frombuffer(get(client, "/api/networks/1/map").content, "<i2") / 100
    np.testing.assert_allclose(z, networks.z[1], atol=0.0101)
    read = post(client, "/api/read", {"text": HERON}).json()
    typed = np.frombuffer(get(client, f"/api/readings/{read['id']}/moments/5").content, "<i2")
    recorded = np.frombuffer(get(client, "/api/runs/1/moments/5").content, "<i2")
    assert np.abs(typed - recorded).max() <= 1  # the run begins with the same text
    run = get(client, "/api/runs/1").json()
    assert run["tokens"][:6] == read["tokens"][:6]
    np.testing.assert_allclose(np.array(run["courses"])[:, :6], np.array(read["courses"])[:, :6], atol=0.01)
    strongest = get(client, "/api/neurons/7").json()["networks"][0]
    assert abs(strongest["z"]) == pytest.approx(np.abs(networks.z[:, 7]).max(), abs=0.01)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/networks/3/map", 422), ("/api/networks/-1/map", 404), ("/api/networks/x", 404), ("/api/runs/7", 422),
        ("/api/runs/1/moments/100000", 422), ("/api/readings/999/moments/0", 422), ("/api/neurons/99999", 422),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_in_a_sentence(client, path, status):
    answer = get(client, path)
    assert answer.status_code == status
    if status == 422:
        assert answer.json()["error"].endswith(".")


@pytest.mark.parametrize("body", ["", "[1]", "{", "3", '{"text": 3}', '{"text": null}', '{"text": ""}'])
def test_wrong_bodies_are_said_in_a_sentence(client, body):
    answer = post(client, "/api/read", body)
    assert answer.status_code == 422 and answer.json()["error"].endswith(".")


def test_long_texts_are_cut(client):
    found = post(client, "/api/read", {"text": HERON * 20}).json()
    assert found["cut"] and len(found["tokens"]) == 512 == len(found["surprisal"])


def test_volumes_come_whole_and_only_under_their_id(client, made):
    rows = get(client, "/api/volumes").json()
    assert rows[0]["kind"] == "z_components" and {row["kind"] for row in rows} >= {"bold", "layers_dseg"}
    for row in rows:
        content = get(client, f"/volumes/{row['id']}/{row['name']}").content
        assert content == next(made[0].rglob(row["name"])).read_bytes()
    assert gzip.decompress(get(client, f"/volumes/{rows[0]['id']}/{rows[0]['name']}").content)
    assert get(client, f"/volumes/{rows[0]['id']}/{rows[1]['name']}").status_code == 404
    assert get(client, "/volumes/000000000000/study.json").status_code == 404


def test_labels_are_saved_and_read_again(study):
    explorer = Explorer(study)
    client = testclient.TestClient(make_app(explorer, TOKEN), base_url=HOST)
    row = post(client, "/api/labels/1", {"decision": "accepted", "name": "fish"}).json()
    assert (row["decision"], row["name"]) == ("accepted", "fish")
    assert post(client, "/api/labels/0", {"decision": "rejected"}).status_code == 200
    assert HandLabels.load(study, NetworkSet.load(study)).accepted == [1]
    again = testclient.TestClient(make_app(Explorer(study), TOKEN), base_url=HOST)
    assert [r["decision"] for r in get(again, "/api/study").json()["networks"]] == ["rejected", "accepted", "undecided"]
    for wrong in ({"decision": "maybe"}, {"name": "a\nb"}, {"name": "x" * 81}, {"name": 3}):
        assert post(client, "/api/labels/1", wrong).status_code == 422
    assert post(client, "/api/labels/9", {"decision": "accepted"}).status_code == 422


def test_labels_that_cannot_be_read_are_never_replaced(study):
    """Labels of earlier networks, and a table that a spreadsheet broke, are the user's work."""
    client = testclient.TestClient(make_app(Explorer(study), TOKEN), base_url=HOST)
    assert post(client, "/api/labels/1", {"decision": "accepted", "name": "fish"}).status_code == 200
    (path,) = study.rglob("*_labels.tsv")
    whole = path.read_text()
    path.write_text(whole.replace("accepted", "yes"))
    broken = path.read_bytes()
    for page in (client, testclient.TestClient(make_app(Explorer(study), TOKEN), base_url=HOST)):
        answer = post(page, "/api/labels/0", {"decision": "rejected"})
        assert answer.status_code == 422 and str(path) in answer.json()["error"]
        assert path.read_bytes() == broken
    path.write_text(whole.replace("fish", "bird"))  # changed in a spreadsheet while the page is open
    assert post(client, "/api/labels/0", {"decision": "rejected"}).status_code == 200
    assert "rejected" in path.read_text() and "bird" in path.read_text()
    networks = NetworkSet.load(study)
    NetworkSet(networks.maps[::-1], networks.geometry, info=networks.info).save(study)
    answer = post(client, "/api/labels/2", {"decision": "accepted"})
    assert answer.status_code == 422 and "other networks" in answer.json()["error"] and "bird" in path.read_text()


@pytest.mark.parametrize("content", [b"[]", b"{}", b"junk\x00\xff\n"])
@pytest.mark.parametrize("kind", ["metrics.tsv", "canica3_components.json", "topography.json"])
def test_damaged_files_are_said_on_the_page(study, kind, content):
    paths = list(study.rglob(f"*{kind}"))
    if kind == "topography.json":
        paths = [Study.open(study).path("topography_json", desc="canica3")]
        paths[0].with_name(paths[0].name.replace(".json", ".nii.gz")).write_bytes(b"nothing")
    for path in paths:
        path.write_bytes(content)
    client = testclient.TestClient(make_app(Explorer(study), TOKEN), base_url=HOST)
    said = get(client, "/api/study").json()["messages"]
    assert any(paths[0].name.partition(".")[0] in line for line in said), said
    if kind != "topography.json":
        answer = get(client, "/api/networks/0/map")
        assert answer.status_code == 422 and "no network 0" in answer.json()["error"]


def test_a_damaged_recording_is_said_and_not_shown(study):
    path = Study.open(study).path("bold", run=1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    explorer = Explorer(study)
    client = testclient.TestClient(make_app(explorer, TOKEN), base_url=HOST)
    said = get(client, "/api/study").json()["messages"]
    assert explorer.contents.recording is None and any(f"{path.name} is damaged" in line for line in said)


@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_a_model_whose_logits_are_not_finite_shows_no_numbers(study, value):
    model = tiny_model("llama", max_position_embeddings=2048)
    model.get_parameter("model.norm.weight").data.fill_(value)
    explorer = Explorer(study, load=lambda: (model, tiny_tokenizer())).start()
    explorer.thread.submit("wait", lambda job: None).result(60)
    client = testclient.TestClient(make_app(explorer, TOKEN), base_url=HOST)
    for path in ("read", "lesion", "write"):
        answer = post(client, f"/api/{path}", {"text": HERON, "networks": [0], "condition": "lesion", "threshold": 1.0})
        assert answer.status_code == 422 and "model.norm" in answer.json()["error"], path
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    explorer.close()


# -- incomplete studies -----------------------------------------------------------------------------------------------
def test_without_a_model_the_study_is_shown_and_reading_is_refused(made):
    client = testclient.TestClient(make_app(Explorer(made[0]), TOKEN), base_url=HOST)
    assert get(client, "/api/study").json()["state"]["state"] == "absent"
    assert get(client, "/api/runs/1").status_code == 200
    for path in ("read", "lesion", "write"):
        answer = post(client, f"/api/{path}", {"text": HERON, "networks": [0], "condition": "intact"})
        assert answer.status_code == 422 and "without a model" in answer.json()["error"]


def test_a_study_without_networks_says_how_to_find_them(study):
    for path in study.rglob("*_components.json"):
        path.unlink()
    client = testclient.TestClient(make_app(Explorer(study), TOKEN), base_url=HOST)
    found = get(client, "/api/study").json()
    assert found["networks"] == [] and "llmbrain networks" in found["messages"][0]
    assert get(client, "/api/runs/1").json()["courses"] == []


def test_a_study_without_runs_still_shows_its_networks(study):
    for path in study.rglob("*_bold.*"):
        path.unlink()
    client = testclient.TestClient(make_app(Explorer(study), TOKEN), base_url=HOST)
    found = get(client, "/api/study").json()
    assert len(found["networks"]) == 3 and "No recorded run" in found["messages"][0]
    assert get(client, "/api/runs/1/moments/0").status_code == 422


def test_a_recording_that_is_being_written_is_said_so(study):
    (bold,) = study.rglob("*_bold.nii")
    bold.with_name(bold.name.replace("run-01", "run-02")).write_bytes(b"unfinished")
    client = testclient.TestClient(make_app(Explorer(study), TOKEN), base_url=HOST)
    assert any("still being written" in message for message in get(client, "/api/study").json()["messages"])


def test_networks_that_are_found_meanwhile_appear(study):
    (side,) = (path for path in study.rglob("*_components.json") if "stat-z" not in path.name)
    content = side.read_text()
    side.unlink()
    client = testclient.TestClient(make_app(Explorer(study), TOKEN), base_url=HOST)
    assert get(client, "/api/study").json()["networks"] == []
    side.write_text(content)
    assert len(get(client, "/api/study").json()["networks"]) == 3


def test_a_model_that_cannot_be_opened_is_said_in_the_page(made):
    def fail():
        raise OSError("the disk is gone")

    explorer = Explorer(made[0], load=fail).start()
    explorer.thread.submit("wait", lambda job: None).result(30)
    client = testclient.TestClient(make_app(explorer, TOKEN), base_url=HOST)
    assert get(client, "/api/state").json() == {"state": "failed", "message": "the disk is gone"}
    assert "the disk is gone" in post(client, "/api/read", {"text": HERON}).json()["error"]
    explorer.close()
