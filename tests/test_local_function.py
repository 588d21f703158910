"""Local functions: what Lambda's Python runtime would answer, and targets that name a function."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import functools
import gc
import logging
import math
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from streamcore import Answer, Batch, ConfigError, Engine, EventSourceMapping, LocalFunction, Page
from streamcore.functions.local import Context, load_function

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

NOW = 1_700_000_000_000
ARN = "arn:aws:lambda:eu-west-1:123456789012:function:billing"


def batch_of(records: int = 2) -> Batch:
    engine = Engine(seed=1)
    shard = engine.add_shard(EventSourceMapping(starting_position="TRIM_HORIZON", batch_size=1000), "shardId-000000000000", now=NOW)
    engine.offer(shard, Page.from_records([("key", b"data", NOW, str(number + 1)) for number in range(records)]), NOW)
    batch = engine.take(NOW)
    assert isinstance(batch, Batch)
    return batch


BATCH = batch_of()


def answer_of(handler: Callable[[Any, Any], Any], **options: Any) -> Answer:
    answer = LocalFunction(handler, **options).invoke(BATCH)
    assert isinstance(answer, Answer)
    return answer


async def awaited(answer: Answer | Awaitable[Answer]) -> Answer:
    assert not isinstance(answer, Answer)
    return await answer


def returns(value: object, _event: Any, _context: Any) -> object:
    return value


def raising(error: BaseException) -> Callable[[Any, Any], Any]:
    def handler(event: Any, context: Any) -> None:
        raise error

    return handler


# The call


def test_the_handler_gets_a_fresh_event_and_a_context() -> None:
    events: list[Any] = []
    contexts: list[Any] = []

    def handler(event: Any, context: Any) -> None:
        events.append(event)
        contexts.append(context)

    function = LocalFunction(handler)
    for _ in range(2):
        assert function.invoke(BATCH) == Answer("success", None, executed_version="$LATEST")
    assert events == [BATCH.event(), BATCH.event()]
    assert events[0] is not events[1]
    assert isinstance(contexts[0], Context)
    assert contexts[0] is not contexts[1]
    function.close()
    function.close()


def test_the_context_has_the_attributes_of_lambdas() -> None:
    contexts: list[Any] = []
    answer_of(lambda _, context: contexts.append(context), function_name="billing", function_arn=ARN, memory_limit_in_mb=512)
    (context,) = contexts
    assert context.function_name == "billing"
    assert context.function_version == "$LATEST"
    assert context.invoked_function_arn == ARN
    assert context.memory_limit_in_mb == "512"
    assert context.aws_request_id == BATCH.request_id
    assert context.log_group_name == "/aws/lambda/billing"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", context.log_stream_name)
    assert context.identity.cognito_identity_id is None
    assert context.identity.cognito_identity_pool_id is None
    assert context.client_context is None
    assert context.tenant_id is None
    assert 0 < context.get_remaining_time_in_millis() <= 3000
    assert repr(context) == f"Context(function_name='billing', aws_request_id='{BATCH.request_id}')"
    context.anything = 1  # as in Lambda, a decorator may leave something there


@pytest.mark.parametrize(("qualifier", "version"), [("", "$LATEST"), (":$LATEST", "$LATEST"), (":live", "$LATEST"), (":7", "7")])
def test_a_version_is_that_of_the_arn(qualifier: str, version: str) -> None:
    contexts: list[Any] = []
    answer = answer_of(lambda _, context: contexts.append(context), function_arn=ARN + qualifier)
    assert (answer.executed_version, contexts[0].function_version, contexts[0].invoked_function_arn) == (version, version, ARN + qualifier)


def test_names_follow_from_the_function() -> None:
    contexts: list[Any] = []
    answer_of(functools.partial(lambda seen, _, context: seen.append(context), contexts))
    answer_of(lambda _, context: contexts.append(context))
    assert [context.function_name for context in contexts] == ["partial", "-lambda-"]
    assert contexts[0].invoked_function_arn == "arn:aws:lambda:us-east-1:000000000000:function:partial"


def test_remaining_time_ends_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    time = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: time[0])
    left: list[int] = []

    def handler(event: Any, context: Any) -> None:
        for passed in (0.0, 1.5, 4.5):
            time[0] = 100.0 + passed
            left.append(context.get_remaining_time_in_millis())

    answer_of(handler, timeout_ms=4000)
    assert left == [4000, 2500, 0]


@pytest.mark.parametrize(("seconds", "lines"), [(3.0, 0), (3.1, 1)])
@pytest.mark.parametrize("fails", [False, True])
def test_an_overrun_is_logged_once_and_changes_nothing(
    seconds: float, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, fails: bool
) -> None:
    time = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: time[0])

    def handler(event: Any, context: Any) -> str:
        time[0] += seconds
        if fails:
            raise ValueError
        return "done"

    with caplog.at_level(logging.WARNING, "streamcore"):
        assert answer_of(handler).kind == ("function_error" if fails else "success")
    overruns = [record.message for record in caplog.records if "took" in record.message]
    assert overruns == [f"handler took 3.1 s for request {BATCH.request_id}; Lambda would have ended it after 3.0 s"] * lines


@pytest.mark.parametrize("options", [{"timeout_ms": 0}, {"timeout_ms": True}, {"timeout_ms": 1.5}, {"memory_limit_in_mb": "128"}])
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    ((parameter, value),) = options.items()
    with pytest.raises(ConfigError, match=f"{parameter} must be an integer of 1 or more, not {value!r}"):
        LocalFunction(print, **options)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match="function must be callable or text that names one, not 3"):
        LocalFunction(3)  # type: ignore[arg-type] # that is what is tested


def test_the_garbage_collector_does_not_go_over_an_event_before_the_handler_has_it() -> None:
    collections: list[str] = []
    seen: list[int] = []

    def note(phase: str, _info: dict[str, int]) -> None:
        collections.append(phase)

    def handler(event: Any, context: Any) -> None:
        seen.append(len(collections) if len(event["Records"]) == 1000 else -1)

    function = LocalFunction(handler)
    batch = batch_of(1000)
    gc.callbacks.append(note)
    gc.collect()
    collections.clear()
    try:
        function.invoke(batch)
    finally:
        gc.callbacks.remove(note)
    # From 3.12 on it waits for Python code to run, which the handler is.
    assert seen in ([0], [2] if sys.version_info >= (3, 12) else [0])


# Errors


class BrokenText(Exception):  # noqa: N818 - an exception of a handler
    def __str__(self) -> str:
        raise RuntimeError


class Unknown(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no such order"), "no such order"),
        (KeyError("id"), "'id'"),
        (SystemExit(3), "3"),
        (SystemExit(), ""),
        (GeneratorExit("stop"), "stop"),
        (StopIteration("stop"), "stop"),
        (asyncio.CancelledError("stop"), "stop"),
        (Unknown("unknown"), "unknown"),
        (BrokenText(), "<BrokenText that cannot be written as text>"),
    ],
    ids=repr,
)
def test_whatever_a_handler_raises_is_a_function_error(error: BaseException, message: str) -> None:
    answer = answer_of(raising(error))
    assert (answer.kind, answer.function_error, answer.status_code) == ("function_error", "Unhandled", 200)
    payload: Any = answer.payload
    assert list(payload) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert (payload["errorMessage"], payload["errorType"]) == (message, type(error).__name__)
    assert payload["requestId"] == BATCH.request_id
    (frame,) = payload["stackTrace"]
    assert re.fullmatch(r'  File ".*test_local_function\.py", line \d+, in handler\n    raise error\n', frame)


def test_a_recursion_without_end_is_a_function_error() -> None:
    def handler(event: Any, context: Any) -> Any:
        return handler(event, context)

    payload: Any = answer_of(handler).payload
    assert payload["errorType"] == "RecursionError"


def test_ctrl_c_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        LocalFunction(raising(KeyboardInterrupt())).invoke(BATCH)

    async def handler(event: Any, context: Any) -> None:
        raise KeyboardInterrupt

    coroutine: Any = LocalFunction(handler).invoke(BATCH)
    with pytest.raises(KeyboardInterrupt):
        coroutine.send(None)


# Returned values


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (None, None),
        ("", ""),
        ("Grüße \ud800", "Grüße \ud800"),
        (3, 3),
        (True, True),
        ({}, {}),
        ({"batchItemFailures": []}, {"batchItemFailures": []}),
        ({"batchItemFailures": [{"itemIdentifier": "1"}]}, {"batchItemFailures": [{"itemIdentifier": "1"}]}),
        ({"batchItemFailures": ({"itemIdentifier": Text("1")},)}, {"batchItemFailures": [{"itemIdentifier": "1"}]}),
        ((1, (2,)), [1, [2]]),
        ({1: None, None: 2.5, 2.5: 3}, {"1": None, "null": 2.5, "2.5": 3}),
        (decimal.Decimal("2.5"), 2.5),
        ({"total": decimal.Decimal(3)}, {"total": 3}),
        (b'{"batchItemFailures": []}', {"batchItemFailures": []}),
        (math.inf, math.inf),
    ],
    ids=repr,
)
def test_a_returned_value_becomes_what_its_json_says(value: object, payload: object) -> None:
    answer = answer_of(lambda _, __: value)
    assert answer == Answer("success", payload, executed_version="$LATEST")
    assert type(answer.payload) is type(payload)


def test_nan_is_written_as_lambdas_runtime_does() -> None:
    for value in (math.nan, decimal.Decimal("nan"), [math.nan]):
        payload: Any = answer_of(functools.partial(returns, value)).payload
        assert math.isnan(payload[0] if isinstance(payload, list) else payload)


def circular() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


class Hostile(dict[Any, Any]):
    def items(self) -> Any:
        raise OSError("no items today")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (dt.date(2024, 1, 1), "Object of type date is not JSON serializable"),
        ({"a": {1, 2}}, "Object of type set is not JSON serializable"),
        ({(1, 2): 3}, "keys must be str, int, float, bool or None, not tuple"),
        ({"batchItemFailures": [{"itemIdentifier": b"1"}]}, "Object of type bytes is not JSON serializable"),
        (circular(), "Circular reference detected"),
        (deep(), "maximum recursion depth exceeded"),
        (Hostile(a=1), "no items today"),
        (b"not JSON", "Expecting value"),
    ],
    ids=["date", "set", "key", "bytes", "circular", "deep", "hostile", "text"],
)
def test_what_json_cannot_hold_is_lambdas_marshal_error(value: object, reason: str) -> None:
    answer = answer_of(lambda _, __: value)
    payload: Any = answer.payload
    assert (answer.kind, answer.function_error) == ("function_error", "Unhandled")
    assert payload["errorMessage"].startswith(f"Unable to marshal response: {reason}")
    assert (payload["errorType"], payload["requestId"], payload["stackTrace"]) == ("Runtime.MarshalError", BATCH.request_id, [])


# async def


def test_an_async_function_answers_like_a_plain_one() -> None:
    async def good(event: Any, context: Any) -> Any:
        await asyncio.sleep(0)
        return (len(event["Records"]),)

    async def bad(event: Any, context: Any) -> None:
        await asyncio.sleep(0)
        raise SystemExit("enough")

    class Handler:
        async def __call__(self, _event: Any, _context: Any) -> str:
            return "called"

    def returns_a_coroutine(event: Any, context: Any) -> Any:
        return good(event, context)

    async def run() -> list[Answer]:
        handlers: list[Any] = [good, bad, Handler(), functools.partial(good), returns_a_coroutine]
        return [await awaited(LocalFunction(handler).invoke(BATCH)) for handler in handlers]

    first, second, third, fourth, fifth = asyncio.run(run())
    assert first == fourth == fifth == Answer("success", [2])
    assert third == Answer("success", "called")
    payload: Any = second.payload
    assert (payload["errorMessage"], payload["errorType"]) == ("enough", "SystemExit")
    (frame,) = payload["stackTrace"]
    assert "in bad" in frame


def test_a_cancelled_worker_task_is_cancelled_and_a_handlers_own_is_a_failure() -> None:
    started = asyncio.Event()

    async def waits(event: Any, context: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    async def cancels_itself(event: Any, context: Any) -> None:
        raise asyncio.CancelledError

    async def run() -> Answer:
        task = asyncio.ensure_future(awaited(LocalFunction(waits).invoke(BATCH)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await awaited(LocalFunction(cancels_itself).invoke(BATCH))

    assert asyncio.run(run()).kind == "function_error"


def test_many_threads_may_call_one_function() -> None:
    function = LocalFunction(lambda event, _: threading.get_ident() if event else None)
    answers: list[Any] = []

    def call() -> None:
        answers.extend((threading.get_ident(), function.invoke(BATCH)) for _ in range(50))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 200
    assert all(answer == Answer("success", thread) for thread, answer in answers)


# Targets


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with handlers, which is the current one. What is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    (tmp_path / "orders_shop").mkdir()
    (tmp_path / "orders_shop" / "__init__.py").touch()
    (tmp_path / "orders_shop" / "helper.py").write_text("VALUE = 7\n")
    (tmp_path / "orders_shop" / "handlers.py").write_text(
        "from orders_shop.helper import VALUE\n\n"
        "def handle(event, context):\n    return VALUE\n\n"
        "class Group:\n    handle = staticmethod(handle)\n"
    )
    (tmp_path / "broken_orders.py").write_text("import json\n\njson.loads('{')\n")
    (tmp_path / "exits_orders.py").write_text("raise SystemExit(2)\n")
    (tmp_path / "syntax_orders.py").write_text("def handle(event, context)\n    pass\n")
    (tmp_path / "needs_orders.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "json.py").write_text("import broken_helper_free\n\ndef handle(event, context):\n    return broken_helper_free.NAME\n")
    (tmp_path / "broken_helper_free.py").write_text("NAME = 'beside'\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "target",
    [
        "orders_shop.handlers:handle",
        "orders_shop.handlers:Group.handle",
        "orders_shop/handlers.py:handle",
        "./orders_shop/handlers.py:handle",
    ],
)
def test_a_target_names_a_function(project: Path, target: str) -> None:
    assert load_function(target)(None, None) == 7
    assert LocalFunction(target).invoke(BATCH) == Answer("success", 7)


def test_a_file_finds_the_modules_beside_it_and_hides_none(project: Path) -> None:
    import json  # noqa: PLC0415 - the one that must not be hidden

    assert load_function(f"{project}/json.py:handle")(None, None) == "beside"
    assert sys.modules["json"] is json


def test_a_file_is_loaded_once(project: Path) -> None:
    assert load_function("orders_shop/handlers.py:handle") is load_function("orders_shop/handlers.py:handle")


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("handlers", "function 'handlers' is not of the form package.module:function or path/to/file.py:function"),
        (":handle", "is not of the form"),
        ("orders_shop:", "is not of the form"),
        ("orders_shop.handlers:handel", "orders_shop.handlers has no 'handel'. Did you mean 'handle'?"),
        ("orders_shop.handlers:Group.handel", "has no 'Group.handel'. Did you mean 'handle'?"),
        ("orders_shop.handlers:VALUE", "'VALUE' of orders_shop.handlers is int, which cannot be called; name a function (event, context)"),
        (
            "orders_shop.handler:handle",
            "there is no module 'orders_shop.handler' here or among the installed packages. Did you mean 'handlers'?",
        ),
        ("order_shop.handlers:handle", "there is no module 'order_shop' here or among the installed packages. Did you mean 'orders_shop'?"),
        ("json.tool.x:main", "there is no module"),
        ("orders-shop:handle", "'orders-shop' is not the name of a module"),
        ("orders_shop/handlers:handle", "'orders_shop/handlers' is not the name of a module"),
        ("orders_shop/handler.py:handle", "there is no file 'orders_shop/handler.py'. Did you mean 'handlers.py'?"),
        ("no/handler.py:handle", "there is no file 'no/handler.py'."),
        ("orders_shop/handlers.py:handel", "orders_shop/handlers.py has no 'handel'. Did you mean 'handle'?"),
        ("exits_orders:handle", "importing exits_orders failed: SystemExit: 2 ({project}/exits_orders.py, line 1)"),
        ("syntax_orders.py:handle", "importing syntax_orders.py failed: SyntaxError: expected ':' ({project}/syntax_orders.py, line 1)"),
        (
            "needs_orders:handle",
            "failed: ModuleNotFoundError: No module named 'a_module_that_is_not_there' ({project}/needs_orders.py, line 1)",
        ),
    ],
)
def test_targets_that_are_refused(project: Path, target: str, text: str) -> None:
    path = sys.path.copy()
    with pytest.raises(ConfigError) as caught:
        load_function(target)
    assert text.format(project=project) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.parameter == "function"
    assert set(path) <= set(sys.path)


@pytest.mark.parametrize("target", ["broken_orders:handle", "broken_orders.py:handle"])
def test_an_import_that_fails_says_why_and_where(project: Path, target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_function(target)
    assert str(caught.value).startswith(f"importing {target[:-7]} failed: JSONDecodeError: Expecting property name")
    assert caught.value.__cause__ is not None
    assert "broken_orders" not in sys.modules


def test_a_file_whose_name_another_module_has_is_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("calls = []\ndef handler(event, context):\n    calls.append(event)\n")
    target = f"{tmp_path / 'json.py'}:handler"
    assert load_function(target) is load_function(target)
