"""``tollgate providers``: who answers at the gateway, in which order, and whether they do."""

from __future__ import annotations

import asyncio
import getpass
import sys
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tollgate.errors import BadInputError, Problem
from tollgate.serving import provider_checks, providers
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
