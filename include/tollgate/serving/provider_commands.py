"""``tollgate providers``: who answers at the gateway, in which order, and whether they do."""

from __future__ import annotations

import asyncio
import getpass
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.scorers import find_scorer
from tollgate.evaluation.suites import read_cases
from tollgate.evaluation.summary import EvaluationSummary
from tollgate.serving import provider_checks, provider_comparison, provider_report, providers
from tollgate.serving.provider_comparison import Comparison, Sampling
from tollgate.serving.providers import Endpoint, ProviderForm, ProviderView, keys_folder
from tollgate.settings import settings
from tollgate.store.session import transaction

app = typer.Typer(no_args_is_help=True, help="Providers behind the gateway: add, order, check, compare.")

Name = Annotated[str, typer.Argument(help="Name of the provider, for example openai.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def add(
    name: Name,
    address: Annotated[
        list[str] | None, typer.Option("--address", "-a", help="Base address, with or without /v1; may be repeated.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Name that it knows the model by; without: the version's own name."),
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="env:<NAME>_API_KEY or file:<name>; never the key.")] = None,
    prompt_price: Annotated[float | None, typer.Option(help="Price of a million prompt tokens.")] = None,
    completion_price: Annotated[float | None, typer.Option(help="Price of a million tokens of answers.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to an answer, or a stream's beginning, before the next is tried.")
    ] = None,
    stream_usage: Annotated[bool, typer.Option(help="Ask streams for their tokens.")] = True,
) -> None:
    """Describe a provider, or change it."""
    fields = {"name": name, "addresses": address or [], "model": model, "key_source": key}
    prices = {"prompt_price": prompt_price, "completion_price": completion_price}
    form = _form(fields | prices | {"timeout_seconds": timeout, "stream_usage": stream_usage})
    with transaction() as session:
        providers.save(session, form, getpass.getuser())
    Console().print(f"The provider {escape(name)} is kept; gateways follow within a second.", highlight=False)


@app.command("key")
def keep_key(name: Annotated[str, typer.Argument(help="Name of the file, for example openai.")]) -> None:
    """Keep a key, read from standard input, in the folder of keys (mode 0600)."""
    text = getpass.getpass("Key: ") if sys.stdin.isatty() else sys.stdin.read()
    source = providers.write_key(name, text, keys_folder())
    Console().print(f"The key is kept; name it as --key {escape(source)}.", highlight=False)


@app.command()
def remove(name: Name) -> None:
    """Forget a provider that no route uses."""
    with transaction() as session:
        providers.remove(session, name)
    Console().print(f"The provider {escape(name)} is gone.", highlight=False)


@app.command()
def route(
    name: Annotated[str, typer.Argument(help="Name of the route.")],
    chain: Annotated[
        list[str] | None, typer.Argument(help="Providers in the order in which they are tried; none: vllm alone.")
    ] = None,
) -> None:
    """Say who answers a route; gateways follow within a second, without a restart."""
    with transaction() as session:
        providers.set_chain(session, name, chain or [])
    order = ", then ".join(chain or [providers.OWN])
    Console().print(f"{escape(name)} is answered by {escape(order)}.", highlight=False)


@app.command("list")
def list_providers(as_json: AsJson = False) -> None:
    """List providers and the routes that name them; keys are not shown."""
    configuration = settings()
    with transaction() as session:
        found = providers.views(session, configuration.vllm_addresses, keys_folder(configuration))
        chains = providers.chains(session)
    if as_json:
        _print_json({"providers": [asdict(view) for view in found], "routes": chains})
        return
    Console().print(_table(found))
    for name, chain in chains.items():
        Console().print(f"{escape(name)}: {escape(', then '.join(chain))}", highlight=False)


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Providers to check; none: all.")] = None,
    ask: Annotated[bool, typer.Option(help="Also ask each one's model for one token, which may cost.")] = True,
    as_json: AsJson = False,
) -> None:
    """Test the connections: address, key, model, time. Exit status 3 unless all are well."""
    found = asyncio.run(provider_checks.check_all(ready(names or []), ask))
    if as_json:
        _print_json({"checks": [asdict(one) for one in found]})
    else:
        table = Table("provider", "address", "well", "ms", "what")
        for one in found:
            well = "[green]yes[/]" if one.ok else "[red]no[/]"
            table.add_row(escape(one.provider), escape(one.address), well, f"{one.milliseconds:.0f}", escape(one.text))
        Console().print(table)
    if not all(one.ok for one in found):
        raise typer.Exit(3)


@app.command()
def compare(
    cases: Annotated[Path, typer.Argument(help="File of cases, as tollgate evaluate takes it.")],
    names: Annotated[list[str] | None, typer.Argument(help="Providers to compare; none: all.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="<provider>=<model>, where a provider has none of its own; may be repeated."
        ),
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Name of the scorer; without: the one that suits.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at the same time.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds of one request.")] = 60.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of report.html, report.json and all answers.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put the same cases to several providers: accuracy, latency, cost. Exit status 3 if one of them failed."""
    if scorer is not None:
        find_scorer(scorer)
    sampling = Sampling(concurrency, timeout, max_tokens, scorer, output / "answers" if output else None)
    asked = _with_models(ready(names or []), model or [])
    found = provider_comparison.compare(asked, read_cases(cases), cases.stem, settings().currency, sampling)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "report.json").write_text(found.model_dump_json(indent=2), encoding="utf-8")
        (output / "report.html").write_text(provider_report.render(found), encoding="utf-8")
    if as_json:
        _print_json(found.model_dump(mode="json", exclude={"answers"}))
    else:
        _print_comparison(found)
    if any(one.problem for one in found.providers):
        raise typer.Exit(3)


def _with_models(endpoints: list[Endpoint], given: list[str]) -> list[tuple[Endpoint, str]]:
    names = {endpoint.name for endpoint in endpoints}
    wrong = [text for text in given if text.partition("=")[0] not in names or not text.partition("=")[2]]
    if wrong:
        problems = [
            Problem("--model", repr(text), "<provider>=<model>, of a provider that is compared") for text in wrong
        ]
        raise BadInputError("A model cannot be understood.", problems)
    chosen = {name: model for name, _, model in (text.partition("=") for text in given)}
    base = settings().base_model_name
    return [(endpoint, chosen.get(endpoint.name) or endpoint.model or base) for endpoint in endpoints]


def _print_comparison(found: Comparison) -> None:
    columns = (
        "provider",
        "model",
        "accuracy",
        "95 % interval",
        "p50 ms",
        "p95 ms",
        f"cost ({found.currency})",
        "problem",
    )
    table = Table(*columns)
    for one in found.providers:
        summary = one.summary
        cost = "-" if one.cost is None else f"{one.cost:.4f}"
        figures = (
            (f"{summary.accuracy:.1%}", f"{summary.low:.1%} - {summary.high:.1%}", *_latencies(summary), cost)
            if summary
            else ("-",) * 5
        )
        table.add_row(*map(escape, (one.provider, one.model, *figures, one.problem or "")))
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)


def _latencies(summary: EvaluationSummary) -> tuple[str, str]:
    p50, p95 = summary.latency_p50_ms, summary.latency_p95_ms
    return ("-" if p50 is None else f"{p50:.0f}", "-" if p95 is None else f"{p95:.0f}")


def ready(names: list[str]) -> list[Endpoint]:
    """The named providers, all if none is named, ready for use.

    Raises:
        BadInputError: There is no such provider, or its key is not there.
    """
    configuration = settings()
    folder = keys_folder(configuration)
    with transaction() as session:
        chosen = names or [view.name for view in providers.views(session, configuration.vllm_addresses, folder)]
        return [
            providers.endpoint(providers.find(session, name), configuration.vllm_addresses, folder) for name in chosen
        ]


def _form(fields: dict[str, Any]) -> ProviderForm:
    try:
        return ProviderForm.model_validate(fields)
    except ValidationError as error:
        problems = [
            Problem(".".join(map(str, fault["loc"])), repr(fault["input"]), fault["msg"]) for fault in error.errors()
        ]
        raise BadInputError("The provider cannot be used.", problems) from error


def _table(found: list[ProviderView]) -> Table:
    table = Table("provider", "addresses", "model", "key", "prices (in, out)", "problem")
    for view in found:
        prices = ", ".join(
            "-" if price is None else f"{price:g}" for price in (view.prompt_price, view.completion_price)
        )
        cells = (view.name, "\n".join(view.addresses), view.model or "the version's", view.key_source or "-", prices)
        table.add_row(*map(escape, cells), escape(view.problem or ""))
    return table


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
