"""The function over real HTTP, in a process of its own."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from faas.function import app
from faas.function.app import LINE, LONGEST
from functions import KEY, OTHER, SIGNING, call_of, deployed, headers_of, tiny
from kdlib.errors import KdlibError, Missing, Unreachable
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.tokens import Forbidden, Unauthorised, Used
from kdlib.store.store import Store


def test_a_step_is_carried_out_once_and_each_call_gets_its_first_record(client, aggregator, store):
    answers = [aggregator.step("pretrain", 0, "cnn2-128-256"), client.step("transfer", 0)]
    for answer in answers:
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json", answer.text
    first = client.step("communicate", 1)
    record = Record.model_validate_json(first.content)
    assert (record.run, Step(record.step, record.round, record.subject)) == (KEY, Step("communicate", 1, "client-0000"))
    assert record.backend == "http" and record.bytes_out > 0 and not record.cold
    before = {name: store.content(name) for name in store.names()}
    store.delete("client-0000/001/logits")  # as a sweep would; a late repetition must not bring it back
    assert client.step("communicate", 1).content == first.content
    assert {name: store.content(name) for name in store.names()} == {
        name: content for name, content in before.items() if name != "client-0000/001/logits"}


def test_a_fused_step_has_a_record_of_its_own(client, aggregator):
    aggregator.step("pretrain", 0, "cnn2-128-256")
    record = Record.model_validate_json(client.step("transfer+evaluate>communicate", 0).content)
    assert [part.step for part in record.parts] == ["transfer", "evaluate", "communicate"]


def test_a_part_is_carried_out_once_however_it_is_asked_for(client, aggregator, place):
    run = "e" * 16
    store = deployed(f"{place}/store/{{owner}}", tiny("fedmd", seed=4), run)
    assert aggregator.step("pretrain", 0, "cnn2-128-256", run=run).status_code == 200
    alone = Record.model_validate_json(client.step("transfer", 0, run=run).content)
    weights = place / f"store/client-0000/{run}/000/weights.safetensors"
    written = weights.stat().st_mtime_ns
    fused = Record.model_validate_json(client.step("transfer+evaluate>communicate", 0, run=run).content)
    assert [part.step for part in fused.parts] == ["transfer", "evaluate", "communicate"]
    assert repr(fused.parts[0]) == repr(alone.parts[0])  # a loss may be NaN, which equals nothing
    assert fused.bytes_out > alone.bytes_out
    before = {name: store.content(name) for name in store.names()}
    store.delete("client-0000/001/logits")
    for name, round_, part in [("transfer", 0, 0), ("evaluate", 0, 1), ("communicate", 1, 2)]:
        record = Record.model_validate_json(client.step(name, round_, run=run).content)
        assert repr(record.parts) == repr((fused.parts[part],)) and record.round == round_
    rest = Record.model_validate_json(client.step("evaluate>communicate", 0, run=run).content)
    assert repr(rest.parts) == repr(fused.parts[1:])
    for name, round_ in [("transfer+transfer", 0), ("transfer+evaluate+evaluate", 0), ("evaluate+transfer", 0),
                         ("communicate+communicate", 1), ("transfer>communicate>digest", 0)]:
        assert client.step(name, round_, run=run).status_code == 422, name
    del before["client-0000/001/logits"]
    assert {name: store.content(name) for name in store.names()} == before
    assert weights.stat().st_mtime_ns == written


def test_a_fused_step_killed_between_its_records_ends_as_if_it_had_not_been(client, aggregator, place):
    aggregator.step("pretrain", 0, "cnn2-128-256")
    client.step("transfer+evaluate>communicate", 0)
    store = Store(f"{place}/store/{{owner}}/{KEY}")
    before = {name: store.content(name) for name in store.names() if "/records/" not in name}
    for name in ("000-client-0000-transfer", "000-client-0000-evaluate"):
        store.delete(f"client-0000/records/{name}.json")
    record = Record.model_validate_json(client.step("transfer+evaluate>communicate", 0).content)
    assert [part.step for part in record.parts] == ["transfer", "evaluate", "communicate"]
    assert {name: store.content(name) for name in store.names() if "/records/" not in name} == before


@pytest.mark.parametrize("planted", [7, "no JSON", "{}", [], None])
def test_a_record_that_is_none_is_damaged_and_nothing_is_carried_out(planted, client, place):
    run = uuid.uuid4().hex[:16]
    store = deployed(f"{place}/store/{{owner}}", tiny("fedmd"), run)
    store.put_json("client-0000/records/000-client-0000-transfer", planted)
    answer = client.step("transfer", 0, run=run)
    assert answer.status_code == 422 and "is damaged" in answer.json()["error"]
    assert not store.exists("client-0000/000/weights")


@pytest.mark.parametrize(("change", "status", "said"), [
    ({"run": "../" + KEY[3:]}, 400, "not a Step: run"),
    ({"run": None}, 400, "not a Step: run"),
    ({"round": "1"}, 400, "not a Step: round"),
    ({"round": True}, 400, "not a Step: round"),
    ({"round": 1.0}, 400, "not a Step: round"),
    ({"round": -1}, 400, "not a Step: round"),
    ({"round": 10**30}, 400, "not a Step: round"),
    ({"step": "communicate/../x"}, 400, "not a Step: step"),
    ({"step": "communicate\n"}, 400, "not a Step: step"),
    ({"step": "a+" * 9 + "a"}, 400, "not a Step: step"),
    ({"subject": "../client-0001"}, 400, "not a Step: subject"),
    ({"subject": ["client-0000"]}, 400, "not a Step: subject"),
    ({"attempt": 2}, 400, "not a Step: unknown setting 'attempt'"),
    ({"subject": "client-0001"}, 403, "this is the function of client-0000"),
    ({"subject": "server"}, 403, "this is the function of client-0000"),
    ({"subject": "client-00000"}, 403, "this is the function of client-0000"),
    ({"run": OTHER[:-1] + "0"}, 403, "the token is for another run, round, step or subject"),
    ({"step": "aggregate"}, 422, "has no aggregate of client-0000 in round 1"),
    ({"step": "communicate", "round": 3}, 422, "has no communicate of client-0000 in round 3"),
    ({"step": "transfer"}, 422, "has no transfer of client-0000 in round 1"),
    ({"step": "digest+digest"}, 422, "has no digest+digest of client-0000 in round 1"),
    ({"step": "revisit+digest"}, 422, "has no revisit+digest of client-0000 in round 1"),
    ({"step": "communicate>communicate"}, 422, "has no communicate>communicate of client-0000 in round 1"),
    ({"step": "communicate+digest"}, 422, "has no communicate+digest of client-0000 in round 1"),
    ({"step": "revisit", "round": 2}, 422, "client-0000/002/digested is not in file://"),
])
def test_what_is_wrong_is_said(change, status, said, client):
    body = json.loads(call_of("communicate", 1).body) | change
    named = status in (403, 422) and "run" not in change  # what cannot be named by a token is refused before that
    call = call_of(body["step"], body["round"], body["subject"]) if named else call_of("communicate", 1)
    answer = client.ask(call, json.dumps(body).encode())
    assert answer.status_code == status and said in answer.json()["error"] and "\n" not in answer.json()["error"]


@pytest.mark.parametrize("swapped", [{"learning_rate": 0.5}, {"transfer": "lost"}, {"seed": 9}, {"rounds": 1}])
def test_an_experiment_that_was_swapped_after_deploy_is_refused(swapped, client, place):
    run = f"{swapped!r:0<16}".encode().hex()[-16:]
    store = deployed(f"{place}/store/{{owner}}", tiny("fedmd"), run)
    store.put_json("public/experiment", tiny("fedmd").model_copy(update=swapped).model_dump(mode="json"))
    answer = client.step("transfer", 0, run=run)
    assert answer.status_code == 422 and "vouches for" in answer.json()["error"]
    assert not [name for name in store.names() if name.startswith("client-0000")]


def test_other_doors_are_shut(client):
    bearer = headers_of(call_of("communicate", 1))
    assert client.client.get("/").status_code == 405 and client.client.get("/").headers["allow"] == "POST"
    for path in ("/docs", "/health", "/health/liveness/", "/run"):
        answer = client.client.post(path, headers=bearer)
        assert answer.status_code == 404 and answer.json() == {"error": "Not Found"}
    for path in ("/health/liveness", "/health/readiness"):
        assert client.client.get(path).text == "well\n"
    assert client.client.post("/", headers=bearer, content=b"[" * LONGEST).status_code == 400
    assert client.client.post("/", headers=bearer, content=b" " * (LONGEST + 1)).status_code == 413
    assert client.client.post("/", headers=bearer, content=iter([b" " * LONGEST] * 99)).status_code == 413


def test_a_line_too_long_is_told_to_come_again_and_the_rest_get_one_record(client, slow):
    with ThreadPoolExecutor(LINE + 4) as threads:
        running = [threads.submit(client.step, "transfer", 0, run=slow) for _ in range(LINE + 4)]
        while client.client.get("/health/liveness").status_code != 200:
            pytest.fail("health waits for a Step")
        answers = [future.result() for future in running]
    busy = [answer for answer in answers if answer.status_code == 503]
    done = {answer.content for answer in answers if answer.status_code == 200}
    assert len(busy) == 4 and all(answer.headers["retry-after"] == "1" for answer in busy)
    assert len(done) == 1 and json.loads(*done)["seconds"] > 0.2


def test_a_waiting_call_whose_caller_left_is_not_carried_out(client, slow, place):
    store = Store(f"{place}/store/{{owner}}/{slow}")
    for name in [name for name in store.names() if name.startswith("client-0000/records")]:
        store.delete(name)
    with ThreadPoolExecutor(1) as threads:
        before = client.begun("transfer")
        running = threads.submit(client.step, "transfer", 0, run=slow)
        client.await_step("transfer", before + 1)
        call = call_of("evaluate", 0, run=slow)
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=client.url, trust_env=False, timeout=0.2) as hasty:
            hasty.post("/", headers=headers_of(call), content=call.body)
        assert running.result().status_code == 200
    assert client.step("communicate", 1, run=slow).status_code == 200  # after it in the line
    assert not store.exists("client-0000/records/000-client-0000-evaluate")
    assert 499 in [line["status"] for line in client.lines() if "status" in line]


def test_it_logs_json_with_the_request_and_no_token(client):
    call = call_of("communicate", 1)
    body, headers = json.loads(call.body), headers_of(call) | {"X-Request-Id": "asked-7"}
    assert client.client.post("/", content=call.body, headers=headers).headers["x-request-id"] == "asked-7"
    client.client.post("/", content=call.body, headers={"X-Request-Id": 'x"{'})
    last, refused = client.lines()[-2:]
    assert body.items() <= last.items() and (last["request"], last["status"], last["level"]) == ("asked-7", 200, "info")
    assert refused["status"] == 401 and refused["reason"] and len(refused["request"]) == 32
    text = client.log.read_text()
    assert SIGNING not in text and headers["Authorization"].split()[1] not in text and "Traceback" not in text


@pytest.mark.parametrize(("error", "status"), [
    (Unauthorised("no"), 401), (Forbidden("no"), 403), (Used("no"), 409), (Unreachable("away"), 503),
    (Missing("gone"), 422), (KdlibError("bad"), 422), (MemoryError(), 507),
    (OSError("disk full"), 500), (ZeroDivisionError("x\ny"), 500),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 507), (RuntimeError("shape"), 500),
])
def test_every_error_has_its_status_and_one_line(error, status):
    refusal = app._refusal(error)
    assert refusal.status == status and "\n" not in str(refusal) and len(str(refusal)) < 600
